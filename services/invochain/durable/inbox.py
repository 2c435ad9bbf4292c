"""The inbox: which consumer has seen which event, written in the transaction of the effect (PROTOCOL 10).

An event may arrive any number of times, late, in any order; its effect happens once, because the row and the effect
commit together. A service says what it listens to with `Subscription`s; workers/consumer.py feeds them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from invochain.chassis.ids import Id
from invochain.chassis.postgres import Sql, Tx


@dataclass(frozen=True, slots=True)
class Received:
    """One event, as a consumer gets it."""

    event_id: Id
    type: str
    # Whose event it is: the owner of the aggregate (for an invoice, the seller).
    merchant_id: Id
    aggregate_id: Id
    # Version of the aggregate (ce_sequence). Only who keeps a copy of it ignores a lower one.
    sequence: int
    # The message of the owner's `*_events.proto`, encoded.
    payload: bytes
    traceparent: str = ""
    time: dt.datetime | None = None


# Does the effects of the events and returns when they are committed. Raising means: not done, bring them again.
Handler = Callable[[Sequence[Received]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one consumer listens to.

    `consumer` names it for ever: it is its group at the broker and its name in the inbox. Each consumer reads the topic
    at its own pace; a failing one delays nobody else. `handle` gets batches, in order per aggregate, of `types` only.
    """

    consumer: str
    topic: str
    types: frozenset[str]
    handle: Handler
    # Events a batch; a handler does one batch in one transaction of a few round trips.
    batch_max: int = 200


async def admit(
    tx: Tx, consumer: str, events: Sequence[Received], merchant_ids: Sequence[Id] | None = None
) -> list[Received]:
    """Writes the inbox rows and returns the events this consumer has not seen before, in their order.

    Call it first in the effect's transaction (lock order: inbox rows before all others). A rival with the same event
    waits here until this transaction ends. `merchant_ids` replaces the owner per event where the effect belongs to
    another merchant, as the buyer's receipt does: no transaction spans two merchants' rows (PROTOCOL 4.2, 17).
    """
    owners = list(merchant_ids) if merchant_ids is not None else [event.merchant_id for event in events]
    if len(owners) != len(events):
        raise ValueError("one merchant id for each event is wanted")
    fresh = await tx.fetch(ADMIT, consumer, owners, [event.event_id for event in events])
    left = {(bytes(row["merchant_id"]), bytes(row["event_id"])) for row in fresh}
    admitted = []
    for owner, event in zip(owners, events, strict=True):
        # The same event twice in one batch is admitted once.
        if (owner, event.event_id) in left:
            left.remove((owner, event.event_id))
            admitted.append(event)
    return admitted


ADMIT = Sql(
    "inbox_admit",
    """
INSERT INTO inbox (merchant_id, consumer, event_id)
SELECT merchant_id, $1, event_id
FROM unnest($2::uuid[], $3::uuid[]) AS seen (merchant_id, event_id)
ORDER BY merchant_id, event_id
ON CONFLICT DO NOTHING
RETURNING merchant_id, event_id
""",
)
