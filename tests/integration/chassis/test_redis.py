"""The Redis client: late, cancelled and failing commands never answer another's question, and cost little time."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import uvloop

from invochain.chassis import redis as chassis_redis
from invochain.chassis.redis import Redis
from invochain.chassis.telemetry import REDIS_COMMANDS
from tests.kit.fault_proxy import Link
from tests.kit.servers import ValkeyServer

KEYS = 50


@pytest.fixture(scope="module")
def valkey():
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def link(valkey) -> AsyncIterator[Link]:
    link = await Link("redis", valkey.host, valkey.port).start()
    yield link
    await link.close()


@pytest.fixture
async def client(valkey, link) -> AsyncIterator[Redis]:
    """Through a link, with fifty keys that name themselves."""
    client = Redis(valkey.url.replace(f":{valkey.port}", f":{link.port}"))
    await client.client.mset({f"key-{n}": f"value of {n}" for n in range(KEYS)})
    yield client
    await client.close()


def counted(outcome: str) -> float:
    return REDIS_COMMANDS.labels(outcome=outcome)._value.get()


@pytest.mark.parametrize("tasks", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_cancelled_command_never_answers_another(client, link, monkeypatch, tasks):
    """Tasks are cancelled at any moment while answers take a while: whoever is answered is answered his own."""
    monkeypatch.setattr(chassis_redis, "COMMAND_TIMEOUT_S", 5.0)
    chance = random.Random(20260722)
    link.delay(0.002)
    answered = cancelled = 0

    async def one(n: int) -> bytes | None:
        return await client.try_(partial(client.client.get, f"key-{n}"))

    for _ in range(0, tasks, 20):
        asked = [chance.randrange(KEYS) for _ in range(20)]
        running = [asyncio.create_task(one(n)) for n in asked]
        for task in running:
            if chance.random() < 0.5:
                asyncio.get_running_loop().call_later(chance.uniform(0, 0.006), task.cancel)
        for n, told in zip(asked, await asyncio.gather(*running, return_exceptions=True), strict=True):
            if isinstance(told, asyncio.CancelledError):
                cancelled += 1
            elif told is not None:
                assert told == b"value of %d" % n
                answered += 1
    assert cancelled > tasks / 10, "void: nobody was cancelled in time"
    assert answered > tasks / 10
    link.heal()
    for n in range(KEYS):
        assert await one(n) == b"value of %d" % n


async def test_ten_seconds_of_latency_cost_75_ms_a_second(client, link):
    """Three commands wait 25 ms each, then Redis is left alone for a second; later replies go to nobody."""
    late, skipped = counted("late"), counted("skipped")
    link.delay(5.0)
    begun = time.monotonic()
    for n in range(20):
        assert await client.try_(partial(client.client.get, f"key-{n}")) is None
    assert time.monotonic() - begun < 1.0
    assert counted("late") - late == 3
    assert counted("skipped") - skipped == 17
    link.heal()
    async with asyncio.timeout(10):
        while (told := await client.try_(partial(client.client.get, "key-7"))) is None:
            await asyncio.sleep(0.05)
    assert told == b"value of 7"


async def test_an_answer_that_came_while_our_own_loop_was_busy_is_in_time(client):
    """A large batch keeps the loop for longer than Redis has; what lies there unread meanwhile is no fault of Redis."""
    await client.client.get("key-1")
    late, failed = counted("late"), counted("failed")
    for n in range(10):
        asked = asyncio.create_task(client.try_(partial(client.client.get, f"key-{n}")))
        await asyncio.sleep(0)
        time.sleep(2 * chassis_redis.COMMAND_TIMEOUT_S)  # noqa: ASYNC251 - the loop is to stand still
        assert await asked == b"value of %d" % n
    assert (counted("late"), counted("failed")) == (late, failed)


async def test_a_command_that_nobody_waits_for_has_longer(client, link):
    link.delay(0.1)
    assert await client.try_(partial(client.client.get, "key-1")) is None
    assert await client.try_(partial(client.client.get, "key-1"), 5.0) == b"value of 1"


async def test_a_redis_that_refuses_connections_is_left_alone(client, link, monkeypatch):
    # On a busy machine a refusal takes longer than 25 ms, and would count as late.
    monkeypatch.setattr(chassis_redis, "COMMAND_TIMEOUT_S", 5.0)
    link.down()
    failed = counted("failed")
    for _ in range(5):
        assert await client.try_(partial(client.client.get, "key-1")) is None
    assert counted("failed") - failed >= 3
    assert not client.available()


async def test_nothing_is_left_over_when_callers_have_gone(client, link):
    """A command whose caller was cancelled ends by itself; no task and no connection stays behind."""
    link.delay(0.05)
    tasks = [asyncio.create_task(client.try_(partial(client.client.get, "key-1"))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(10):
        while client._late:
            await asyncio.sleep(0.01)


# No protocol at all; an error, a status, a number, an empty list, a number that is none, a map that ends too soon.
NONSENSE = (b"\x00\xffnonsense\r\n", b"-OOM no\r\n", b"+OK\r\n", b":7\r\n", b"*0\r\n", b":seven\r\n", b"%1\r\n:7\r\n")


async def test_a_server_that_answers_nonsense_fails_no_caller_and_is_used_again_when_it_is_well(
    client, link, monkeypatch
):
    """To commands and to the handshake of new connections; no byte of it answers a later command."""
    monkeypatch.setattr(chassis_redis, "PAUSE_S", 0.0)
    link.garble(NONSENSE)
    async with asyncio.timeout(60):
        while link.did["garbled"] < 100:
            if link.did["garbled"] % 10 == 0:
                # New connections too.
                link.reset()
            await client.try_(partial(client.client.get, "key-1"))
    link.heal()
    monkeypatch.setattr(chassis_redis, "COMMAND_TIMEOUT_S", 5.0)
    async with asyncio.timeout(60):
        while await client.try_(partial(client.client.get, "key-1")) is None:
            await asyncio.sleep(0.01)
    for n in range(KEYS):
        assert await client.try_(partial(client.client.get, f"key-{n}")) == b"value of %d" % n


async def test_a_write_to_a_connection_that_was_just_reset_fails_no_caller(valkey, link):
    """Redis restarts while its connections lie in the pool. uvloop, on which services run, says RuntimeError there."""
    here = asyncio.get_running_loop()

    async def torn() -> None:
        link.reset()

    async def uses_it() -> None:
        client = Redis(valkey.url.replace(f":{valkey.port}", f":{link.port}"))
        for _ in range(20):
            client._paused_until = 0.0
            await asyncio.gather(*(client.try_(client.client.ping) for _ in range(5)))
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(torn(), here))
            await asyncio.gather(*(client.try_(partial(client.client.get, "key-1")) for _ in range(5)))
        await client.close()

    await asyncio.to_thread(uvloop.run, uses_it())
    assert link.did["resets"] > 0, "void: nobody was connected"
