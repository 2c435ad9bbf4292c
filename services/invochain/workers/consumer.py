"""Brings events to the services that listen: batches, at least once, in order per aggregate (PROTOCOL 10).

The position is committed after the handler has returned, and the handler returns after its effects are committed, with
an inbox row for each event; so a crash anywhere brings an event again and its effect once. An event that cannot be
handled stops its partition while it is tried again, 10 times within some seconds; then its aggregate is parked with a
dead letter, and the partition goes on (PROTOCOL 14). A record that is no event is parked at once.

Trouble that may pass (a database that is away, a row that is locked) is no event's: everything comes again. Only where
the same event meets it while others are handled does it end the same way, a minute later.
"""

from __future__ import annotations

import datetime as dt
import importlib
import math
import pkgutil
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import asyncpg

from invochain.chassis import clock, faults, postgres, trace
from invochain.chassis.broker import Broker, Delivered, PartitionsLost, Record
from invochain.chassis.call import NOBODY
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import EVENTS_CONSUMED, LEADER, log
from invochain.chassis.trace import Trace, trace_id_of
from invochain.durable import dead_letters, parking
from invochain.durable.dead_letters import TRIES_MAX, Failed
from invochain.durable.inbox import Received, Subscription
from invochain.durable.parking import Parked, Parking
from invochain.errors import Code, Refusal
from invochain.workers import Worker
from invochain.workers.backoff import LONGEST_S, Backoff
from invochain.workers.rooms import Rooms
from invochain.workers.tries import Tries

# The broker wakes us; this bounds how long a stop waits for a consumer that has nothing to do.
WAIT_S = 1.0
# Ten tries of a poison event end within 7 s: its neighbours wait no longer than the 10 s they are promised.
RETRY_S_MAX = 1.0
# What may pass gets longer than a lock or a restart takes; PROTOCOL 15 wants an event handled or parked within so long.
PASSING_S_LEAST = 60.0
# Partitions that are looked at apart in one round while nothing can be handled at all.
PROBES_MAX = 3

# Most likely the trouble is not in the event.
_PASSING_CODES = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.CANCELLED}
PASSING = (*postgres.PASSING, asyncpg.PostgresConnectionError, OSError, TimeoutError)


class Unreadable(Exception):
    """A record that is no event of ours: a header is missing or does not read."""


class Listener:
    """The loop of one subscription."""

    room = ""
    interval_s = 0.0

    def __init__(self, subscription: Subscription, broker: Broker, parked: Parking, *, wait_s: float = WAIT_S) -> None:
        self.name = f"consumer:{subscription.consumer}"
        self._to, self._wait_s, self._parking = subscription, wait_s, parked
        self._consumer = broker.consumer(subscription.consumer, subscription.topic, subscription.types)
        self._backoff: Backoff[int] = Backoff(RETRY_S_MAX)
        self._tries = Tries()
        # When an event was last handled: a failure that may pass, but does not, counts only against that.
        self._handled_at = -math.inf
        # The round before ended with such a failure.
        self._passing = False
        self._errors: dict[int, str] = {}
        self._log = log("workers")
        self._counts = {
            outcome: EVENTS_CONSUMED.labels(consumer=subscription.consumer, outcome=outcome)
            for outcome in ("done", "not_for_us", "failed", "parked", "discarded")
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
            failure = await self._handle_all(partitions, done)
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
        if failure is not None:
            raise failure
        return count

    async def _handle_all(self, partitions: dict[int, list[Delivered]], done: dict[int, int]) -> Exception | None:
        """Handles all together, and apart what failed before or fails now; returns why, if nothing can be handled."""
        began = clock.monotonic()
        aside = await self._set_aside([record for records in partitions.values() for record in records])
        apart = {partition: mine for partition, mine in partitions.items() if self._tries.trying(partition)}
        together = {partition: mine for partition, mine in partitions.items() if partition not in apart}
        if together:
            try:
                await self._handle([one for mine in together.values() for one in mine if _place(one) not in aside])
            except Exception as failure:
                if passes(failure) and not self._passing:
                    # Most likely it is nobody's: once more, before anything is looked at apart.
                    self._passing = True
                    raise
                self._log.warning("batch_is_split", consumer=self._to.consumer, error=type(failure).__name__)
                apart |= together
            else:
                self._passing = False
                for partition, mine in together.items():
                    self._finished(partition, mine[-1].offset + 1, done)
        return await self._handle_apart(apart, aside, done, began)

    async def _handle_apart(
        self, partitions: dict[int, list[Delivered]], aside: set[str], done: dict[int, int], began: float
    ) -> Exception | None:
        """Handles each partition for itself, in any order; where no event can be handled, the first few tell so."""
        failures: list[Exception] = []
        for partition in random.sample(list(partitions), len(partitions)):
            failure = await self._handle_one_by_one(partition, partitions[partition], aside, done)
            failures += [failure] if failure else []
            if len(failures) >= PROBES_MAX and self._handled_at < began:
                break
        return failures[0] if failures and self._handled_at < began else None

    async def _set_aside(self, records: Sequence[Delivered]) -> set[str]:
        """Keeps what belongs to parked aggregates, and passes by what was discarded; returns their places."""
        if not (mine := [record for record in records if type_of(record) in self._to.types]):
            return set()
        consumer, aggregates = self._to.consumer, sorted({aggregate(record) for record in mine})
        async with self._parking.postgres.reading() as tx:
            closed = await parking.closed_to(tx, consumer, aggregates)
            discarded = await dead_letters.discarded(tx, consumer, aggregates)
        aside = {_place(record) for record in mine if subject(record) in discarded}
        self._counts["discarded"].inc(len(aside))
        behind = [one for one in mine if aggregate(one) in closed and _place(one) not in aside]
        return aside | await self._keep(behind)

    async def _keep(self, records: Sequence[Delivered]) -> set[str]:
        if not records:
            return set()
        async with self._parking.postgres.transaction() as tx:
            still = await parking.keep(tx, self._parking.seal, self._to.consumer, [parked(one) for one in records])
        kept = {_place(one) for one in records if aggregate(one) in still}
        self._counts["parked"].inc(len(kept))
        return kept

    async def _handle_one_by_one(
        self, partition: int, records: list[Delivered], aside: set[str], done: dict[int, int]
    ) -> Exception | None:
        """Handles records up to the first that fails; returns the failure if it may pass."""
        just_parked: set[str] = set()
        for record in records:
            behind = aggregate(record) in just_parked and type_of(record) in self._to.types
            if _place(record) in aside or (behind and await self._keep([record])):
                self._finished(partition, record.offset + 1, done)
                continue
            here = trace.current.set(Trace.follow(dict(record.record.headers).get("traceparent", "")))
            try:
                await self._handle([record])
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is counted against this record alone
                if not (tries := self._gives_up(partition, record, failure)):
                    self._stopped(partition, record, failure)
                    if passes(failure):
                        await self._look_past(record, records, aside)
                    return failure if passes(failure) else None
                await self._park(record, failed(self._to.consumer, parked(record), failure, tries))
                just_parked.add(aggregate(record))
            finally:
                trace.current.reset(here)
            self._finished(partition, record.offset + 1, done)
        return None

    async def _look_past(self, head: Delivered, records: list[Delivered], aside: set[str]) -> None:
        """Whether another aggregate's event can be handled while the head cannot; then it is the head's own trouble.

        That one comes again, and the inbox knows it by then.
        """
        for record in records:
            if record.offset > head.offset and aggregate(record) != aggregate(head) and _place(record) not in aside:
                try:
                    await self._handle([record])
                except Exception as failure:  # noqa: BLE001 - it is only asked whether; its own turn says the rest
                    self._log.info("nor_another", consumer=self._to.consumer, error=type(failure).__name__)
                return

    def _gives_up(self, partition: int, record: Delivered, failure: Exception) -> int:
        """After how many tries a record is given up now; 0: it is not."""
        if passes(failure):
            head = self._tries.again(partition, record.offset, self._handled_at)
            long_enough = clock.monotonic() - head.since >= PASSING_S_LEAST
            return head.count if head.count >= TRIES_MAX and long_enough else 0
        head = self._tries.again(partition, record.offset)
        return head.count if head.enough() or isinstance(failure, Unreadable) else 0

    async def _park(self, record: Delivered, why: Failed) -> None:
        async with self._parking.postgres.transaction() as tx:
            await parking.begin(tx, self._to.consumer, why.merchant_id, why.aggregate)
            await parking.keep(tx, self._parking.seal, self._to.consumer, [parked(record)])
            await dead_letters.open_letters(tx, [why])
        self._counts["failed"].inc()
        self._log.error(
            "aggregate_parked",
            consumer=self._to.consumer,
            aggregate=why.aggregate,
            event_id=why.subject,
            reason=why.reason,
            tries=why.attempts,
        )

    async def _handle(self, records: Sequence[Delivered]) -> None:
        events = [received(record) for record in records if type_of(record) in self._to.types]
        if events:
            await self._to.handle(events)
            self._handled_at = clock.monotonic()
            await faults.reach("consumer.handled")
        self._counts["done"].inc(len(events))
        self._counts["not_for_us"].inc(len(records) - len(events))

    def _finished(self, partition: int, position: int, done: dict[int, int]) -> None:
        done[partition] = position
        self._backoff.worked([partition])
        self._tries.forget([partition])
        if error := self._errors.pop(partition, ""):
            self._log.info("partition_goes_on", consumer=self._to.consumer, partition=partition, after=error)

    def _stopped(self, partition: int, record: Delivered, failure: Exception) -> None:
        self._counts["failed"].inc()
        self._backoff.failed(partition, LONGEST_S if passes(failure) else None)
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


def passes(failure: Exception) -> bool:
    """Whether the trouble is not in the event."""
    return isinstance(failure, PASSING) or (isinstance(failure, Refusal) and failure.code in _PASSING_CODES)


def type_of(record: Delivered) -> str:
    """The event's type; empty where the record names none."""
    return dict(record.record.headers).get("ce_type", "")


def _place(record: Delivered) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"


def aggregate(record: Delivered) -> str:
    """Whose order a record keeps: its key, in hexadecimal where it is no text of ours."""
    try:
        return to_text(from_text(record.record.key.decode(), "key"))
    except (ValueError, Refusal):
        return record.record.key.hex()


def subject(record: Delivered) -> str:
    """The event's id; of a record that has none, its place."""
    try:
        return to_text(from_text(dict(record.record.headers)["ce_id"], "ce_id"))
    except (KeyError, Refusal):
        return _place(record)


def parked(record: Delivered) -> Parked:
    """A record as it is kept while its aggregate is parked."""
    headers = dict(record.record.headers)
    try:
        merchant_id = from_text(headers.get("ce_source", "").removeprefix("/merchants/"), "ce_source")
    except Refusal:
        merchant_id = NOBODY
    envelope = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.record.key.hex(),
        "headers": record.record.headers,
    }
    return Parked(merchant_id, aggregate(record), record.offset, subject(record), envelope, record.record.value)


def unparked(one: Parked) -> Delivered:
    """The record that was parked."""
    place, headers = one.envelope, tuple((name, value) for name, value in one.envelope["headers"])
    value = Record(bytes.fromhex(place["key"]), one.payload, headers)
    return Delivered(place["topic"], place["partition"], place["offset"], value)


def failed(consumer: str, one: Parked, failure: Exception, attempts: int) -> Failed:
    """An event that cannot be handled, as a dead letter tells it. Only a refusal's own words are repeated."""
    headers: Mapping[str, str] = dict(one.envelope["headers"])
    told = isinstance(failure, (Refusal, Unreadable))
    return Failed(
        kind=dead_letters.CONSUME,
        consumer=consumer,
        merchant_id=one.merchant_id,
        subject=one.subject,
        aggregate=one.aggregate,
        reason=failure.reason if isinstance(failure, Refusal) else type(failure).__name__,
        detail=str(failure)[:500] if told else "",
        attempts=attempts,
        trace_id=trace_id_of(headers.get("traceparent", "")),
    )


def received(delivered: Delivered) -> Received:
    """Reads a record as an event. Raises Unreadable."""
    headers = dict(delivered.record.headers)
    try:
        return Received(
            event_id=from_text(headers["ce_id"], "ce_id"),
            type=headers["ce_type"],
            merchant_id=from_text(headers["ce_source"].removeprefix("/merchants/"), "ce_source"),
            aggregate_id=from_text(delivered.record.key.decode(), "key"),
            sequence=int(headers["ce_sequence"]),
            payload=delivered.record.value,
            traceparent=headers.get("traceparent", ""),
            time=dt.datetime.fromisoformat(headers["ce_time"]),
        )
    except (KeyError, ValueError, Refusal) as failure:
        where = f"{delivered.topic}/{delivered.partition}@{delivered.offset}"
        raise Unreadable(f"{where}: {type(failure).__name__} {failure}") from failure


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """A listener for each subscription of the rooms whose databases are there (their `on_*_events.py`)."""
    if not rooms.has_broker:
        return []
    broker = await rooms.broker()
    workers: list[Worker] = []
    for room in rooms.names:
        for subscription in await subscriptions(rooms, room):
            workers.append(rooms.closed_at_end(Listener(subscription, broker, await rooms.parking(room))))
    return workers


async def subscriptions(rooms: Rooms, room: str) -> list[Subscription]:
    """What a room listens to, on the pool of its consumers."""
    package = importlib.import_module(f"invochain.{room}")
    found: list[Subscription] = []
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        if name.startswith("on_") and name.endswith("_events"):
            listens = importlib.import_module(f"{package.__name__}.{name}")
            found += listens.subscriptions(await rooms.postgres(room, "consumers"))
    return found
