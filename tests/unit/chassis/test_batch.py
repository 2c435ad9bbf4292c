"""Natural batching: what waits while a batch is under way is the next batch."""

from __future__ import annotations

import asyncio

import pytest

from invochain.chassis import clock
from invochain.chassis.batch import BATCH_BYTES_MAX, Collector, let_as_many_begin
from invochain.chassis.call import ANONYMOUS, Call
from invochain.errors import BulkheadFull, DeadlineTooShort, InternalError, KeyReused, ShuttingDown


def a_call(raw: bytes = b"x", left_s: float = 5.0) -> Call:
    return Call("/method", ANONYMOUS, raw, clock.monotonic() + left_s)


async def turns() -> None:
    """Lets the loop turn as often as it takes a batch to begin: the calls are put, the batch is made, its task runs."""
    for _ in range(3):
        await asyncio.sleep(0)


class Runs:
    """Records batches; each waits for `go` and answers with its size."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = asyncio.Event()
        self._begun = asyncio.Condition()

    async def begun(self, count: int) -> None:
        """Returns once so many batches have begun."""
        async with self._begun:
            await self._begun.wait_for(lambda: len(self.batches) >= count)

    async def __call__(self, calls: list[Call]) -> None:
        self.batches.append(len(calls))
        async with self._begun:
            self._begun.notify_all()
        await self.go.wait()
        for call in calls:
            call.reply(b"%d" % len(calls))


def collector(run, **limits: int) -> Collector:
    return Collector("test", run, **{"slots": 1, "items_max": 10, "waiting_max": 100, **limits})


async def test_what_waits_for_a_slot_is_one_batch():
    """The first call goes alone; the four that came meanwhile go together."""
    run = Runs()
    collect = collector(run)
    answers = [asyncio.ensure_future(collect.submit(a_call()))]
    await run.begun(1)
    answers += [asyncio.ensure_future(collect.submit(a_call())) for _ in range(4)]
    await asyncio.sleep(0)
    run.go.set()

    assert [await answer for answer in answers] == [b"1", b"4", b"4", b"4", b"4"]
    assert run.batches == [1, 4]


async def test_what_comes_in_one_turn_of_the_loop_is_one_batch():
    """A transport hands over one by one what came with one wake-up: a free slot takes it together."""
    run = Runs()
    run.go.set()
    collect = collector(run)
    calls = [a_call() for _ in range(3)]
    for call in calls:
        collect.put([call])
    await asyncio.gather(*(call.answer for call in calls))

    assert run.batches == [3]


async def test_a_batch_is_bounded_by_items_and_by_bytes():
    """No batch has more items than allowed, or more bytes than fit into one message; one large call goes alone."""
    run = Runs()
    run.go.set()
    collect = collector(run)
    large = BATCH_BYTES_MAX // 2 + 1
    calls = [a_call(), *(a_call() for _ in range(25)), *(a_call(b"x" * large) for _ in range(3))]
    collect.put(calls)
    await asyncio.gather(*(call.answer for call in calls))

    assert run.batches == [10, 10, 7, 1, 1]


async def test_a_call_that_is_late_is_dropped_before_its_batch():
    """Work already out of time is not begun."""
    run = Runs()
    with pytest.raises(DeadlineTooShort):
        await collector(run).submit(a_call(left_s=-1))
    assert run.batches == []


async def test_a_client_that_hangs_up_cancels_nothing():
    """The batch's task is its own: it ends, though nobody waits."""
    run = Runs()
    collect, call = collector(run), a_call()
    waiting = asyncio.ensure_future(collect.submit(call))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    run.go.set()
    assert await call.answer == b"1"


async def test_a_refusal_of_the_whole_and_a_forgotten_call_are_told():
    """An exception refuses every call of the batch; a call that is left unanswered is told INTERNAL."""

    async def refuses(_calls: list[Call]) -> None:
        raise KeyReused()

    async def forgets(_calls: list[Call]) -> None:
        return None

    with pytest.raises(KeyReused):
        await collector(refuses).submit(a_call())
    with pytest.raises(InternalError):
        await collector(forgets).submit(a_call())


async def test_what_is_handed_over_is_answered_later():
    """A lane's calls are not forgotten calls."""
    call = a_call()

    async def hands_over(calls: list[Call]) -> list[Call]:
        asyncio.get_running_loop().call_soon(calls[0].reply, b"later")
        return calls

    assert await collector(hands_over).submit(call) == b"later"


async def test_a_full_queue_and_a_drained_one_refuse():
    """Waiting is bounded; after drain nothing is taken, and what was taken is answered."""
    run = Runs()
    collect = collector(run, waiting_max=2)
    first = a_call()
    collect.put([first])
    await run.begun(1)
    collect.put([a_call(), a_call()])
    with pytest.raises(BulkheadFull):
        collect.put([a_call()])

    run.go.set()
    await collect.drain()
    assert first.answer.done()
    with pytest.raises(ShuttingDown):
        collect.put([a_call()])


async def test_beside_a_batch_in_its_last_step_the_next_begins_once_it_is_as_large():
    """Three calls decide. Two that wait leave the slot alone, the third takes it; no third batch begins beside both."""
    batches: list[int] = []
    first, then, others = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(calls: list[Call]) -> None:
        batches.append(len(calls))
        if len(batches) == 1:
            await first.wait()
        elif len(batches) == 2:
            let_as_many_begin()
            await then.wait()
        else:
            await others.wait()
        for call in calls:
            call.reply(b"")

    collect = collector(run)
    calls = [a_call() for _ in range(14)]
    collect.put(calls[:1])
    await turns()
    collect.put(calls[1:4])
    await turns()
    first.set()
    await calls[0].answer
    await turns()
    collect.put(calls[4:6])
    await turns()
    assert batches == [1, 3]
    collect.put(calls[6:7])
    await turns()
    assert batches == [1, 3, 3]
    collect.put(calls[7:])
    await turns()
    assert batches == [1, 3, 3]
    then.set()
    others.set()
    await asyncio.gather(*(call.answer for call in calls))
    assert batches == [1, 3, 3, 7]


async def test_a_lane_that_outlives_its_batch_gives_no_slot_away():
    """What a batch began beside itself may say `last step` when the batch is done: the slots stay as they were."""
    outlived, most, now = [], 0, 0
    begun = asyncio.Event()

    async def lane():
        await begun.wait()
        let_as_many_begin()

    async def run(calls):
        nonlocal most, now
        if not outlived:
            outlived.append(asyncio.create_task(lane()))
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        for call in calls:
            call.reply(b"")

    collector = Collector("test", run, slots=1, items_max=1, waiting_max=100)
    await collector.submit(a_call())
    begun.set()
    await outlived[0]
    await asyncio.gather(*(collector.submit(a_call()) for _ in range(5)))

    assert most == 1
