"""Redis is late, silent, empty, forgetful, replaced, or talks nonsense: slower, and nothing else (PROTOCOL 7)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import redis.asyncio as redis

from tests.chaos.doors import GrpcDoor
from tests.chaos.experiment import PATIENCE_S, Experiment, Field
from tests.chaos.figures import Figures
from tests.kit.servers import ValkeyServer

LINK = "invoice>redis"
ADDED_S = 0.06
# Answers of no meaning; then such as Redis does give, to another question: an error, a status, a number, too short and
# too long a list, a list of other things.
NONSENSE = (
    b"\x00\xff\x13nonsense\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"-OOM command not allowed\r\n",
    b"+OK\r\n",
    b":7\r\n",
    b"*0\r\n",
    b"*1\r\n:7\r\n",
    b"*3\r\n:7\r\n+OK\r\n$-1\r\n",
    b"$-1\r\n",
)


def p95(took: list[float]) -> float:
    return sorted(took)[len(took) * 95 // 100]


@asynccontextmanager
async def asked(url: str) -> AsyncIterator[redis.Redis]:
    client = redis.Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


class Scene:
    """What may befall Redis; each as a pair of how it begins and how it ends, returning how often it happened."""

    def __init__(self, run: Experiment, server: ValkeyServer) -> None:
        self._run, self._server, self._link = run, server, run.links[LINK]
        # How long requests took that were done while Redis was well, and during its faults; the worst fault's p95.
        self.calm: list[float] = []
        self.faulty: list[float] = []
        self.worst_s = 0.0

    async def on_the_link(self, what: str, begin: Callable[[], None]) -> None:
        """A fault of the way there."""
        before = self._link.did[what]
        begin()
        await self.goes_on()

        async def did() -> bool:
            return self._link.did[what] > before

        await self._run.market.until(did, PATIENCE_S)
        self._link.heal()
        self._run.happened(f"redis {what}", self._link.did[what] - before)

    async def goes_on(self) -> None:
        """Invoices are issued and moved as ever while the fault lasts."""
        took = await self._served()
        self.faulty += took
        self.worst_s = max(self.worst_s, p95(took))

    async def is_well(self) -> None:
        """The same without a fault, between two of them: what the machine does meanwhile is in both."""
        self.calm += await self._served()

    async def _served(self) -> list[float]:
        traffic, field = self._run.traffic, self._run.field
        there = len(traffic.took)
        # A machine that is busy with other things may open the inventory's breaker meanwhile.
        await traffic.done((5 if field.full else 1) * self._run.clients, PATIENCE_S + field.breaker_s)
        return traffic.took[there:]

    async def asked_again(self) -> None:
        """A Redis that nobody asks proves nothing: it is left alone for a second after three failures."""
        since = await self._commands("ok", "late", "failed")

        async def more() -> bool:
            return await self._commands("ok", "late", "failed") > since

        await self._run.market.until(more, PATIENCE_S)

    async def _commands(self, *outcomes: str) -> float:
        named = [f'redis_commands_total{{outcome="{outcome}"' for outcome in outcomes]
        return sum([await self._run.processes.metric("invoice", name) for name in named])

    async def emptied(self) -> None:
        """FLUSHALL, again and again."""
        gone = 0
        async with asked(self._server.url) as client:
            until = len(self._run.traffic.done_at) + self._run.clients
            while len(self._run.traffic.done_at) < until:
                gone += await client.dbsize()
                await client.flushall()
                await self._run.traffic.done(1, PATIENCE_S + self._run.field.breaker_s)
        self._run.happened("redis keys flushed", gone)

    async def evicting(self) -> None:
        """Less memory than its keys want: whatever has a time to live goes, markers and outcomes alike."""
        async with asked(self._server.url) as client:
            evicted = (await client.info("stats"))["evicted_keys"]
            await client.config_set("maxmemory", 1)
            try:
                await self.goes_on()
            finally:
                await client.config_set("maxmemory", "256mb")
            self._run.happened("redis keys evicted", (await client.info("stats"))["evicted_keys"] - evicted)

    async def paused(self) -> None:
        """CLIENT PAUSE: connections stay open, commands wait."""
        late = await self._commands("late")

        async def is_late() -> bool:
            return await self._commands("late") > late

        async with asked(self._server.url) as client:
            await client.execute_command("CLIENT", "PAUSE", "2000", "ALL")
            await self.goes_on()
            # Those that go on may be requests that had looked before.
            await self._run.market.until(is_late, PATIENCE_S)
        self._run.happened("redis commands late in a pause", int(await self._commands("late") - late))

    async def killed(self) -> None:
        """kill -9, and back without its keys."""
        await self._server.kill9()
        self._run.happened("redis killed", 1)
        await self.goes_on()
        await self._server.start()

    async def replaced(self) -> None:
        """Failover to a replica that has replicated nothing: the same address and password, and no key."""
        before = self._link.did["resets"]
        async with ValkeyServer() as other:
            async with asked(other.url) as client:
                await client.config_set("requirepass", urlsplit(self._server.url).password or "")
            self._link.redirect(other.host, other.port)
            await self.goes_on()
            self._link.redirect(self._server.host, self._server.port)
        self._run.happened("redis replaced", self._link.did["resets"] - before)


@pytest.mark.timeout(900)
async def test_whatever_redis_does_no_request_fails_and_none_has_two_results(field: Field):
    """One fault after the other on one load. Duplicates may replay where they were told CONCURRENT_REQUEST before."""
    assert field.valkey is not None
    async with Experiment(field, "redis") as run:
        link, scene = run.links[LINK], Scene(run, field.valkey)
        told = run.traffic.unknown.copy()
        faults: list[Callable[[], Awaitable[None]]] = [
            lambda: scene.on_the_link("refused", link.down),
            lambda: scene.on_the_link("delayed", lambda: link.delay(5)),
            lambda: scene.on_the_link("slowed", lambda: link.slow(1_000)),
            lambda: scene.on_the_link("lost up", link.lose),
            lambda: scene.on_the_link("lost down", lambda: link.lose(("down",))),
            lambda: scene.on_the_link("resets", lambda: link.reset_some(0.5)),
            lambda: scene.on_the_link("garbled", lambda: link.garble(NONSENSE)),
            scene.emptied,
            scene.evicting,
            scene.paused,
            scene.killed,
            scene.replaced,
        ]
        for fault in faults:
            await scene.asked_again()
            if field.full:
                await scene.is_well()
            await fault()
        await scene.asked_again()
        others = {text: n for text, n in (run.traffic.unknown - told).items() if not text.startswith("409 ")}
        # A machine that is busy with other things refuses some for its own reasons; nothing else may.
        failed = [text for text in others if text.startswith("500 ")]
        assert not failed, f"requests failed because of redis: {failed}"
        run.notes.append(f"refused for want of time or room {sum(others.values())}")
        run.notes.append(
            f"p95 {1_000 * p95(scene.faulty):.0f} ms in all faults, {1_000 * scene.worst_s:.0f} in the worst"
        )
        if field.full:
            run.notes.append(f"{1_000 * p95(scene.calm):.0f} ms between them")
            run.measured("added p95", max(p95(scene.faulty) - p95(scene.calm), 0), ADDED_S)
        await run.verdict()


@pytest.mark.timeout(300)
async def test_without_redis_the_services_serve_on(field: Field, figures: Figures):
    """How many requests are done a second with Redis and without it, by clients who do not pause."""
    during_s = 8.0 if field.full else 1.0
    async with Experiment(field, "throughput", GrpcDoor(field.market), think_s=(0, 0)) as run:

        async def rate() -> float:
            there, began = len(run.traffic.done_at), time.monotonic()
            await run.lasts(during_s)
            return (len(run.traffic.done_at) - there) / (time.monotonic() - began)

        with_redis = await rate()
        before = run.links[LINK].did["refused"]
        run.links[LINK].down()
        await run.traffic.done(run.clients, PATIENCE_S)
        without = await rate()
        run.happened("redis refused", run.links[LINK].did["refused"] - before)
        run.links[LINK].heal()
        told = f"{with_redis:.0f} a second with redis, {without:.0f} without ({run.clients} clients)"
        run.notes.append(told)
        figures.headlines[f"throughput{'' if field.full else ' (short)'}"] = told
        await run.verdict()
