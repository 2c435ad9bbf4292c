"""The outbox: facts to be published, written in the transaction that made them true (PROTOCOL 10).

Append only while the aggregate's row lock is held: then, per aggregate, seq order = version order = commit order. The
relay (workers/relay.py) publishes the rows and deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import asyncpg

from invochain import core
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Sql, Tx
from invochain.chassis.trace import Trace

# One relay at a time owns a partition; more of them than relays that could ever be wanted (PROTOCOL 10).
PARTITIONS = 32

# An event type is `invochain.<noun>.<past tense>.v<n>`; its noun says which topic it goes to, and under which
# collection its subject is found.
_NOUNS = {
    "merchant": ("merchant.events", "merchants"),
    "stock": ("inventory.events", "stock"),
    "reservation": ("inventory.events", "reservations"),
    "invoice": ("invoice.events", "invoices"),
}


@dataclass(frozen=True, slots=True)
class Event:
    """A fact about one aggregate. `payload` is the message of the owner's `*_events.proto`, encoded."""

    merchant_id: Id
    aggregate_id: Id
    # The aggregate's version that this event tells of; from 1.
    version: int
    type: str
    payload: bytes


@cache
def _noun(type_: str) -> tuple[str, str]:
    words = type_.split(".")
    if len(words) != 4 or words[0] != "invochain" or words[1] not in _NOUNS:
        known = ", ".join(_NOUNS)
        raise ValueError(f"{type_!r} is no event type: invochain.<noun>.<past tense>.v<n>, nouns are {known}")
    return _NOUNS[words[1]]


def topic(type_: str) -> str:
    """The topic an event type is published on, for example `invoice.events`. Raises ValueError for no event type."""
    return _noun(type_)[0]


def collection(type_: str) -> str:
    """The collection in which the event's subject is found, for example `invoices`."""
    return _noun(type_)[1]


async def append(tx: Tx, events: Sequence[Event], trace: Trace | None) -> None:
    """Writes events that were caused by one call. Several of one aggregate are given in version order."""
    await append_columns(
        tx,
        [event.merchant_id for event in events],
        [event.aggregate_id for event in events],
        [event.version for event in events],
        [event.type for event in events],
        [event.payload for event in events],
        [trace.traceparent if trace else ""] * len(events),
    )


async def append_columns(
    tx: Tx,
    merchant_ids: list[Id],
    aggregate_ids: list[Id],
    versions: list[int],
    types: list[str],
    payloads: list[bytes],
    traceparents: list[str],
) -> None:
    """Writes the events of a batch in one statement; row i of each column is one event.

    Ids and partitions come from the core, in one crossing. Raises ValueError for a type that has no topic.
    """
    if not types:
        return
    event_ids, partitions = place(aggregate_ids, versions, types)
    await tx.execute(
        APPEND, merchant_ids, event_ids, aggregate_ids, versions, partitions, types, payloads, traceparents
    )


def place(aggregate_ids: list[Id], versions: list[int], types: list[str]) -> tuple[list[Id], list[int]]:
    """Ids and partitions of events, for a statement of the caller's own that begins with `INSERT`.

    Raises ValueError for a type that has no topic.
    """
    for type_ in set(types):
        topic(type_)
    return core.event_columns(aggregate_ids, versions, types, PARTITIONS)


async def unpublished(tx: Tx, partitions: Sequence[int], limits: Sequence[int]) -> list[asyncpg.Record]:
    """The oldest rows of each partition, at most its limit, in seq order within a partition.

    `parked`: the row's aggregate is parked (durable/parking.py), so it must not be published. There is no "after":
    sequence order is not commit order, so a position would skip what commits late.
    """
    return await tx.fetch(UNPUBLISHED, list(partitions), list(limits))


async def forget(tx: Tx, rows: Sequence[asyncpg.Record]) -> None:
    """Deletes published rows, each by its id: a row that has committed meanwhile is never among them."""
    await tx.execute(FORGET, [row["merchant_id"] for row in rows], [row["event_id"] for row in rows])


async def oldest_age_s(tx: Tx) -> float:
    """Seconds since the oldest row was written, by the database's clock; 0 when there is none."""
    return float(await tx.fetchval(OLDEST_AGE))


# A statement that writes the aggregate too may write its events in the same round trip: the columns, in this order.
INSERT = "INSERT INTO outbox (merchant_id, event_id, aggregate_id, version, partition, type, payload, traceparent)"

APPEND = Sql(
    "outbox_append",
    f"""
{INSERT}
SELECT * FROM unnest(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::smallint[], $6::text[], $7::bytea[], $8::text[]
)
""",
)

UNPUBLISHED = Sql(
    "outbox_unpublished",
    """
SELECT o.*
FROM unnest($1::smallint[], $2::int[]) AS wanted (partition, at_most)
CROSS JOIN LATERAL (
    SELECT
        seq, merchant_id, event_id, aggregate_id, version, partition, type, payload, traceparent, create_time,
        EXISTS (
            SELECT FROM parked_aggregate AS parked
            WHERE parked.consumer = '' AND parked.aggregate = outbox.aggregate_id::text
        ) AS parked
    FROM outbox
    WHERE outbox.partition = wanted.partition
    ORDER BY seq
    LIMIT wanted.at_most
) AS o
""",
)

FORGET = Sql(
    "outbox_forget",
    """
DELETE FROM outbox
USING unnest($1::uuid[], $2::uuid[]) AS published (merchant_id, event_id)
WHERE outbox.merchant_id = published.merchant_id AND outbox.event_id = published.event_id
""",
)

OLDEST_AGE = Sql(
    "outbox_oldest_age",
    """
SELECT coalesce(extract(epoch FROM now() - min(oldest.create_time)), 0)
FROM generate_series(0, 31) AS every (partition)
CROSS JOIN LATERAL (
    SELECT create_time FROM outbox WHERE outbox.partition = every.partition ORDER BY seq LIMIT 1
) AS oldest
""",
)
