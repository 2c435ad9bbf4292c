"""Redlock over five real Valkey servers: who holds it, who must not, and whose late write loses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis

from invochain.chassis import clock, migrate
from invochain.chassis.postgres import Postgres, Sql
from invochain.chassis.redlock import DRIFT_PART, DRIFT_S, Fence, Redlock
from invochain.durable import fence
from tests.kit.servers import PostgresServer, ValkeyServer

MASTERS = 5
LIFE_S = 10.0
# Short enough to be waited for, long enough for a busy machine to take it.
SHORT_S = 1.0
MAKE = Sql("test_redlock_make", "CREATE TABLE IF NOT EXISTS report (id int PRIMARY KEY, text text, fence bigint)")
EMPTY = Sql("test_redlock_empty", "TRUNCATE report")
FIRST = Sql("test_redlock_first", "INSERT INTO report VALUES (1, '', 0)")
WRITE = Sql("test_redlock_write", "UPDATE report SET text = $1, fence = $2 WHERE id = 1 AND fence <= $2")
READ = Sql("test_redlock_read", "SELECT text FROM report WHERE id = 1")


@pytest.fixture(scope="module")
async def masters() -> AsyncIterator[list[ValkeyServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ValkeyServer()) for _ in range(MASTERS)]


@pytest.fixture(autouse=True)
async def whole(masters: list[ValkeyServer]) -> AsyncIterator[None]:
    """Every master runs and is empty when a test begins."""
    for one in masters:
        if not one.runs:
            await one.start()
        client = redis.Redis.from_url(one.url)
        await client.flushall()
        await client.aclose()
    yield
    for one in masters:
        if one.runs:
            one.thaw()


@pytest.fixture(scope="module")
async def postgres(market_postgres: PostgresServer) -> AsyncIterator[Postgres]:
    dsn = await market_postgres.make_database("fenced")
    await migrate.migrate(dsn, "inventory")
    pool = await Postgres.connect(dsn, name="fenced", size=4)
    async with pool.reading() as tx:
        await tx.execute(MAKE)
    yield pool
    await pool.close()


@pytest.fixture
def numbers(postgres: Postgres) -> Fence:
    async def number(name: str) -> int:
        async with postgres.transaction(5) as tx:
            return await fence.next_number(tx, name)

    return number


@pytest.fixture
async def lock(masters: list[ValkeyServer], numbers: Fence) -> AsyncIterator[Callable[..., Redlock]]:
    """Makes lockers over all masters; each is a process of its own as far as Redis can tell."""
    made: list[Redlock] = []

    def make(life_s: float = LIFE_S, given: Fence = numbers) -> Redlock:
        made.append(Redlock([one.url for one in masters], given, life_s=life_s))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def until(true: Callable[[], Awaitable[object]], within_s: float = 30) -> None:
    async with asyncio.timeout(within_s):
        while not await true():
            await asyncio.sleep(0.02)


async def test_one_holds_it_and_the_next_one_has_a_higher_number(lock):
    """While it is held nobody else gets it; given back, the next holder's number is the next."""
    mine, yours = lock(), lock()
    first = await mine.acquire("report")
    assert first and 0 < first.left_s() <= LIFE_S - LIFE_S * DRIFT_PART - DRIFT_S
    assert await yours.acquire("report") is None
    assert await yours.acquire("another")

    await first.release()
    assert first.left_s() <= 0
    second = await yours.acquire("report", 5)
    assert second and second.number == first.number + 1


async def test_a_minority_that_is_down_or_frozen_changes_nothing(lock, masters):
    """Two of five are gone: taken, kept from others, extended, given back."""
    await masters[0].kill9()
    masters[1].freeze()
    mine, yours = lock(), lock()

    held = await mine.acquire("report")
    assert held and await yours.acquire("report") is None
    assert await held.extend()
    await held.release()
    assert await yours.acquire("report", 5)
    masters[1].thaw()


async def test_without_a_majority_nobody_gets_it_and_nothing_is_left(lock, masters):
    """Three of five are gone: refused in time, and what the two gave is given back."""
    for one in masters[:3]:
        await one.kill9()
    mine = lock()
    began = clock.monotonic()
    assert await mine.acquire("report") is None
    assert clock.monotonic() - began < LIFE_S / 2

    for one in masters[3:]:
        client = redis.Redis.from_url(one.url)

        async def empty(client: redis.Redis = client) -> bool:
            return not await client.keys("ic:lock:*")

        await until(empty)
        await client.aclose()


async def test_a_majority_that_answers_too_late_has_not_given_it(lock, masters):
    """Frozen masters count as down, and their late yes runs out by itself when they go on."""
    for one in masters[:3]:
        one.freeze()
    mine = lock(SHORT_S)
    assert await mine.acquire("report") is None
    for one in masters[:3]:
        one.thaw()
    assert await mine.acquire("report", 20)


async def test_the_late_write_of_a_holder_that_was_stopped_loses(lock, postgres):
    """Stopped for longer than the lock lives; another one has written by then, and the table refuses the first."""
    async with postgres.reading() as tx:
        await tx.execute(EMPTY)
        await tx.execute(FIRST)
    mine, yours = lock(SHORT_S), lock(SHORT_S)
    stopped = await mine.acquire("report", 20)
    assert stopped
    second = await yours.acquire("report", 30)
    assert second and second.number > stopped.number
    assert stopped.left_s() <= 0 and not await stopped.extend()

    async with postgres.reading() as tx:
        assert await tx.count(WRITE, "second", second.number) == 1
        assert await tx.count(WRITE, "too late", stopped.number) == 0
        assert await tx.fetchval(READ) == "second"


async def test_giving_back_what_ran_out_takes_nothing_from_the_next_holder(lock):
    """Compare and delete: only the value that was written is deleted."""
    mine, yours, theirs = lock(SHORT_S), lock(), lock()
    late = await mine.acquire("report", 20)
    assert late and await yours.acquire("report", 30)

    await late.release()
    assert await theirs.acquire("report") is None


async def test_extending_keeps_others_out_beyond_one_life(lock):
    """One life and a half, each extension within the one before."""
    mine, yours = lock(SHORT_S * 2), lock()
    held = await mine.acquire("report", 20)
    assert held
    ends = clock.monotonic() + 3 * SHORT_S
    while clock.monotonic() < ends:
        assert await held.extend()
        assert await yours.acquire("report") is None
        await asyncio.sleep(SHORT_S / 4)


async def test_a_number_that_came_too_late_gives_no_lock(lock, numbers):
    """Stopped between the masters and PostgreSQL: its number may be the higher one, so it must not have the lock."""
    mine = lock()

    async def slow(name: str) -> int:
        # As if this process had been stopped for so long, and another one had taken it meanwhile.
        await until(lambda: mine.acquire(name), 30)
        return await numbers(name)

    assert await lock(SHORT_S, slow).acquire("report") is None


async def contend(lock, rounds: int) -> None:
    """Two contenders; each round is one acquisition, and notes its number while it is held."""
    inside = 0
    order: list[int] = []

    async def contender(mine: Redlock) -> None:
        nonlocal inside
        while len(order) < rounds:
            held = await mine.acquire("hot", 30)
            assert held is not None
            inside += 1
            assert inside == 1, "two holders"
            order.append(held.number)
            await asyncio.sleep(0)
            assert held.left_s() > 0, "void: this machine is slower than the lock lives"
            inside -= 1
            await held.release()

    async with asyncio.TaskGroup() as group:
        group.create_task(contender(lock(60)))
        group.create_task(contender(lock(60)))
    assert order == sorted(set(order)), "numbers rise in the order in which it was held"


async def test_two_contenders_never_hold_it_at_once(lock):
    await contend(lock, 100)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_two_contenders_never_hold_it_at_once_in_a_thousand_acquisitions(lock):
    await contend(lock, 1_000)


async def test_who_is_cancelled_leaves_nothing_held_and_reads_nobody_elses_answer(lock):
    """Cancelled at random moments; the lock comes free by itself, long before its life is over."""
    mine = lock()
    chance = random.Random(7)
    for _ in range(50):
        taking = asyncio.create_task(mine.acquire("report"))
        await asyncio.sleep(chance.uniform(0, 0.004))
        taking.cancel()
        (end,) = await asyncio.gather(taking, return_exceptions=True)
        if not isinstance(end, BaseException) and end is not None:
            await end.release()
    assert await lock().acquire("report", LIFE_S / 2)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_masters_are_odd_in_number_and_three_at_least(numbers, count):
    """Of two, both are a majority; of four, three: no safer than three, and oftener down."""
    with pytest.raises(ValueError, match=f"found {count} masters"):
        Redlock(["redis://127.0.0.1:1"] * count, numbers)
