"""Instructions a document, by callgrind: a figure the machine's noise does not move.

`python benchmarks/gst/instructions.py` builds the bench, runs each stage 1,000 times under valgrind and divides.
Needs valgrind (Debian: valgrind).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMES = 1_000


def bench_binary() -> str:
    """The path cargo gives the bench."""
    build = ["cargo", "bench", "-p", "invochain-core", "--bench", "engine", "--no-run", "--message-format=json"]
    lines = subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "engine")


def instructions(binary: str, stage: str, lines: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=*collected*", "--callgrind-out-file=/dev/null"]
    run = subprocess.run([*command, binary, "--count", stage, str(lines)], check=True, capture_output=True, text=True)
    counted = re.search(r"Collected : (\d+)", run.stderr)
    if counted is None:
        raise SystemExit(f"valgrind counted nothing:\n{run.stderr}")
    return int(counted[1]) // TIMES


def main() -> int:
    binary = bench_binary()
    print(f"{'stage':8} {'lines':>6} {'instructions a document':>24}")
    for lines in (1, 10):
        for stage in ("read", "check", "all", "draft"):
            print(f"{stage:8} {lines:>6} {instructions(binary, stage, lines):>24,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
