"""Experiment A: the read replica stands still, is killed, lags on purpose; nobody reads less than he wrote.

Beside the usual traffic, readers who issue, accept, and read their own invoices with the token of the write; and
without one, where an answer of the replica must hold all that was acknowledged before its `x-as-of`. A run in which the
replica had answered nobody before its fault is void.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import grpc
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.supervisor.ports import LOOPBACK
from tests.chaos.experiment import PATIENCE_S, Experiment, Field, open_field
from tests.kit.market import Trader, fresh_key
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer

READERS = 20
LAG_S_MAX = 5.0
# FAULTS A. The short form shares its machine with the rest of `make test`.
OUT_S, OUT_SHARED_S = 1.0, 3.0
BACK_S = 10.0
AS_OF, TOKEN = "x-as-of", "x-consistency-token"


@dataclass
class Readers:
    """Clients who write, and at once read what they wrote; every answer is held against what they know."""

    run: Experiment
    seller: Trader
    buyer: Trader
    # (with a token or without, who answered) -> reads.
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    # Answers of the replica, by the monotonic clock before the read was sent.
    by_replica_at: list[float] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _ending: bool = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._reader(n)) for n in range(READERS)]

    async def end(self) -> None:
        self._ending = True
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()

    def by(self, who: str) -> int:
        return sum(count for (_, by), count in self.seen.items() if by == who)

    async def more(self, who: str, count: int, token: str = "") -> None:
        """Waits until so many more reads were answered by the replica or by the primary."""

        def there() -> int:
            return self.seen[token, who] if token else self.by(who)

        before = there()
        async with asyncio.timeout(PATIENCE_S):
            while there() < before + count:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def _reader(self, number: int) -> None:
        market = self.run.market
        stub = market.invoices
        # Asks are bounded, whatever happens.
        for turn in range(2_000):
            if self._ending:
                return
            request = market.invoice(self.buyer, market.line(1, 10, sku=""))
            invoice, told = await self._write(stub.CreateInvoice, request, self.seller)
            token, state = told[TOKEN], pb.ISSUED
            await self._get(invoice.invoice_id, token, state, invoice.number)
            if turn % 3 == number % 3:
                accept = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
                _, told = await self._write(stub.AcceptInvoice, accept, self.buyer)
                token, state = told[TOKEN], pb.ACCEPTED
                await self._get(invoice.invoice_id, token, state, invoice.number)
            known = dt.datetime.now(dt.UTC)
            await self._list(invoice, token, state, known)
            await self._list(invoice, "", state, known)
            await asyncio.sleep(0.05)
            # By now a replica that keeps up has it, and says so by its date.
            await self._list(invoice, "", state, known)

    async def _write(self, method, request, who):
        """Done, with the metadata of the answer; asked again with the same key while the outcome is unknown."""
        key = fresh_key()
        for _ in range(20):
            try:
                return await self._ask(method, request, who, [("idempotency-key", key)])
            except grpc.aio.AioRpcError as error:
                if error.code().name not in ("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
                    raise
                await asyncio.sleep(0.1)
        raise AssertionError("twenty tries, and no final answer")

    async def _ask(self, method, request, who, metadata=()):
        pending = method(request, metadata=[("authorization", f"Bearer {who.token}"), *metadata], timeout=10)
        answer = await pending
        return answer, {name: str(value) for name, value in tuple(await pending.initial_metadata())}

    async def _read(self, method, request, token: str):
        """A read has no error to give: an exception here fails the run."""
        began = time.monotonic()
        answer, told = await self._ask(method, request, self.seller, [(TOKEN, token)] if token else [])
        who = "replica" if AS_OF in told else "primary"
        self.seen["token" if token else "none", who] += 1
        if who == "replica":
            self.by_replica_at.append(began)
        return answer, told.get(AS_OF, "")

    async def _get(self, invoice_id: str, token: str, state: int, number: str) -> None:
        found, as_of = await self._read(self.run.market.invoices.GetInvoice, _get(invoice_id), token)
        if found.state != state:
            self.wrong.append(f"{number} with its token: {pb.InvoiceState.Name(found.state)} as of {as_of or 'now'}")

    async def _list(self, invoice: pb.Invoice, token: str, state: int, known: dt.datetime) -> None:
        request = pb.ListInvoicesRequest(filter=f'number = "{invoice.number}"')
        found, as_of = await self._read(self.run.market.invoices.ListInvoices, request, token)
        states = [one.state for one in found.invoices]
        # Without a token the past may be told, but not another past than the one that is named.
        must = token or not as_of or dt.datetime.fromisoformat(as_of) >= known
        if must and states != [state]:
            self.wrong.append(f"list of {invoice.number}: {states} as of {as_of or 'now'}, known at {known}")


def _get(invoice_id: str) -> pb.GetInvoiceRequest:
    return pb.GetInvoiceRequest(invoice_id=invoice_id)


@dataclass
class Scene:
    """The field with its replica, and readers in an experiment."""

    field: Field
    replica: ReplicaServer
    run: Experiment
    readers: Readers

    async def on_replica(self, *statements: str) -> object:
        connection = await asyncpg.connect(self.replica.dsn(), timeout=20)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    async def rotation(self, wanted: int, within_s: float) -> float:
        """Waits until the invoice service says by its metrics that the replica is in rotation (1) or out; when."""
        port = self.field.processes.ports["invoice-metrics"]
        async with asyncio.timeout(within_s):
            while await asyncio.to_thread(_gauge, port, "replica_in_rotation") != wanted:
                await asyncio.sleep(0.05)
        return time.monotonic()

    async def served_before(self) -> None:
        """A fault of a replica that answers nobody proves nothing."""
        before = self.readers.by("replica")
        await self.readers.more("replica", 2 * READERS)
        await self.readers.more("replica", READERS, "token")
        self.run.happened("reads by the replica before a fault", self.readers.by("replica") - before)

    async def stands_still(
        self, what: str, begin: Callable[[], Awaitable[object]], end: Callable[[], Awaitable[object]], lasts_s: float
    ) -> None:
        """Replay stops; it is out in time, answers nobody, and returns by itself when replay goes on."""
        await self.served_before()
        begun = time.monotonic()
        await begin()
        # From here on nothing is replayed: the lag counts from the first write that is not.
        await self.readers.more("primary", READERS, "token")
        out = await self.rotation(0, PATIENCE_S)
        self.run.happened(what, 1)
        bound = OUT_S if self.field.full else OUT_SHARED_S
        self.run.measured(f"{what}: out after {LAG_S_MAX:g} s", max(out - begun - LAG_S_MAX, 0), bound)
        await self.readers.more("primary", READERS)
        await self.run.lasts(max(lasts_s - (time.monotonic() - begun), 0))
        ended = time.monotonic()
        assert not [at for at in self.readers.by_replica_at if out + 0.1 < at < ended], "it answered while it was out"
        await end()
        self.run.measured(f"{what}: back", await self.rotation(1, PATIENCE_S) - ended, BACK_S)
        await self.readers.more("replica", READERS, "token")

    async def paused(self) -> None:
        await self.on_replica("SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(PATIENCE_S):
            while await self.on_replica("SELECT pg_get_wal_replay_pause_state()") != "paused":
                await asyncio.sleep(0.01)

    async def resumed(self) -> None:
        await self.on_replica("SELECT pg_wal_replay_resume()")

    async def delayed(self) -> None:
        await self.on_replica("ALTER SYSTEM SET recovery_min_apply_delay = '1h'", "SELECT pg_reload_conf()")

    async def prompt(self) -> None:
        await self.on_replica("ALTER SYSTEM RESET recovery_min_apply_delay", "SELECT pg_reload_conf()")

    async def killed(self) -> None:
        """SIGKILL under load: no read fails; started again, it returns by itself."""
        await self.served_before()
        await self.replica.kill9()
        self.run.happened("replica killed", 1)
        await self.rotation(0, PATIENCE_S)
        await self.readers.more("primary", 2 * READERS)
        await self.replica.start()
        back = time.monotonic()
        self.run.measured("killed: back", await self.rotation(1, PATIENCE_S) - back, BACK_S)
        await self.readers.more("replica", READERS, "token")

    async def frozen(self) -> None:
        """SIGSTOP: it takes connections and never answers; reads wait a little and are answered."""
        await self.served_before()
        self.replica.freeze()
        try:
            self.run.happened("replica frozen", 1)
            await self.rotation(0, PATIENCE_S)
            await self.readers.more("primary", 2 * READERS)
        finally:
            self.replica.thaw()
        await self.rotation(1, PATIENCE_S)

    async def verdict(self) -> None:
        await self.readers.end()
        assert self.readers.wrong == [], f"{len(self.readers.wrong)}, the first: {self.readers.wrong[:5]}"
        told = ", ".join(f"{token}/{who} {count}" for (token, who), count in sorted(self.readers.seen.items()))
        self.run.notes.append(f"reads by token/who answered: {told}; older than promised 0")
        await self.run.verdict()


def _gauge(port: int, name: str) -> float | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + "{"):
                return float(line.rpartition(" ")[2])
    return None


@pytest.fixture(
    scope="module", params=[pytest.param(False, id="short"), pytest.param(True, id="full", marks=pytest.mark.long)]
)
async def scene(
    request: pytest.FixtureRequest,
    replicated: tuple[PostgresServer, ReplicaServer],
    market_valkey: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
    report: list,
) -> AsyncIterator[Scene]:
    primary, replica = replicated
    folder = tmp_path_factory.mktemp("replica")
    async with open_field(primary, market_valkey, folder, report, replica=replica) as place:
        place.full = request.param
        async with Experiment(place, "A read replica") as run:
            readers = Readers(run, await run.market.register(), await run.market.register())
            one = Scene(place, replica, run, readers)
            await one.rotation(1, PATIENCE_S)
            readers.start()
            try:
                yield one
            finally:
                await readers.end()
                if replica.runs:
                    await one.resumed()


@pytest.mark.timeout(600)
async def test_nobody_reads_less_than_he_wrote_while_the_replica_lags_or_is_gone(scene: Scene):
    """One fault after the other on one load: what one left behind meets the next."""
    await scene.stands_still("replay paused", scene.paused, scene.resumed, 30 if scene.field.full else 0)
    await scene.killed()
    if scene.field.full:
        await scene.stands_still("recovery_min_apply_delay", scene.delayed, scene.prompt, 10)
        await scene.frozen()
        # 5 s: it may leave and may stay; what is read is right either way.
        await scene.served_before()
        await scene.paused()
        await scene.run.lasts(5)
        await scene.resumed()
        await scene.rotation(1, PATIENCE_S)
        # For ever: the run ends without it.
        await scene.served_before()
        await scene.paused()
        await scene.rotation(0, PATIENCE_S)
        await scene.readers.more("primary", 5 * READERS)
    await scene.verdict()
