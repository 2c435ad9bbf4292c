"""Redis as a cache: its loss costs speed, nothing else (PROTOCOL section 7).

Commands are never cancelled in flight (a cancelled reply would answer the next command); a command that is late is
left to end by itself, and after three in a row Redis is left alone for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio as redis
from redis.exceptions import RedisError

from invochain.chassis import clock
from invochain.chassis.telemetry import REDIS_COMMANDS, log

T = TypeVar("T")

# A batch's time for one round trip; far above what a healthy Redis needs, far below what a caller would notice.
COMMAND_TIMEOUT_S = 0.025
# It is counted in parts of this length: while our own loop is busy it reads no reply, however long that one is there.
PART_S = 0.005
FAILURES_MAX = 3
PAUSE_S = 1.0
# What the client library stumbles over when a server answers as Redis never would; and, RuntimeError, what uvloop says
# of a write to a connection that was reset a moment before.
_STUMBLED = (ValueError, TypeError, AttributeError, LookupError, RuntimeError)

_OK, _LATE, _FAILED, _SKIPPED = (REDIS_COMMANDS.labels(outcome=way) for way in ("ok", "late", "failed", "skipped"))


class Redis:
    """One client; `None` answers stand for "not there", "too late", "not asked" and "nonsense" alike."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_connect_timeout=0.5,
            # The socket gives up after the command did, and its connection is dropped with it.
            socket_timeout=0.5,
            max_connections=32,
            retry=None,
        )
        self._failures = 0
        self._paused_until = 0.0
        self._late: set[asyncio.Future[Any]] = set()
        self._log = log("chassis")

    @property
    def client(self) -> redis.Redis:
        """For pipelines and scripts; await them through `try_`."""
        return self._client

    def available(self) -> bool:
        return clock.monotonic() >= self._paused_until

    async def try_(self, command: Callable[[], Awaitable[T]], within_s: float = 0.0) -> T | None:
        """The command's result, or None if Redis is down, paused or late: not there within COMMAND_TIMEOUT_S, or
        `within_s` where nobody waits for it."""
        if not self.available():
            _SKIPPED.inc()
            return None
        task = asyncio.ensure_future(command())
        try:
            for _ in range(round((within_s or COMMAND_TIMEOUT_S) / PART_S)):
                if (await asyncio.wait([task], timeout=PART_S))[0]:
                    break
            if not task.done():
                raise TimeoutError
            result = task.result()
        except (TimeoutError, RedisError, OSError, *_STUMBLED) as late:
            if isinstance(late, _STUMBLED):
                # Nobody knows what of its bytes is still to come, and whom they would answer.
                self._spawn(self._client.connection_pool.disconnect())
            (_FAILED if task.done() else _LATE).inc()
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self._failures, self._paused_until = 0, clock.monotonic() + PAUSE_S
                self._log.warning("redis_skipped", for_s=PAUSE_S, why=type(late).__name__)
            return None
        finally:
            if not task.done():
                # Too late, or whoever asked was cancelled: the command ends by itself, and its reply with it.
                self._spawn(task)
        _OK.inc()
        self._failures = 0
        return result

    def _spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._late.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Future[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        await self._client.aclose()
