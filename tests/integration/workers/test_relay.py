"""The relay between two real databases: in order per aggregate, at least once, whatever dies."""

import asyncio
import random
import sys
from collections import defaultdict

from structlog.testing import capture_logs

from invochain import core
from invochain.chassis.broker import RECORD_BYTES_MAX, NotAcked
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.migrate import migrate
from invochain.durable.outbox import PARTITIONS
from invochain.workers import relay as relay_module
from invochain.workers.backoff import Backoff
from invochain.workers.relay import Relay
from tests.integration.workers.conftest import ISSUED, TOPIC, Source, until
from tests.kit.servers import PostgresServer


def relay(source: Source, broker: EmbeddedBroker | None = None) -> Relay:
    return Relay("merchant", source.session(), broker or source.broker, source.parking)


def in_another_partition(aggregate: bytes) -> bytes:
    found = (new_id() for _ in range(1_000))
    return next(i for i in found if core.partition(i, PARTITIONS) != core.partition(aggregate, PARTITIONS))


def in_the_same_partition(aggregate: bytes) -> bytes:
    found = (new_id() for _ in range(10_000))
    return next(i for i in found if core.partition(i, PARTITIONS) == core.partition(aggregate, PARTITIONS))


def assert_complete_and_in_order(source: Source, published: list[tuple[str, int]]) -> None:
    """Every version of every aggregate is there; leaving repeats out, in ascending order without a gap."""
    seen: dict[str, list[int]] = defaultdict(list)
    for aggregate, version in published:
        if version not in seen[aggregate]:
            seen[aggregate].append(version)
    assert {to_text(a): list(range(1, last + 1)) for a, last in source.versions.items()} == dict(seen)


async def test_an_event_that_waits_too_long_raises_the_alarm_once_and_ends_it_when_it_is_gone(source, monkeypatch):
    """The bound is lowered to nothing; the age is looked at once a second, by the relay's own clock."""
    monkeypatch.setattr(relay_module, "LATE_S", 0.0)
    monkeypatch.setattr(relay_module, "AGE_EVERY_S", 0.0)
    await source.tell(new_id())
    one = relay(source)

    with capture_logs() as lines:
        for _ in range(3):
            await one.run_once()

    told = [line["event"] for line in lines if line["event"].startswith("outbox_")]
    assert ["outbox_late", "outbox_in_time"] == told


class TestRelay:
    async def test_what_was_written_is_published_and_forgotten(self, source):
        """The record is a CloudEvent keyed by its aggregate; the outbox is empty afterwards."""
        aggregate = new_id()
        await source.tell(aggregate, payload=b"\x0a\x01")

        assert 1 == await relay(source).run_once()

        assert 0 == await source.waiting()
        reader = source.broker.consumer("g", TOPIC)
        (delivered,) = await reader.poll(10, 5)
        await reader.close()
        headers = dict(delivered.record.headers)
        assert (to_text(aggregate).encode(), b"\x0a\x01") == (delivered.record.key, delivered.record.value)
        assert to_text(core.event_id(aggregate, 1, "invochain.invoice.issued.v1")) == headers["ce_id"]
        assert ("1", f"invoices/{to_text(aggregate)}") == (headers["ce_sequence"], headers["ce_subject"])
        assert f"/merchants/{to_text(bytes([7] * 16))}" == headers["ce_source"]

    async def test_order_per_aggregate_holds_with_concurrent_writers(self, source):
        """Eight writers at twenty aggregates while two relays run: nothing lost, nothing out of order."""
        aggregates = [new_id() for _ in range(20)]
        relays = [relay(source), relay(source)]
        done = asyncio.Event()

        async def write() -> None:
            for _ in range(40):
                await source.tell(random.choice(aggregates), random.randint(1, 3))

        async def publish(one: Relay) -> None:
            while not done.is_set() or await source.waiting():
                await one.run_once()

        publishing = asyncio.gather(*(publish(one) for one in relays))
        await asyncio.gather(*(write() for _ in range(8)))
        done.set()
        async with asyncio.timeout(30):
            await publishing

        assert_complete_and_in_order(source, await source.published())

    async def test_a_backlog_is_drained_in_rounds(self, source):
        """Two thousand events of one aggregate and of many: rounds are bounded, and all of it goes."""
        busy, others = new_id(), [new_id() for _ in range(50)]
        await source.tell(busy, 1_000)
        for other in others:
            await source.tell(other, 20)
        one = relay(source)

        async with asyncio.timeout(30):
            while await source.waiting():
                assert await one.run_once() <= relay_module.ROWS_MAX

        assert_complete_and_in_order(source, await source.published())

    async def test_a_poison_event_parks_its_aggregate_and_all_others_flow(self, source):
        """Too large for any broker: it and what is behind it of its aggregate are parked with one letter; the rest of
        its partition flows, then and later."""
        poisoned = new_id()
        beside, free = in_the_same_partition(poisoned), in_another_partition(poisoned)
        await source.tell(poisoned, payload=bytes(RECORD_BYTES_MAX + 1))
        await source.tell(poisoned)
        await source.tell(beside)
        await source.tell(free)
        one = relay(source)
        await until(lambda: _published(one, source, left=0))
        await source.tell(poisoned)
        await source.tell(beside)
        await until(lambda: _published(one, source, left=0))

        assert {(to_text(a), v) for a, v in ((beside, 1), (beside, 2), (free, 1))} == set(await source.published())
        (letter,) = await source.sql("SELECT * FROM dead_letter")
        assert ("PUBLISH", "OPEN", "RecordTooLarge", 1) == tuple(
            letter[name] for name in ("kind", "state", "reason", "attempts")
        )
        assert (to_text(poisoned), to_text(core.event_id(poisoned, 1, ISSUED))) == (
            letter["aggregate"],
            letter["subject"],
        )
        parked = await source.sql("SELECT sealed FROM parked_event ORDER BY seq")
        assert 3 == len(parked)

    async def test_a_row_that_is_no_event_parks_its_aggregate(self, source):
        """A type without a topic cannot be put into a record: it is parked, and the round does not fail."""
        aggregate, free = new_id(), new_id()
        await source.tell(aggregate)
        await source.sql("UPDATE outbox SET type = 'invochain.x.y.v1'")
        await source.tell(aggregate)
        await source.tell(free)
        one = relay(source)

        await until(lambda: _published(one, source, left=0))

        assert [(to_text(free), 1)] == await source.published()
        (letter,) = await source.sql("SELECT reason, state FROM dead_letter")
        assert ("RecordMalformed", "OPEN") == tuple(letter)

    async def test_a_row_that_the_broker_refuses_ten_times_is_parked_only_while_others_get_through(self, source):
        """A refusal that may pass is tried again; it is the row's own only if the broker takes others meanwhile."""
        refused = new_id()
        # In its own partition nothing gets through behind it.
        free = in_another_partition(refused)

        class Picky:
            """The real broker, which refuses one key."""

            async def publish(self, topic, records):
                bad = [n for n, record in enumerate(records) if record.key == to_text(refused).encode()]
                told = iter(await source.broker.publish(topic, [r for n, r in enumerate(records) if n not in bad]))
                return [NotAcked(OSError("no")) if n in bad else next(told) for n in range(len(records))]

        one = relay(source, Picky())
        one._backoff = Backoff(0.01)
        await source.tell(refused, 2)
        for _ in range(40):
            await one.run_once()
            await asyncio.sleep(0.005)
        assert 2 == await source.waiting()

        await source.tell(free)
        await until(lambda: _published(one, source, left=0))

        assert [(to_text(free), 1)] == await source.published()
        (letter,) = await source.sql("SELECT reason, attempts >= 10 AS enough FROM dead_letter")
        assert ("OSError", True) == tuple(letter)

    async def test_a_silent_room_is_looked_at_more_seldom(self, source):
        """Until something comes: then as often as any."""
        one = relay(source)
        assert 0 == await one.run_once()
        assert relay_module.SILENT_POLL_S == one.interval_s

        await source.tell(new_id())
        await one.run_once()

        assert relay_module.POLL_S == one.interval_s

    async def test_after_a_large_round_the_next_waits_for_more(self, source):
        """No longer than in a silent room; and what follows a small round is looked for as soon as ever."""
        one = relay(source)
        for _ in range(relay_module.BUSY_ROWS):
            await source.tell(new_id())
        assert relay_module.BUSY_ROWS == await one.run_once()
        assert relay_module.BUSY_POLL_S == one.interval_s <= relay_module.SILENT_POLL_S

        await source.tell(new_id())
        await one.run_once()

        assert relay_module.POLL_S == one.interval_s

    async def test_a_dead_broker_delays_events_and_loses_none(self, source):
        """Killed and restarted: publication goes on by itself within the longest pause, in order."""
        async with PostgresServer() as server:
            dsn = await server.make_database("broker")
            await migrate(dsn, "broker")
            usual, source.broker = source.broker, await EmbeddedBroker.connect(dsn)
            aggregate = new_id()
            one = relay(source)
            await source.tell(aggregate, 3)
            assert 3 == await one.run_once()
            await server.kill9()
            await source.tell(aggregate, 3)
            assert 0 == await one.run_once()
            assert 3 == await source.waiting()
            await server.start()

            await until(lambda: _published(one, source, left=0))

            assert_complete_and_in_order(source, await source.published())
            await source.broker.close()
            source.broker = usual


async def _published(one: Relay, source: Source, left: int) -> bool:
    await one.run_once()
    return await source.waiting() == left


class TestOwners:
    async def test_two_relays_divide_the_partitions(self, source):
        """Each partition has one owner, and a newcomer gets its half."""
        first, second = relay(source), relay(source)
        await first.run_once()
        assert list(range(PARTITIONS)) == first._share.mine

        async def divided() -> bool:
            await first.run_once()
            await second.run_once()
            return 16 == len(first._share.mine) == len(second._share.mine)

        await until(divided)
        assert set(range(PARTITIONS)) == {*first._share.mine, *second._share.mine}

    async def test_the_partitions_of_a_dead_relay_are_taken_over(self, source):
        """Its session ends, its locks are free, the other one publishes all."""
        first, second = relay(source), relay(source)
        await first.run_once()
        await second.run_once()
        assert [] == second._share.mine
        await source.tell(new_id(), 5)

        first._session._connection.terminate()

        await until(lambda: _published(second, source, left=0), within_s=5)
        assert_complete_and_in_order(source, await source.published())


class TestKill:
    async def test_kill_minus_nine_in_the_middle_loses_nothing_and_keeps_order(self, source):
        """Relay processes are killed again and again while events are written; the last one finishes the work."""
        aggregates = [new_id() for _ in range(10)]
        processes = [await _start(source)]
        finished = asyncio.Event()
        kills = 0

        async def write() -> None:
            while not finished.is_set():
                await source.tell(random.choice(aggregates), 2)
                await asyncio.sleep(0.001)

        async def told() -> int:
            return sum(source.versions.values())

        writers = asyncio.gather(*(write() for _ in range(4)))
        try:
            # Four starts of a process: 80 s on a machine with ten times its load.
            async with asyncio.timeout(110):
                while kills < 3:
                    before, left = await told(), len(await source.published())
                    # It is publishing: kill it in the middle of that.
                    while len(await source.published()) < left + 50 or await told() < before + 100:
                        assert processes[-1].returncode is None, "the relay process ended by itself"
                        await asyncio.sleep(0.02)
                    processes[-1].kill()
                    await processes[-1].wait()
                    kills += 1
                    processes.append(await _start(source))
                finished.set()
                await writers
                while await source.waiting():
                    await asyncio.sleep(0.02)
                processes[-1].terminate()
                assert 0 == await processes[-1].wait()
        finally:
            finished.set()
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

        assert_complete_and_in_order(source, await source.published())


async def _start(source: Source) -> asyncio.subprocess.Process:
    command = "from invochain.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "run", "workers", "--only", "relay"),
        env=source.environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
