"""Deletes what has done its duty, a bounded piece at a time: decisions, inbox rows, letters, and what the rooms say.

A letter that waits is never deleted, nor one that was discarded: it says why something did not happen, to the checker
and to whoever asks, and keeps the event from being handled after all. Source: PROTOCOL R5, 4.1 and 14.

A room that has more to delete (the inventory its tombstones) offers `invochain/<room>/retention.py` with
`async def purge(tx: Tx, rows_max: int) -> int`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable

from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.chassis.settings import Settings
from invochain.workers import Worker
from invochain.workers.rooms import Rooms

DAY_S = 86_400
# 24 h are promised; 8 days outlive a long weekend's retries and every attempt that could still be under way.
DECISION_AGE_S = 8 * DAY_S
# A record stays at the broker until every group has read it, at least so long.
RECORD_AGE_S = 7 * DAY_S
# Long after the broker brings an event again: a consumer that has not committed its position for so long is broken.
INBOX_AGE_S = 30 * DAY_S
# Of the closing of a letter that is DONE; an operator may still want to see how it ended.
LETTER_AGE_S = 30 * DAY_S

# A piece takes some ten milliseconds, so that nobody waits for its locks.
ROWS_MAX = 1_000
INTERVAL_S = 60.0

Hook = Callable[[Tx, int], Awaitable[int]]


class RoomPurger:
    """The loop of one room."""

    interval_s = INTERVAL_S

    def __init__(self, room: str, postgres: Postgres, hook: Hook | None = None) -> None:
        self.name, self.room = f"purger:{room}", room
        self._postgres, self._hook = postgres, hook

    async def run_once(self) -> int:
        """Deletes a piece of each kind, each in its own transaction; returns how many rows went."""
        gone = 0
        async with self._postgres.transaction() as tx:
            gone += await tx.count(PURGE_DECISIONS, DECISION_AGE_S, ROWS_MAX)
        async with self._postgres.transaction() as tx:
            gone += await tx.count(PURGE_INBOX, INBOX_AGE_S, ROWS_MAX)
        async with self._postgres.transaction() as tx:
            gone += await tx.count(PURGE_LETTERS, LETTER_AGE_S, ROWS_MAX)
        if self._hook is not None:
            async with self._postgres.transaction() as tx:
                gone += await self._hook(tx, ROWS_MAX)
        return gone


class BrokerPurger:
    """The loop that ends the retention of the embedded broker's records."""

    interval_s = INTERVAL_S
    name, room = "purger:broker", "broker"

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    async def run_once(self) -> int:
        return await self._broker.purge(RECORD_AGE_S, ROWS_MAX)


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """A purger for each database that is there."""
    workers: list[Worker] = []
    for room in rooms.names:
        module = f"invochain.{room}.retention"
        hook = importlib.import_module(module).purge if importlib.util.find_spec(module) else None
        workers.append(RoomPurger(room, await rooms.postgres(room), hook))
    if rooms.has_broker:
        workers.append(BrokerPurger(await rooms.broker()))
    return workers


PURGE_DECISIONS = Sql(
    "purge_decisions",
    """
DELETE FROM decision
USING (
    SELECT merchant_id, rid FROM decision
    WHERE update_time < now() - make_interval(secs => $1)
    ORDER BY update_time
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE decision.merchant_id = old.merchant_id AND decision.rid = old.rid
""",
)

PURGE_INBOX = Sql(
    "purge_inbox",
    """
DELETE FROM inbox
USING (
    SELECT merchant_id, consumer, event_id FROM inbox
    WHERE create_time < now() - make_interval(secs => $1)
    ORDER BY create_time
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS old
WHERE inbox.merchant_id = old.merchant_id AND inbox.consumer = old.consumer AND inbox.event_id = old.event_id
""",
)

# What was closed, and opened again since, has a newer version. Its actions go with a letter.
PURGE_LETTERS = Sql(
    "purge_letters",
    """
WITH old AS MATERIALIZED (
    SELECT letter.merchant_id, letter.dead_letter_id
    FROM dead_letter_action AS closed
    JOIN dead_letter AS letter ON letter.merchant_id = closed.merchant_id
        AND letter.dead_letter_id = closed.dead_letter_id AND letter.version = closed.version
    WHERE closed.action = 'CLOSE' AND closed.create_time < now() - make_interval(secs => $1)
        AND letter.state = 'DONE'
    ORDER BY closed.create_time
    LIMIT $2
    FOR UPDATE OF letter SKIP LOCKED
), actions AS (
    DELETE FROM dead_letter_action AS action
    USING old
    WHERE action.merchant_id = old.merchant_id AND action.dead_letter_id = old.dead_letter_id
)
DELETE FROM dead_letter
USING old
WHERE dead_letter.merchant_id = old.merchant_id AND dead_letter.dead_letter_id = old.dead_letter_id
""",
)
