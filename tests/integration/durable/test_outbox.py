"""The outbox on a real PostgreSQL: what is appended, in which order it is found, what is forgotten."""

import asyncio

import pytest

from invochain import core
from invochain.chassis.ids import new_id
from invochain.chassis.postgres import Sql
from invochain.chassis.trace import Trace
from invochain.durable import outbox
from invochain.durable.outbox import PARTITIONS, Event

ACCEPTED = "invochain.invoice.accepted.v1"
ISSUED = "invochain.invoice.issued.v1"
ALL = [list(range(PARTITIONS)), [100] * PARTITIONS]

READ = Sql("test_outbox_read", "SELECT * FROM outbox ORDER BY seq")
LOCK = Sql("test_outbox_lock", "SELECT pg_advisory_xact_lock($1)")


def event(aggregate_id: bytes, version: int, type_: str = ISSUED) -> Event:
    return Event(b"\x07" * 16, aggregate_id, version, type_, b"payload %d" % version)


class TestAppend:
    async def test_a_row_carries_what_the_relay_needs(self, pool):
        """Id, partition and trace are derived, the rest is stored as given."""
        postgres, trace, aggregate = await pool(), Trace.start(), new_id()

        async with postgres.transaction() as tx:
            await outbox.append(tx, [event(aggregate, 3, ACCEPTED)], trace)

        async with postgres.reading() as tx:
            (row,) = await tx.fetch(READ)
        assert core.event_id(aggregate, 3, ACCEPTED) == row["event_id"]
        assert core.partition(aggregate, PARTITIONS) == row["partition"]
        assert (b"\x07" * 16, aggregate, 3) == (row["merchant_id"], row["aggregate_id"], row["version"])
        assert (ACCEPTED, b"payload 3", trace.traceparent) == (row["type"], row["payload"], row["traceparent"])

    async def test_a_batch_is_stored_in_its_order(self, pool):
        """seq follows the order of the columns, so several events of one aggregate keep their versions' order."""
        postgres, aggregates = await pool(), [new_id() for _ in range(50)]
        events = [event(aggregate, version) for version in (1, 2, 3) for aggregate in aggregates]

        async with postgres.transaction() as tx:
            await outbox.append(tx, events, None)

        async with postgres.reading() as tx:
            rows = await tx.fetch(READ)
        assert [(e.aggregate_id, e.version) for e in events] == [(r["aggregate_id"], r["version"]) for r in rows]

    async def test_an_unknown_type_is_refused_and_nothing_is_stored(self, pool):
        """A type without a topic would never leave the outbox; the transaction fails instead."""
        postgres = await pool()

        with pytest.raises(ValueError, match=r"'invochain\.pigeon\.sent\.v1' is no event type"):
            async with postgres.transaction() as tx:
                await outbox.append(tx, [event(new_id(), 1), event(new_id(), 1, "invochain.pigeon.sent.v1")], None)

        async with postgres.reading() as tx:
            assert [] == await tx.fetch(READ)

    async def test_nothing_is_told_of_a_transaction_that_failed(self, pool):
        """The event and its cause share one fate."""
        postgres = await pool()

        with pytest.raises(RuntimeError):
            async with postgres.transaction() as tx:
                await outbox.append(tx, [event(new_id(), 1)], None)
                raise RuntimeError

        async with postgres.reading() as tx:
            assert [] == await tx.fetch(READ)


class TestUnpublished:
    async def test_each_partition_is_read_in_order_up_to_its_limit(self, pool):
        """A busy partition does not hide the others."""
        postgres, busy = await pool(), new_id()
        quiet = next(i for i in iter(new_id, None) if core.partition(i, PARTITIONS) != core.partition(busy, PARTITIONS))

        async with postgres.transaction() as tx:
            await outbox.append(tx, [*(event(busy, v) for v in range(1, 9)), event(quiet, 1)], None)
            rows = await outbox.unpublished(tx, list(range(PARTITIONS)), [5] * PARTITIONS)

        assert [1, 2, 3, 4, 5] == [r["version"] for r in rows if r["aggregate_id"] == busy]
        assert [1] == [r["version"] for r in rows if r["aggregate_id"] == quiet]

    async def test_what_commits_late_with_an_early_seq_is_found(self, pool):
        """A transaction that took its seq first and commits last loses nothing: there is no position to fall behind."""
        postgres, early, late = await pool(), new_id(), new_id()
        written, finish = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            async with postgres.transaction() as tx:
                await outbox.append(tx, [event(early, 1)], None)
                written.set()
                await finish.wait()

        task = asyncio.create_task(slow())
        await written.wait()
        async with postgres.transaction() as tx:
            await outbox.append(tx, [event(late, 1)], None)
        async with postgres.reading() as tx:
            first = await outbox.unpublished(tx, *ALL)
            finish.set()
            await task
            await outbox.forget(tx, first)
            second = await outbox.unpublished(tx, *ALL)

        assert [late] == [r["aggregate_id"] for r in first]
        assert [early] == [r["aggregate_id"] for r in second]
        assert second[0]["seq"] < first[0]["seq"]

    async def test_the_age_of_the_oldest_row_is_known(self, pool):
        """Zero for an empty outbox; grows while a row waits."""
        postgres = await pool()

        async with postgres.reading() as tx:
            assert 0 == await outbox.oldest_age_s(tx)
        async with postgres.transaction() as tx:
            await outbox.append(tx, [event(new_id(), 1)], None)
        async with postgres.reading() as tx:
            assert 0 < await outbox.oldest_age_s(tx) < 60


class TestOrder:
    async def test_concurrent_writers_of_one_aggregate_leave_seq_in_version_order(self, pool):
        """Under the aggregate's lock, seq order is version order is commit order, whoever wins the races."""
        postgres, aggregate, version = await pool(), new_id(), 0

        async def write() -> None:
            nonlocal version
            async with postgres.transaction(wait_s=10) as tx:
                await tx.fetch(LOCK, 1)
                version += 1
                await outbox.append(tx, [event(aggregate, version)], None)

        await asyncio.gather(*(write() for _ in range(60)))

        async with postgres.reading() as tx:
            rows = await tx.fetch(READ)
        assert list(range(1, 61)) == [row["version"] for row in rows]
