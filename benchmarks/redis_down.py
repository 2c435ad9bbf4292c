"""Throughput with Redis up and down, and what an invoice costs the invoice process then; interleaved in one run.

Redis is a cache: gone, it costs speed and nothing else. Down is a port that refuses, as of a server that died: Valkey
stops listening and drops whoever is connected, and listens again for the next round. That it was so is asserted, from
the service's own count of commands; a round in which it was not is void.

    .venv/bin/python benchmarks/redis_down.py            (two minutes on a quiet machine; `--quick`: does it run?)
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
import urllib.request
from collections import defaultdict
from typing import Any

import redis
from ghz import describe, find_ghz, run_ghz
from run import CALLERS, report
from stack import Shop, Stack

# Before a round counts: the epoch is read every second, and Redis is left alone for one after three failures.
SETTLED_WITHIN_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4_000, help="of each closed loop")
    parser.add_argument("--rounds", type=int, default=5, help="of both ways; medians are reported")
    parser.add_argument("--quick", action="store_true", help="a tenth of it, not kept")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.calls, chosen.rounds = 400, 2
    ghz = find_ghz()
    describe()
    settings = dict(one.split("=", 1) for one in chosen.set)
    with Stack(settings) as stack:
        load = Load(ghz, stack, Shop(stack.state), chosen.calls)
        cache = Cache(stack.state.environment["INVOCHAIN_REDIS_URL"])
        figures = measure(load, cache, chosen.rounds)
    report({"settings": settings, "rounds": chosen.rounds, **figures}, keep=not chosen.quick, name="redis")


def measure(load: Load, cache: Cache, rounds: int) -> dict[str, object]:
    """Calls a second and CPU milliseconds an invoice, by whether Redis is up."""
    load.create()
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        # The first of a round is not always the same one.
        for way in ("up", "down") if number % 2 else ("down", "up"):
            cache.listen(way == "up")
            settle(load, up=way == "up")
            answered = load.answered()
            before = load.cpu_s()
            answer = load.create()
            cpu[way].append(1_000 * (load.cpu_s() - before) / answer["count"])
            rates[way].append(float(answer["rps"]))
            if (load.answered() > answered) != (way == "up"):
                raise SystemExit(f"void: Redis was not {way}")
            print(f"round {number + 1}: {way}: {rates[way][-1]:,.0f}/s, {cpu[way][-1]:.3f} ms", flush=True)
    cache.listen(True)
    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "CreateInvoice a second, medians": {way: round(value) for way, value in medians.items()},
        "a second, all rounds": {way: [round(value) for value in values] for way, values in rates.items()},
        "down to up": round(medians["down"] / medians["up"], 2),
        "CPU of the invoice process, ms an invoice": {way: round(statistics.median(cpu[way]), 3) for way in cpu},
    }


def settle(load: Load, *, up: bool) -> None:
    """Sends a few until the service has noticed."""
    until = time.monotonic() + SETTLED_WITHIN_S
    while True:
        answered = load.answered()
        load.create(20, 2)
        if (load.answered() > answered) == up:
            return
        if time.monotonic() > until:
            raise SystemExit(f"void: Redis should be {'up' if up else 'down'}")


class Load:
    """The main job, one line, over a thousand SKUs."""

    def __init__(self, ghz: str, stack: Stack, shop: Shop, calls: int) -> None:
        self._ghz, self._shop, self._calls = ghz, shop, calls
        self._address, self._metrics = stack.state.addresses["invoice"], stack.state.metrics["invoice"]
        self._requests = [{"invoice": shop.invoice(f"SKU-{number}")} for number in range(Shop.SKUS)]

    def create(self, calls: int = 0, callers: int = CALLERS) -> dict[str, Any]:
        bounds = ("-n", str(calls or self._calls), "-c", str(callers), "--connections", str(min(callers, 8)))
        token = self._shop.seller_token
        answer = run_ghz(self._ghz, self._address, "CreateInvoice", self._requests, token, *bounds)
        if set(answer["statusCodeDistribution"]) != {"OK"}:
            raise SystemExit(f"calls failed: {answer['statusCodeDistribution']} {answer['errorDistribution']}")
        return answer

    def cpu_s(self) -> float:
        """CPU that the invoice process has used."""
        return self._count("process_cpu_seconds_total")

    def answered(self) -> float:
        """Commands that Redis has answered."""
        return self._count(r'redis_commands_total{outcome="ok"}')

    def _count(self, name: str) -> float:
        text = urllib.request.urlopen(self._metrics, timeout=5).read().decode()
        return sum(map(float, re.findall(rf"^{name} (\S+)$", text, re.M)))


class Cache:
    """The stack's own Valkey, over one connection that stays."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, single_connection_client=True)
        self._port = int(url.rsplit(":", 1)[1].split("/")[0])

    def listen(self, up: bool) -> None:
        self._client.config_set("port", self._port if up else 0)
        if not up:
            self._client.client_kill_filter(_type="normal", skipme=True)


if __name__ == "__main__":
    main()
