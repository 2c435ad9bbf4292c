"""`make soak`: an open loop of 100 invoices a second over the whole stack, and what it does to every process's memory.

Calls are due at fixed times whether or not those before them are answered, and a latency counts from the time a call
was due, so that a pause of the stack is seen by every call it delays. Beside the invoices a smaller load walks the
rest: acceptances, reads, lists, REST. At the end `invochain check` looks at all that was written. The run is bounded:
`--seconds`, and at most `UNDER_WAY_MAX` calls without an answer; what would be more counts as failed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import time
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop
from google.protobuf import json_format
from run import report
from stack import Shop, Stack, check

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.supervisor.state import StackState, read_state

SERVICE = "/invochain.api.invoice.v1.InvoiceService/"
# Access tokens live 15 minutes.
RENEW_EVERY_S = 300
CHANNELS = 4
CALL_S = 10.0
UNDER_WAY_MAX = 2_000
# Issued invoices that wait to be accepted or read.
KNOWN_MAX = 10_000
MEASURED = ("merchant", "inventory", "invoice", "workers", "gateway", "valkey")
# The start is not the steady state: pools fill, caches warm.
WARM_UP_SHARE = 0.1
AIMS = "p95 under 25 ms, p99 under 60 ms, 0 errors; RSS of a service under 150 MiB and flat"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3_600, help="300: the open loop; 3,600: memory")
    parser.add_argument("--rate", type=int, default=100, help="CreateInvoice a second")
    parser.add_argument("--beside", type=int, default=10, help="other calls a second: accept, get, list, REST")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    chosen = parser.parse_args()
    settings = dict(one.split("=", 1) for one in chosen.set)
    with Stack(settings) as stack:
        figures = uvloop.run(Soak(stack, chosen).run())
        figures["invochain check"] = check(stack.state)
    report({"settings": settings, "seconds": chosen.seconds, "aims": AIMS, **figures}, name="soak")


class Soak:
    """The load, and the watch on memory beside it."""

    def __init__(self, stack: Stack, chosen: argparse.Namespace) -> None:
        self._state, self._chosen = stack.state, chosen
        self._shop = Shop(stack.state)
        self._requests = [
            api.CreateInvoiceRequest(
                invoice=json_format.ParseDict(self._shop.invoice(f"SKU-{number}"), api.Invoice())
            ).SerializeToString()
            for number in range(Shop.SKUS)
        ]
        self._issued: deque[str] = deque(maxlen=KNOWN_MAX)
        self._under_way: set[asyncio.Task[None]] = set()
        self.calls: dict[str, Calls] = {}

    async def run(self) -> dict[str, Any]:
        address = self._state.addresses["invoice"]
        # Without a pool of its own each channel would be the same connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        self._channels = itertools.cycle(channels)
        gateway = Gateway(self._state.addresses["gateway"])
        others = itertools.cycle(
            [
                ("AcceptInvoice", self._accept),
                ("GetInvoice", self._get),
                ("ListInvoices", self._list),
                ("CreateInvoice over REST", lambda: self._rest(gateway)),
            ]
        )
        memory = Memory(self._state)
        self._began = time.monotonic()
        chores = [asyncio.create_task(self._renew()), asyncio.create_task(self._watch(memory))]
        loops = [self._paced(self._chosen.rate, itertools.cycle([("CreateInvoice", self._create)]))]
        if self._chosen.beside:
            loops.append(self._paced(self._chosen.beside, others))
        try:
            await asyncio.gather(*loops)
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=2 * CALL_S)
            for chore in chores:
                if chore.done():
                    chore.result()
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            gateway.close()
            for channel in channels:
                await channel.close()
        memory.look(time.monotonic() - self._began)
        return {
            "calls": {name: calls.figures() for name, calls in self.calls.items()},
            "REST requests sent again on a new connection": gateway.sent_again,
            "RSS, MiB": memory.figures(),
        }

    # ------------------------------------------------------------ load

    async def _paced(self, rate: int, what: itertools.cycle[tuple[str, Callable[[], Awaitable[str]]]]) -> None:
        """Begins a call every 1/rate seconds, whatever became of those before it."""
        for number in range(rate * self._chosen.seconds):
            due = self._began + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            name, call = next(what)
            calls = self.calls.setdefault(name, Calls())
            if len(self._under_way) >= UNDER_WAY_MAX:
                calls.add(due - self._began, 0.0, "NOT_SENT: too many are under way")
                continue
            task = asyncio.create_task(self._one(calls, call, due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _one(self, calls: Calls, call: Callable[[], Awaitable[str]], due: float) -> None:
        try:
            code = await call()
        except grpc.aio.AioRpcError as error:
            code = f"{error.code().name}: {error.details()}"[:120]
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            code = f"{type(error).__name__}: {error}"[:120]
        calls.add(due - self._began, time.monotonic() - due, code)

    async def _call(self, method: str, raw: bytes, token: str, *metadata: tuple[str, str]) -> bytes:
        headers = (("authorization", f"Bearer {token}"), *metadata)
        answer: bytes = await next(self._channels).unary_unary(SERVICE + method)(raw, metadata=headers, timeout=CALL_S)
        return answer

    async def _create(self) -> str:
        key = ("idempotency-key", str(uuid.uuid4()))
        raw = await self._call("CreateInvoice", random.choice(self._requests), self._shop.seller_token, key)
        self._issued.append(api.Invoice.FromString(raw).invoice_id)
        return "OK"

    async def _accept(self) -> str:
        if not self._issued:
            return "nothing issued yet"
        request = api.AcceptInvoiceRequest(invoice_id=self._issued.popleft())
        key = ("idempotency-key", str(uuid.uuid4()))
        await self._call("AcceptInvoice", request.SerializeToString(), self._shop.buyer_token, key)
        return "OK"

    async def _get(self) -> str:
        if not self._issued:
            return "nothing issued yet"
        request = api.GetInvoiceRequest(invoice_id=random.choice(self._issued))
        await self._call("GetInvoice", request.SerializeToString(), self._shop.seller_token)
        return "OK"

    async def _list(self) -> str:
        await self._call("ListInvoices", api.ListInvoicesRequest().SerializeToString(), self._shop.seller_token)
        return "OK"

    async def _rest(self, gateway: Gateway) -> str:
        body = self._shop.invoice(f"SKU-{random.randrange(Shop.SKUS)}")
        status = await gateway.post("/v1/invoices", body, self._shop.seller_token)
        return "OK" if status in (200, 201) else f"HTTP {status}"

    # ------------------------------------------------------------ beside it

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await asyncio.to_thread(self._shop.sign_in)

    async def _watch(self, memory: Memory) -> None:
        """RSS every 30 s, and a line of how it goes."""
        every = max(1, min(30, self._chosen.seconds // 10))
        for number in itertools.count():
            await asyncio.sleep(max(0.0, self._began + number * every - time.monotonic()))
            memory.look(time.monotonic() - self._began)
            calls = self.calls.get("CreateInvoice", Calls())
            print(f"{memory.seen[-1][0]:6.0f} s  {calls}  RSS {memory.seen[-1][1]}", flush=True)


class Calls:
    """When each call of a kind was due, how long it took, how it ended."""

    def __init__(self) -> None:
        self._due_s, self._took_ms, self._codes = array("d"), array("d"), Counter[str]()

    def add(self, due_s: float, took_s: float, code: str) -> None:
        self._codes[code] += 1
        if code == "OK":
            self._due_s.append(due_s)
            self._took_ms.append(1_000 * took_s)

    def __str__(self) -> str:
        latest = self._took_ms[-3_000:]
        return f"{sum(self._codes.values()):,} calls, {self._failed()} failed, p95 of late {at(latest, 95)} ms"

    def _failed(self) -> int:
        return sum(count for code, count in self._codes.items() if code not in ("OK", "nothing issued yet"))

    def figures(self) -> dict[str, Any]:
        """Percentiles of the whole run; and the p95 of each tenth of it, to see whether it drifts."""
        if not self._took_ms:
            return {"calls": sum(self._codes.values()), "failed": self._failed(), "codes": dict(self._codes)}
        tenth = max(self._due_s) / 10 or 1.0
        tenths: list[list[float]] = [[] for _ in range(10)]
        for due, took in zip(self._due_s, self._took_ms, strict=True):
            tenths[min(9, int(due / tenth))].append(took)
        return {
            "calls": sum(self._codes.values()),
            "failed": self._failed(),
            **{f"p{percent} ms": at(self._took_ms, percent) for percent in (50, 95, 99)},
            "max ms": round(max(self._took_ms), 1),
            "p95 ms, by tenths": [at(one, 95) for one in tenths],
            "codes": dict(self._codes),
        }


def at(values: array[float] | list[float], percent: int) -> float | None:
    """A percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)


class Memory:
    """RSS of each process of the stack, MiB."""

    def __init__(self, state: StackState) -> None:
        self._folder = state.data_folder
        self.seen: list[tuple[float, dict[str, int]]] = []
        # More than one: it ended and was started again.
        self._pids: dict[str, set[int]] = {name: set() for name in MEASURED}

    def look(self, at_s: float) -> None:
        state = read_state(self._folder)
        assert state is not None
        for name in MEASURED:
            self._pids[name].add(state.pids[name])
        self.seen.append((at_s, {name: _rss_mib(state.pids[name]) for name in MEASURED}))

    def figures(self) -> dict[str, Any]:
        """By process: first and last look, the highest, the mean of the first and of the last third, the slope."""
        end = self.seen[-1][0]
        steady = [(when, rss) for when, rss in self.seen if when >= WARM_UP_SHARE * end]
        third = (end - steady[0][0]) / 3
        found: dict[str, Any] = {"looks": len(self.seen), "seconds left out as warm-up": round(WARM_UP_SHARE * end)}
        for name in MEASURED:
            first = [rss[name] for when, rss in steady if when <= steady[0][0] + third]
            last = [rss[name] for when, rss in steady if when >= end - third]
            slope = 0.0
            if len(steady) > 1:
                line = statistics.linear_regression([when for when, _ in steady], [rss[name] for _, rss in steady])
                slope = 3_600 * line.slope
            found[name] = {
                "started again": len(self._pids[name]) - 1,
                "first": self.seen[0][1][name],
                "last": self.seen[-1][1][name],
                "highest": max(rss[name] for _, rss in self.seen),
                "mean of the first third": round(statistics.fmean(first), 1),
                "mean of the last third": round(statistics.fmean(last), 1),
                "slope, MiB an hour": round(slope, 1),
            }
        found["all looks: second, " + ", ".join(MEASURED)] = [
            " ".join(map(str, (round(when), *rss.values()))) for when, rss in self.seen
        ]
        return found


def _rss_mib(pid: int) -> int:
    """0 of a process that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    match = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)
    return round(int(match[1]) / 1_024) if match else 0


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unanswered(ConnectionError):
    """A connection that ended without a word."""


class Gateway:
    """REST over connections that stay open, one for each call under way.

    The gateway closes what was idle for 120 s: here the connections that only a burst needs. One that is known to be
    closed is not used; where the close and a request cross, the request, which has a key, is sent again on a new
    connection, as RFC 9110 9.2.2 allows a client, and counted.
    """

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._free: list[Connection] = []
        self.sent_again = 0

    async def post(self, path: str, body: dict[str, Any], token: str) -> int:
        """The status of the answer."""
        encoded = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nIdempotency-Key: {uuid.uuid4()}\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        request = head.encode() + encoded
        async with asyncio.timeout(CALL_S):
            while self._free and self._free[-1][0].at_eof():
                self._free.pop()[1].close()
            if self._free:
                try:
                    return await self._ask(self._free.pop(), request)
                except Unanswered:
                    self.sent_again += 1
            return await self._ask(await asyncio.open_connection(self._host, self._port), request)

    async def _ask(self, connection: Connection, request: bytes) -> int:
        """The status of the answer. Raises Unanswered: the connection ended before a byte of it came."""
        reader, writer = connection
        try:
            writer.write(request)
            try:
                answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except asyncio.IncompleteReadError as ended:
                if not ended.partial:
                    raise Unanswered("the connection ended before an answer came") from ended
                raise
            except ConnectionResetError as ended:
                raise Unanswered("the connection was reset before an answer came") from ended
            length = re.search(r"^content-length:\s*(\d+)", answer, re.I | re.M)
            if length is None:
                raise ConnectionError("an answer without its length")
            await reader.readexactly(int(length[1]))
        except BaseException:
            writer.close()
            raise
        self._free.append(connection)
        return int(answer.split(" ", 2)[1])

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


if __name__ == "__main__":
    main()
