"""Publishes the outbox rows of one room, in order per aggregate, at least once (PROTOCOL 10).

Each of the 32 partitions has one owner at a time, by an advisory lock; several processes divide them. A row is deleted
only after the broker said that it is durable. The first failure stops its partition, which is tried again after a pause
of up to 5 s, one row at a time; the other partitions flow on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import asyncpg
from prometheus_client import Counter

from invochain.chassis import clock, faults
from invochain.chassis.broker import Acked, Broker, NotAcked, Record
from invochain.chassis.ids import to_text
from invochain.chassis.session import Session, Share
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import EVENTS_PUBLISHED, LEADER, OUTBOX_OLDEST_SECONDS, log
from invochain.durable import outbox
from invochain.workers import Worker
from invochain.workers.backoff import Backoff
from invochain.workers.rooms import Rooms

# Looked for, not notified: NOTIFY in the writing transaction would make every COMMIT of the hot path queue behind one
# lock of the whole cluster. Measured figures: workers/README.md.
POLL_S = 0.025
# Rows a round over all partitions: one transaction at the broker. More gains nothing and holds more in memory.
ROWS_MAX = 512
AGE_EVERY_S = 1.0

PUBLISH_FAILURES = Counter("events_publish_failures_total", "Publications the broker did not acknowledge", ["room"])


class Relay:
    """The loop of one room."""

    room = ""
    interval_s = POLL_S

    def __init__(self, room: str, session: Session, broker: Broker) -> None:
        self.name = f"relay:{room}"
        self._source, self._session, self._broker = room, session, broker
        self._share = Share(session, "relay", range(outbox.PARTITIONS))
        self._backoff: Backoff[int] = Backoff()
        self._published = EVENTS_PUBLISHED.labels(room=room)
        self._failures = PUBLISH_FAILURES.labels(room=room)
        self._log = log("workers")
        self._error = ""
        self._age_due = 0.0

    async def run_once(self) -> int:
        """Publishes what waits in our partitions, some hundred rows at most; returns how many were published."""
        mine = await self._share.balance()
        LEADER.labels(worker=self.name).set(len(mine))
        await self._measure_age()
        rows = await self._read(set(mine) - self._backoff.waiting())
        if not rows:
            return 0
        outcomes = await self._publish(rows)
        await faults.reach("relay.published")
        published: list[asyncpg.Record] = []
        stopped: dict[int, NotAcked] = {}
        for row, outcome in zip(rows, outcomes, strict=True):
            # What was acknowledged behind a failure stays, and is published again: order before thrift.
            if isinstance(outcome, NotAcked):
                stopped.setdefault(row["partition"], outcome)
            elif row["partition"] not in stopped:
                published.append(row)
        if published:
            async with self._session.use() as tx:
                await outbox.forget(tx, published)
            self._published.inc(len(published))
        self._note(stopped, {row["partition"] for row in rows} - set(stopped))
        return len(published)

    async def _read(self, partitions: set[int]) -> list[asyncpg.Record]:
        if not partitions:
            return []
        async with self._session.use() as tx:
            # A session that was opened anew owns nothing yet: reading on would overtake the new owner.
            wanted = [p for p in self._share.mine if p in partitions]
            if not wanted:
                return []
            each = max(1, ROWS_MAX // len(wanted))
            return await outbox.unpublished(tx, wanted, [1 if self._backoff.failing(p) else each for p in wanted])

    async def _publish(self, rows: Sequence[asyncpg.Record]) -> list[Acked | NotAcked]:
        outcomes: list[Acked | NotAcked | None] = [None] * len(rows)
        topics: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            topics[outbox.topic(row["type"])].append(index)
        for topic, indexes in topics.items():
            told = await self._broker.publish(topic, [record(rows[index]) for index in indexes])
            for index, outcome in zip(indexes, told, strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _note(self, stopped: dict[int, NotAcked], worked: set[int]) -> None:
        self._backoff.worked(worked)
        for partition, outcome in stopped.items():
            self._backoff.failed(partition)
            self._failures.inc()
            error = f"{type(outcome.cause).__name__}: {outcome.cause}"
            if error != self._error:
                self._error = error
                self._log.error(
                    "publication_failed", source=self._source, partition=partition, error=error, exc_info=outcome.cause
                )
        if self._error and not stopped:
            self._log.info("publication_recovered", source=self._source, after=self._error)
            self._error = ""

    async def _measure_age(self) -> None:
        if clock.monotonic() >= self._age_due:
            async with self._session.use() as tx:
                OUTBOX_OLDEST_SECONDS.labels(room=self._source).set(await outbox.oldest_age_s(tx))
            self._age_due = clock.monotonic() + AGE_EVERY_S


def record(row: asyncpg.Record) -> Record:
    """An outbox row as a CloudEvent in binary mode, keyed by its aggregate (API section 11)."""
    type_, aggregate = row["type"], to_text(row["aggregate_id"])
    return Record(
        key=aggregate.encode(),
        value=row["payload"],
        headers=(
            ("ce_specversion", "1.0"),
            ("ce_id", to_text(row["event_id"])),
            ("ce_type", type_),
            ("ce_source", f"/merchants/{to_text(row['merchant_id'])}"),
            ("ce_subject", f"{outbox.collection(type_)}/{aggregate}"),
            ("ce_time", row["create_time"].isoformat().replace("+00:00", "Z")),
            ("ce_sequence", str(row["version"])),
            ("traceparent", row["traceparent"]),
            ("content-type", "application/protobuf"),
        ),
    )


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """A relay for each room whose database is there."""
    if not rooms.has_broker:
        return []
    broker = await rooms.broker()
    return [Relay(room, rooms.session(room), broker) for room in rooms.names]
