"""What is deleted, what stays, and that a piece is bounded."""

import os

from invochain.chassis.broker import Record
from invochain.chassis.postgres import Sql
from invochain.durable import dead_letters
from invochain.durable.dead_letters import Failed
from invochain.workers import purger
from invochain.workers.purger import BrokerPurger, RoomPurger

WRITE_DECISIONS = Sql(
    "test_write_decisions",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, update_time)
SELECT $1, gen_random_uuid(), 'x', $2, 1, now() - make_interval(hours => $3) FROM generate_series(1, $4)
""",
)
WRITE_INBOX = Sql(
    "test_write_inbox",
    """
INSERT INTO inbox (merchant_id, consumer, event_id, create_time)
VALUES ($1, 'c', gen_random_uuid(), now() - make_interval(days => $2))
""",
)
AGE_LETTER = Sql(
    "test_age_letter",
    """
UPDATE dead_letter_action SET create_time = create_time - make_interval(days => $3)
WHERE merchant_id = $1 AND dead_letter_id = $2
""",
)
LETTERS = Sql(
    "test_letters_left",
    """
SELECT letter.subject, count(*) AS actions
FROM dead_letter AS letter
FULL JOIN dead_letter_action AS action USING (merchant_id, dead_letter_id)
GROUP BY 1
""",
)
COUNT = Sql("test_count_kept", "SELECT (SELECT count(*) FROM decision), (SELECT count(*) FROM inbox)")
AGE = Sql("test_age_records", "UPDATE log_record SET append_time = now() - interval '8 days' WHERE topic = $1")


class TestRoomPurger:
    async def test_decisions_go_after_eight_days_open_ones_too_and_not_before(self, pool, monkeypatch):
        """In pieces: three calls for five rows by two."""
        monkeypatch.setattr(purger, "ROWS_MAX", 2)
        postgres, merchant = await pool(), os.urandom(16)
        async with postgres.transaction() as tx:
            await tx.execute(WRITE_DECISIONS, merchant, "SUCCEEDED", 8 * 24 + 1, 3)
            await tx.execute(WRITE_DECISIONS, merchant, "OPEN", 8 * 24 + 1, 2)
            await tx.execute(WRITE_DECISIONS, merchant, "SUCCEEDED", 8 * 24 - 1, 4)
        one = RoomPurger("merchant", postgres)

        assert [2, 2, 1, 0] == [await one.run_once() for _ in range(4)]

        async with postgres.reading() as tx:
            assert (4, 0) == tuple(await tx.fetchrow(COUNT))

    async def test_inbox_rows_outlive_every_repeat_of_the_broker(self, pool):
        """They go after thirty days."""
        postgres = await pool()
        async with postgres.transaction() as tx:
            for days in (31, 29):
                await tx.execute(WRITE_INBOX, os.urandom(16), days)

        assert 1 == await RoomPurger("merchant", postgres).run_once()

        async with postgres.reading() as tx:
            assert (0, 1) == tuple(await tx.fetchrow(COUNT))

    async def test_letters_that_are_done_go_with_their_actions_and_no_others(self, pool):
        """Thirty days after they were closed; one that waits, was discarded, or was opened again since, stays."""
        postgres, merchant = await pool(), os.urandom(16)
        ages = {"done": 31, "late": 29, "again": 31, "open": 31, "discarded": 31}
        async with postgres.transaction() as tx:
            await dead_letters.open_letters(tx, [Failed("RELEASE", merchant, name, name, "X") for name in ages])
        async with postgres.transaction() as tx:
            letters = {one.subject: one for one in await dead_letters.with_state(tx, "OPEN", 10)}
            await dead_letters.close(tx, [letters[name] for name in ("done", "late", "again")], "replayed")
            await dead_letters.open_letters(tx, [Failed("RELEASE", merchant, "again", "again", "X")])
            await dead_letters.propose_discard(tx, letters["discarded"], os.urandom(16), "by hand")
            proposed = await dead_letters.lock(tx, letters["discarded"].dead_letter_id)
            await dead_letters.approve_discard(tx, proposed, os.urandom(16))
            for name, days in ages.items():
                await tx.execute(AGE_LETTER, merchant, letters[name].dead_letter_id, days)

        one = RoomPurger("merchant", postgres)
        assert [1, 0] == [await one.run_once() for _ in range(2)]

        async with postgres.reading() as tx:
            left = {row["subject"]: row["actions"] for row in await tx.fetch(LETTERS)}
        assert {"late": 2, "again": 3, "open": 1, "discarded": 3} == left

    async def test_a_room_may_delete_more(self, pool):
        """Its hook gets a transaction and a bound."""
        asked = []

        async def hook(tx, rows_max: int) -> int:
            asked.append(rows_max)
            return 7

        assert 7 == await RoomPurger("merchant", await pool(), hook).run_once()
        assert [1_000] == asked


class TestBrokerPurger:
    async def test_old_records_go_when_every_group_has_read_them(self, source, pool):
        """Age alone is not enough: what a group has not read is kept for it."""
        broker, topic = source.broker, "old"
        await broker.publish(topic, [Record(b"k", b"%d" % n) for n in range(10)])
        fast, slow = broker.consumer("fast", topic), broker.consumer("slow", topic)
        for consumer, read_to in ((fast, 10), (slow, 4)):
            (partition,) = {d.partition for d in await consumer.poll(100, 5)}
            await consumer.commit({partition: read_to})
            await consumer.close()
        one = BrokerPurger(broker)
        assert 0 == await one.run_once()
        async with (await pool(dsn=source.broker_dsn)).transaction() as tx:
            await tx.execute(AGE, topic)

        assert 4 == await one.run_once()
        assert 0 == await one.run_once()

        again = broker.consumer("slow", topic)
        assert [4, 5, 6, 7, 8, 9] == [int(d.record.value) for d in await again.poll(100, 5)]
        await again.close()
        await broker.forget_group("slow")
        assert 6 == await one.run_once()
