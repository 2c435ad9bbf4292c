"""Publishes the outbox rows of one room, in order per aggregate, at least once (PROTOCOL 10).

Each of the 32 partitions has one owner at a time, by an advisory lock; several processes divide them. A row is deleted
only after the broker said that it is durable. The first failure stops its partition, which is tried again after a pause
of up to 5 s, one row at a time; the other partitions flow on. A row that can never be published (too large, not an
event) does not stop its partition: its aggregate is parked, a dead letter says so, and all others go on (PROTOCOL 14).
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from prometheus_client import Counter

from invochain.chassis import clock, faults
from invochain.chassis.broker import Acked, BehindFailed, Broker, NotAcked, Record, RecordMalformed, Unpublishable
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.session import Session, Share
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import EVENTS_PUBLISHED, LEADER, OUTBOX_OLDEST_SECONDS, log
from invochain.chassis.trace import trace_id_of
from invochain.durable import dead_letters, outbox, parking
from invochain.durable.dead_letters import Failed
from invochain.durable.parking import RELAY, Parked, Parking
from invochain.workers import Worker
from invochain.workers.backoff import Backoff
from invochain.workers.rooms import Rooms
from invochain.workers.tries import Tries

# Looked for, not notified: NOTIFY in the writing transaction would make every COMMIT of the hot path queue behind one
# lock of the whole cluster. Measured figures: workers/README.md.
POLL_S = 0.025
# A room that was silent for a second is looked at more seldom.
SILENT_S, SILENT_POLL_S = 1.0, 0.1
# After a round that found so many it waits longer too, for the next to carry more: under load a row costs the less, the
# more of them share its round. So no row waits longer than one in a silent room does.
BUSY_ROWS, BUSY_POLL_S = 32, 0.1
# Rows a round over all partitions: one transaction at the broker. More gains nothing and holds more in memory.
ROWS_MAX = 1024
AGE_EVERY_S = 1.0
# The alarm of PROTOCOL 10: the oldest unpublished event is older.
LATE_S = 60.0

PUBLISH_FAILURES = Counter("events_publish_failures_total", "Publications the broker did not acknowledge", ["room"])


class Relay:
    """The loop of one room."""

    room = ""
    # A backlog: the next round follows at once.
    full_round = ROWS_MAX // 2

    def __init__(self, room: str, session: Session, broker: Broker, parked: Parking) -> None:
        self.name = f"relay:{room}"
        self._source, self._session, self._broker, self._parking = room, session, broker, parked
        self._share = Share(session, "relay", range(outbox.PARTITIONS))
        self._backoff: Backoff[int] = Backoff()
        self._tries = Tries()
        # When the broker last took anything: before that, a refusal tells nothing about a row.
        self._acked_at = 0.0
        self._published = EVENTS_PUBLISHED.labels(room=room)
        self._leads = LEADER.labels(worker=self.name)
        self._failures = PUBLISH_FAILURES.labels(room=room)
        self._log = log("workers")
        self._error = ""
        self._age_due = 0.0
        self._late = False
        self._found_at = 0.0
        # How many rows the last round found.
        self._found = 0

    @property
    def interval_s(self) -> float:
        if self._found >= BUSY_ROWS:
            return BUSY_POLL_S
        return POLL_S if clock.monotonic() - self._found_at < SILENT_S else SILENT_POLL_S

    async def run_once(self) -> int:
        """Publishes what waits in our partitions, some hundred rows at most; returns how many left the outbox."""
        mine = await self._share.balance()
        self._leads.set(len(mine))
        await self._measure_age()
        rows = await self._read(set(mine) - self._backoff.waiting())
        self._found = len(rows)
        if rows:
            self._found_at = clock.monotonic()
        behind = [row for row in rows if row["parked"]]
        await self._park(behind, {})
        rows = [row for row in rows if not row["parked"]]
        if not rows:
            return len(behind)
        outcomes = await self._publish(rows)
        await faults.reach("relay.published")
        published: list[asyncpg.Record] = []
        poison: dict[bytes, Failed] = {}
        stopped: dict[int, NotAcked] = {}
        for row, outcome in zip(rows, outcomes, strict=True):
            partition = row["partition"]
            if isinstance(outcome, Acked):
                self._acked_at = clock.monotonic()
                # What was acknowledged behind a failure stays, and is published again: order before thrift.
                if partition not in stopped:
                    published.append(row)
            elif partition in stopped or isinstance(outcome.cause, BehindFailed):
                # The latter is read again, as one of a parked aggregate.
                continue
            elif (count := self._gives_up(row, outcome.cause)) > 0:
                poison[row["event_id"]] = failed(row, outcome.cause, count)
            else:
                stopped[partition] = outcome
        if published:
            async with self._session.use() as tx:
                await outbox.forget(tx, published)
            self._published.inc(len(published))
        await self._park([row for row in rows if row["event_id"] in poison], poison)
        self._note(stopped, {row["partition"] for row in rows} - set(stopped))
        return len(published) + len(poison) + len(behind)

    def _gives_up(self, row: asyncpg.Record, cause: Exception) -> int:
        """After how many tries a row is given up now; 0: it is not.

        At once where no repeat can help; else after 10 tries or 10 minutes, if the broker took other rows meanwhile.
        """
        head = self._tries.again(row["partition"], row["event_id"])
        if isinstance(cause, Unpublishable):
            return head.count
        return head.count if head.enough() and self._acked_at > head.since else 0

    async def _park(self, rows: Sequence[asyncpg.Record], poison: Mapping[bytes, Failed]) -> None:
        """Takes rows out of the outbox; those that are poison park their aggregates, each with its letter."""
        if not rows:
            return
        async with self._parking.postgres.transaction() as tx:
            for one in poison.values():
                await parking.begin(tx, RELAY, one.merchant_id, one.aggregate)
            kept = await parking.keep(tx, self._parking.seal, RELAY, [parked(row) for row in rows])
            # An aggregate that was opened again meanwhile keeps its rows in the outbox.
            await outbox.forget(tx, [row for row in rows if to_text(row["aggregate_id"]) in kept])
            await dead_letters.open_letters(tx, list(poison.values()))
        for event_id, one in poison.items():
            self._failures.inc()
            self._log.error(
                "aggregate_parked",
                source=self._source,
                aggregate=one.aggregate,
                event_id=to_text(event_id),
                reason=one.reason,
                tries=one.attempts,
            )

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
        topics: dict[str, list[tuple[int, Record]]] = defaultdict(list)
        too_late: set[bytes] = set()
        for index, row in enumerate(rows):
            if row["aggregate_id"] in too_late:
                outcomes[index] = NotAcked(BehindFailed(to_text(row["aggregate_id"])))
                continue
            try:
                topics[outbox.topic(row["type"])].append((index, record(row)))
            except ValueError as failure:
                outcomes[index] = NotAcked(RecordMalformed(str(failure)))
                too_late.add(row["aggregate_id"])
        for topic, chosen in topics.items():
            told = await self._broker.publish(topic, [one for _, one in chosen])
            for (index, _), outcome in zip(chosen, told, strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _note(self, stopped: dict[int, NotAcked], worked: set[int]) -> None:
        self._backoff.worked(worked)
        self._tries.forget(worked)
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
                age_s = await outbox.oldest_age_s(tx)
            OUTBOX_OLDEST_SECONDS.labels(room=self._source).set(age_s)
            if not self._late and age_s > LATE_S:
                self._log.error("outbox_late", source=self._source, oldest_s=round(age_s, 1), alarm_at_s=LATE_S)
            elif self._late and age_s <= LATE_S:
                self._log.info("outbox_in_time", source=self._source)
            self._late = age_s > LATE_S
            self._age_due = clock.monotonic() + AGE_EVERY_S


def failed(row: Mapping[str, Any], cause: Exception, attempts: int) -> Failed:
    """A row that cannot be published, as a dead letter tells it."""
    return Failed(
        kind=dead_letters.PUBLISH,
        merchant_id=row["merchant_id"],
        subject=to_text(row["event_id"]),
        aggregate=to_text(row["aggregate_id"]),
        reason=type(cause).__name__,
        detail=str(cause) if isinstance(cause, Unpublishable) else "",
        attempts=attempts,
        trace_id=trace_id_of(row["traceparent"]),
    )


def parked(row: asyncpg.Record) -> Parked:
    """An outbox row as it is kept while its aggregate is parked."""
    envelope = {
        "aggregate_id": to_text(row["aggregate_id"]),
        "version": row["version"],
        "type": row["type"],
        "traceparent": row["traceparent"],
        "create_time": row["create_time"].isoformat(),
    }
    aggregate, event_id = to_text(row["aggregate_id"]), to_text(row["event_id"])
    return Parked(row["merchant_id"], aggregate, row["seq"], event_id, envelope, row["payload"])


def unparked(one: Parked) -> dict[str, Any]:
    """The outbox row that was parked."""
    return {
        **one.envelope,
        "merchant_id": one.merchant_id,
        "event_id": from_text(one.subject, "event_id"),
        "aggregate_id": from_text(one.envelope["aggregate_id"], "aggregate_id"),
        "create_time": dt.datetime.fromisoformat(one.envelope["create_time"]),
        "payload": one.payload,
    }


def record(row: Mapping[str, Any]) -> Record:
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
    return [Relay(room, rooms.session(room), broker, await rooms.parking(room)) for room in rooms.names]
