"""One experiment: traffic before, during and after a fault that has happened, and the verdict over everything after it.

    async with Experiment(field, "D reset") as run:      traders, stock, 20 clients that are being served
        ...                                              the fault; `run.happened(..)`, else the run is void
        await run.healed("first success", bound)         the clock of the bound begins
        await run.verdict()                              traffic ends; balance, `invochain check`, history, report

A report line says: faults, sent, acknowledged, replays, unknown answers; duplicates, lost and orphans, which must be 0;
and every time against its bound.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis.asyncio as redis

from invochain.chassis.embedded_broker import LOOK_S
from invochain.check.check_all import check_all
from tests.chaos import books
from tests.chaos.doors import Door, GrpcDoor, RestDoor
from tests.chaos.figures import Measured, Run
from tests.chaos.load import SKUS, UNITS, Ask, ClientLog, Load
from tests.chaos.traffic import CLIENTS, THINK_S, Traffic
from tests.kit.market import Market, fresh_key
from tests.kit.processes import SERVICES, Processes, open_processes
from tests.kit.servers import PostgresServer, ValkeyServer

SEED = 20260722
# Before the first fault and after the last one: so many asks done.
BEFORE, AFTER = 40, 40
# The machine may be busy with other things; no bound of the protocol is measured by these.
PATIENCE_S = 60.0
# The last events are consumed and the last holds of refused requests given back within it.
BALANCED_S = 20.0


@dataclass
class Field:
    """Where the faults happen: real processes, the links between them, and where the report goes."""

    processes: Processes
    market: Market
    report: list[str | Run]
    folder: Path
    rest: RestDoor | None = None
    # By room, where a server may be killed.
    servers: Mapping[str, PostgresServer] = field(default_factory=dict)
    valkey: ValkeyServer | None = None
    # The short form, or the one of `make chaos`.
    full: bool = False

    async def revive(self) -> None:
        """Whatever an earlier experiment left: every link works, every server and process runs."""
        for link in self.links.values():
            link.heal()
        for server in {*self.servers.values(), *([self.valkey] if self.valkey else [])}:
            if not server.runs:
                await server.start()
        for name in (*SERVICES, "workers", "gateway"):
            if name in self.processes.ports and name not in self.processes.running:
                await self.processes.start(name)

    @property
    def undecided_s(self) -> float:
        """PROTOCOL 6: 32 s; for the short form, whose abort age is lower, that is generous on a busy machine."""
        return 32.0

    @property
    def breaker_s(self) -> float:
        """How long a breaker that has opened leaves its target alone, at most (PROTOCOL 13: 30 s +- 10 %)."""
        return self.market.settings.breaker_open_ms / 1_000 * 1.1

    @property
    def links(self) -> Mapping[str, Any]:
        return self.processes.links


@asynccontextmanager
async def open_field(
    postgres: PostgresServer | Mapping[str, PostgresServer],
    valkey: ValkeyServer,
    folder: Path,
    report: list[str | Run],
    *,
    gateway: bool = False,
    links: Collection[str] = (),
    **environment: Any,
) -> AsyncIterator[Field]:
    """A stack with links where they are asked for (kit/processes.py names them). `environment`: INVOCHAIN_*."""
    async with AsyncExitStack() as stack:
        processes, market = await open_processes(
            stack, postgres, valkey, folder, gateway=gateway, links=links, **environment
        )
        rest = None
        if gateway:
            through = processes.links.get("client>gateway")
            port = through.port if through else processes.ports["gateway"]
            rest = await stack.enter_async_context(RestDoor(f"127.0.0.1:{port}"))
        servers = postgres if isinstance(postgres, Mapping) else {}
        yield Field(processes, market, report, folder, rest, servers, valkey)


@dataclass
class Experiment:
    """A context: inside it, clients are being served. Leaving it by an exception ends them."""

    field: Field
    name: str
    door: Door | None = None
    clients: int = CLIENTS
    think_s: tuple[float, float] = THINK_S
    faults: dict[str, int] = field(default_factory=dict)
    times: list[Measured] = field(default_factory=list)
    # What was measured and has no bound, for the report.
    notes: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.market, self.processes, self.links = self.field.market, self.field.processes, self.field.links
        await self.field.revive()
        self.seed = f"{SEED} {self.name}"
        self.seller, self.buyer = await self.market.register(), await self.market.register()
        for sku in SKUS:
            await self.market.stock_up(self.seller, sku, UNITS)
        words = "-".join(re.findall(r"[a-z0-9]+", self.name.lower()))
        self.log = ClientLog(self.field.folder / f"clients-{words}.jsonl")
        # The number that some will ask for in vain.
        taken = self.market.invoice(self.buyer, self.market.line(1, 10, sku=SKUS[0]), number="TAKEN/1")
        await Load(self.market, self.seller, self.log, self.seed).run([Ask(fresh_key(), taken, "sale", False)], 1)
        self.traffic = Traffic(
            self.market,
            self.door or self.field.rest or GrpcDoor(self.market),
            self.seller,
            self.buyer,
            self.log,
            self.seed,
            clients=self.clients,
            think_s=self.think_s,
        )
        self.traffic.start()
        try:
            await self.traffic.done(BEFORE, PATIENCE_S)
        except BaseException:
            await self.traffic.abandon()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for link in self.links.values():
            link.heal()
        await self.traffic.abandon()

    async def lasts(self, seconds: float) -> None:
        """The length of a fault where the row names one; not a wait for a state."""
        await asyncio.sleep(seconds)

    def happened(self, what: str, times: int) -> None:
        """Notes a fault that was injected. A run whose fault did not happen is void."""
        assert times > 0, f"void: {what} did not happen"
        self.faults[what] = self.faults.get(what, 0) + times

    def measured(self, what: str, took: float, bound: float) -> None:
        """Holds a time against its bound, and reports it."""
        self.times.append(Measured(what, took, bound))
        known = "; ".join(map(str, [*self.times, *self.notes]))
        assert took <= bound, f"{what} took {took:.3f} s; the bound is {bound:g} s ({known})"

    async def breaker_pause_s(self) -> float:
        """What a breaker that is open adds to any bound: until its pause is over nobody is let through."""
        open_ = await self.processes.metric("invoice", 'circuit_breaker_state{target="inventory"')
        return self.field.breaker_s if open_ else 0.0

    async def first_success(self, since: float, bound: float) -> None:
        """Waits until an ask is done after `since` (healing), within the bound."""
        there = sum(1 for at in self.traffic.done_at if at > since)
        if not there:
            await self.traffic.done(1, bound + 1)
        self.measured("first success", min(at for at in self.traffic.done_at if at > since) - since, bound)

    async def settled(self, since: float, bound: float) -> None:
        """Waits until no hold made before now waits for a decision; `since` is when the fault was over."""
        until = await books.now(self.market)
        await self.market.until(lambda: self._none_pending(until), bound + PATIENCE_S)
        self.measured("settled", time.monotonic() - since, bound)

    async def _none_pending(self, until: str) -> bool:
        return await books.pending(self.market, until) == 0

    async def verdict(self, within_s: float = PATIENCE_S, balanced_s: float = BALANCED_S) -> None:
        """Some more traffic; then all must be answered, balance, hold, and be answered the same once more."""
        await self.traffic.done(AFTER, within_s)
        await self.traffic.end(within_s)
        begun = time.monotonic()
        while wrong := await self._wrong():
            took = time.monotonic() - begun
            assert took <= balanced_s, f"{self.name}: after {took:.1f} s: {wrong}; client log: {self.log.path}"
            await asyncio.sleep(0.1)
        await self._the_same_again()
        begun = time.monotonic()
        # A consumer notes within a second or two that what it has not read is not for it.
        while broken := {f.rule.name: f.examples for f in await check_all(self.market.settings, 0) if f.violations}:
            assert time.monotonic() - begun <= balanced_s, f"{self.name}: {broken}"
            await asyncio.sleep(LOOK_S)

    async def _wrong(self) -> dict[str, list[str]]:
        found = await books.discrepancies(self.market, self.seller, self.buyer, self.log)
        moved = await books.moves_untrue(self.market, self.seller, self.traffic.moved)
        return found | ({"I17 moves told are the state": moved} if moved else {})

    async def _the_same_again(self) -> None:
        """R5: every key has the answer it had, from its row, for Redis is empty."""
        client = redis.Redis.from_url(self.market.settings.redis_url)
        await client.flushall()
        await client.aclose()
        asked, replayed, unknown = self.log.sent, self.traffic.replayed, dict(self.traffic.unknown)
        await self.traffic.ask_again()
        wrong = await self._wrong()
        self.field.report.append(
            Run(
                experiment=self.name,
                full=self.field.full,
                faults=self.faults,
                sent=asked,
                acknowledged=len(self.log.acknowledged),
                moves=len(self.traffic.moved),
                replays=replayed,
                unknown=unknown,
                measured=self.times,
                notes=self.notes,
                **{name: len(wrong.get(name, [])) for name in ("duplicates", "lost", "orphans")},
            )
        )
        assert wrong == {}, f"client log: {self.log.path}"
