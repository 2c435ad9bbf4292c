"""`kill -9` at each row of PROTOCOL 6, under load, in real processes: one whole invoice or nothing, within the bound.

One InvoChain of four processes (three services, the workers). For each row a process is armed with the fault, 20
clients ask (10 % duplicates, 2 % a used key with another body), the process dies at the hook and is started again,
clients repeat with the same key until they have a final answer. What the crash left is gone within the bound of the
row; the books of both databases balance; asked once more, without Redis, every key has the same answer.

The short form lowers the abort age to 4 s with INVOCHAIN_ABORT_AFTER_MS, and with it the bounds; the long one runs at
30 s with more clients and asks. Rows without a test here: "COMMIT unknown" (a connection is lost, nobody dies:
tests/integration/invoice/test_resolve_sagas.py) and the sequencer, which does not exist yet.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio as redis

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.chaos import books
from tests.chaos.figures import Measured, Run
from tests.chaos.load import CANCELLED, SKUS, UNITS, Ask, ClientLog, Load, plan
from tests.kit.market import Market
from tests.kit.processes import Processes, open_processes
from tests.kit.servers import PostgresServer, ValkeyServer

SEED = 20260722
# A fault that has not happened by then never will: the run is void.
FAULT_WITHIN_S = 30
# Which batch holds what is chance: a run whose fault met none of what its row is about is made again.
RUNS_MAX = 3
MARKER_S = 3.0
# From the start of a process to its first round of work there is a leader's lock to get (PROTOCOL 6, last row).
LEADER_S = 5.0
CONSUMED_S = 10.0


@dataclass(frozen=True)
class Size:
    """How much, and how long a request may be undecided."""

    clients: int
    asks: int
    abort_s: float

    @property
    def undecided_s(self) -> float:
        """PROTOCOL 6: 32 s."""
        return self.abort_s + 2

    @property
    def decided_s(self) -> float:
        """PROTOCOL 6: 12 s. The resolver looks at holds older than 10 s, or the abort age if that is less."""
        return min(10.0, self.abort_s) + 2


SHORT, LONG = Size(20, 60, 4), Size(40, 600, 30)


@dataclass(frozen=True)
class Row:
    """A row of PROTOCOL 6: the fault that makes it, in which process, and the bound by name."""

    fault: str
    process: str
    # The state left, by the row of a request whose hold is PENDING; empty: no hold is left by this row.
    leaves: str = ""
    # The client was told a final answer before.
    told: bool = False

    @property
    def decided(self) -> bool:
        return self.leaves in ("SUCCEEDED", "FAILED")


# By the words of the table. nth=2: some are acknowledged before. after=MS: the answer leaves before the process dies.
ROWS = {
    "1 look, 2 mark": Row("create.marked:kill:nth=2", "invoice"),
    "3 Reserve about to be sent": Row("reserve.send:kill:nth=2", "invoice"),
    "3 Reserve sent, lost before inventory": Row("reserve.arrived:kill:nth=2", "inventory"),
    "3 committed, reply lost": Row("reserve.committed:kill:nth=2", "inventory", "UNDECIDED"),
    "3 committed, process died": Row("decide.begin:kill:nth=2", "invoice", "UNDECIDED"),
    "4 before COMMIT": Row("decide.before_commit:kill:nth=2", "invoice", "UNDECIDED"),
    "4 done, before 5": Row("decide.committed:kill:nth=2", "invoice", "SUCCEEDED"),
    "5 answered, before Confirm": Row("confirm.send:kill:after=150", "invoice", "SUCCEEDED", told=True),
    "refusal known, before FAILED row": Row("refuse.known:kill", "invoice"),
    "FAILED row, before Release": Row("release.send:kill:after=150", "invoice", "FAILED", told=True),
}


class Void(AssertionError):
    """The process died, but not in the state that the row is about."""


@dataclass
class Field:
    """Where the faults happen."""

    processes: Processes
    market: Market
    size: Size
    report: list
    folder: Path

    async def repaired(self, made_until: str, since: float, within_s: float) -> float:
        """Waits until no hold made by then waits for a decision; seconds since the fault. Fails at the bound."""
        while left := await books.pending(self.market, made_until):
            took = time.monotonic() - since
            assert took <= within_s, f"{left} holds are still pending after {took:.1f} s; the bound is {within_s:g} s"
            await asyncio.sleep(0.05)
        return time.monotonic() - since


async def open_field(stack: AsyncExitStack, postgres, valkey, folder: Path, size: Size, report: list) -> Field:
    abort_ms = int(size.abort_s * 1_000)
    # The breaker's pause is of the same length, and lowered with it.
    lowered = {"INVOCHAIN_ABORT_AFTER_MS": abort_ms, "INVOCHAIN_BREAKER_OPEN_MS": abort_ms}
    processes, market = await open_processes(stack, postgres, valkey, folder, **lowered)
    return Field(processes, market, size, report, folder)


@pytest.fixture(
    scope="module", params=[pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.long)]
)
async def field(
    request: pytest.FixtureRequest,
    templates: PostgresServer,
    market_valkey: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
    report: list,
) -> AsyncIterator[Field]:
    async with AsyncExitStack() as stack:
        folder = tmp_path_factory.mktemp("kill")
        yield await open_field(stack, templates, market_valkey, folder, request.param, report)


class Scene:
    """One row: a seller and a buyer of its own, a load, and what is asserted at the end."""

    def __init__(self, field: Field, name: str) -> None:
        self.field, self.market, self.processes, self.size = field, field.market, field.processes, field.size
        self.name, self.seed = name, f"{SEED} {name}"
        self.repairs: list[Measured] = []
        self.faults: dict[str, int] = {}

    async def open(self, *, all_patient: bool = False) -> None:
        """Traders, stock, a number that is taken, and the plan."""
        for name in self.field.processes.missing():
            # A void run before this one left it dead.
            await self.field.processes.start(name)
        self.seller, self.buyer = await self.market.register(), await self.market.register()
        for sku in SKUS:
            await self.market.stock_up(self.seller, sku, UNITS)
        words = "-".join(re.findall(r"[a-z0-9]+", self.name.lower()))
        self.log = ClientLog(self.field.folder / f"clients-{words}.jsonl")
        self.load = Load(self.market, self.seller, self.log, self.seed)
        first = Ask(f"first-{random.Random(self.seed).getrandbits(64):016x}", self._taking("TAKEN/1"), "sale", False)
        await self.load.run([first], 1)
        self.asks = plan(self.market, self.buyer, "TAKEN/1", self.seed, self.size.asks, all_patient=all_patient)

    def _taking(self, number: str) -> pb.CreateInvoiceRequest:
        return self.market.invoice(self.buyer, self.market.line(1, 10, sku=SKUS[0]), number=number)

    def asking(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.load.run(self.asks, self.size.clients))

    async def decided_settled(self, left: dict[str, set[uuid.UUID]], since: float) -> float:
        """Waits until those of the holds `left` whose request was decided are settled; fails at their bound."""
        decided = left["SUCCEEDED"] | left["FAILED"]
        while still := decided & set().union(*(await books.pending_by_row(self.market, self.seller)).values()):
            took = time.monotonic() - since
            assert took <= self.size.decided_s, f"{len(still)} holds of decided requests are pending after {took:.1f} s"
            await asyncio.sleep(0.05)
        return time.monotonic() - since

    def happened(self, what: str) -> None:
        """Notes a fault that was injected."""
        self.faults[what] = self.faults.get(what, 0) + 1

    def measured(self, what: str, took: float, bound: float) -> None:
        self.repairs.append(Measured(what, took, bound))

    async def patient_go_on(self, asking: asyncio.Task[None]) -> None:
        """Opens the gate and waits for the last final answer."""
        self.load.gate.set()
        async with asyncio.timeout(60 + self.size.asks / 5):
            await asking

    async def move(self) -> asyncio.Task[None]:
        """The buyer accepts and rejects, the seller cancels: some of each, each with a key, until it is answered."""
        chance = random.Random(self.seed)
        invoices = self.market.invoices
        moves = []
        for invoice_id in sorted(set(self.log.acknowledged.values())):
            which = chance.random()
            if which < 0.5:
                moves.append((invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=invoice_id), self.buyer))
            elif which < 0.65:
                request = pb.RejectInvoiceRequest(invoice_id=invoice_id, reason="wrong goods")
                moves.append((invoices.RejectInvoice, request, self.buyer))
            elif which < 0.8:
                request = pb.CancelInvoiceRequest(invoice_id=invoice_id, reason="a mistake")
                moves.append((invoices.CancelInvoice, request, self.seller))

        async def all_moves() -> None:
            async with asyncio.TaskGroup() as group:
                for number, (method, request, who) in enumerate(moves):
                    key = f"move-{number:016d}"
                    body = request.SerializeToString()
                    group.create_task(self.load.until_final(method, request, who, key, body))

        assert moves, "void: nothing was issued"
        return asyncio.create_task(all_moves())

    async def balanced(self, within_s: float) -> float:
        """Waits until nothing is left to do and the books balance; seconds waited."""
        started = time.monotonic()
        while wrong := await books.discrepancies(self.market, self.seller, self.buyer, self.log):
            took = time.monotonic() - started
            assert took <= within_s, f"after {took:.1f} s: {wrong}; client log: {self.log.path}"
            await asyncio.sleep(0.1)
        return time.monotonic() - started

    async def close(self) -> None:
        """Moves, balances, asks every key again without Redis, and reports."""
        await (await self.move())
        await self.balanced(CONSUMED_S)
        await self.the_same_again()

    async def the_same_again(self) -> None:
        """R5: every key has the answer it had, from its row, for Redis is empty."""
        client = redis.Redis.from_url(self.market.settings.redis_url)
        await client.flushall()
        await client.aclose()
        await self.load.ask_again(self.asks, self.size.clients)
        wrong = await books.discrepancies(self.market, self.seller, self.buyer, self.log)
        moves = {key for (key, _), answers in self.log.final.items() if answers[0].startswith("moved ")}
        self.field.report.append(
            Run(
                experiment=self.name,
                full=self.size is LONG,
                faults=self.faults,
                sent=self.log.sent,
                acknowledged=len(self.log.acknowledged),
                moves=len(moves),
                replays=self.log.replayed,
                unknown=dict(self.log.unknown_by),
                measured=self.repairs,
                **{name: len(wrong.get(name, [])) for name in ("duplicates", "lost", "orphans")},
            )
        )
        assert wrong == {}, f"client log: {self.log.path}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", ROWS)
async def test_a_process_killed_at_a_row_of_the_table_leaves_one_invoice_or_none(field, row):
    """Half of the clients repeat at once and use what is there, the others only after the resolver has settled it."""
    await killed_at(field, row)


async def killed_at(field: Field, name: str) -> None:
    for _ in range(RUNS_MAX - 1):
        with suppress(Void):
            await killed_once_at(field, name)
            return
    await killed_once_at(field, name)


async def killed_once_at(field: Field, name: str) -> None:
    row, scene = ROWS[name], Scene(field, name)
    await scene.open()
    await field.processes.restart(row.process, row.fault)

    asking = scene.asking()
    died = await field.processes.death(row.process, FAULT_WITHIN_S)
    scene.happened(f"{row.process} killed at {row.fault.partition(':')[0]}")
    # First of all: they live 3 s.
    markers = await markers_in(field.market) if row.fault.startswith("create.marked") else set()
    until = await books.now(field.market)
    try:
        left = await left_behind(scene, row)
    except Void:
        # What clients were told must be true all the same.
        scene.name += " (void)"
        await field.processes.start(row.process)
        await scene.patient_go_on(asking)
        await scene.close()
        raise
    starting = asyncio.create_task(field.processes.start(row.process))
    # Whatever the row: others were under way, and undecided, when the process died.
    bound = field.size.undecided_s
    if row.process == "inventory":
        # The bound begins when it is back.
        await starting
        died = time.monotonic()
    gone, decided, settled = await asyncio.gather(
        markers_gone(field.market, markers, died),
        scene.decided_settled(left, died),
        field.repaired(until, died, bound),
    )
    if markers:
        scene.measured("markers gone", gone, MARKER_S)
    if row.decided:
        scene.measured("settled", decided, field.size.decided_s)
    else:
        scene.measured("settled", settled, bound)
    await starting
    await scene.patient_go_on(asking)

    await scene.close()


async def left_behind(scene: Scene, row: Row) -> dict[str, set[uuid.UUID]]:
    """The state of the table's second column is there; else Void: the process died somewhere else."""
    found = await books.pending_by_row(scene.market, scene.seller)
    if row.leaves:
        left = found[row.leaves]
        told = {books.rid_of(scene.seller, key) for key, _ in scene.log.final}
        if not left:
            raise Void(f"void: no PENDING hold of a request that is {row.leaves}")
        if row.told and not left & told:
            raise Void("void: nobody was told an answer whose hold is still PENDING")
    return found


async def markers_in(market: Market) -> set[tuple[bytes, bytes]]:
    """Marks of requests that were under way: key and value."""
    client = redis.Redis.from_url(market.settings.redis_url)
    found = {(key, await client.get(key)) async for key in client.scan_iter("ic:*")}
    await client.aclose()
    return {(key, value) for key, value in found if value and value[:1] == b"M"}


async def markers_gone(market: Market, markers: set[tuple[bytes, bytes]], since: float) -> float:
    """Until the marks of the dead have run out; a little more than their life is for looking."""
    if not markers:
        return 0.0
    client = redis.Redis.from_url(market.settings.redis_url)
    keys = [key for key, _ in markers]
    # One question for all of them: the whole cache, key by key, takes as long to look through as the bound allows.
    while markers & set(zip(keys, await client.mget(keys), strict=True)):
        assert time.monotonic() - since <= MARKER_S + 0.5, "marks of a dead process are still there"
        await asyncio.sleep(0.02)
    gone = time.monotonic() - since
    await client.aclose()
    return gone


@pytest.mark.timeout(300)
async def test_a_confirm_that_finds_no_inventory_is_made_up_for_by_the_resolver(field):
    """Row 6, Confirm lost: the inventory is killed when the confirm is about to be sent; its three tries all fail."""
    scene = Scene(field, "6 Confirm lost, inventory down")
    await scene.open()
    await field.processes.restart("invoice", "confirm.send:sleep=700")

    asking = scene.asking()
    await field.processes.said("invoice", '"confirm.send"', FAULT_WITHIN_S)
    until = await books.now(field.market)
    await field.processes.kill9("inventory")
    left = await books.pending_by_row(field.market, scene.seller)
    assert left["SUCCEEDED"], "void: the confirm was not lost"
    scene.happened("inventory killed before confirm")
    # Until its tries are used up and the resolver's turn has come.
    await field.processes.said("invoice", "left_to_the_resolver", FAULT_WITHIN_S)
    await field.processes.start("inventory")
    back = time.monotonic()
    scene.measured("settled", await scene.decided_settled(left, back), field.size.decided_s)
    await field.repaired(until, back, field.size.undecided_s)
    await scene.patient_go_on(asking)

    await scene.close()


@pytest.mark.timeout(300)
async def test_a_reserve_that_arrives_after_the_abort_is_given_back(field):
    """Row 3, delivered late: the inventory stops before it reserves, the clients cancel, then it goes on."""
    scene = Scene(field, "3 delivered late, after the abort")
    await scene.open(all_patient=True)
    await field.processes.restart("inventory", "reserve.arrived:stop:nth=2")

    asking = scene.asking()
    await field.processes.stopped("inventory", FAULT_WITHIN_S)
    cancelled = await scene.load.cancel_what_is_open()
    assert cancelled, "void: nothing was under way"
    scene.happened("inventory stopped at reserve.arrived")
    field.processes.go_on("inventory")
    went_on = time.monotonic()
    scene.load.gate.set()
    await scene.patient_go_on(asking)
    until = await books.now(field.market)
    scene.measured("settled", await field.repaired(until, went_on, field.size.decided_s), field.size.decided_s)

    told = {key: answers for (key, _), answers in scene.log.final.items() if key in cancelled}
    assert set(told) == set(cancelled) and all(set(answers) == {CANCELLED} for answers in told.values())
    await scene.close()


@pytest.mark.timeout(300)
async def test_a_process_that_was_stopped_and_comes_back_decides_nothing(field):
    """A zombie: stopped with its stock held, until the resolver has fenced it; what it does then changes nothing."""
    scene = Scene(field, "4 stopped before DECIDE, then SIGCONT")
    await scene.open(all_patient=True)
    await field.processes.restart("invoice", "decide.begin:stop:nth=2")

    asking = scene.asking()
    await field.processes.stopped("invoice", FAULT_WITHIN_S)
    stopped, until = time.monotonic(), await books.now(field.market)
    assert await books.pending(field.market, until), "void: it held nothing"
    scene.happened("invoice stopped at decide.begin")
    bound = field.size.undecided_s
    scene.measured("settled", await field.repaired(until, stopped, bound), bound)
    field.processes.go_on("invoice")
    await scene.patient_go_on(asking)

    aborted = await field.market.sql(
        "invoice",
        "SELECT count(*) AS later FROM decision WHERE merchant_id = $1::text::uuid AND attempt > 1",
        scene.seller.merchant.merchant_id,
    )
    assert aborted[0]["later"] > 0, "void: nothing was fenced"
    await scene.close()


@pytest.mark.timeout(300)
async def test_a_resolver_killed_between_tombstone_and_release_is_followed_by_another(field):
    """Two crashes: the requests die before COMMIT, then the resolver that has fenced them dies before it releases."""
    scene = Scene(field, "resolver: tombstone written, before Release")
    await scene.open(all_patient=True)
    # The first batch: nearly all of it are new requests. One behind it may be repeats only, which hold nothing.
    await field.processes.restart("invoice", "decide.before_commit:kill")
    await field.processes.restart("workers", "release.send:kill")

    asking = scene.asking()
    await field.processes.death("invoice", FAULT_WITHIN_S)
    until = await books.now(field.market)
    await field.processes.death("workers", FAULT_WITHIN_S + field.size.undecided_s)
    assert await books.pending(field.market, until), "void: it had released already"
    scene.happened("invoice killed at decide.before_commit")
    scene.happened("workers killed at release.send")
    await asyncio.gather(field.processes.start("workers"), field.processes.start("invoice"))
    bound = LEADER_S + 2
    scene.measured("settled", await field.repaired(until, time.monotonic(), bound), bound)
    await scene.patient_go_on(asking)

    await scene.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "fault", "bound"),
    [
        ("7 published, before mark", "relay.published:kill", LEADER_S),
        ("consumer: effect done, before its position", "consumer.handled:kill", CONSUMED_S),
    ],
)
async def test_workers_killed_between_effect_and_mark_have_every_effect_once(field, name, fault, bound):
    """The events come twice, and the inbox drops what it has seen: sold once, received once, given back once."""
    await workers_killed(field, name, fault, bound)


async def workers_killed(field: Field, name: str, fault: str, bound: float) -> None:
    scene = Scene(field, name)
    await scene.open()
    scene.load.gate.set()
    await scene.load.run(scene.asks, field.size.clients)
    await field.processes.restart("workers", fault)

    moving = await scene.move()
    await field.processes.death("workers", FAULT_WITHIN_S)
    scene.happened(f"workers killed at {fault.partition(':')[0]}")
    await moving
    await field.processes.start("workers")
    scene.measured("consumed", await scene.balanced(bound), bound)

    if fault.startswith("relay"):
        # The second header is ce_id (workers/relay.py).
        twice = """SELECT count(*) AS events FROM (
                     SELECT headers -> 1 ->> 1 FROM log_record GROUP BY 1 HAVING count(*) > 1) AS again"""
        (row,) = await field.market.sql("broker", twice)
        assert row["events"] > 0, "void: nothing was published twice"
    await scene.the_same_again()
