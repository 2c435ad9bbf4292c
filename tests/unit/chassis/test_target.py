"""What stands between us and a service that may fail: bulkhead, retry budget, deadlines, and nobody kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from invochain.chassis import clock, target
from invochain.chassis.batch import Collector
from invochain.chassis.breaker import Breaker, State
from invochain.chassis.call import ANONYMOUS, Call
from invochain.chassis.target import RetryBudget, Target
from invochain.chassis.telemetry import RETRIES
from invochain.errors import BulkheadFull, CircuitOpen, DependencyDown, KeyReused


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(target, "RETRY_AFTER_S", (0.0, 0.0))


class Service:
    """Answers as it is told: an exception is raised, `...` hangs for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.timeouts = list(answers), []

    async def __call__(self, timeout_s: float) -> object:
        self.timeouts.append(timeout_s)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is ...:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def a_target(retries: bool = True) -> Target:
    return Target(Breaker("test"), retries=retries)


async def ask(target_: Target, service: Service, *, left_s: float = 4.8, items: int = 1) -> object:
    return await target_.ask(service, timeout_s=1.5, time_left_s=left_s, items=items)


class TestRetries:
    async def test_an_unknown_outcome_is_asked_for_once_more(self):
        service = Service(DependencyDown("it"), "done")
        assert await ask(a_target(), service) == "done"
        assert len(service.timeouts) == 2

    async def test_a_refusal_is_an_answer(self):
        service = Service(KeyReused())
        with pytest.raises(KeyReused):
            await ask(a_target(), service)
        assert len(service.timeouts) == 1

    @pytest.mark.parametrize(("retries", "left_s", "tries"), [(True, 1.9, 1), (False, 4.8, 1), (True, 4.8, 2)])
    async def test_only_where_they_are_wanted_and_time_is_left(self, retries, left_s, tries):
        service = Service(DependencyDown("it"))
        with pytest.raises(DependencyDown):
            await ask(a_target(retries), service, left_s=left_s)
        assert len(service.timeouts) == tries

    async def test_no_try_gets_more_time_than_is_left(self):
        """A hop never gets more than its parent has."""
        service = Service("done")
        await ask(a_target(), service, left_s=0.7)
        await ask(a_target(), service, left_s=4.0)
        assert service.timeouts[0] <= 0.7
        assert service.timeouts[1] == 1.5

    async def test_a_target_that_is_down_gets_no_storm(self):
        """Ten tokens, one less for each failure: a few retries, then none until successes earned them."""
        down, service = a_target(), Service(DependencyDown("it"))
        # Uncounted by the breaker: this is about the budget alone.
        down.breaker.ended = lambda *_, **__: None
        for _ in range(20):
            with pytest.raises(DependencyDown):
                await ask(down, service)
        # 9 and 8, 7 and 6 after two pairs; the next failure leaves 5.
        assert len(service.timeouts) == 20 + 2

    def test_the_budget_is_that_of_grpc_a6(self):
        """Retries while more than half of ten tokens are left; a success earns a tenth; never more than ten."""
        budget = RetryBudget("a6")
        budget.succeeded()
        for _ in range(4):
            budget.failed()
        assert budget.allows()
        budget.failed()
        assert not budget.allows()
        budget.succeeded()
        assert budget.allows()
        assert [RETRIES.labels(target="a6", outcome=way)._value.get() for way in ("sent", "forgone")] == [2, 1]


class TestTheBulkhead:
    async def test_refuses_within_200_ms_what_does_not_fit(self):
        """64 calls hang; the 65th is told that nothing was sent."""
        full, hanging = a_target(), Service(...)
        tasks = [asyncio.ensure_future(ask(full, hanging)) for _ in range(target.IN_FLIGHT_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await ask(full, Service("done"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await ask(full, Service("done")) == "done"

    async def test_waits_no_longer_than_its_caller(self):
        full, hanging = a_target(), Service(...)
        tasks = [asyncio.ensure_future(ask(full, hanging)) for _ in range(target.IN_FLIGHT_MAX)]
        await asyncio.sleep(0)
        started = clock.monotonic()
        with pytest.raises(BulkheadFull):
            await ask(full, Service("done"), left_s=0.01)
        assert clock.monotonic() - started < target.BULKHEAD_WAIT_S
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TestTheBreaker:
    async def test_opened_by_ten_that_failed_is_asked_no_more(self):
        failing, service = a_target(), Service(DependencyDown("it"))
        with pytest.raises(DependencyDown):
            await ask(failing, service, items=10)
        assert failing.breaker.state is State.OPEN
        # The first try may have been received, so that call was told DependencyDown, and was not retried.
        assert len(service.timeouts) == 1
        with pytest.raises(CircuitOpen):
            await ask(failing, service)
        assert len(service.timeouts) == 1

    async def test_a_caller_who_hangs_up_is_not_counted(self):
        left = a_target()
        for _ in range(3):
            task = asyncio.ensure_future(ask(left, Service(...), items=10))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert left.breaker.state is State.CLOSED

    async def test_a_hang_is_seen_without_anybody_asking(self):
        """No call comes after it: a timer looks."""
        hanging = a_target()
        task = asyncio.ensure_future(ask(hanging, Service(...), items=10))
        async with asyncio.timeout(5):
            while hanging.breaker.state is State.CLOSED:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestABatchThatHangs:
    def collector(self, run: Callable[[list[Call]], object]) -> Collector:
        return Collector("test", run, slots=1, items_max=10, waiting_max=100)

    def a_call(self) -> Call:
        return Call("/method", ANONYMOUS, b"x", clock.monotonic() + 5.0)

    async def test_keeps_nobody_behind_it_waiting(self):
        """One slot, and the first batch's target never answers: the second begins beside it, and is answered."""
        shared, answers = a_target(), Service(..., "done")
        seen: list[int] = []

        async def run(calls: list[Call]) -> None:
            seen.append(len(calls))
            await ask(shared, answers)
            for call in calls:
                call.reply(b"done")

        collect = self.collector(run)
        first = self.a_call()
        collect.put([first])
        await asyncio.sleep(0)
        behind = [self.a_call() for _ in range(3)]
        collect.put(behind)
        async with asyncio.timeout(5):
            assert await asyncio.gather(*(call.answer for call in behind)) == [b"done"] * 3
        assert seen == [1, 3]
        assert not first.answer.done()
        for task in list(collect._running):
            task.cancel()

    async def test_that_ends_gives_no_second_slot_away(self):
        """Once the hang is over, batches are one at a time again."""
        under_way, most = 0, 0

        async def run(calls: list[Call]) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if calls[0].key == "slow":
                await ask(quick, Service("done"))
                target.let_the_next_begin()
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            under_way -= 1
            for call in calls:
                call.reply(b"done")

        quick = a_target()
        collect = self.collector(run)
        slow = self.a_call()
        slow.key = "slow"
        calls = [slow, *(self.a_call() for _ in range(30))]
        for call in calls:
            collect.put([call])
        await asyncio.gather(*(call.answer for call in calls))
        assert most == 2
        most = 0
        later = [self.a_call() for _ in range(30)]
        for call in later:
            collect.put([call])
        await asyncio.gather(*(call.answer for call in later))
        assert most == 1
