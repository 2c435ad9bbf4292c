"""Holds the Rust engine against the oracle over generated documents: same errors, same figures, or the case is printed.

Run it longer than the tests do: `python -m tests.oracle.differential 10_000_000`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from invochain import core

from .documents import Case, Documents
from .gst_oracle import judge

CASES_PER_SEED = 2_000
FINDINGS_MAX = 20
TOLD_EVERY = 250 * CASES_PER_SEED  # documents: a long run says how far it is


def difference(case: Case, answer: str) -> tuple[str | None, set[str]]:
    """What differs, in words, and the codes the oracle told (to see what the documents reach)."""
    document, mode, today = case
    wanted, figures = judge(document, mode, today)
    told = json.loads(answer)
    got = {(error["code"], error["path"]) for error in told["errors"]}
    codes = {code for code, _ in wanted} or {f"lawful {mode}"}
    if wanted == got and figures == told["computed"]:
        return None, codes
    what = {"oracle": sorted(wanted) or figures, "engine": sorted(got) or told["computed"]}
    return json.dumps({"mode": mode, "today": today, "document": document, **what}, ensure_ascii=False), codes


def run_seed(seed: int, cases: int = CASES_PER_SEED) -> tuple[int, list[str], Counter[str]]:
    """Cases run, differences, and how often each code was reached."""
    batch = list(islice(Documents(seed), cases))
    answers: list[str | None] = [None] * len(batch)
    for mode, today in {(mode, today) for _, mode, today in batch}:
        places = [at for at, case in enumerate(batch) if case[1:] == (mode, today)]
        texts = [json.dumps(batch[at][0]) for at in places]
        for at, answer in zip(places, core.gst_check_batch(texts, mode, today), strict=True):
            answers[at] = answer
    findings: list[str] = []
    reached: Counter[str] = Counter()
    for case, answer in zip(batch, answers, strict=True):
        what, codes = difference(case, answer)
        reached.update(codes)
        if what:
            findings.append(f"seed {seed}: {what}")
    return len(batch), findings[:FINDINGS_MAX], reached


def run(total: int, first_seed: int = 1, processes: int = 1) -> tuple[int, list[str], Counter[str]]:
    """At least `total` cases over as many seeds as that takes; stops when enough differences are found."""
    seeds = range(first_seed, first_seed + -(-total // CASES_PER_SEED))
    count, findings, reached = 0, [], Counter()
    for done, found, codes in _over(seeds, processes):
        count, findings = count + done, findings + found
        reached.update(codes)
        if count % TOLD_EVERY == 0:
            print(f"{count} documents so far, {len(findings)} differences", file=sys.stderr, flush=True)
        if len(findings) >= FINDINGS_MAX:
            break
    return count, findings, reached


def _over(seeds: range, processes: int) -> Iterator[tuple[int, list[str], Counter[str]]]:
    if processes == 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        # In portions, so that ten million cases do not queue thousands of results, and a finding stops the rest.
        for start in range(0, len(seeds), 64):
            yield from pool.map(run_seed, seeds[start : start + 64])


def main() -> int:
    total = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 100_000
    first_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    count, findings, reached = run(total, first_seed, os.cpu_count() or 1)
    for code, times in sorted(reached.items()):
        print(f"{times:10}  {code}")
    print("\n".join(findings))
    print(f"{count} documents, {len(findings)} differences")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
