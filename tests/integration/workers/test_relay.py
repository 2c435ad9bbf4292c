"""The relay between two real databases: in order per aggregate, at least once, whatever dies."""

import asyncio
import os
import random
import sys
from collections import defaultdict

from invochain import core
from invochain.chassis.broker import RECORD_BYTES_MAX
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.migrate import migrate
from invochain.durable.outbox import PARTITIONS
from invochain.workers.relay import Relay
from tests.integration.workers.conftest import TOPIC, Source, until
from tests.kit.servers import PostgresServer


def relay(source: Source, broker: EmbeddedBroker | None = None) -> Relay:
    return Relay("merchant", source.session(), broker or source.broker)


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
                assert await one.run_once() <= 512

        assert_complete_and_in_order(source, await source.published())

    async def test_a_poison_event_stops_its_partition_and_no_other(self, source):
        """Too large for any broker: it and what is behind it stay; the rest flows, then and later."""
        poisoned = new_id()
        behind, free = in_the_same_partition(poisoned), in_another_partition(poisoned)
        await source.tell(poisoned, payload=bytes(RECORD_BYTES_MAX + 1))
        await source.tell(behind)
        await source.tell(free)
        one = relay(source)

        assert 1 == await one.run_once()
        await source.tell(free)
        await until(lambda: _published(one, source, left=2))

        # The one behind it was in the same call and may be there once; never more often than it was tried.
        assert {(to_text(free), 1), (to_text(free), 2)} <= set(await source.published())
        assert 2 == await source.waiting()

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
            async with asyncio.timeout(90):
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
    environment = {
        **os.environ,
        "INVOCHAIN_MERCHANT_DATABASE_URL": source.dsn,
        "INVOCHAIN_BROKER_DATABASE_URL": source.broker_dsn,
    }
    command = "from invochain.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "run", "workers", "--only", "relay"),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
