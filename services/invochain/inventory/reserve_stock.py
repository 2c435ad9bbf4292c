"""Reserve: holds stock for a batch of requests, each wholly or not at all.

    calls ─▶ core.Holds ─▶ one pass: lock free rows, grant, write, look for ids that were there ─▶ answers
                                 └─ a busy row ─▶ that SKU's lane ─▶ a pass that waits ─▶ answers

Nothing is given twice: what is granted is decided by the core from numbers that are locked. Items get their own answer
and none can fail its neighbours; an id that is there already is answered with its present state. The number of round
trips of a pass does not depend on its size. Source: PROTOCOL sections 4.2 and 9.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis import faults
from invochain.chassis.batch import Collector
from invochain.chassis.call import Call
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import INVENTORY_RESERVE, RESERVATION_FAILURES
from invochain.errors import ConcurrentRequest, DependencyDown, KeyReused, MalformedRequest, Refusal, invalid
from invochain.inventory import partner_keys, stock_rows
from invochain.inventory.lanes import Lanes
from invochain.inventory.reservation import BATCH_WAIT_S, INVOICE, NONE, PENDING, faulty, refusal_of, repeated

# What became of a hold: its state, or why it was refused.
Outcome = str | Refusal

# A hold is looked at again when a rival made its SKU, its id or its neighbour's between two statements. Each takes a
# rival who was lucky once more; nobody is so five times.
ROUNDS_MAX = 5

# Calls of services come batched already; those that wait share a pass until it is some 2,000 holds, whose statements
# take a tenth of statement_timeout.
SERVICE_CALLS_MAX = 64
PASS_BYTES_MAX = 384 * 1024

# A call with holds that wait for a busy row is answered after so long, for the others' sake: half of what makes a call
# overdue (PROTOCOL 13), so that a locked row is not taken for a service that hangs.
LANE_PATIENCE_S = 0.4


@dataclass(slots=True, eq=False)
class Asked(Call):
    """A BatchReserveStockRequest on its way through the passes; its answer is a BatchReserveStockResponse."""

    resolver: str = INVOICE

    @classmethod
    def of(cls, call: Call, raw: bytes, resolver: str) -> Asked:
        return cls(
            call.method,
            call.principal,
            raw,
            call.deadline,
            key=call.key,
            trace=call.trace,
            request_id=call.request_id,
            resolver=resolver,
        )


class Reserving:
    """The room's reservations under way."""

    def __init__(self, postgres: Postgres, settings: Settings) -> None:
        self._postgres = postgres
        waiting_max = settings.batch_waiting_max
        self._collectors = {
            INVOICE: Collector(
                "reserve",
                self._first_pass,
                slots=settings.batch_slots,
                items_max=SERVICE_CALLS_MAX,
                waiting_max=waiting_max,
            ),
            NONE: Collector(
                "reserve.partner",
                self._first_pass,
                slots=1,
                items_max=settings.batch_items_max,
                waiting_max=waiting_max,
            ),
        }
        # Connections that wait for a busy row: what first passes (services', partners'), confirms and releases leave,
        # less one for reads and commands.
        at_once = max(1, min(4, settings.pool_size - settings.batch_slots - 4))
        self._lanes = Lanes(
            self._waiting_pass, at_once=at_once, items_max=settings.batch_items_max, waiting_max=waiting_max
        )
        self._going_on: set[asyncio.Task[None]] = set()

    async def reserve(self, call: Call, raw: bytes, resolver: str) -> bytes:
        """Takes a BatchReserveStockRequest and returns its BatchReserveStockResponse, results in the order asked.

        `resolver` is the one that the caller may set.
        Refuses the whole call: MalformedRequest, BulkheadFull, DeadlineTooShort, ShuttingDown.
        """
        asked = Asked.of(call, raw, resolver)
        response = await self._collectors[resolver].submit(asked)
        call.replayed = asked.replayed
        return response

    async def drain(self) -> None:
        """Takes no more calls; returns when those it has are answered."""
        await asyncio.gather(*(collector.drain() for collector in self._collectors.values()))
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=5)

    async def _first_pass(self, calls: list[Call]) -> list[Asked]:
        await faults.reach("reserve.arrived")
        return [call for part in _parts(calls) for call in await self._pass(part, wait=False)]

    async def _waiting_pass(self, calls: list[Call]) -> list[Asked]:
        return [call for part in _parts(calls) for call in await self._pass(part, wait=True)]

    async def _pass(self, calls: Sequence[Call], *, wait: bool) -> list[Asked]:
        """Decides the calls' holds; returns the calls of which a hold went to a lane, to be answered from there."""
        asked = [call for call in calls if isinstance(call, Asked)]
        batch = Batch(asked)
        if batch.open:
            await run_isolating_poison(
                batch.open, lambda chosen: batch.decide(self._postgres, list(chosen), wait=wait), batch.fail
            )
        if batch.made:
            await faults.reach("reserve.committed")
        batch.judge_unlike()
        batch.measure()
        for index, key in batch.busy.items():
            self._go_on(batch, index, key)
        if batch.busy:
            asyncio.get_running_loop().call_later(LANE_PATIENCE_S, batch.leave_busy)
        return batch.answer()

    def _go_on(self, batch: Batch, index: int, key: tuple[bytes, str]) -> None:
        """Hands a hold whose row is busy to that row's lane; its call is answered once the last of them is."""
        task = asyncio.create_task(self._wait_in_lane(batch, index, key), name="reserve:lane")
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    async def _wait_in_lane(self, batch: Batch, index: int, key: tuple[bytes, str]) -> None:
        owner = batch.owner(index)
        alone = Asked.of(owner, batch.holds.alone(index), owner.resolver)
        try:
            answer = await self._lanes.wait(key, alone)
            result = pb.BatchReserveStockResponse.FromString(answer).results[0]
        except Refusal as refusal:
            result = _result(batch.ids[index], refusal)
        batch.late(index, result, replayed=alone.replayed)


def _parts(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls in their order, as many together as one pass takes."""
    parts: list[list[Call]] = []
    size = PASS_BYTES_MAX
    for call in calls:
        if size + len(call.raw) > PASS_BYTES_MAX:
            parts.append([])
            size = 0
        parts[-1].append(call)
        size += len(call.raw)
    return parts


class Batch:
    """One pass over some calls: their holds, and what became of each."""

    def __init__(self, asked: list[Asked]) -> None:
        self.asked = asked
        self.holds = core.Holds([call.raw for call in asked])
        self.ids = self.holds.id_texts()
        self.fingerprints = self.holds.fingerprints()
        self.resolvers = self.holds.resolvers()
        self.outcomes: dict[int, Outcome] = {}
        # Made here, and committed.
        self.made: set[int] = set()
        # Answered with what was decided before.
        self.replayed: set[int] = set()
        self.busy: dict[int, tuple[bytes, str]] = {}
        self._same_as: dict[int, int] = {}
        # Later holds under an id that an earlier one of the batch has with another body.
        self._unlike: dict[int, int] = {}
        self._results: dict[int, pb.ReserveStockResult] = {}
        for place, why in self.holds.malformed:
            asked[place].refuse(MalformedRequest(why))
        for index, broken in self.holds.faults():
            self.outcomes[index] = faulty(broken)
        for later, earlier, same in self.holds.repeats():
            (self._same_as if same else self._unlike)[later] = earlier
        for call, start, end in self._calls():
            for index in range(start, end):
                if self.resolvers[index] != call.resolver:
                    self.outcomes[index] = invalid("resolver", "RESOLVER_UNKNOWN", f"{call.resolver} is wanted here")
        repeats = {*self._same_as, *self._unlike}
        self.open = [index for index in range(len(self.holds)) if index not in self.outcomes and index not in repeats]

    def _calls(self) -> list[tuple[Asked, int, int]]:
        starts = self.holds.starts
        return list(zip(self.asked, starts, starts[1:], strict=False))

    def owner(self, index: int) -> Asked:
        return next(call for call, start, end in self._calls() if start <= index < end)

    def fail(self, chosen: Sequence[int], refusal: Refusal) -> None:
        for index in self._undecided(chosen):
            self.outcomes[index] = refusal

    def _undecided(self, chosen: Sequence[int]) -> list[int]:
        return [index for index in chosen if index not in self.outcomes and index not in self.busy]

    async def decide(self, postgres: Postgres, chosen: list[int], *, wait: bool) -> None:
        """Decides the chosen holds; those whose row is busy are left in `busy`.

        What a rival changed meanwhile is looked at again, in a transaction of its own.
        """
        chosen = self._undecided(chosen)
        for _ in range(ROUNDS_MAX):
            done = Decided()
            async with postgres.transaction(BATCH_WAIT_S) as tx:
                await _decide(tx, self, chosen, done, wait=wait)
            self.outcomes.update(done.outcomes)
            self.made.update(done.made)
            self.replayed |= done.replayed
            self.busy.update(done.busy)
            chosen = done.again
            if not chosen:
                return
        self.fail(chosen, DependencyDown("the stock, which changes too fast,"))

    def judge_unlike(self) -> None:
        """Answers holds under the id of an earlier one, once that is decided: the id is used only if it was granted."""
        for later, earlier in self._unlike.items():
            if later in self.outcomes or earlier in self.busy:
                continue
            granted = not self._result(earlier).HasField("error")
            self.outcomes[later] = KeyReused() if granted else ConcurrentRequest()

    def measure(self) -> None:
        """Counts what this pass decided."""
        told = Counter(o if isinstance(o, str) else o.reason for o in self.outcomes.values())
        refused = Counter(o.reason for o in self.outcomes.values() if isinstance(o, Refusal))
        for outcome, count in told.items():
            INVENTORY_RESERVE.labels(outcome=outcome).inc(count)
        for reason, count in refused.items():
            RESERVATION_FAILURES.labels(reason=reason).inc(count)

    def late(self, index: int, result: pb.ReserveStockResult, *, replayed: bool) -> None:
        """Takes the result of a hold that waited in a lane; one that came too late is there for the next ask."""
        if index not in self.busy:
            return
        self._results[index] = result
        del self.busy[index]
        if replayed:
            self.replayed.add(index)
        self.judge_unlike()
        self.answer()

    def leave_busy(self) -> None:
        """Answers the calls that wait for lanes: what is not decided is under way, and is to be asked for again."""
        for index in list(self.busy):
            self.outcomes[index] = ConcurrentRequest()
            RESERVATION_FAILURES.labels(reason=ConcurrentRequest.reason).inc()
            del self.busy[index]
        self.judge_unlike()
        self.answer()

    def answer(self) -> list[Asked]:
        """Answers the calls whose holds are all decided; returns the others."""
        left = []
        for number, (call, start, end) in enumerate(self._calls()):
            holds = range(start, end)
            if holds and all(index in self.made for index in holds):
                if not call.answer.done():
                    call.reply(self.holds.all_pending(number))
                continue
            first = [self._same_as.get(index, index) for index in holds]
            if any(index in self.busy or self._unlike.get(index) in self.busy for index in first):
                left.append(call)
            elif not call.answer.done():
                replayed = bool(holds) and all(index in self.replayed or index in self._same_as for index in holds)
                results = [self._result(index) for index in first]
                call.reply(pb.BatchReserveStockResponse(results=results), replayed=replayed)
        return left

    def _result(self, index: int) -> pb.ReserveStockResult:
        if index not in self._results:
            self._results[index] = _result(self.ids[index], self.outcomes[index])
        return self._results[index]


def _result(id_text: str, outcome: Outcome) -> pb.ReserveStockResult:
    if isinstance(outcome, str):
        return pb.ReserveStockResult(reservation_id=id_text, state=outcome)
    return pb.ReserveStockResult(reservation_id=id_text, error=outcome.to_status())


@dataclass(slots=True)
class Decided:
    """What a transaction decided; it counts once that has committed."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    made: list[int] = field(default_factory=list)
    replayed: set[int] = field(default_factory=set)
    busy: dict[int, tuple[bytes, str]] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)


async def _decide(tx: Tx, batch: Batch, chosen: list[int], done: Decided, *, wait: bool) -> None:
    """One transaction. The order of its statements is that of locks: stock, decisions by rid, reservations by id."""
    holds = batch.holds
    keys = holds.keys_of(chosen)
    merchant_ids, skus = holds.key_columns(keys)
    locked = await stock_rows.lock(tx, merchant_ids, skus, wait=wait)
    missing: list[int] = []
    if len(locked.places) < len(keys):
        missing = [keys[place] for place in await stock_rows.absent(tx, merchant_ids, skus)]
    partners = [index for index in chosen if batch.resolvers[index] == NONE]
    await _look(tx, batch, partners, done)

    new = [index for index in chosen if index not in done.outcomes]
    granted, busy, refused = holds.grant(
        new, [keys[place] for place in locked.places], locked.units, locked.free_milli, missing
    )
    # A service's id is looked for only if it is not written below: nearly all are new.
    doubtful = {index for index, _ in busy} | {refusal[0] for refusal in refused}
    await _look(tx, batch, sorted(doubtful - set(partners)), done)
    for index, key in busy:
        if index in done.outcomes:
            continue
        if wait:
            # Made between the two statements: neither locked nor absent.
            done.again.append(index)
        else:
            (merchant_id,), (sku,) = holds.key_columns([key])
            done.busy[index] = (merchant_id, sku)
    partners = [index for index in granted if batch.resolvers[index] == NONE]
    lost = await partner_keys.succeed(tx, holds, partners) if partners else set()
    won = await _insert(tx, batch, [index for index in granted if index not in lost])
    if len(won) < len(granted):
        lost = set(granted) - set(won)
        done.again += await _look(tx, batch, sorted(lost), done)
    if won:
        await stock_rows.reserve(tx, *holds.sums(won))
    done.outcomes.update(dict.fromkeys(won, PENDING))
    done.made += won

    final: list[tuple[int, Refusal]] = []
    for index, reason, sku, asked_milli, free_milli, asked, kept in refused:
        if index in done.outcomes:
            continue
        refusal = refusal_of(reason, sku, asked_milli, free_milli, asked, kept)
        if lost and refusal.reason == "INSUFFICIENT_STOCK":
            done.again.append(index)
        else:
            final.append((index, refusal))
    done.outcomes.update(final)
    if told := [(index, refusal) for index, refusal in final if batch.resolvers[index] == NONE]:
        # A rival that decided the key meanwhile is answered from its row, on the next look.
        late = await partner_keys.fail(tx, holds, told)
        for index in late:
            del done.outcomes[index]
        done.again += late


async def _look(tx: Tx, batch: Batch, chosen: list[int], done: Decided) -> list[int]:
    """Answers the holds that were decided before and returns the others. A new statement, so that it sees what
    committed while this transaction waited for its stock rows."""
    if not chosen:
        return []
    holds = batch.holds
    if partners := [index for index in chosen if batch.resolvers[index] == NONE]:
        for index, refusal in (await partner_keys.refused(tx, holds, batch.fingerprints, partners)).items():
            done.outcomes[index] = refusal
            done.replayed.add(index)
    for row in await tx.fetch(LOOK, *holds.names(chosen)):
        index = chosen[row["place"] - 1]
        done.outcomes[index] = repeated(
            batch.ids[index], batch.resolvers[index], row["state"], row["fingerprint"], batch.fingerprints[index]
        )
        done.replayed.add(index)
    return [index for index in chosen if index not in done.outcomes]


async def _insert(tx: Tx, batch: Batch, granted: list[int]) -> list[int]:
    """Writes the granted holds, in the order of ids, and returns those that were not there already."""
    if not granted:
        return []
    ordered = sorted(granted, key=lambda index: batch.ids[index].lower())
    rows = batch.holds.rows(ordered)
    row = await tx.fetchrow(INSERT, *rows, len(ordered))
    if row is None or row["written"] == len(ordered):
        return ordered
    won = set(zip(row["merchant_ids"] or (), row["reservation_ids"] or (), strict=True))
    return [index for index, *name in zip(ordered, rows[0], rows[1], strict=True) if tuple(name) in won]


LOOK = Sql(
    "reservation_look",
    """
SELECT asked.place, reservation.state, reservation.fingerprint
FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY AS asked (merchant_id, reservation_id, resolver, place)
JOIN reservation USING (merchant_id, reservation_id, resolver)
""",
)

# Which of them were written is told only if not all of them were.
INSERT = Sql(
    "reservation_insert",
    """
WITH written AS (
    INSERT INTO reservation (
        merchant_id, reservation_id, resolver, state, rid, attempt, fingerprint, skus, quantities_milli, expire_time
    )
    SELECT
        merchant_id, reservation_id, resolver, 'PENDING', rid, attempt, fingerprint, skus::text[],
        quantities_milli::bigint[], CASE WHEN ttl_s > 0 THEN now() + make_interval(secs => ttl_s) END
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::int[], $6::bytea[], $7::text[], $8::text[], $9::int[]
    ) AS granted (merchant_id, reservation_id, resolver, rid, attempt, fingerprint, skus, quantities_milli, ttl_s)
    ON CONFLICT DO NOTHING
    RETURNING merchant_id, reservation_id
)
SELECT
    count(*) AS written,
    CASE WHEN count(*) < $10::bigint THEN array_agg(merchant_id) END AS merchant_ids,
    CASE WHEN count(*) < $10::bigint THEN array_agg(reservation_id) END AS reservation_ids
FROM written
""",
)
