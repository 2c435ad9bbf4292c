"""`make bench`: the main job under load, on an embedded stack of its own, each figure beside a floor of the same run.

Every round measures every row once, so that what the machine does to one it does to all; figures are medians over the
rounds, and each is a ratio to its floor in the same rounds. Results go to `results/<date>-<commit>.json` and to the
terminal. ghz makes the load of single calls; it is built by name into `.cache/bin` if it is not on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import platform
import re
import statistics
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import batches
import rest
from copying import Copies
from ghz import ROOT, describe, find_ghz, latencies, run_ghz
from stack import Shop, Stack

# Callers of a closed loop, and what part of its calls they make.
SWEPT = {1: 32, 10: 8, 50: 4, 200: 2, 800: 1, 1_600: 1}
# Those of the other loops: so many share their batches that more bring little, and each waits less than half a second.
CALLERS = 800
# Connections over REST: its load is made in Python, and more of them would measure that.
REST_CALLERS = 200
BATCH_ITEMS = 100
# As many as the service puts into batches of its own at a time, several times over.
BATCHES_IN_FLIGHT = 16
HOLDS = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of the open loops")
    parser.add_argument("--calls", type=int, default=8_000, help="of each closed loop")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, not kept: does every row run?")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seconds, chosen.calls, chosen.rounds = 3, 800, 2
    ghz = find_ghz()
    describe()
    settings = dict(one.split("=", 1) for one in chosen.set)
    with Stack(settings) as stack:
        figures = Rows(ghz, stack, Shop(stack.state), chosen).measure()
    # So that a run with other settings is another file.
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(settings.values()).lower())
    report({"settings": settings, "rounds": chosen.rounds, **figures}, keep=not chosen.quick, name=name)


class Rows:
    """What is measured. A row's method gives its value in one round."""

    def __init__(self, ghz: str, stack: Stack, shop: Shop, chosen: argparse.Namespace) -> None:
        self._ghz, self._stack, self._shop, self._chosen = ghz, stack, shop, chosen
        self._calls = chosen.calls
        self._addresses = stack.state.addresses
        self._spread = [{"invoice": shop.invoice(f"SKU-{number}")} for number in range(Shop.SKUS)]
        self._ten_lines = [{"invoice": shop.invoice(f"SKU-{number}", 10)} for number in range(Shop.SKUS)]
        first = shop.post("/v1/invoices", self._spread[0]["invoice"], shop.seller_token)
        self._floor = stack.floor(json.dumps(first).encode())
        self._holds = batches.Holds(stack.state, first["merchant_id"], "SKU-8")
        self._copies = {1: Copies(stack.state), 10: Copies(stack.state)}
        # Of the invoice process and of the empty handler: CPU a call, milliseconds.
        self._cpu: dict[str, list[float]] = defaultdict(list)

    def measure(self) -> dict[str, Any]:
        self._create("-n", "1000", "-c", "50", "--connections", "8")
        print(f"open loops, 100 a second for {self._chosen.seconds} s", flush=True)
        open_loops = self._open_loops()
        rows: dict[str, Callable[[], float]] = {}
        for callers in SWEPT:
            rows[_empty(callers)] = partial(self._nothing, callers)
            rows[_create(callers)] = partial(self._spread_out, callers)
        rows |= {
            "CreateInvoice, one SKU": lambda: self._create(*_of(CALLERS), data=self._spread[7])["rps"],
            "CreateInvoice, 10 lines": lambda: self._create(*_of(CALLERS), data=self._ten_lines, part=2)["rps"],
            "AcceptInvoice": self._accepted,
            "CreateInvoice, REST through the gateway": self._through_the_gateway,
            "BatchCreateInvoices of 100, 1 line": lambda: self._batches(1),
            "COPY of those rows, 1 line": lambda: self._copied(1),
            "BatchCreateInvoices of 100, 10 lines": lambda: self._batches(10),
            "COPY of those rows, 10 lines": lambda: self._copied(10),
            "BatchReserveStock of 1,000, one SKU": lambda: asyncio.run(self._holds.by_service(self._some(8), HOLDS)),
            "the same rows by hand": lambda: asyncio.run(self._holds.by_hand(self._some(8), HOLDS)),
        }
        found: dict[str, list[float]] = defaultdict(list)
        for number in range(self._chosen.rounds):
            for name, row in rows.items():
                found[name].append(row())
                print(f"round {number + 1}: {name}: {found[name][-1]:,.0f}", flush=True)
        medians = {name: statistics.median(values) for name, values in found.items()}
        cpu = {name: round(statistics.median(values), 3) for name, values in self._cpu.items()}
        return {
            "a second, medians": {name: round(value) for name, value in medians.items()},
            "a second, all rounds": {name: [round(value) for value in values] for name, values in found.items()},
            "ratios": _ratios(medians),
            "CPU, ms a call": {**cpu, "ratio": round(cpu["invoice process"] / cpu["empty handler"], 2)},
            "RSS after all of it, MiB": self._memory(),
            **open_loops,
        }

    # ------------------------------------------------------------ rows

    def _nothing(self, callers: int) -> float:
        before = self._stack.floor_cpu_s()
        answer = self._create(*_of(callers), address=self._floor, part=SWEPT[callers])
        if callers == CALLERS:
            self._cpu["empty handler"].append(1_000 * (self._stack.floor_cpu_s() - before) / answer["count"])
        return float(answer["rps"])

    def _spread_out(self, callers: int) -> float:
        before = self._metric("invoice", "process_cpu_seconds_total")
        answer = self._create(*_of(callers), part=SWEPT[callers])
        spent = self._metric("invoice", "process_cpu_seconds_total") - before
        if callers == CALLERS:
            self._cpu["invoice process"].append(1_000 * spent / answer["count"])
        return float(answer["rps"])

    def _accepted(self) -> float:
        made = [{"invoice_id": one} for one in self._issue(max(1, self._calls // BATCH_ITEMS), 1)[1]]
        bounds = ("-n", str(len(made)), *_of(CALLERS))
        answer = run_ghz(self._ghz, self._addresses["invoice"], "AcceptInvoice", made, self._shop.buyer_token, *bounds)
        return _all_ok(answer)["rps"]

    def _through_the_gateway(self) -> float:
        address = self._addresses["gateway"]
        bodies = [one["invoice"] for one in self._spread]
        made = rest.requests(
            address, "/v1/invoices", bodies, self._shop.seller_token, max(REST_CALLERS, self._calls // 2)
        )
        return asyncio.run(rest.per_second(address, made, REST_CALLERS))

    def _batches(self, lines: int) -> float:
        per_second, issued = self._issue(self._some(80 if lines == 1 else 32), lines)
        asyncio.run(self._copies[lines].take(issued, BATCH_ITEMS))
        return per_second

    def _copied(self, lines: int) -> float:
        return asyncio.run(self._copies[lines].per_second(BATCH_ITEMS, BATCHES_IN_FLIGHT))

    def _open_loops(self) -> dict[str, Any]:
        count = 100 * self._chosen.seconds
        paced = ("--async", "-r", "100", "-c", "100")
        made = [{"invoice_id": one} for one in self._issue(max(1, count // BATCH_ITEMS), 1)[1]][:count]
        accepted = run_ghz(
            self._ghz,
            self._addresses["invoice"],
            "AcceptInvoice",
            made,
            self._shop.buyer_token,
            *paced,
            "-n",
            str(len(made)),
        )
        return {
            "CreateInvoice, open loop 100/s": latencies(self._create(*paced, "-n", str(count))),
            "AcceptInvoice, open loop 100/s": latencies(accepted),
        }

    # ------------------------------------------------------------ what they use

    def _some(self, batches_of_a_round: int) -> int:
        return 4 if self._chosen.quick else batches_of_a_round

    def _create(self, *more: str, data: Any = None, address: str = "", part: int = 1) -> dict[str, Any]:
        if "-n" not in more:
            callers = int(more[more.index("-c") + 1])
            more = ("-n", str(max(callers, self._calls // part)), *more)
        where = address or self._addresses["invoice"]
        answer = run_ghz(self._ghz, where, "CreateInvoice", data or self._spread, self._shop.seller_token, *more)
        return _all_ok(answer)

    def _issue(self, count: int, lines: int) -> tuple[float, list[str]]:
        """Issues batches; invoices a second, and their ids."""

        async def send() -> tuple[float, list[bytes]]:
            asked = batches.invoices(self._shop, count, BATCH_ITEMS, lines)
            caller = [("authorization", f"Bearer {self._shop.seller_token}")]
            async with batches.Door(self._addresses["invoice"], caller) as door:
                return await batches.seconds_for(door, batches.CREATE, asked, BATCHES_IN_FLIGHT)

        seconds, answers = asyncio.run(send())
        return count * BATCH_ITEMS / seconds, batches.issued(answers)

    def _metric(self, process: str, name: str) -> float:
        """The sum of a metric over its labels."""
        text = urllib.request.urlopen(self._stack.state.metrics[process], timeout=5).read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def _memory(self) -> dict[str, int]:
        processes = ("merchant", "inventory", "invoice", "workers", "gateway")
        return {one: round(self._metric(one, "process_resident_memory_bytes") / 2**20) for one in processes}


def _all_ok(answer: dict[str, Any]) -> dict[str, Any]:
    if set(answer["statusCodeDistribution"]) != {"OK"}:
        raise SystemExit(f"calls failed: {answer['statusCodeDistribution']} {answer['errorDistribution']}")
    return answer


def _ratios(medians: dict[str, float]) -> dict[str, float]:
    """The rows of the table in README.md; each names what it is divided by."""
    best_of = partial(max, key=medians.__getitem__)
    spread = _create(CALLERS)
    pairs = {
        "CreateInvoice to the empty handler, each at its best": (
            best_of(map(_create, SWEPT)),
            best_of(map(_empty, SWEPT)),
        ),
        **{f"CreateInvoice to the empty handler, {n} callers": (_create(n), _empty(n)) for n in SWEPT},
        "one SKU to 1,000": ("CreateInvoice, one SKU", spread),
        "10 lines to 1": ("CreateInvoice, 10 lines", spread),
        "AcceptInvoice to CreateInvoice": ("AcceptInvoice", spread),
        "gateway to direct": ("CreateInvoice, REST through the gateway", _create(REST_CALLERS)),
        "batches to COPY, 1 line": ("BatchCreateInvoices of 100, 1 line", "COPY of those rows, 1 line"),
        "batches to COPY, 10 lines": ("BatchCreateInvoices of 100, 10 lines", "COPY of those rows, 10 lines"),
        "reservations to those by hand": ("BatchReserveStock of 1,000, one SKU", "the same rows by hand"),
    }
    return {name: round(medians[above] / medians[below], 2) for name, (above, below) in pairs.items()}


def _create(callers: int) -> str:
    return f"CreateInvoice, {callers} callers"


def _empty(callers: int) -> str:
    return f"empty grpc.aio handler, {callers} callers"


def _of(callers: int) -> tuple[str, ...]:
    return ("-c", str(callers), "--connections", str(min(callers, 8)))


def report(figures: dict[str, Any], *, keep: bool = True, name: str = "") -> None:
    """Prints the figures, and keeps them under results/; `name` tells apart what is measured on one day."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    result = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        **figures,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if keep:
        folder = ROOT / "benchmarks" / "results"
        folder.mkdir(exist_ok=True)
        kept = "-".join(filter(None, (result["date"][:10], result["commit"], name)))
        (folder / f"{kept}.json").write_text(text + "\n")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = re.findall(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    kilobytes = re.search(r"^MemTotal: +(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "memory, GiB": round(int(kilobytes[1]) / 2**20) if kilobytes else None,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": os.getloadavg(),
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s")
