"""Parked events: one that cannot go on, and those of its aggregate behind it, so that all others can.

Whoever moves events (relay, consumer) looks before each batch which aggregates are parked, and keeps their events here
instead. An operator's replay lets the replayer send them on, in order; when none is left, it opens the way again. The
row of the aggregate is the lock between the two, so that no event is left behind and none overtakes another. Source:
PROTOCOL 10 and 14.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from invochain.chassis.ids import Id
from invochain.chassis.postgres import Postgres, Sql, Tx, column
from invochain.chassis.seal import Seal, SealBroken
from invochain.durable import dead_letters
from invochain.durable.dead_letters import Failed, Letter, Plan, Repair

# The relay of a room parks under this name; consumers have names of their own.
RELAY = ""
# Events a replay takes at once.
DRAIN_MAX = 100


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that waits. `envelope` is all that is needed to send it on, but the payload."""

    merchant_id: Id
    aggregate: str
    # Order within the aggregate.
    seq: int
    # The event's id; of a record that is no event, its place.
    subject: str
    envelope: dict[str, Any]
    payload: bytes


class Unopened(Exception):
    """The next event of an aggregate cannot be opened: its seal is broken. `failed`: the letter about it."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.subject)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Parking:
    """Where a room's loops park: its database, and the key for what is kept there."""

    postgres: Postgres
    seal: Seal


async def closed_to(tx: Tx, consumer: str, aggregates: Collection[str]) -> set[str]:
    """Which of these aggregates are parked, whether or not they are being drained."""
    return set(column(await tx.fetch(PARKED, consumer, list(aggregates)), "aggregate"))


async def begin(tx: Tx, consumer: str, merchant_id: Id, aggregate: str) -> None:
    """Parks an aggregate; one that was being drained stops."""
    await tx.execute(BEGIN, merchant_id, consumer, aggregate)


async def keep(tx: Tx, seal: Seal, consumer: str, events: Sequence[Parked]) -> set[str]:
    """Keeps events of parked aggregates; returns the aggregates that are parked indeed.

    One that was opened since somebody looked is not among them: its events are not kept, they may go on.
    """
    still = set(column(await tx.fetch(HOLD, consumer, sorted({one.aggregate for one in events})), "aggregate"))
    kept = [one for one in events if one.aggregate in still]
    if kept:
        await tx.execute(
            KEEP,
            consumer,
            [one.merchant_id for one in kept],
            [one.aggregate for one in kept],
            [one.seq for one in kept],
            [one.subject for one in kept],
            [json.dumps(one.envelope) for one in kept],
            [seal.close(one.payload, _about(consumer, one.subject)) for one in kept],
        )
    return still


async def draining(tx: Tx, consumer: str) -> list[str]:
    """The aggregates whose events may be taken out."""
    return column(await tx.fetch(DRAINING, consumer), "aggregate")


async def oldest(tx: Tx, seal: Seal, consumer: str, aggregate: str) -> list[Parked]:
    """The events that come next, in order, up to one that cannot be opened. Raises Unopened if that is the first."""
    events: list[Parked] = []
    for row in await tx.fetch(OLDEST, consumer, aggregate, DRAIN_MAX):
        merchant_id, subject = row["merchant_id"], row["subject"]
        try:
            payload = seal.open(row["sealed"], _about(consumer, subject))
        except SealBroken as broken:
            if events:
                break
            raise Unopened(failed(consumer, merchant_id, aggregate, subject, broken)) from broken
        events.append(Parked(merchant_id, aggregate, row["seq"], subject, json.loads(row["envelope"]), payload))
    return events


def failed(consumer: str, merchant_id: Id, aggregate: str, subject: str, failure: Exception) -> Failed:
    """A parked event that cannot go on, whatever is in it, as a dead letter tells it."""
    kind = dead_letters.PUBLISH if consumer == RELAY else dead_letters.CONSUME
    return Failed(kind, merchant_id, subject, aggregate, type(failure).__name__, consumer=consumer)


async def gone(tx: Tx, consumer: str, events: Sequence[Parked]) -> None:
    """Forgets events that went where they belong, and ends the letters about them."""
    subjects = [one.subject for one in events]
    await tx.execute(GONE, consumer, subjects)
    rows = await tx.fetch(LETTERS_OF, consumer, subjects)
    if rows:
        await dead_letters.close(tx, [Letter.of(row) for row in rows], "replayed")


async def leave(tx: Tx, consumer: str, aggregate: str) -> bool:
    """Opens the way for an aggregate that has no parked events any more; False while it has."""
    if not await tx.fetch(HOLD, consumer, [aggregate]):
        return True
    # A statement of its own: it sees what was parked while we waited for the lock.
    return bool(await tx.fetch(LEAVE, consumer, aggregate))


async def stop(tx: Tx, consumer: str, why: Failed) -> None:
    """Ends a drain whose next event failed again; its letter is OPEN, and those behind it wait on."""
    await begin(tx, consumer, why.merchant_id, why.aggregate)
    await dead_letters.open_letters(tx, [why])


@dataclass(frozen=True)
class ParkingRepair:
    """What a replay of a letter about a parked event does: it and those behind it go on, in order."""

    postgres: Postgres
    verb: str

    async def plan(self, letter: Letter) -> Plan:
        async with self.postgres.reading() as tx:
            rows = await tx.fetch(BEHIND, letter.consumer, letter.aggregate)
        names = column(rows, "subject")
        if letter.subject not in names:
            return Plan("the event is not parked any more")
        draining = bool(rows[0]["draining"])
        found = f"{len(names)} events of the aggregate are parked" + (" and go on now" if draining else "")
        upto = names[: names.index(letter.subject) + 1]
        steps = tuple(f"{self.verb} event {name}" for name in upto)
        if more := len(names) - len(upto):
            steps += (f"then the {more} events behind it, in order",)
        return Plan(found, steps, "the replayer" if draining else "")

    async def repair(self, letter: Letter) -> None:
        """Nothing: the replayer drains the aggregate."""


def parking_repairs(postgres: Postgres) -> dict[str, Repair]:
    """The kinds that every room has."""
    return {
        dead_letters.PUBLISH: ParkingRepair(postgres, "publish"),
        dead_letters.CONSUME: ParkingRepair(postgres, "handle"),
    }


def _about(consumer: str, subject: str) -> str:
    return f"parked/1 {consumer} {subject}"


PARKED = Sql("parked_closed_to", "SELECT aggregate FROM parked_aggregate WHERE consumer = $1 AND aggregate = ANY($2)")

BEGIN = Sql(
    "parked_begin",
    """
WITH known AS (
    UPDATE parked_aggregate SET draining = false WHERE consumer = $2 AND aggregate = $3
    RETURNING aggregate
)
INSERT INTO parked_aggregate (merchant_id, consumer, aggregate)
SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM known)
ON CONFLICT ON CONSTRAINT parked_aggregate_pkey DO UPDATE SET draining = false
""",
)

# Whoever opens the way deletes the row, and waits for us; if that came first, the row is not there.
HOLD = Sql(
    "parked_hold",
    """
SELECT aggregate FROM parked_aggregate WHERE consumer = $1 AND aggregate = ANY($2::text[])
ORDER BY aggregate
FOR UPDATE
""",
)

KEEP = Sql(
    "parked_keep",
    """
INSERT INTO parked_event (consumer, merchant_id, aggregate, seq, subject, envelope, sealed)
SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::json[], $7::bytea[])
ON CONFLICT DO NOTHING
""",
)

DRAINING = Sql(
    "parked_draining",
    "SELECT aggregate FROM parked_aggregate WHERE consumer = $1 AND draining ORDER BY create_time LIMIT 100",
)

OLDEST = Sql(
    "parked_oldest",
    """
SELECT merchant_id, seq, subject, envelope, sealed FROM parked_event
WHERE consumer = $1 AND aggregate = $2
ORDER BY seq
LIMIT $3
""",
)

GONE = Sql("parked_gone", "DELETE FROM parked_event WHERE consumer = $1 AND subject = ANY($2::text[])")

LETTERS_OF = Sql(
    "parked_letters_of",
    """
SELECT * FROM dead_letter
WHERE kind = CASE $1::text WHEN '' THEN 'PUBLISH' ELSE 'CONSUME' END AND consumer = $1 AND subject = ANY($2::text[])
    AND state IN ('OPEN', 'REPLAYING')
""",
)

LEAVE = Sql(
    "parked_leave",
    """
DELETE FROM parked_aggregate AS parked
WHERE parked.consumer = $1 AND parked.aggregate = $2 AND NOT EXISTS (
    SELECT FROM parked_event WHERE parked_event.consumer = $1 AND parked_event.aggregate = $2
)
RETURNING aggregate
""",
)

BEHIND = Sql(
    "parked_behind",
    """
SELECT event.subject, parked.draining
FROM parked_event AS event
JOIN parked_aggregate AS parked ON parked.consumer = event.consumer AND parked.aggregate = event.aggregate
WHERE event.consumer = $1 AND event.aggregate = $2
ORDER BY event.seq
LIMIT 1000
""",
)
