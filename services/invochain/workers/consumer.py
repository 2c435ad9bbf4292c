"""Brings events to the services that listen: batches, at least once, in order per aggregate (PROTOCOL 10).

The position is committed after the handler has returned, and the handler returns after its effects are committed, with
an inbox row for each event; so a crash anywhere brings an event again and its effect once. An event that cannot be
handled stops its partition, which is tried again after up to 5 s; the events before it and the other partitions go on.
"""

from __future__ import annotations

import datetime as dt
import importlib
import pkgutil
import uuid
from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from invochain.chassis import faults, trace
from invochain.chassis.broker import Broker, Delivered, PartitionsLost
from invochain.chassis.postgres import COLLIDED, TIMED_OUT, CommitUnknown
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import EVENTS_CONSUMED, LEADER, log
from invochain.chassis.trace import Trace
from invochain.durable.inbox import Received, Subscription
from invochain.errors import Code, Refusal
from invochain.workers import Worker
from invochain.workers.backoff import Backoff
from invochain.workers.rooms import Rooms

# The broker wakes us; this bounds how long a stop waits for a consumer that has nothing to do.
WAIT_S = 1.0

# The trouble is not in the event: everything is brought again, nothing is looked at one by one.
_PASSING_CODES = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED}
_PASSING = (*TIMED_OUT, *COLLIDED, CommitUnknown, asyncpg.PostgresConnectionError, OSError, TimeoutError)


class Unreadable(Exception):
    """A record that is no event of ours: a header is missing or does not read."""


class Listener:
    """The loop of one subscription."""

    room = ""
    interval_s = 0.0

    def __init__(self, subscription: Subscription, broker: Broker, *, wait_s: float = WAIT_S) -> None:
        self.name = f"consumer:{subscription.consumer}"
        self._to, self._wait_s = subscription, wait_s
        self._consumer = broker.consumer(subscription.consumer, subscription.topic)
        self._backoff: Backoff[int] = Backoff()
        self._errors: dict[int, str] = {}
        self._log = log("workers")
        self._counts = {
            outcome: EVENTS_CONSUMED.labels(consumer=subscription.consumer, outcome=outcome)
            for outcome in ("done", "not_for_us", "failed")
        }

    async def run_once(self) -> int:
        """Waits for events, has them handled, commits the position; returns how many records were done with."""
        delivered = await self._consumer.poll(self._to.batch_max, self._wait_s, self._backoff.waiting())
        if not delivered:
            return 0
        partitions: dict[int, list[Delivered]] = defaultdict(list)
        for record in delivered:
            partitions[record.partition].append(record)
        # Where each partition stands: behind the last record that is done. Only what is committed leaves this round.
        done = {partition: records[0].offset for partition, records in partitions.items()}
        try:
            await self._handle_all(partitions, done)
        finally:
            # Whatever happened: the next poll begins with what is not done.
            self._consumer.rewind(done)
        count = sum(done[partition] - records[0].offset for partition, records in partitions.items())
        if count:
            try:
                await self._consumer.commit({p: at for p, at in done.items() if at > partitions[p][0].offset})
            except PartitionsLost as lost:
                # Their new owner gets the records again; the inbox knows them.
                self._log.info("partitions_lost", consumer=self._to.consumer, detail=str(lost))
        LEADER.labels(worker=self.name).set(1)
        return count

    async def _handle_all(self, partitions: dict[int, list[Delivered]], done: dict[int, int]) -> None:
        try:
            await self._handle([record for records in partitions.values() for record in records])
        except Exception as failure:
            if _passes(failure):
                raise
            self._log.warning("batch_is_split", consumer=self._to.consumer, error=repr(failure))
        else:
            for partition, records in partitions.items():
                self._finished(partition, records[-1].offset + 1, done)
            return
        for partition, records in partitions.items():
            await self._handle_one_by_one(partition, records, done)

    async def _handle_one_by_one(self, partition: int, records: list[Delivered], done: dict[int, int]) -> None:
        for record in records:
            here = trace.current.set(Trace.follow(dict(record.record.headers).get("traceparent", "")))
            try:
                await self._handle([record])
            except Exception as failure:
                if _passes(failure):
                    raise
                self._stopped(partition, record, failure)
                return
            finally:
                trace.current.reset(here)
            self._finished(partition, record.offset + 1, done)

    async def _handle(self, records: Sequence[Delivered]) -> None:
        events = [received(record) for record in records if _type(record) in self._to.types]
        if events:
            await self._to.handle(events)
            await faults.reach("consumer.handled")
        self._counts["done"].inc(len(events))
        self._counts["not_for_us"].inc(len(records) - len(events))

    def _finished(self, partition: int, position: int, done: dict[int, int]) -> None:
        done[partition] = position
        self._backoff.worked([partition])
        if error := self._errors.pop(partition, ""):
            self._log.info("partition_goes_on", consumer=self._to.consumer, partition=partition, after=error)

    def _stopped(self, partition: int, record: Delivered, failure: Exception) -> None:
        self._counts["failed"].inc()
        self._backoff.failed(partition)
        headers = dict(record.record.headers)
        error = f"{headers.get('ce_id')} {type(failure).__name__}: {failure}"
        if self._errors.get(partition) != error:
            self._errors[partition] = error
            self._log.error(
                "event_not_handled",
                consumer=self._to.consumer,
                topic=record.topic,
                partition=partition,
                offset=record.offset,
                event_id=headers.get("ce_id"),
                type=headers.get("ce_type"),
                exc_info=failure,
            )

    async def close(self) -> None:
        """Leaves the group."""
        await self._consumer.close()


def _passes(failure: Exception) -> bool:
    return isinstance(failure, _PASSING) or (isinstance(failure, Refusal) and failure.code in _PASSING_CODES)


def _type(record: Delivered) -> str:
    return dict(record.record.headers).get("ce_type", "")


def received(delivered: Delivered) -> Received:
    """Reads a record as an event. Raises Unreadable."""
    headers = dict(delivered.record.headers)
    try:
        return Received(
            event_id=uuid.UUID(headers["ce_id"]).bytes,
            type=headers["ce_type"],
            merchant_id=uuid.UUID(headers["ce_source"].removeprefix("/merchants/")).bytes,
            aggregate_id=uuid.UUID(delivered.record.key.decode()).bytes,
            sequence=int(headers["ce_sequence"]),
            payload=delivered.record.value,
            traceparent=headers.get("traceparent", ""),
            time=dt.datetime.fromisoformat(headers["ce_time"]),
        )
    except (KeyError, ValueError) as failure:
        where = f"{delivered.topic}/{delivered.partition}@{delivered.offset}"
        raise Unreadable(f"{where}: {type(failure).__name__} {failure}") from failure


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """A listener for each subscription of the rooms whose databases are there (their `on_*_events.py`)."""
    if not rooms.has_broker:
        return []
    broker = await rooms.broker()
    workers: list[Worker] = []
    for room in rooms.names:
        package = importlib.import_module(f"invochain.{room}")
        for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            if name.startswith("on_") and name.endswith("_events"):
                listens = importlib.import_module(f"{package.__name__}.{name}")
                for subscription in await listens.subscriptions(settings):
                    workers.append(rooms.closed_at_end(Listener(subscription, broker)))
    return workers
