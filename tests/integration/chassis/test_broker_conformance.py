"""What every broker promises (chassis/broker.py), held against each implementation that there is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import pytest

from invochain.chassis import embedded_broker
from invochain.chassis.broker import (
    RECORD_BYTES_MAX,
    Acked,
    BehindFailed,
    Broker,
    Consumer,
    NotAcked,
    PartitionsLost,
    Record,
    RecordMalformed,
    RecordTooLarge,
    Unpublishable,
)
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.migrate import migrate
from tests.kit.servers import PostgresServer

TOPIC = "invoice.events"


class Embedded:
    """The embedded broker on a server of its own, which a test may kill."""

    async def start(self) -> None:
        self.server = PostgresServer()
        await self.server.start()
        self.dsn = await self.server.make_database("broker")
        await migrate(self.dsn, "broker")

    async def connect(self) -> Broker:
        return await EmbeddedBroker.connect(self.dsn)

    async def kill(self) -> None:
        await self.server.kill9()

    async def revive(self) -> None:
        await self.server.start()

    async def cut_off(self, consumer: Consumer) -> None:
        """Ends a member's session as a dying process or an administrator would, without its knowing."""
        consumer._session._connection.terminate()

    async def discard(self) -> None:
        await self.server.discard()


@pytest.fixture(params=[Embedded], ids=["embedded"], scope="module")
async def kind(request) -> AsyncIterator[Embedded]:
    kind = request.param()
    await kind.start()
    yield kind
    await kind.discard()


@pytest.fixture
async def connect(kind) -> AsyncIterator[Callable[[], Awaitable[Broker]]]:
    opened = []

    async def make() -> Broker:
        opened.append(await kind.connect())
        return opened[-1]

    yield make
    for broker in opened:
        await broker.close()


@pytest.fixture
async def broker(connect) -> Broker:
    return await connect()


@pytest.fixture
def topic() -> str:
    return f"topic-{os.urandom(4).hex()}"


@pytest.fixture
async def join() -> AsyncIterator[Callable[..., Consumer]]:
    """Makes consumers that leave their group when the test ends."""
    members: list[Consumer] = []

    def make(broker: Broker, group: str, topic: str, types: Collection[str] | None = None) -> Consumer:
        members.append(broker.consumer(group, topic, types))
        return members[-1]

    yield make
    for member in members:
        await member.close()


def record(key: str, number: int) -> Record:
    return Record(key.encode(), b"%d" % number, (("ce_id", f"{key}-{number}"), ("traceparent", "")))


def typed(type_: str, number: int) -> Record:
    """A record of one key, so that all lie in one partition."""
    return Record(b"k", b"%d" % number, (("ce_id", f"{number}"), ("ce_type", type_)))


async def read(consumer: Consumer, wanted: int, within_s: float = 10) -> list[Record]:
    """Polls until so many records came."""
    found: list[Record] = []
    async with asyncio.timeout(within_s):
        while len(found) < wanted:
            found += [d.record for d in await consumer.poll(500, 1)]
    return found


class TestPublish:
    async def test_a_record_comes_back_as_it_was_given(self, broker, join, topic):
        """Key, value and headers, byte for byte and in their order; empty ones and odd characters too."""
        given = Record(b"\x00k", b"\x00\xff", (("ce_type", "a.b"), ("x", 'ü"\n'), ("x", "again"), ("empty", "")))

        (outcome,) = await broker.publish(topic, [given])

        assert isinstance(outcome, Acked)
        assert [given] == await read(join(broker, "g", topic), 1)

    async def test_records_of_one_key_keep_their_order(self, broker, join, topic):
        """Whatever else is published at the same time, by whom ever."""
        keys = [f"key-{n}" for n in range(6)]

        async def publish(key: str) -> None:
            for start in range(0, 60, 6):
                outcomes = await broker.publish(topic, [record(key, start + n) for n in range(6)])
                assert all(isinstance(outcome, Acked) for outcome in outcomes)

        await asyncio.gather(*(publish(key) for key in keys))

        found = await read(join(broker, "g", topic), 360)
        for key in keys:
            assert list(range(60)) == [int(r.value) for r in found if r.key == key.encode()]

    async def test_a_record_lies_where_its_acknowledgement_says(self, broker, join, topic):
        """Also when several publish into the same partitions at once: no place is given twice."""

        async def publish(writer: int) -> list[tuple[tuple[int, int], bytes]]:
            told = []
            for turn in range(20):
                values = [b"%d.%d.%d" % (writer, turn, n) for n in range(40)]
                records = [Record(b"%d" % (n * 7 + writer), value) for n, value in enumerate(values)]
                for value, outcome in zip(values, await broker.publish(topic, records), strict=True):
                    assert isinstance(outcome, Acked)
                    told.append(((outcome.partition, outcome.offset), value))
            return told

        told = [place for one in await asyncio.gather(*map(publish, range(4))) for place in one]

        consumer = join(broker, "g", topic)
        found: dict[tuple[int, int], bytes] = {}
        async with asyncio.timeout(30):
            while len(found) < len(told):
                found |= {(one.partition, one.offset): one.record.value for one in await consumer.poll(500, 1)}
        assert dict(told) == found

    async def test_readers_beside_concurrent_writers_skip_nothing(self, broker, join, topic):
        """A reader that keeps up sees every record once: none becomes visible behind its position."""
        consumer = join(broker, "g", topic)

        async def publish(writer: int) -> None:
            for n in range(40):
                await broker.publish(topic, [record(f"w{writer}-{n}-{i}", n) for i in range(5)])

        writers = asyncio.gather(*(publish(writer) for writer in range(4)))
        found = await read(consumer, 800, within_s=30)
        await writers

        assert 800 == len({r.key for r in found}) == len(found)

    @pytest.mark.parametrize(
        "poison",
        [
            Record(b"bad", b"", (("x", "\ud800"),)),
            Record(b"bad", b"", (("x", None),)),  # type: ignore[arg-type]
            Record(b"bad", "text"),  # type: ignore[arg-type]
        ],
        ids=["a lone surrogate", "no header value", "text for bytes"],
    )
    async def test_a_record_that_cannot_be_written_down_takes_only_its_own_key_with_it(
        self, broker, join, topic, poison
    ):
        """It is told apart from a broker that is down; the others are published."""
        outcomes = await broker.publish(topic, [record("good", 1), poison, record("bad", 2), record("good", 2)])

        assert [Acked, NotAcked, NotAcked, Acked] == [type(outcome) for outcome in outcomes]
        assert [RecordMalformed, BehindFailed] == [type(outcomes[n].cause) for n in (1, 2)]
        assert [b"1", b"2"] == [one.value for one in await read(join(broker, "g", topic), 2)]

    async def test_a_broker_that_is_down_is_no_reason_to_park(self, kind, broker, topic):
        """What cannot be published now may be later: the cause says nothing against the record."""
        await kind.kill()
        (outcome,) = await broker.publish(topic, [record("k", 1)])
        await kind.revive()

        assert isinstance(outcome, NotAcked)
        assert not isinstance(outcome.cause, Unpublishable)

    async def test_a_record_that_is_too_large_takes_only_its_own_key_with_it(self, broker, join, topic):
        """The later records of its key would overtake it; the others are published."""
        poison = Record(b"bad", bytes(RECORD_BYTES_MAX))

        outcomes = await broker.publish(topic, [record("good", 1), poison, record("bad", 2), record("good", 2)])

        assert [Acked, NotAcked, NotAcked, Acked] == [type(outcome) for outcome in outcomes]
        assert [RecordTooLarge, BehindFailed] == [type(outcomes[n].cause) for n in (1, 2)]
        assert isinstance(outcomes[1].cause, Unpublishable), "no repeat can help: its key may be parked"
        assert [b"1", b"2"] == [r.value for r in await read(join(broker, "g", topic), 2)]


class TestGroups:
    async def test_a_group_goes_on_where_it_committed(self, connect, join, topic):
        """Positions outlive the consumer and the process."""
        first = await connect()
        await first.publish(topic, [record("k", n) for n in range(10)])
        consumer = join(first, "g", topic)
        delivered = await consumer.poll(100, 5)
        await consumer.commit({delivered[4].partition: delivered[4].offset + 1})
        await consumer.close()

        found = await read(join(await connect(), "g", topic), 5)

        assert [5, 6, 7, 8, 9] == [int(r.value) for r in found]

    async def test_what_was_not_committed_is_delivered_again(self, kind, broker, join, topic):
        """A consumer that dies between its effect and the commit: the next member gets the same records."""
        await broker.publish(topic, [record("k", n) for n in range(3)])
        dying = join(broker, "g", topic)
        assert 3 == len(await read(dying, 3))

        await kind.cut_off(dying)

        assert [0, 1, 2] == [int(r.value) for r in await read(join(broker, "g", topic), 3)]

    async def test_a_rewind_brings_the_records_again(self, broker, join, topic):
        """The consumer's handler failed: the same member reads from where it failed."""
        await broker.publish(topic, [record("k", n) for n in range(3)])
        consumer = join(broker, "g", topic)
        delivered = await consumer.poll(100, 5)

        consumer.rewind({delivered[1].partition: delivered[1].offset})

        assert [1, 2] == [int(r.value) for r in await read(consumer, 2)]

    async def test_every_group_gets_every_record(self, broker, join, topic):
        """A new group begins with the oldest record that is kept."""
        await broker.publish(topic, [record("k", 0)])
        assert 1 == len(await read(join(broker, "one", topic), 1))
        await broker.publish(topic, [record("k", 1)])

        assert [0, 1] == [int(r.value) for r in await read(join(broker, "two", topic), 2)]

    async def test_a_skipped_partition_waits_and_the_others_flow(self, broker, join, topic):
        """What a poison event stops is its own partition."""
        outcomes = await broker.publish(topic, [record(f"k{n}", n) for n in range(40)])
        stopped = outcomes[0].partition
        consumer = join(broker, "g", topic)

        found = await consumer.poll(400, 5, skip={stopped})

        assert len(found) == sum(outcome.partition != stopped for outcome in outcomes)
        assert {stopped} == {d.partition for d in await consumer.poll(400, 5)}

    async def test_two_members_divide_the_partitions(self, broker, join, topic):
        """Each record goes to one of them, and both get some."""
        one, two = join(broker, "g", topic), join(broker, "g", topic)
        async with asyncio.timeout(15):
            while not (one._positions and two._positions and len(one._positions) + len(two._positions) == 8):
                await asyncio.gather(one.poll(1, 0.2), two.poll(1, 0.2))
        await broker.publish(topic, [record(f"k{n}", n) for n in range(200)])

        found_by_one = await read(one, 1)
        found_by_two = await read(two, 200 - len(found_by_one))

        assert found_by_one and found_by_two
        assert 200 == len({r.key for r in found_by_one + found_by_two})

    async def test_the_partitions_of_a_dead_member_are_taken_over(self, kind, broker, join, topic):
        """Within seconds, and nothing of it is lost."""
        one, two = join(broker, "g", topic), join(broker, "g", topic)
        await one.poll(1, 0)
        await broker.publish(topic, [record(f"k{n}", n) for n in range(50)])
        assert [] == await two.poll(500, 0)

        await kind.cut_off(one)

        assert 50 == len({r.key for r in await read(two, 50, within_s=5)})

    async def test_who_lost_its_partitions_cannot_commit(self, kind, broker, join, topic):
        """A member that was cut off is told so; the group's position stays."""
        await broker.publish(topic, [record("k", 0)])
        old = join(broker, "g", topic)
        (delivered,) = await old.poll(10, 5)
        await kind.cut_off(old)
        new = join(broker, "g", topic)
        await read(new, 1)

        with pytest.raises(PartitionsLost):
            await old.commit({delivered.partition: delivered.offset + 1})

        await new.close()
        assert 1 == len(await read(join(broker, "g", topic), 1))

    async def test_what_a_group_has_still_to_read_can_be_looked_at(self, broker, join, topic):
        """Without moving its position; by group, partition and offset, page after page, with ages."""
        await broker.publish(topic, [record(f"k-{n}", n) for n in range(9)])
        for group in ("a", "b"):
            await join(broker, group, topic).poll(1, 0)
        await read(join(broker, "c", topic), 9)
        assert 27 == len(await broker.unread(topic, 0, ("", 0, -1), 100)), "nobody has committed anything"

        after, seen = ("", 0, -1), []
        while page := await broker.unread(topic, 0, after, 4):
            assert len(page) <= 4
            assert all(one.age_ms >= 0 for one in page)
            seen += [(one.group, one.delivered.partition, one.delivered.offset) for one in page]
            after = seen[-1]
        assert sorted(seen) == seen
        assert 27 == len(set(seen))
        assert [] == await broker.unread(topic, 3_600_000, ("", 0, -1), 10)

    async def test_a_position_never_goes_back_by_a_commit(self, broker, join, topic):
        """A late commit of an older batch changes nothing."""
        await broker.publish(topic, [record("k", n) for n in range(3)])
        consumer = join(broker, "g", topic)
        delivered = await consumer.poll(10, 5)
        await consumer.commit({delivered[2].partition: delivered[2].offset + 1})
        await consumer.commit({delivered[0].partition: delivered[0].offset + 1})
        await consumer.close()

        assert [] == await join(broker, "g", topic).poll(10, 0.2)

    async def test_a_group_may_want_some_types_only(self, broker, join, topic):
        """What it wants comes in order, whatever lies between; what has no plain type is for everybody to look at."""
        types = ["wanted", "other", "other", "", "no plain type", "wanted", "other"]
        await broker.publish(topic, [typed(type_, n) for n, type_ in enumerate(types)])
        consumer = join(broker, "g", topic, {"wanted", "never"})

        found = [int(r.value) for r in await read(consumer, 4)]

        assert [0, 3, 4, 5] == [n for n in found if types[n] != "other"]
        await broker.publish(topic, [typed("other", 7), typed("wanted", 8)])
        assert 8 in [int(r.value) for r in await read(consumer, 1)]

    async def test_what_a_group_does_not_want_is_not_left_unread(self, broker, join, topic):
        """It would be kept for ever, and be taken for something that is late; nor does it wait for what is wanted."""
        await broker.publish(topic, [typed("other", n) for n in range(20)])
        consumer = join(broker, "g", topic, {"wanted"})

        async with asyncio.timeout(10):
            await consumer.poll(1, 0)
            while await broker.unread(topic, 0, ("", 0, -1), 100):
                if delivered := await consumer.poll(7, 0):
                    await consumer.commit({one.partition: one.offset + 1 for one in delivered})

        assert [] == await join(broker, "g", topic).poll(100, 0.2)

    async def test_what_was_not_committed_comes_again_although_more_was_passed_by(self, kind, broker, join, topic):
        """Passing by never moves a group behind a record that it has not done with."""
        await broker.publish(topic, [typed("wanted", 0), typed("other", 1)])
        dying = join(broker, "g", topic, {"wanted"})
        assert [0] == [int(r.value) for r in await read(dying, 1)]
        dying.rewind(dict.fromkeys(dying._positions, 0))
        assert [0] == [int(r.value) for r in await read(dying, 1)]

        await kind.cut_off(dying)

        assert [0] == [int(r.value) for r in await read(join(broker, "g", topic, {"wanted"}), 1)]

    async def test_only_what_is_wanted_wakes(self, broker, join, topic, monkeypatch):
        """A record for others does not; the one for us does, long before the consumer would look by itself."""
        monkeypatch.setattr(embedded_broker, "LOOK_S", 30)
        consumer = join(broker, "g", topic, {"wanted"})
        await consumer.poll(10, 0)
        waiting = asyncio.create_task(consumer.poll(10, 30))
        await broker.publish(topic, [typed("other", 1)])
        await broker.publish(topic, [typed("wanted", 2), typed("other", 3)])

        async with asyncio.timeout(5):
            assert b"2" in [d.record.value for d in await waiting]

    async def test_a_waiting_consumer_is_woken(self, broker, join, topic, monkeypatch):
        """A record reaches a consumer that waits long before its wait is over, and before it would look by itself."""
        monkeypatch.setattr(embedded_broker, "LOOK_S", 30)
        consumer = join(broker, "g", topic)
        await consumer.poll(10, 0)
        waiting = asyncio.create_task(consumer.poll(10, 30))
        await broker.publish(topic, [record("k", 1)])

        async with asyncio.timeout(5):
            assert 1 == len(await waiting)


class TestOutage:
    async def test_what_was_acknowledged_survives_a_kill(self, kind, broker, join, topic):
        """The broker dies in the middle of publishing: whatever was acknowledged is found, in order."""
        acked: list[int] = []
        failed = asyncio.Event()

        async def publish() -> None:
            for n in range(100_000):
                (outcome,) = await broker.publish(topic, [record("k", n)])
                if isinstance(outcome, NotAcked):
                    break
                acked.append(n)
            failed.set()

        task = asyncio.create_task(publish())
        async with asyncio.timeout(20):
            while len(acked) < 50:
                await asyncio.sleep(0.01)
            await kind.kill()
            await failed.wait()
            await task
        await kind.revive()

        found = [int(r.value) for r in await read(join(broker, "g", topic), len(acked), within_s=20)]
        # The one that was not acknowledged may be there all the same.
        assert acked == found[: len(acked)] and len(found) <= len(acked) + 1

    async def test_a_broker_that_is_down_says_so_and_comes_back(self, kind, broker, join, topic):
        """Publishing does not raise; the same objects work again afterwards, consumers too."""
        consumer = join(broker, "g", topic)
        await broker.publish(topic, [record("k", 0)])
        assert 1 == len(await read(consumer, 1))
        await kind.kill()
        (outcome,) = await broker.publish(topic, [record("k", 1)])
        assert isinstance(outcome, NotAcked)
        with pytest.raises(Exception, match="database"):
            await consumer.poll(1, 0)
        await kind.revive()

        (outcome,) = await broker.publish(topic, [record("k", 2)])

        assert isinstance(outcome, Acked)
        assert 2 in [int(r.value) for r in await read(consumer, 2)]
