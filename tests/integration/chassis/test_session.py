"""Leader locks and shares on a real server: one owner, take-over after death and after silence."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from invochain.chassis import session as sessions
from invochain.chassis.session import Session, Share
from invochain.errors import DependencyDown


async def until(true, within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not await true():
            await asyncio.sleep(0.02)


@pytest.fixture
async def open_session(empty) -> AsyncIterator[Callable[[], Session]]:
    """Makes sessions on one database; ended with the test."""
    dsn = await empty()
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(dsn, "test"))
        return made[-1]

    yield make
    for session in made:
        await session.close()


class TestLead:
    async def test_one_leads_and_the_other_when_it_yields(self, open_session):
        """The same name and number is one lock; another number is another."""
        one, two = open_session(), open_session()

        assert await one.lead("x") and await one.lead("x")
        assert not await two.lead("x")
        assert await two.lead("x", 1)
        await one.yield_("x")

        assert await two.lead("x") and not await one.lead("x")

    async def test_a_closed_session_frees_its_locks(self, open_session):
        """At once: an orderly end makes nobody wait."""
        one, two = open_session(), open_session()
        assert await one.lead("x")

        await one.close()

        assert await two.lead("x")

    async def test_a_session_that_falls_silent_loses_its_locks_and_knows(self, open_session, monkeypatch):
        """A frozen process shows no heartbeat: the server ends its session and the standby takes over."""
        monkeypatch.setattr(sessions, "LEASE_S", 0.5)
        frozen, standby = open_session(), open_session()
        assert await frozen.lead("x")
        frozen._heart.cancel()

        await until(lambda: standby.lead("x"))

        async def knows() -> bool:
            return not frozen.leads("x")

        # The server has told it; the word may still be on its way.
        await until(knows)
        assert not await frozen.lead("x")

    async def test_heartbeats_keep_a_session_that_has_nothing_to_do(self, open_session, monkeypatch):
        """A leader in a long round keeps its lock."""
        monkeypatch.setattr(sessions, "LEASE_S", 0.5)
        monkeypatch.setattr(sessions, "HEARTBEAT_S", 0.1)
        leader, standby = open_session(), open_session()
        assert await leader.lead("x")

        with pytest.raises(TimeoutError):
            await until(lambda: standby.lead("x"), within_s=1.5)

        assert leader.leads("x")

    async def test_a_lost_session_is_said_and_opened_again_without_its_locks(self, open_session):
        """The statement under way fails; the next one works, and nothing is held until it is taken again."""
        one = open_session()
        assert await one.lead("x")
        one._connection.terminate()

        assert not one.leads("x")
        assert await one.lead("x")

    async def test_a_server_that_refuses_is_a_dependency_that_is_down(self):
        """Not an error of its own kind: callers know how to wait for it."""
        nowhere = Session("postgresql://nobody@127.0.0.1:1/nothing", "test")

        with pytest.raises(DependencyDown):
            await nowhere.lead("x")


class TestShare:
    async def test_slots_are_divided_fairly_and_each_has_one_owner(self, open_session):
        """Three members, ten slots: 4, 4 and 2 to 4; when one goes, the others take its part."""
        members = [Share(open_session(), "s", range(10), every_s=0.05) for _ in range(3)]
        assert list(range(10)) == await members[0].balance()

        async def divided(number: int = 3) -> bool:
            for member in members[:number]:
                await member.balance()
            held = [slot for member in members[:number] for slot in member.mine]
            return sorted(held) == list(range(10)) and all(
                2 <= len(m.mine) <= -(-10 // number) for m in members[:number]
            )

        await until(divided)
        await members[2]._session.close()
        await until(lambda: divided(2))

    async def test_a_member_whose_session_is_lost_joins_again(self, open_session):
        """It has nothing at first, and its part again soon."""
        member = Share(open_session(), "s", range(4))
        await member.balance()
        member._session._connection.terminate()
        assert [] == member.mine

        assert [0, 1, 2, 3] == await member.balance()

    async def test_the_heart_of_a_lost_connection_stops(self, open_session, events_postgres):
        """An administrator ends the backend: the next use says so or opens anew; it does not hang."""
        one = open_session()
        assert await one.lead("x")
        admin = await asyncpg.connect(events_postgres.dsn())
        await admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'invochain:test:session'"
        )
        await admin.close()

        async def leads_again() -> bool:
            try:
                return await one.lead("x")
            except DependencyDown:
                return False

        await until(leads_again)
