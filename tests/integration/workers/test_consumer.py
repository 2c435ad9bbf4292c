"""Consumers over a real broker and a real inbox: the effect once, the position after it, poison apart."""

import asyncio
import datetime as dt
from collections.abc import Sequence

import pytest

from invochain.chassis.broker import Acked, Record
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.postgres import Sql
from invochain.chassis.seal import SealBroken
from invochain.durable import inbox
from invochain.durable.inbox import Received, Subscription
from invochain.errors import DependencyDown
from invochain.workers import consumer
from invochain.workers.backoff import Backoff
from invochain.workers.consumer import Listener
from invochain.workers.relay import Relay
from tests.integration.workers.conftest import ISSUED, MERCHANT, TOPIC, Source, until

ACCEPTED = "invochain.invoice.accepted.v1"

SEEN = Sql("test_inbox_seen", "SELECT event_id FROM inbox WHERE consumer = 'test.effect'")


class Effect:
    """A consumer whose effect is a row of the inbox in the source's database, counted as it happens."""

    def __init__(self, source: Source) -> None:
        self._postgres = source.postgres
        self.batches: list[list[Received]] = []
        self.done: list[Received] = []
        self.fails_on: dict[bytes, Exception] = {}
        self.crash_after_effect = False

    async def __call__(self, events: Sequence[Received]) -> None:
        self.batches.append(list(events))
        for event in events:
            if failure := self.fails_on.get(event.aggregate_id):
                raise failure
        async with self._postgres.transaction() as tx:
            fresh = await inbox.admit(tx, "test.effect", events)
        self.done += fresh
        if self.crash_after_effect:
            raise asyncio.CancelledError

    def subscription(self, types: tuple[str, ...] = (ISSUED,)) -> Subscription:
        return Subscription("test.effect", TOPIC, frozenset(types), self)


@pytest.fixture
def effect(source) -> Effect:
    return Effect(source)


@pytest.fixture
async def listen(source, effect):
    """Makes listeners that leave their group at the end."""
    made: list[Listener] = []

    def make(types: tuple[str, ...] = (ISSUED,)) -> Listener:
        made.append(Listener(effect.subscription(types), source.broker, source.parking, wait_s=0.2))
        return made[-1]

    yield make
    for listener in made:
        await listener.close()


async def publish(source: Source) -> None:
    session = source.session()
    relay = Relay("merchant", session, source.broker, source.parking)
    while await source.waiting():
        await relay.run_once()
    await session.close()


async def aggregates_in_two_partitions(source: Source) -> tuple[bytes, bytes]:
    """Two aggregates whose records lie in different partitions of the topic."""
    probes = [new_id() for _ in range(64)]
    places = await source.broker.publish("probe", [Record(to_text(a).encode(), b"") for a in probes])
    assert all(isinstance(place, Acked) for place in places)
    other = next(n for n, place in enumerate(places) if place.partition != places[0].partition)
    return probes[0], probes[other]


async def in_the_partition_of(source: Source, aggregate: bytes) -> bytes:
    """Another aggregate whose records lie in the partition of this one."""
    probes = [aggregate, *(new_id() for _ in range(64))]
    places = await source.broker.publish("probe", [Record(to_text(a).encode(), b"") for a in probes])
    return probes[next(n for n, place in enumerate(places) if n and place.partition == places[0].partition)]


async def parked(source: Source) -> int:
    return len(await source.sql("SELECT FROM parked_event"))


async def parked_after_a_round(listener: Listener, source: Source) -> bool:
    await listener.run_once()
    return await parked(source) > 0


class TestListener:
    async def test_a_batch_is_handled_in_order_and_its_position_committed(self, source, effect, listen):
        """One call of the handler for many events; a new member finds nothing left."""
        aggregate = new_id()
        await source.tell(aggregate, 20)
        await publish(source)
        first = listen()

        assert 20 == await first.run_once()
        await first.close()

        assert 1 == len(effect.batches)
        assert list(range(1, 21)) == [event.sequence for event in effect.batches[0]]
        assert {(MERCHANT, aggregate, ISSUED)} == {(e.merchant_id, e.aggregate_id, e.type) for e in effect.batches[0]}
        assert 0 == await listen().run_once()

    async def test_a_crash_between_effect_and_commit_brings_the_events_again_and_the_effect_once(
        self, source, effect, listen
    ):
        """The inbox rows of the first time turn the second into nothing."""
        await source.tell(new_id(), 5)
        await publish(source)
        effect.crash_after_effect = True
        dying = listen()
        with pytest.raises(asyncio.CancelledError):
            await dying.run_once()
        await dying.close()
        effect.crash_after_effect = False

        assert 5 == await listen().run_once()

        assert [5, 5] == [len(batch) for batch in effect.batches]
        assert 5 == len(effect.done)

    async def test_only_the_types_asked_for_are_handed_over(self, source, effect, listen):
        """The others are passed by, and do not come again."""
        await source.tell(new_id(), 3)
        await publish(source)
        listener = listen((ACCEPTED,))

        await listener.run_once()

        assert [] == effect.batches
        assert [] == await source.broker.unread(TOPIC, 0, ("", 0, -1), 10), "the group is behind them"
        assert 0 == await listener.run_once()

    async def test_a_poison_event_parks_its_aggregate_and_all_others_flow(self, source, effect, listen):
        """Ten tries within the 10 s that its neighbours are promised; then it and what is behind it of its aggregate
        are parked under one letter, and the events of its own partition go on."""
        poisoned, free = await aggregates_in_two_partitions(source)
        beside = await in_the_partition_of(source, poisoned)
        await source.tell(poisoned, 3)
        await source.tell(beside, 2)
        await source.tell(free, 2)
        await publish(source)
        effect.fails_on[poisoned] = ValueError("a customer's 27AAACM0001A1Z5")
        listener = listen()

        async def rest_is_done() -> bool:
            await listener.run_once()
            return 4 == len(effect.done)

        await until(rest_is_done)
        await source.tell(poisoned)
        await source.tell(beside)
        await publish(source)

        async def later_too() -> bool:
            await listener.run_once()
            return 5 == len(effect.done) and 4 == await parked(source)

        await until(later_too)
        assert {beside, free} == {event.aggregate_id for event in effect.done}
        (letter,) = await source.sql("SELECT * FROM dead_letter")
        assert ("CONSUME", "test.effect", "OPEN", "ValueError", "", 10) == tuple(
            letter[name] for name in ("kind", "consumer", "state", "reason", "detail", "attempts")
        )
        assert letter["last_time"] - letter["first_time"] < dt.timedelta(seconds=10)

    async def test_what_is_kept_of_a_parked_event_cannot_be_read(self, source, effect, listen):
        """The payload is ciphertext under a key that the database does not have; changed, it does not open."""
        poisoned = new_id()
        await source.tell(poisoned, payload=b"GSTIN 27AAACM0001A1Z5")
        await publish(source)
        effect.fails_on[poisoned] = ValueError("no")
        listener = listen()
        listener._backoff = Backoff(0.05)
        await until(lambda: parked_after_a_round(listener, source))

        (row,) = await source.sql("SELECT subject, envelope::text AS envelope, sealed FROM parked_event")
        assert b"27AAACM" not in row["sealed"]
        assert "27AAACM" not in row["envelope"]
        about = f"parked/1 test.effect {row['subject']}"
        assert b"GSTIN 27AAACM0001A1Z5" == source.parking.seal.open(row["sealed"], about)
        for sealed, of in ((row["sealed"][:-1] + b"x", about), (row["sealed"], about + "0"), (b"", about)):
            with pytest.raises(SealBroken):
                source.parking.seal.open(sealed, of)

    async def test_a_database_that_is_away_brings_everything_again(self, source, effect, listen):
        """Trouble that passes is not the event's: nothing is split or passed by, the runner waits and repeats."""
        aggregate = new_id()
        await source.tell(aggregate, 4)
        await publish(source)
        effect.fails_on[aggregate] = DependencyDown("the inventory database")
        listener = listen()
        with pytest.raises(DependencyDown):
            await listener.run_once()
        effect.fails_on.clear()

        assert 4 == await listener.run_once()

        assert [4, 4] == [len(batch) for batch in effect.batches]

    async def test_an_event_that_meets_passing_trouble_for_ever_is_parked_if_others_are_handled(
        self, source, effect, listen, monkeypatch
    ):
        """A query that always times out, for one invoice: its own partition flows on behind it, and all others beside
        it, before and after; what ends it is ten tries between which others were handled."""
        monkeypatch.setattr(consumer, "PASSING_S_LEAST", 0.5)
        monkeypatch.setattr(consumer, "LONGEST_S", 0.05)
        stuck, free = await aggregates_in_two_partitions(source)
        beside = await in_the_partition_of(source, stuck)
        effect.fails_on[stuck] = DependencyDown("the database, whose rows are busy,")
        listener = listen()

        async def goes_on(aggregate: bytes, done: int, kept: int) -> bool:
            await source.tell(aggregate)
            await publish(source)
            try:
                await listener.run_once()
            except DependencyDown:
                pass
            return len(effect.done) >= done and await parked(source) == kept

        await source.tell(stuck, 2)
        await until(lambda: goes_on(free, 12, 2))
        await until(lambda: goes_on(beside, 15, 2))

        (letter,) = await source.sql("SELECT * FROM dead_letter")
        assert ("CONSUME", "DEPENDENCY_DOWN") == (letter["kind"], letter["reason"])
        assert 10 <= letter["attempts"]
        assert {beside, free} == {event.aggregate_id for event in effect.done}

    async def test_what_is_behind_it_tells_whether_the_trouble_is_its_own(self, source, effect, listen, monkeypatch):
        """Nothing else happens but in its own partition: another aggregate's event there is tried in its place."""
        monkeypatch.setattr(consumer, "PASSING_S_LEAST", 0.5)
        monkeypatch.setattr(consumer, "LONGEST_S", 0.05)
        stuck = new_id()
        beside = await in_the_partition_of(source, stuck)
        await source.tell(stuck)
        # Published first, so that it is the one at the head.
        await publish(source)
        await source.tell(beside, 2)
        await publish(source)
        effect.fails_on[stuck] = TimeoutError()
        listener = listen()
        listener._backoff = Backoff(0.05)

        async def parked_and_done() -> bool:
            try:
                await listener.run_once()
            except (TimeoutError, DependencyDown):
                pass
            return await parked(source) == 1 and len(effect.done) == 2

        await until(parked_and_done)
        assert [1, 2] == [event.sequence for event in effect.done]

    async def test_an_outage_parks_nothing_however_long(self, source, effect, listen, monkeypatch):
        """Nobody is handled, so no try counts; then everything is, in order."""
        monkeypatch.setattr(consumer, "PASSING_S_LEAST", 0.0)
        monkeypatch.setattr(consumer, "LONGEST_S", 0.02)
        aggregates = [new_id() for _ in range(12)]
        for aggregate in aggregates:
            await source.tell(aggregate, 2)
        await publish(source)
        listener = listen()
        assert 24 == await listener.run_once()
        for aggregate in aggregates:
            await source.tell(aggregate, 2)
            effect.fails_on[aggregate] = DependencyDown("the inventory database")
        await publish(source)
        rounds = 0

        async def tried_often() -> bool:
            nonlocal rounds
            try:
                await listener.run_once()
            except DependencyDown:
                rounds += 1
            return rounds >= 40

        await until(tried_often, within_s=60)
        assert 0 == await parked(source)
        effect.fails_on.clear()

        async def all_done() -> bool:
            await listener.run_once()
            return len(effect.done) == 48

        await until(all_done)
        assert 0 == await parked(source)
        for aggregate in aggregates:
            assert [1, 2, 3, 4] == [event.sequence for event in effect.done if event.aggregate_id == aggregate]

    async def test_a_record_that_is_no_event_is_parked_at_once(self, source, effect, listen):
        """A missing header is seen as the poison it is: what is behind it under its key waits, all others flow."""
        bad, good = await aggregates_in_two_partitions(source)
        await source.broker.publish(TOPIC, [Record(to_text(bad).encode(), b"", (("ce_type", ISSUED),))])
        await source.tell(bad)
        await source.tell(good)
        await publish(source)

        assert 3 == await listen().run_once()

        assert [good] == [event.aggregate_id for event in effect.done]
        assert 2 == await parked(source)
        (letter,) = await source.sql("SELECT reason, aggregate FROM dead_letter")
        assert ("Unreadable", to_text(bad)) == tuple(letter)

    async def test_two_listeners_share_the_work_and_do_each_effect_once(self, source, effect, listen):
        """Members of one group in two processes: every event is done once, whoever gets it."""
        for _ in range(60):
            await source.tell(new_id(), 2)
        await publish(source)
        one, two = listen(), listen()

        async def finished() -> bool:
            await asyncio.gather(one.run_once(), two.run_once())
            return len(effect.done) == 120

        await until(finished)
        async with source.postgres.reading() as tx:
            assert 120 == len(await tx.fetch(SEEN))
