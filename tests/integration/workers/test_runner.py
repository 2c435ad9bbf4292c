"""The runner: one leader, take-over, errors that are seen and waited out, an orderly end."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from invochain.chassis.session import Session
from invochain.workers import runner
from tests.integration.workers.conftest import until


class Counting:
    """A loop that counts its rounds and may fail."""

    interval_s = 0.01

    def __init__(self, name: str, room: str = "merchant") -> None:
        self.name, self.room = name, room
        self.rounds = 0
        self.failure: Exception | None = None
        self.busy = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ended = 0
        self.does = 0

    async def run_once(self) -> int:
        self.rounds += 1
        if self.failure:
            raise self.failure
        self.busy.set()
        await self.may_end.wait()
        self.ended += 1
        return self.does


@pytest.fixture
async def start(database):
    """Starts runners, each with a session of its own, as processes would; stops them at the end."""
    dsn = await database("merchant")
    running: list[tuple[asyncio.Event, asyncio.Task[None], Session]] = []

    def make(*workers: Counting) -> Session:
        stop, session = asyncio.Event(), Session(dsn, "merchant")
        task = asyncio.create_task(runner.run(workers, stop, lambda room: session))
        running.append((stop, task, session))
        return session

    make.running = running
    yield make
    for stop, task, session in running:
        stop.set()
        await task
        await session.close()


def count(outcome: str, worker: str) -> float:
    return REGISTRY.get_sample_value("worker_runs_total", {"worker": worker, "outcome": outcome}) or 0


class TestPauses:
    async def test_a_full_round_is_followed_at_once_and_a_small_one_is_not(self, start):
        """What a small round costs is shared by what comes during the pause."""
        small, full, plain = (Counting(name, room="") for name in ("small", "full", "plain"))
        small.does, full.does, plain.does = 9, 10, 1
        small.interval_s = full.interval_s = plain.interval_s = 60
        small.full_round = full.full_round = 10
        start(small, full, plain)

        await until(lambda: _at_least(full, 50))
        await until(lambda: _at_least(plain, 50))

        assert 1 == small.rounds


class TestLeader:
    async def test_one_of_two_runs_and_the_other_takes_over_when_its_session_ends(self, start):
        """As after kill -9 of the leader's process: the lock went with its session."""
        first, second = Counting("led"), Counting("led")
        session = start(first)
        await until(lambda: _at_least(first, 3))
        start(second)
        so_far = first.rounds
        await until(lambda: _at_least(first, so_far + 30))
        assert 0 == second.rounds

        # The first one hangs in a round, as a frozen process would, and then its session is gone.
        first.may_end.clear()
        first.busy.clear()
        await first.busy.wait()
        session._connection.terminate()

        await until(lambda: _at_least(second, 3), within_s=5)
        first.may_end.set()

    async def test_loops_without_a_room_run_in_every_process(self, start):
        """They divide their work themselves."""
        first, second = Counting("shared", room=""), Counting("shared", room="")
        start(first)
        start(second)

        await until(lambda: _at_least(first, 3))
        await until(lambda: _at_least(second, 3))


class TestErrors:
    async def test_a_failing_loop_is_counted_waits_and_recovers_and_disturbs_no_other(self, start, capsys):
        """One line for one error however often it comes, and one when it is over."""
        failing, sound = Counting("failing"), Counting("sound")
        failing.failure = RuntimeError("the disk is full")
        start(failing, sound)

        await until(lambda: _at_least(failing, 4))
        assert 3 <= count("failed", "failing")
        await until(lambda: _at_least(sound, 50))
        assert sound.rounds > failing.rounds
        failing.failure = None
        await until(lambda: _ended(failing, 3))

        said = capsys.readouterr().out
        assert 1 == said.count("worker_failed")
        assert 1 == said.count("worker_recovered")

    async def test_a_database_that_is_away_is_waited_out(self, start, events_postgres):
        """Losing the leader's session is an error like any other: the loop goes on when it can."""
        worker = Counting("patient")
        session = start(worker)
        await until(lambda: _at_least(worker, 3))
        session._connection.terminate()
        so_far = worker.rounds

        await until(lambda: _at_least(worker, so_far + 5))


async def stop_ends_with(worker: Counting, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Told to stop, all ends when that worker's round does, and not before."""
    stop.set()
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    worker.may_end.set()
    async with asyncio.timeout(5):
        await task


class TestStop:
    async def test_the_round_under_way_may_finish(self, start):
        """Nothing is cut off in the middle, and no new round begins."""
        worker = Counting("slow")
        worker.may_end.clear()
        start(worker)
        await worker.busy.wait()

        await stop_ends_with(worker, *start.running[0][:2])

        assert (1, 1) == (worker.rounds, worker.ended)

    async def test_a_round_that_only_looks_is_not_waited_for(self, start):
        """It is cut off at once; the round of another worker, which writes, may finish all the same."""
        looking, writing = Counting("looking"), Counting("writing", room="")
        looking.cut_off_at_stop = True
        for worker in (looking, writing):
            worker.may_end.clear()
        start(looking, writing)
        await looking.busy.wait()
        await writing.busy.wait()

        await stop_ends_with(writing, *start.running[0][:2])

        assert (0, 1) == (looking.ended, writing.ended)

    async def test_a_round_that_outlives_the_drain_is_cut_off_and_named(self, start, monkeypatch, capsys):
        """Whoever wonders why a stop took so long finds the loop that it waited for."""
        monkeypatch.setattr(runner, "DRAIN_S", 0.1)
        stuck, sound = Counting("stuck", room=""), Counting("sound", room="")
        stuck.may_end.clear()
        start(stuck, sound)
        await stuck.busy.wait()
        stop, task, _ = start.running[0]

        stop.set()
        async with asyncio.timeout(5):
            await task

        (said,) = [text for text in capsys.readouterr().out.splitlines() if "cut_off" in text]
        assert "stuck" in said and "sound" not in said
        assert 0 == stuck.ended


async def _at_least(worker: Counting, rounds: int) -> bool:
    return worker.rounds >= rounds


async def _ended(worker: Counting, rounds: int) -> bool:
    return worker.ended >= rounds
