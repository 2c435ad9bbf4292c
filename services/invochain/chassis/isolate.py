"""One poisonous item must not fail its batch: when SQL fails in a way nobody expected, the batch is taken apart.

Source: PROTOCOL section 9. Expected refusals never come here; they are answered item by item inside the transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg

from invochain.chassis.postgres import COLLIDED, TIMED_OUT, CommitUnknown, UnexpectedSql
from invochain.chassis.telemetry import log
from invochain.errors import DependencyDown, Refusal

# Above this a failed batch is halved; at or below it, its items are run one by one.
ONE_BY_ONE_MAX = 16
# A single item that met a deadlock or serialization failure is worth another try: its rival has gone on.
COLLISIONS_MAX = 3

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def run_alone(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Runs one command that is a transaction of its own, and gives SQL errors the same treatment.

    A collision is tried again; a time-out, a lost connection, an unknown COMMIT are DependencyDown, what else
    PostgreSQL refuses is UnexpectedSql. Other refusals pass through.
    """
    answers: list[Answer] = []

    async def run(_: Sequence[None]) -> None:
        answers.append(await work())

    def fail(_: Sequence[None], refusal: Refusal) -> None:
        raise refusal

    await run_isolating_poison([None], run, fail)
    return answers[0]


async def run_isolating_poison(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Awaitable[None]],
    fail: Callable[[Sequence[Item], Refusal], None],
) -> None:
    """Runs `run(items)`, one transaction that answers its items once it has committed; of a batch that fails with an
    unexpected SQL error, or met a deadlock, only the items that fail alone are failed.

    Lock and statement time-outs, a lost connection, a full pool, an unknown COMMIT: nothing is re-run, every item is
    told so by `fail` and may be repeated with the same key. Whatever else is raised is a defect and passes through.
    """
    collisions = 0
    while True:
        try:
            await run(items)
            return
        except TIMED_OUT:
            fail(items, DependencyDown("the database, whose rows are busy,"))
            return
        except CommitUnknown:
            fail(items, DependencyDown("the database, while COMMIT was under way,"))
            return
        except Refusal as refusal:
            fail(items, refusal)
            return
        except asyncpg.PostgresError as error:
            log("chassis").warning(
                "batch_failed_in_sql", items=len(items), sqlstate=error.sqlstate, error=type(error).__name__
            )
            if len(items) > 1:
                break
            collisions += isinstance(error, COLLIDED)
            if isinstance(error, COLLIDED) and collisions < COLLISIONS_MAX:
                continue
            fail(items, DependencyDown("the database") if isinstance(error, COLLIDED) else UnexpectedSql())
            return
    size = 1 if len(items) <= ONE_BY_ONE_MAX else (len(items) + 1) // 2
    for start in range(0, len(items), size):
        await run_isolating_poison(items[start : start + size], run, fail)
