"""The inbox on a real PostgreSQL: an event's effect happens once, whoever brings it and how often."""

import asyncio
import os

import pytest

from invochain.chassis.postgres import Sql
from invochain.durable import inbox
from invochain.durable.inbox import Received

SELLER, BUYER = b"\x01" * 16, b"\x02" * 16

ROWS = Sql("test_inbox_rows", "SELECT count(*) FROM inbox")


def received(event_id: bytes = b"", merchant_id: bytes = SELLER) -> Received:
    return Received(event_id or os.urandom(16), "invochain.invoice.accepted.v1", merchant_id, os.urandom(16), 1, b"")


class TestAdmit:
    async def test_a_repeat_is_not_admitted(self, pool):
        """The second time, the events of the first are left out and the new one keeps its place."""
        postgres = await pool()
        first, second, third = received(), received(), received()

        async with postgres.transaction() as tx:
            assert [first, second] == await inbox.admit(tx, "sell", [first, second])
        async with postgres.transaction() as tx:
            assert [third] == await inbox.admit(tx, "sell", [second, third, first])

    async def test_the_same_event_twice_in_one_batch_is_admitted_once(self, pool):
        """A broker may deliver a record twice in a row."""
        postgres, event = await pool(), received()

        async with postgres.transaction() as tx:
            assert [event] == await inbox.admit(tx, "sell", [event, event])

    async def test_consumers_do_not_hide_events_from_each_other(self, pool):
        """The seller's sale and the buyer's receipt are two effects of one event, under their own owners."""
        postgres, event = await pool(), received()

        async with postgres.transaction() as tx:
            assert [event] == await inbox.admit(tx, "sell", [event])
            assert [event] == await inbox.admit(tx, "receive", [event], [BUYER])
            assert [] == await inbox.admit(tx, "receive", [event], [BUYER])

    async def test_an_effect_that_failed_may_be_tried_again(self, pool):
        """The row goes with its transaction."""
        postgres, event = await pool(), received()

        with pytest.raises(RuntimeError):
            async with postgres.transaction() as tx:
                await inbox.admit(tx, "sell", [event])
                raise RuntimeError
        async with postgres.transaction() as tx:
            assert [event] == await inbox.admit(tx, "sell", [event])

    async def test_two_at_once_admit_each_event_once_and_do_not_deadlock(self, pool):
        """Batches that overlap in opposite orders: the rows are locked in one order, and every event has one winner."""
        postgres = await pool()
        events = [received() for _ in range(2_000)]

        async def one(batch: list[Received]) -> int:
            async with postgres.transaction(wait_s=5) as tx:
                return len(await inbox.admit(tx, "sell", batch))

        admitted = await asyncio.gather(*(one(events if n % 2 else events[::-1]) for n in range(8)))

        assert 2_000 == sum(admitted)
        async with postgres.reading() as tx:
            assert 2_000 == await tx.fetchval(ROWS)
