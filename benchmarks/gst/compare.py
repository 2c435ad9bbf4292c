"""The engine beside plain Python and pydantic, in one run: the same documents, the same job, interleaved rounds.

`python benchmarks/gst/compare.py` measures documents of 1 and of 10 lines. The job is decode, check by every rule,
compute every figure, hash the canonical form. Contenders: the engine's own loop in Rust (engine.rs), then each layer
above it up to columns for the database; the oracle of tests/oracle; pydantic with Decimal (careful.py). Each round runs
every contender once, for a few milliseconds each, so that a noisy machine disturbs all alike. CPU time is counted: who
waits for a core pays nothing. Figures are medians of rounds, ratios medians of the ratios within a round (Linux only).
"""

from __future__ import annotations

import decimal
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import careful
from documents import SELLER, TODAY, buyer, encoded, framed, neutral
from instructions import bench_binary

from invochain import core
from oracle.gst_oracle import gstin, is_date, judge, read_number

BATCH = 1_000
ROUNDS = 41
# Documents a round of the slow contenders, so that their turns last about as long as the engine's.
SLOW_LINES = 300

Contender = Callable[[], float]  # runs once; microseconds a document


def cpu_ns(pid: int) -> int:
    """CPU time of a process; the clock's number is made as by clock_getcpuclockid(3)."""
    return time.clock_gettime_ns(~pid << 3 | 2)


@contextmanager
def engine_in_rust(binary: str, raws: list[bytes]) -> Iterator[Callable[[str], Contender]]:
    """The bench as a neighbour that runs a stage over the batch whenever it is asked."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(framed(raws))
        file.flush()
        command = [binary, "--serve", file.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bench:

            def run(stage: str) -> float:
                start = cpu_ns(bench.pid)
                print(stage, file=bench.stdin, flush=True)
                bench.stdout.readline()
                return (cpu_ns(bench.pid) - start) / len(raws) / 1e3

            yield lambda stage: lambda: run(stage)
            bench.stdin.close()


def through_the_binding(raws: list[bytes], with_columns: bool) -> Contender:
    """One crossing for the batch; with columns, those of invoices and items are taken out for the database."""
    directory, merchant = core.Directory(), bytes(16)
    directory.learn(merchant, SELLER, "27", 1, 0, False, b"", 0)
    for number in range(len(raws)):
        directory.learn_unknown(buyer(number), 0)
    merchants, keys = [merchant] * len(raws), [f"key-{n:013}" for n in range(len(raws))]

    def run() -> None:
        drafts = core.check_invoices(raws, merchants, keys, (2026, 11, 22), directory, 0)
        if len(drafts.live) != len(raws):
            raise SystemExit(f"not lawful: {drafts.violations[:1]} {drafts.malformed[:1]}")
        if with_columns:
            drafts.invoice_columns(drafts.live)
            drafts.item_columns(drafts.live)

    return lambda: timed(run) / len(raws)


def timed(work: Callable[[], object]) -> float:
    """Microseconds of CPU."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e3


def oracle(text: str) -> bytes:
    """The engine's job by the oracle: read, judge, and hash a canonical form."""
    document = json.loads(text)
    errors, _ = judge(document, "strict", TODAY)
    if errors:
        raise SystemExit(f"not lawful: {errors}")
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).digest()


def one_by_one(work: Callable[[str], object], texts: list[str], a_round: int) -> Contender:
    """A few documents a round, going on behind the last; what the oracle remembers of texts read is forgotten."""
    rest = cycle(texts)

    def run() -> float:
        portion = [next(rest) for _ in range(a_round)]
        for remembering in (read_number, gstin, is_date):
            remembering.cache_clear()
        with decimal.localcontext(decimal.DefaultContext):
            return timed(lambda: [work(text) for text in portion]) / a_round

    return run


def compare(binary: str, lines: int) -> None:
    raws = [encoded(number, lines) for number in range(BATCH)]
    texts = [json.dumps(neutral(number, lines)) for number in range(BATCH)]
    a_round = max(5, SLOW_LINES // (lines + 9))
    with engine_in_rust(binary, raws) as in_rust:
        contenders: dict[str, Contender] = {
            "engine: decode, check, compute, hash": in_rust("all"),
            "+ texts, ids, answer body, rows (Rust)": in_rust("draft"),
            "+ binding, a batch of 1,000 at once": through_the_binding(raws, with_columns=False),
            "+ columns for the database": through_the_binding(raws, with_columns=True),
            "oracle: plain Python, Decimal": one_by_one(oracle, texts, a_round),
            "pydantic: parsed, fields and codes checked": one_by_one(careful.parse, texts, a_round),
            "pydantic: the whole job": one_by_one(careful.whole, texts, a_round),
        }
        for contender in contenders.values():
            contender()
        rounds = [[contender() for contender in contenders.values()] for _ in range(ROUNDS)]
    print(f"\n{lines} line{'s' if lines > 1 else ''}, {len(raws[0])} bytes encoded, medians of {ROUNDS} rounds")
    print(f"  {'':44} {'µs CPU':>9} {'documents/s':>13} {'x engine':>9}")
    for at, name in enumerate(contenders):
        each = statistics.median(one[at] for one in rounds)
        ratio = statistics.median(one[at] / one[0] for one in rounds)
        print(f"  {name:44} {each:9.2f} {1e6 / each:13,.0f} {ratio:9.1f}")


def main() -> None:
    binary = bench_binary()
    for lines in (1, 10):
        compare(binary, lines)


if __name__ == "__main__":
    main()
