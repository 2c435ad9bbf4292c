"""Writes tests/vectors/gst-oracle: generated documents and returns with the oracle's answers, in the vector format.

`python -m tests.oracle.select_vectors` keeps few of many generated cases: each pair of mode and violation, each
combination of what a lawful document can be, each section of a return and whatever else its sums can hold. Rust, Python
and the mutation tests read them like any vectors.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from .documents import Case, Documents, lawful_documents
from .gst_oracle import judge
from .returns_oracle import classify, summarise

TARGET = Path(__file__).parents[1] / "vectors" / "gst-oracle"
CASES = 60_000
RETURNS, PERIOD = 6_000, 3
EACH = 1
BYTES_MAX = 2_500


def traits(case: Case, errors: set[tuple[str, str]], computed: dict | None) -> set[tuple]:
    """What makes this case worth keeping."""
    document, mode, _ = case
    if errors:
        return {(mode, code, re.sub(r"\[\d+\]", "[]", path)) for code, path in errors}
    out: set[tuple] = {(mode, document["supply_type"], document["doc_type"], computed["inter_state"])}
    out |= {(mode, flag) for flag in ("reverse_charge", "igst_on_intra", "tax_point") if document.get(flag)}
    out |= {(mode, "date", document["date"])}
    for item, figures in zip(document["items"], computed["lines"], strict=True):
        out |= {(mode, key, figures[key] != "0.00") for key in figures}
        out |= {(mode, "rate", item["gst_rate"], computed["inter_state"]), (mode, "hsn", item["hsn"])}
        out |= {(mode, key) for key in ("rsp", "cess_per_unit", "state_cess_rate", "discount") if key in item}
        if mode == "nic":
            out |= {(mode, "differs", key) for key in figures if key in item and item[key] != figures[key]}
    out |= {(mode, "totals", key, figure[0] == "-") for key, figure in computed["totals"].items()}
    return out


def documents() -> list[str]:
    seen: Counter[tuple] = Counter()
    vectors = []
    for case in islice(Documents(42), CASES):
        document, mode, today = case
        errors, computed = judge(*case)
        fresh = {trait for trait in traits(case, errors, computed) if seen[trait] < EACH}
        if not fresh or len(json.dumps(document)) > BYTES_MAX:
            continue
        seen.update(traits(case, errors, computed))
        expected: dict = {"ok": not errors, "errors": [{"code": code, "path": path} for code, path in sorted(errors)]}
        if not errors:
            expected["computed"] = computed
        how = {"mode": mode, "context": {"as_of": today} if today else {}}
        vectors.append(written(f"O-{len(vectors) + 1:04}", "document", document, expected, **how))
    return vectors


def returns() -> list[str]:
    """Each section a document can go to, and periods that together hold each row and each sign a summary can."""
    seen: set[tuple] = set()
    vectors: list[str] = []
    stream = (document for document in lawful_documents(43) if len(json.dumps(document)) <= BYTES_MAX)
    for _ in range(RETURNS // PERIOD):
        period = [next(stream) for _ in range(PERIOD)]
        for document in period:
            section = classify(document)
            fresh = {(document["doc_type"], section["section"], section["table"], section["typ"])} - seen
            if fresh:
                seen |= fresh
                expected = {"ok": True, "errors": [], "computed": section}
                vectors.append(written(f"O-R{len(vectors) + 1:03}", "gstr1_classify", document, expected))
        summary = summarise(period)
        if fresh := figures_of(summary) - seen:
            seen |= fresh
            expected = {"ok": True, "errors": [], "computed": summary}
            vectors.append(written(f"O-R{len(vectors) + 1:03}", "return_summary", {"documents": period}, expected))
    return vectors


def figures_of(value: object, path: tuple = ()) -> set[tuple]:
    """Where a summary has a figure, and whether it is nothing, positive or negative."""
    if isinstance(value, dict):
        return {trait for key, inner in value.items() for trait in figures_of(inner, (*path, key))}
    if isinstance(value, list):
        return {trait for inner in value for trait in figures_of(inner, path)}
    if path[-1] in ("pos", "hsn_sc", "rt", "uqc", "count"):
        return set()
    return {(*path, value if path[-1] == "side" else -1 if str(value)[0] == "-" else bool(str(value).strip("0.")))}


def written(name: str, kind: str, content: dict, expected: dict, **how: object) -> str:
    vector = {"id": name, "kind": kind, "title": "generated; answered by the oracle", **how}
    return json.dumps(vector | {"input": content, "expected": expected}, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    for name, vectors in (("documents", documents()), ("returns", returns())):
        file = TARGET / f"{name}.json"
        file.write_text('{"format":"invochain-gst-vectors/1","vectors":[\n' + ",\n".join(vectors) + "\n]}\n")
        print(f"{name}: {len(vectors)} vectors, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
