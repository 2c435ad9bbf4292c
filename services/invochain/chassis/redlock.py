"""Redlock: a lock over N Redis masters that know nothing of each other (PROTOCOL 7).

For work that is better done by one at a time: a long report, a job that several machines could start. **It guards no
invariant.** A holder that is stopped for longer than the lock lives (garbage collection, SIGSTOP, a moved machine), a
master that restarts without its keys, or one whose clock jumps, gives it to a second holder while the first one still
works, and no client of Redis can notice in time. So each holder has a number, strictly rising, out of PostgreSQL
(durable/fence.py), and what it writes is refused where a higher one has written. What may never happen twice passes
decision rows and unique keys besides (R1, R7). Requests take no Redlock: row locks and batches order them already.

A lock is held while most masters have it and less time has passed than it lives, less an allowance for clocks that run
apart. Commands are never cancelled in flight; one that is late is left to end, and what it took runs out by itself.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import RedisError

from invochain.chassis import clock

# Clocks of the masters may run apart by a hundredth, and Redis expires keys by the millisecond.
DRIFT_PART, DRIFT_S = 0.01, 0.002
# Of the life of a lock, the part that asking may take; a master that is slower counts as down.
ASK_PART = 0.1
# Rivals that met try again at random moments, or they would meet again.
RETRY_S = (0.01, 0.05)

# The next number under a name (durable/fence.next_number in a transaction of its own).
Fence = Callable[[str], Awaitable[int]]


class Held:
    """A lock that was taken. `number` goes into every write that is made under it."""

    def __init__(self, lock: Redlock, name: str, token: bytes, until_s: float) -> None:
        self._lock, self.token, self._until_s = lock, token, until_s
        self.name, self.number = name, 0
        # By master, the last command about it: the next one follows it, so that no release overtakes a taking.
        self.last: dict[int, asyncio.Task[bool]] = {}

    def left_s(self) -> float:
        """Seconds for which nobody else has it, as far as clocks can be trusted; not positive when it ran out."""
        return self._until_s - clock.monotonic()

    async def extend(self) -> bool:
        """Its whole life once more; False if it ran out, or most masters do not have it any more."""
        began = clock.monotonic()
        if self.left_s() <= 0 or not await self._lock._most(EXTEND, self):
            return False
        self._until_s = began + self._lock.safe_s
        return True

    async def release(self) -> None:
        """Gives it back where it is still ours."""
        self._until_s = 0.0
        await self._lock._most(RELEASE, self)


class Redlock:
    """Takes locks that live `life_s` unless they are extended."""

    def __init__(self, urls: Sequence[str], fence: Fence, *, life_s: float = 10.0) -> None:
        if len(urls) < 3 or len(urls) % 2 == 0:
            raise ValueError(f"found {len(urls)} masters; 3, 5 or more, and an odd number, are wanted")
        self._fence, self._life_s = fence, life_s
        # How long a lock is safe from the moment its taking began.
        self.safe_s = life_s - life_s * DRIFT_PART - DRIFT_S
        self._ask_s = life_s * ASK_PART
        self._masters = [
            redis.Redis.from_url(url, socket_connect_timeout=self._ask_s, socket_timeout=life_s, retry=None)
            for url in urls
        ]
        self._majority = len(urls) // 2 + 1
        # Commands under way, with nobody waiting for some of them.
        self._under_way: set[asyncio.Task[bool]] = set()

    async def acquire(self, name: str, within_s: float = 0.0) -> Held | None:
        """The lock, or None if it is not to be had within that time. Raises what `fence` raises."""
        until = clock.monotonic() + within_s
        while (held := await self._try(name)) is None:
            pause_s = random.uniform(*RETRY_S)
            if clock.monotonic() + pause_s > until:
                return None
            await asyncio.sleep(pause_s)
        return held

    async def _try(self, name: str) -> Held | None:
        held = Held(self, name, os.urandom(16), clock.monotonic() + self.safe_s)
        try:
            if await self._most(TAKE, held):
                held.number = await self._fence(name)
                # Only now: whoever took it after us must get the higher number, or know that it is not his.
                if held.left_s() > 0:
                    return held
        except BaseException:
            self._start(RELEASE, held)
            raise
        await held.release()
        return None

    async def _most(self, script: str, held: Held) -> bool:
        """Whether most masters say yes, in time; returns as soon as that is known."""
        waiting = self._start(script, held)
        until, yes = clock.monotonic() + self._ask_s, 0
        while yes < self._majority <= yes + len(waiting):
            done, waiting = await asyncio.wait(
                waiting, timeout=max(until - clock.monotonic(), 0), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return False
            yes += sum(task.result() for task in done)
        return yes >= self._majority

    def _start(self, script: str, held: Held) -> set[asyncio.Task[bool]]:
        """The script at every master, in tasks that nobody cancels."""
        life_ms = int(self._life_s * 1_000)
        for number, master in enumerate(self._masters):
            task = asyncio.create_task(_ask(master, script, held, life_ms, held.last.get(number)))
            held.last[number] = task
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return set(held.last.values())

    async def close(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)
        for one in self._masters:
            await one.aclose()


async def _ask(master: redis.Redis, script: str, held: Held, life_ms: int, before: asyncio.Task[bool] | None) -> bool:
    if before is not None:
        await asyncio.wait([before])
    try:
        answer: Any = await master.eval(script, 1, f"ic:lock:{held.name}", held.token, life_ms)
    except (RedisError, OSError, TimeoutError):
        return False
    return bool(answer)


TAKE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0"
EXTEND = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
RELEASE = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
