"""One poisonous item fails alone; time-outs and lost connections re-run nothing."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import pytest

from invochain.chassis.isolate import run_alone, run_isolating_poison
from invochain.chassis.postgres import CommitUnknown
from invochain.errors import BulkheadFull, Refusal


class Work:
    """Items, some of which poison any batch they are in."""

    def __init__(self, poison: dict[int, Exception]) -> None:
        self.poison = poison
        self.runs: list[list[int]] = []
        self.done: list[int] = []
        self.failed: dict[int, str] = {}

    async def run(self, items: Sequence[int]) -> None:
        self.runs.append(list(items))
        for item in items:
            if item in self.poison:
                raise self.poison[item]
        self.done += items

    def fail(self, items: Sequence[int], refusal: Refusal) -> None:
        self.failed |= dict.fromkeys(items, refusal.reason)


async def test_a_clean_batch_runs_once() -> None:
    """Nothing is taken apart."""
    work = Work({})
    await run_isolating_poison(range(100), work.run, work.fail)
    assert (len(work.runs), work.done, work.failed) == (1, list(range(100)), {})


async def test_only_the_poison_fails() -> None:
    """Halves above 16, one by one below; every other item is done exactly once."""
    work = Work({5: asyncpg.CheckViolationError("x"), 77: asyncpg.NumericValueOutOfRangeError("y")})
    await run_isolating_poison(range(100), work.run, work.fail)
    assert work.failed == {5: "INTERNAL", 77: "INTERNAL"}
    assert sorted(work.done) == [n for n in range(100) if n not in (5, 77)]
    assert len(work.runs) < 50


async def test_an_item_that_keeps_colliding_is_unavailable() -> None:
    """A deadlock alone is tried thrice; then the caller may come again."""
    work = Work({1: asyncpg.DeadlockDetectedError("x")})
    await run_isolating_poison([0, 1, 2], work.run, work.fail)
    assert (work.done, work.failed) == ([0, 2], {1: "DEPENDENCY_DOWN"})
    assert work.runs.count([1]) == 3


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (asyncpg.LockNotAvailableError("x"), "DEPENDENCY_DOWN"),
        (asyncpg.QueryCanceledError("x"), "DEPENDENCY_DOWN"),
        (CommitUnknown(), "DEPENDENCY_DOWN"),
        (BulkheadFull("x"), "BULKHEAD_FULL"),
    ],
)
async def test_what_says_nothing_about_an_item_re_runs_nothing(failure: Exception, reason: str) -> None:
    """Every item is told; the whole may be repeated with the same keys."""
    work = Work({1: failure})
    await run_isolating_poison([0, 1, 2], work.run, work.fail)
    assert (len(work.runs), work.failed) == (1, dict.fromkeys(range(3), reason))


async def test_one_command_alone_is_tried_again_after_a_collision() -> None:
    """And its refusals and answers pass through."""
    tries: list[int] = []

    async def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise asyncpg.DeadlockDetectedError("x")
        return "done"

    async def refuse() -> str:
        raise BulkheadFull("x")

    assert await run_alone(work) == "done"
    with pytest.raises(BulkheadFull):
        await run_alone(refuse)


async def test_a_defect_passes_through() -> None:
    """It is the border of the batch that logs it."""
    work = Work({1: KeyError("x")})
    with pytest.raises(KeyError):
        await run_isolating_poison([0, 1, 2], work.run, work.fail)
