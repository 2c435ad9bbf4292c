"""Writes tests/vectors/gst-oracle/documents.json: generated documents with the oracle's answers, in the vector format.

`python -m tests.oracle.select_vectors` keeps few of many generated cases: each pair of mode and violation,
and each combination of what a lawful document can be. Rust, Python and the mutation tests read them like any vectors.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

from .documents import Case, Documents
from .gst_oracle import judge

TARGET = Path(__file__).parents[1] / "vectors" / "gst-oracle" / "documents.json"
CASES = 60_000
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


def main() -> None:
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
        vector = {"id": f"O-{len(vectors) + 1:04}", "kind": "document", "title": "generated; answered by the oracle"}
        vector |= {"mode": mode, "context": {"as_of": today} if today else {}, "input": document, "expected": expected}
        vectors.append(json.dumps(vector, ensure_ascii=False, separators=(",", ":")))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text('{"format":"invochain-gst-vectors/1","vectors":[\n' + ",\n".join(vectors) + "\n]}\n")
    print(f"{len(vectors)} vectors, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
