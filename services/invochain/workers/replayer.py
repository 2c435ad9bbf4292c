"""Does what operators asked for: replays dead letters, lets parked events go on in order, ends what repaired itself.

A replay derives what is left to do from what decides, and does that with the same ids (durable/dead_letters.py). So it
may be killed anywhere, and be done twice or late: the letter stays REPLAYING, or the event parked, until it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import Gauge

from invochain.chassis import clock, faults, secrets
from invochain.chassis.broker import Acked, Broker, RecordMalformed, Unpublishable
from invochain.chassis.channel import Channel
from invochain.chassis.postgres import Postgres
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import log
from invochain.chassis.tokens import ServiceIdentity
from invochain.durable import dead_letters, outbox, parking
from invochain.durable.dead_letters import (
    AGE_ALARM_S,
    DEPTH_ALARM,
    OPEN,
    REPLAYING,
    Failed,
    Letter,
    NotRepaired,
    Repair,
)
from invochain.durable.inbox import Subscription
from invochain.durable.parking import RELAY, Parked, Parking, parking_repairs
from invochain.errors import DependencyDown, Refusal
from invochain.inventory import repairs as inventory_repairs
from invochain.invoice import repairs as invoice_repairs
from invochain.invoice.inventory_port import InventoryPort
from invochain.workers import Worker, consumer, relay
from invochain.workers.rooms import Rooms

INTERVAL_S = 1.0
# Letters looked at in a round.
LETTERS_MAX = 100
# How often OPEN letters are looked at: has it repaired itself meanwhile?
LOOK_EVERY_S = 15.0

DEPTH = Gauge("dead_letters_waiting", "Dead letters that are OPEN or REPLAYING", ["room"])
OLDEST = Gauge("dead_letters_oldest_seconds", "Age of the oldest dead letter that waits", ["room"])

# Sends one event on; returns why it cannot be, or nothing. Raises what passes: it is tried again.
Deliver = Callable[[Parked], Awaitable[Failed | None]]


class Replayer:
    """The loop of one room's letters."""

    interval_s = INTERVAL_S

    def __init__(
        self, room: str, postgres: Postgres, repairs: Mapping[str, Repair], stop: asyncio.Event | None = None
    ) -> None:
        self.name, self.room = f"replayer:{room}", room
        self._postgres, self._repairs, self._ending = postgres, repairs, stop or asyncio.Event()
        self._look_due = 0.0
        self._alarmed = False
        self._log = log("workers")

    async def run_once(self) -> int:
        """One look at what is being replayed, and now and then at what is OPEN; returns how many letters ended."""
        done = await self._each(await self._read(REPLAYING), self._replay)
        if clock.monotonic() >= self._look_due:
            self._look_due = clock.monotonic() + LOOK_EVERY_S
            await self._measure()
            done += await self._each(await self._read(OPEN), self._look)
        return done

    async def _each(self, letters: Sequence[Letter], work: Callable[[Letter], Awaitable[int]]) -> int:
        """Does it for each letter. One that waits for something must not keep the others waiting; the runner hears of
        it in the end."""
        done = 0
        failure: Exception | None = None
        for letter in letters:
            if self._ending.is_set():
                break
            try:
                done += await work(letter)
            except (Refusal, *consumer.PASSING) as failed:
                failure = failure or failed
        if failure is not None:
            raise failure
        return done

    async def _look(self, letter: Letter) -> int:
        """Ends an OPEN letter that has repaired itself."""
        try:
            plan = await self._repairs[letter.kind].plan(letter)
        except Exception as failure:
            if consumer.passes(failure):
                raise
            # It waits for an operator already.
            self._log.error("letter_unreadable", source=self.room, subject=letter.subject, exc_info=failure)
            return 0
        return 0 if plan.left else await self._end(letter, "found repaired")

    async def _read(self, state: str) -> list[Letter]:
        async with self._postgres.reading() as tx:
            found = await dead_letters.with_state(tx, state, LETTERS_MAX)
        return [letter for letter in found if letter.kind in self._repairs]

    async def _replay(self, letter: Letter) -> int:
        try:
            return await self._repair(letter)
        except (Refusal, NotRepaired) as refused:
            if consumer.passes(refused):
                raise
            await self._again(letter, refused.reason, str(refused))
        except Exception as failure:
            if consumer.passes(failure):
                raise
            # A letter that cannot be read: it waits for an operator again, and the others are replayed.
            await self._again(letter, type(failure).__name__, "")
        return 0

    async def _repair(self, letter: Letter) -> int:
        repair = self._repairs[letter.kind]
        plan = await repair.plan(letter)
        if plan.waits_for:
            return 0
        if not plan.left:
            return await self._end(letter, "nothing was left to do")
        await repair.repair(letter)
        await faults.reach("replay.repaired")
        if (await repair.plan(letter)).left:
            raise NotRepaired("NOT_REPAIRED")
        return await self._end(letter, "replayed")

    async def _end(self, letter: Letter, note: str) -> int:
        async with self._postgres.transaction() as tx:
            await dead_letters.close(tx, [letter], note)
        self._log.info("dead_letter_done", source=self.room, kind=letter.kind, subject=letter.subject, how=note)
        return 1

    async def _again(self, letter: Letter, reason: str, detail: str) -> None:
        async with self._postgres.transaction() as tx:
            await dead_letters.open_letters(tx, [failed_again(letter, reason, detail)])
        self._log.error("replay_failed", source=self.room, kind=letter.kind, subject=letter.subject, reason=reason)

    async def _measure(self) -> None:
        async with self._postgres.reading() as tx:
            depth, oldest_s = await dead_letters.depth(tx)
        DEPTH.labels(room=self.room).set(depth)
        OLDEST.labels(room=self.room).set(oldest_s)
        alarm = depth > DEPTH_ALARM or oldest_s > AGE_ALARM_S
        if alarm and not self._alarmed:
            self._log.error("dead_letters_wait", source=self.room, depth=depth, oldest_s=round(oldest_s))
        self._alarmed = alarm


def failed_again(letter: Letter, reason: str, detail: str) -> Failed:
    """A letter's own subject, after one more try."""
    return Failed(
        kind=letter.kind,
        merchant_id=letter.merchant_id,
        subject=letter.subject,
        aggregate=letter.aggregate,
        consumer=letter.consumer,
        rid=letter.rid,
        attempt=letter.attempt,
        fingerprint=letter.fingerprint,
        reason=reason,
        detail=detail,
        trace_id=letter.trace_id,
    )


class Drain:
    """The loop of one relay's or consumer's parked events that may go on. One leader, so that their order holds."""

    interval_s = INTERVAL_S

    def __init__(
        self, room: str, name: str, parked: Parking, deliver: Deliver, stop: asyncio.Event | None = None
    ) -> None:
        self.name, self.room = f"drain:{name or room}", room
        self._consumer, self._parking, self._deliver = name, parked, deliver
        self._ending = stop or asyncio.Event()
        self._log = log("workers")

    async def run_once(self) -> int:
        """Sends on what comes next of each aggregate that is drained; returns how much was done."""
        async with self._parking.postgres.reading() as tx:
            aggregates = await parking.draining(tx, self._consumer)
        done = 0
        failure: BaseException | None = None
        for aggregate in aggregates:
            if self._ending.is_set():
                break
            try:
                done += await self._drain(aggregate)
            except (Refusal, *consumer.PASSING) as failed:
                # One that waits for something must not keep the others waiting; the runner hears of it in the end.
                failure = failure or failed
        if failure is not None:
            raise failure
        return done

    async def _drain(self, aggregate: str) -> int:
        try:
            async with self._parking.postgres.reading() as tx:
                events = await parking.oldest(tx, self._parking.seal, self._consumer, aggregate)
        except parking.Unopened as broken:
            return await self._stop(broken.failed)
        for event in events:
            if self._ending.is_set():
                break
            failed = await self._send(event)
            await faults.reach("replay.delivered")
            if failed is not None:
                return await self._stop(failed)
            async with self._parking.postgres.transaction() as tx:
                await parking.gone(tx, self._consumer, [event])
        if not events:
            async with self._parking.postgres.transaction() as tx:
                await parking.leave(tx, self._consumer, aggregate)
        return max(1, len(events))

    async def _send(self, event: Parked) -> Failed | None:
        try:
            return await self._deliver(event)
        except Exception as failure:
            if consumer.passes(failure):
                raise
            # What was kept of it does not read: it is as little of use as an event that cannot be handled.
            return parking.failed(self._consumer, event.merchant_id, event.aggregate, event.subject, failure)

    async def _stop(self, failed: Failed) -> int:
        async with self._parking.postgres.transaction() as tx:
            await parking.stop(tx, self._consumer, failed)
        self._log.error("drain_stopped", source=self.room, subject=failed.subject, reason=failed.reason)
        return 1


def publishing(broker: Broker) -> Deliver:
    """Publishes what the relay parked."""

    async def deliver(event: Parked) -> Failed | None:
        row = relay.unparked(event)
        try:
            topic, record = outbox.topic(row["type"]), relay.record(row)
        except ValueError as malformed:
            return relay.failed(row, RecordMalformed(str(malformed)), 1)
        (outcome,) = await broker.publish(topic, [record])
        if isinstance(outcome, Acked):
            return None
        if isinstance(outcome.cause, Unpublishable):
            return relay.failed(row, outcome.cause, 1)
        raise DependencyDown("the event broker") from outcome.cause

    return deliver


def handling(subscription: Subscription) -> Deliver:
    """Has handled what a consumer parked."""

    async def deliver(event: Parked) -> Failed | None:
        record = consumer.unparked(event)
        if consumer.type_of(record) not in subscription.types:
            # Kept beside those of its aggregate, and nothing to this consumer.
            return None
        try:
            await subscription.handle([consumer.received(record)])
        except Exception as failure:
            if consumer.passes(failure):
                raise
            return consumer.failed(subscription.consumer, event, failure, 1)
        return None

    return deliver


async def build(settings: Settings, rooms: Rooms) -> list[Worker]:
    """A replayer for each room whose database is there, and a drain for its relay and each of its consumers."""
    workers: list[Worker] = []
    for room in rooms.names:
        postgres = await rooms.postgres(room)
        workers.append(Replayer(room, postgres, await _repairs(settings, rooms, room), rooms.stop))
        if rooms.has_broker:
            parked = await rooms.parking(room)
            workers.append(Drain(room, RELAY, parked, publishing(await rooms.broker()), rooms.stop))
            for subscription in await consumer.subscriptions(rooms, room):
                workers.append(Drain(room, subscription.consumer, parked, handling(subscription), rooms.stop))
    return workers


async def _repairs(settings: Settings, rooms: Rooms, room: str) -> Mapping[str, Repair]:
    postgres = await rooms.postgres(room)
    if room == "inventory":
        return inventory_repairs.repairs(postgres)
    if room == "invoice":
        identity = ServiceIdentity("workers", secrets.load(settings.secrets_dir))
        port = rooms.closed_at_end(InventoryPort(Channel(settings.inventory_address, identity, "the inventory")))
        return invoice_repairs.repairs(postgres, port)
    return parking_repairs(postgres)
