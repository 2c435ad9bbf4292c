"""Replays of parked events: in order, once in effect, whoever dies; and what operators may do with a letter."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from invochain.chassis.broker import RECORD_BYTES_MAX
from invochain.chassis.ids import new_id, to_text
from invochain.durable import dead_letters, parking
from invochain.durable.dead_letters import (
    DeadLetterState,
    Letter,
    OlderLetterFirst,
    SecondApproverNeeded,
)
from invochain.durable.parking import RELAY, parking_repairs
from invochain.workers.backoff import Backoff
from invochain.workers.consumer import Listener
from invochain.workers.relay import Relay
from invochain.workers.replayer import Drain, Replayer, handling, publishing
from tests.integration.workers.conftest import Source, until
from tests.integration.workers.test_consumer import Effect, publish

ANN, BOB = new_id(), new_id()
EFFECT = "test.effect"


class Office:
    """A consumer that fails, its letters, and the loops that replay them."""

    def __init__(self, source: Source) -> None:
        self.source, self.effect = source, Effect(source)
        self.listener = Listener(self.effect.subscription(), source.broker, source.parking, wait_s=0.1)
        # Ten tries take 5 s where nobody hurries.
        self.listener._backoff = Backoff(0.05)
        self.relay = Relay("merchant", source.session(), source.broker, source.parking)
        self.drains = [
            Drain("merchant", EFFECT, source.parking, handling(self.effect.subscription())),
            Drain("merchant", RELAY, source.parking, publishing(source.broker)),
        ]
        self.replayer = Replayer("merchant", source.postgres, parking_repairs(source.postgres))

    async def poison(self, count: int = 3) -> tuple[bytes, Letter]:
        """An aggregate with so many events, whose first one cannot be handled; and its letter."""
        aggregate = new_id()
        await self.source.tell(aggregate, count)
        self.effect.fails_on[aggregate] = ValueError("cannot read this")
        await publish(self.source)

        async def parked() -> bool:
            await self.listener.run_once()
            return len(await self.parked(aggregate)) == count

        await until(parked)
        return aggregate, await self.letter(aggregate)

    async def letter(self, aggregate: bytes) -> Letter:
        rows = await self.source.sql("SELECT dead_letter_id FROM dead_letter WHERE aggregate = $1", to_text(aggregate))
        async with self.source.postgres.transaction(wait_s=5) as tx:
            return await dead_letters.lock(tx, rows[0]["dead_letter_id"].bytes)

    async def parked(self, aggregate: bytes) -> list[int]:
        rows = await self.source.sql("SELECT seq FROM parked_event WHERE aggregate = $1", to_text(aggregate))
        return [row["seq"] for row in rows]

    async def ask(self, what: Callable[..., Awaitable[None]], letter: Letter, *args: object) -> None:
        """An operator's command, on the letter as it is now."""
        async with self.source.postgres.transaction(wait_s=5) as tx:
            await what(tx, await dead_letters.lock(tx, letter.dead_letter_id), *args)

    async def replay(self, letter: Letter) -> None:
        await self.ask(dead_letters.replay, letter, ANN)

    async def settled(self, aggregate: bytes, state: str) -> bool:
        for drain in self.drains:
            await drain.run_once()
        await self.replayer.run_once()
        return (await self.letter(aggregate)).state == state

    async def is_open(self, aggregate: bytes) -> bool:
        """Nothing stands in the aggregate's way."""
        rows = await self.source.sql("SELECT FROM parked_aggregate WHERE aggregate = $1", to_text(aggregate))
        return not rows

    def versions(self, aggregate: bytes) -> list[int]:
        return [event.sequence for event in self.effect.done if event.aggregate_id == aggregate]

    async def actions(self, letter: Letter) -> list[tuple[str, str]]:
        rows = await self.source.sql(
            "SELECT action, note FROM dead_letter_action WHERE dead_letter_id = $1 ORDER BY version",
            to_text(letter.dead_letter_id),
        )
        return [(row["action"], row["note"]) for row in rows]


@pytest.fixture
async def office(source) -> AsyncIterator[Office]:
    made = Office(source)
    yield made
    await made.listener.close()


class TestReplay:
    async def test_parked_events_are_handled_in_order_and_the_way_is_open_again(self, office):
        """The plan says what will be done; then it is done, the letter is DONE, and later events flow by themselves."""
        aggregate, letter = await office.poison(3)
        plan = await office.replayer._repairs["CONSUME"].plan(letter)
        assert (f"handle event {letter.subject}", "then the 2 events behind it, in order") == plan.steps
        assert "" == plan.waits_for
        del office.effect.fails_on[aggregate]

        await office.replay(letter)
        assert "REPLAYING" == (await office.letter(aggregate)).state
        await until(lambda: office.settled(aggregate, "DONE"))
        await until(lambda: drained(office, aggregate))

        assert [1, 2, 3] == office.versions(aggregate)
        assert [("OPEN", "ValueError"), ("REPLAY", ""), ("CLOSE", "replayed")] == await office.actions(letter)
        await office.source.tell(aggregate)
        await publish(office.source)
        await office.listener.run_once()
        assert [1, 2, 3, 4] == office.versions(aggregate)

    async def test_a_stop_leaves_what_is_not_begun(self, office):
        """Told to end at the first of three parked events: that one is handled, the next process does the rest."""
        aggregate, letter = await office.poison(3)
        del office.effect.fails_on[aggregate]
        await office.replay(letter)
        stop, handle = asyncio.Event(), handling(office.effect.subscription())

        async def last(event: parking.Parked):
            stop.set()
            return await handle(event)

        stopped = Drain("merchant", EFFECT, office.source.parking, last, stop)
        await stopped.run_once()
        assert [1] == office.versions(aggregate)
        await stopped.run_once()
        assert 2 == len(await office.parked(aggregate))

        await until(lambda: drained(office, aggregate))

        assert [1, 2, 3] == office.versions(aggregate)

    async def test_an_event_that_arrives_during_a_replay_goes_behind_it(self, office):
        """The aggregate is parked until the last of its events went on, so that none overtakes."""
        aggregate, letter = await office.poison(2)
        del office.effect.fails_on[aggregate]
        await office.replay(letter)
        await office.source.tell(aggregate)
        await publish(office.source)
        await office.listener.run_once()
        assert [] == office.versions(aggregate)
        assert 3 == len(await office.parked(aggregate))

        await until(lambda: drained(office, aggregate))

        assert [1, 2, 3] == office.versions(aggregate)

    async def test_replay_twice_is_harmless(self, office):
        """Asked twice, and the events handled twice: each has its effect once."""
        aggregate, letter = await office.poison(2)
        del office.effect.fails_on[aggregate]
        await office.replay(letter)
        await office.replay(letter)
        # As a replay that died between the effect and its mark leaves it.
        async with office.source.postgres.reading() as tx:
            events = await parking.oldest(tx, office.source.parking.seal, EFFECT, to_text(aggregate))
        for event in events:
            assert await handling(office.effect.subscription())(event) is None

        await until(lambda: office.settled(aggregate, "DONE"))
        await until(lambda: drained(office, aggregate))

        assert [1, 2] == office.versions(aggregate)
        with pytest.raises(DeadLetterState):
            await office.replay(letter)

    async def test_a_replay_that_fails_again_leaves_the_letter_open(self, office):
        """The cause is still there: OPEN with one more try, and those behind it stay parked."""
        aggregate, letter = await office.poison(2)
        await office.replay(letter)

        await until(lambda: office.settled(aggregate, "OPEN"))

        assert letter.attempts + 1 == (await office.letter(aggregate)).attempts
        assert 2 == len(await office.parked(aggregate))
        assert [] == office.versions(aggregate)
        assert ["OPEN", "REPLAY", "OPEN"] == [action for action, _ in await office.actions(letter)]

    async def test_replay_after_self_repair_does_nothing(self, office):
        """What is not parked any more has nothing left to do: the letter closes itself, asked or not."""
        aggregate, letter = await office.poison(1)
        await office.source.sql("DELETE FROM parked_event")
        await office.source.sql("DELETE FROM parked_aggregate")

        await until(lambda: office.settled(aggregate, "DONE"))

        assert ("CLOSE", "found repaired") == (await office.actions(letter))[-1]
        assert [] == office.versions(aggregate)

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            ("sealed = set_byte(sealed, 20, 255 - get_byte(sealed, 20))", "SealBroken"),
            ("envelope = '{}'", "KeyError"),
            ("envelope = '[1]'", "TypeError"),
        ],
    )
    async def test_an_event_whose_kept_form_is_broken_stops_its_own_replay_alone(self, office, broken, reason):
        """Its letter opens again and says so; the replays of other aggregates, older and younger, are done."""
        older, letter_of_older = await office.poison(2)
        bad, letter = await office.poison(2)
        younger, letter_of_younger = await office.poison(2)
        await office.source.sql(f"UPDATE parked_event SET {broken} WHERE subject = $1", letter.subject)
        office.effect.fails_on.clear()
        for one in (letter_of_older, letter, letter_of_younger):
            await office.replay(one)

        for aggregate in (older, younger):
            await until(lambda aggregate=aggregate: office.settled(aggregate, "DONE"))
            await until(lambda aggregate=aggregate: drained(office, aggregate))
        await until(lambda: office.settled(bad, "OPEN"))

        assert ("OPEN", reason) == (await office.actions(letter))[-1]
        assert [] == office.versions(bad)
        assert 2 == len(await office.parked(bad))
        await office.ask(dead_letters.propose_discard, letter, ANN, "its payload was overwritten by hand")
        await office.ask(dead_letters.approve_discard, letter, BOB)
        await until(lambda: drained(office, bad))
        assert [2] == office.versions(bad)

    async def test_a_letter_that_cannot_be_read_keeps_no_other_from_its_replay(self, office):
        """Its repair raises what nobody expected: it is OPEN again for that reason, and the next one is done."""
        aggregate, letter = await office.poison(1)
        await office.source.sql("DELETE FROM parked_event")
        await office.source.sql("DELETE FROM parked_aggregate")
        async with office.source.postgres.transaction() as tx:
            await dead_letters.open_letters(
                tx, [dead_letters.Failed("CONFIRM", letter.merchant_id, "no id", "no id", "X")]
            )
        rows = await office.source.sql("SELECT dead_letter_id FROM dead_letter WHERE kind = 'CONFIRM'")
        office.replayer._repairs["CONFIRM"] = Unreadable()
        for looked_at in ("OPEN", "REPLAYING"):
            await office.source.sql(
                "UPDATE dead_letter SET state = $1, first_time = '2020-01-01' WHERE kind = 'CONFIRM'", looked_at
            )
            await office.source.sql("UPDATE dead_letter SET state = 'OPEN' WHERE kind = 'CONSUME'")
            office.replayer._look_due = 0.0
            await office.replayer.run_once()
            assert "DONE" == (await office.letter(aggregate)).state
        (row,) = await office.source.sql(
            "SELECT state, reason FROM dead_letter WHERE dead_letter_id = $1", rows[0]["dead_letter_id"]
        )
        assert ("OPEN", "ValueError") == tuple(row)

    async def test_a_published_event_that_was_too_large_is_published_once_it_is_not(self, office, monkeypatch):
        """The relay's side: a broker that takes larger records, then a replay; the order of the aggregate holds."""
        aggregate = new_id()
        await office.source.tell(aggregate, payload=bytes(RECORD_BYTES_MAX + 1))
        await office.source.tell(aggregate, 2)

        async def emptied() -> bool:
            await office.relay.run_once()
            return await office.source.waiting() == 0

        await until(emptied)
        letter = await office.letter(aggregate)
        assert [] == await office.source.published()
        monkeypatch.setattr("invochain.chassis.broker.RECORD_BYTES_MAX", 2 * RECORD_BYTES_MAX)

        await office.replay(letter)
        await until(lambda: office.settled(aggregate, "DONE"))
        await until(lambda: drained(office, aggregate))

        assert [(to_text(aggregate), version) for version in (1, 2, 3)] == await office.source.published()


class Unreadable:
    """A repair that meets a letter it cannot read."""

    async def plan(self, letter: Letter):
        raise ValueError(f"dead letter about {letter.subject} names no hold")


async def drained(office: Office, aggregate: bytes) -> bool:
    for drain in office.drains:
        await drain.run_once()
    return await office.is_open(aggregate)


class TestDiscard:
    async def test_discard_by_one_person_is_refused(self, office):
        """It takes a proposal with a reason, and another operator's approval."""
        aggregate, letter = await office.poison(1)
        with pytest.raises(DeadLetterState):
            await office.ask(dead_letters.approve_discard, letter, BOB)
        await office.ask(dead_letters.propose_discard, letter, ANN, "the sale was entered by hand")

        with pytest.raises(SecondApproverNeeded):
            await office.ask(dead_letters.approve_discard, letter, ANN)

        assert "OPEN" == (await office.letter(aggregate)).state
        assert 1 == len(await office.parked(aggregate))

    async def test_a_discarded_event_is_passed_by_and_those_behind_it_go_on(self, office):
        """Its effect never happens, even if the broker brings it again; both people are on record."""
        aggregate, letter = await office.poison(3)
        await office.ask(dead_letters.propose_discard, letter, ANN, "the sale was entered by hand")
        await office.ask(dead_letters.approve_discard, letter, BOB)
        del office.effect.fails_on[aggregate]

        await until(lambda: drained(office, aggregate))

        assert [2, 3] == office.versions(aggregate)
        assert "DISCARDED" == (await office.letter(aggregate)).state
        reason = "the sale was entered by hand"
        assert [("PROPOSE_DISCARD", reason), ("APPROVE_DISCARD", "")] == (await office.actions(letter))[1:]
        again = Listener(office.effect.subscription(), office.source.broker, office.source.parking, wait_s=0.1)
        await office.listener.close()
        await reset_positions(office.source)
        await until(lambda: read_all(again, 3))
        await again.close()
        assert [2, 3] == office.versions(aggregate)

    async def test_letters_of_one_aggregate_are_replayed_in_order(self, office):
        """A younger letter waits for the older one."""
        _, letter = await office.poison(1)
        async with office.source.postgres.transaction() as tx:
            younger = dead_letters.Failed(
                "CONSUME", letter.merchant_id, to_text(new_id()), letter.aggregate, "X", consumer=EFFECT
            )
            await dead_letters.open_letters(tx, [younger])
        rows = await office.source.sql("SELECT dead_letter_id FROM dead_letter ORDER BY dead_letter_id DESC LIMIT 1")
        async with office.source.postgres.transaction() as tx:
            found = await dead_letters.lock(tx, rows[0]["dead_letter_id"].bytes)

        with pytest.raises(OlderLetterFirst, match=to_text(letter.dead_letter_id)):
            await office.replay(found)


async def reset_positions(source: Source) -> None:
    import asyncpg

    connection = await asyncpg.connect(source.broker_dsn)
    await connection.execute("UPDATE group_position SET next_offset = 0")
    await connection.close()


async def read_all(listener: Listener, wanted: int) -> bool:
    return await listener.run_once() >= wanted


class TestKill:
    async def test_workers_killed_in_the_middle_of_a_replay_finish_it_when_they_are_back(self, office):
        """kill -9 between the publication of a parked event and its mark: it is published again, the rest follows, and
        the letter ends; nothing is lost and nothing overtakes."""
        source, aggregate = office.source, new_id()
        await source.tell(aggregate, 5)
        await source.sql("UPDATE outbox SET type = 'invochain.x.y.v1' WHERE version = 1")

        async def emptied() -> bool:
            await office.relay.run_once()
            return await source.waiting() == 0

        await until(emptied)
        letter = await office.letter(aggregate)
        # The defect is mended: what was written is an event now.
        await source.sql(
            "UPDATE parked_event SET envelope = replace(envelope::text, '.x.y.', '.invoice.issued.')::json"
        )
        await office.replay(letter)
        dying = await workers(source, "replay.delivered:kill:nth=3")
        try:
            async with asyncio.timeout(60):
                assert -9 == await dying.wait()
        finally:
            if dying.returncode is None:
                dying.kill()
                await dying.wait()
        assert 3 == len(await office.parked(aggregate)), "void: the fault was not in the middle"
        assert "REPLAYING" == (await office.letter(aggregate)).state or await office.parked(aggregate)

        heir = await workers(source)
        try:
            await until(lambda: office.is_open(aggregate), within_s=60)
        finally:
            heir.kill()
            await heir.wait()

        assert [1, 2, 3, 3, 4, 5] == [version for _, version in await source.published()]
        assert "DONE" == (await office.letter(aggregate)).state


async def workers(source: Source, fault: str = "") -> asyncio.subprocess.Process:
    command = "from invochain.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "run", "workers", "--only", "relay,replayer"),
        env={**source.environment, "INVOCHAIN_FAULT": fault},
        stdout=asyncio.subprocess.DEVNULL,
    )
