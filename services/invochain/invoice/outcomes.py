"""Have we been here before? Requests under way and outcomes known, before any database is asked (PROTOCOL 7).

Three places, nearest first: this batch, this process, Redis. All of it is advice: the decision row arbitrates, and
without Redis both copies of a request run and the loser replays the winner. A value in Redis counts only under our MAC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from invochain import core
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, new_id
from invochain.chassis.redis import Redis
from invochain.chassis.telemetry import CACHE
from invochain.errors import ConcurrentRequest, KeyReused, Refusal, Told

MARKER_MS = 3_000
RENEW_S = 1.0
OUTCOME_S = 24 * 3600
# Nobody waits for what is written behind an answer.
WRITE_WITHIN_S = 0.25
# Calls that may wait for another call with their key, of all that may be under way.
WAITERS_MAX = 2_000
POLL_S = 0.05

_MARKER, _OUTCOME = b"M", b"O"
_OK, _REFUSED = b"+", b"-"

# Puts our marker where nothing is; returns the place and value of what is there. Most are new, and cost no answer.
LOOK = """
local found = {}
for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value then
    found[#found + 1] = i
    found[#found + 1] = value
  else
    redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1])
  end
end
return found
"""
# Only its owner deletes or renews a marker.
CLEAR = """
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[i] then redis.call('DEL', key) end
end
"""
RENEW = """
for i, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[i + 1] then redis.call('PEXPIRE', key, ARGV[1]) end
end
"""
KEEP = """
for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1]) end
"""


@dataclass(slots=True)
class Asked:
    """One request that asks whether it is already known."""

    call: Call
    merchant_id: Id
    operation: str
    # The request; of an action, with the invoice it is about (move_invoice.py).
    rid: Id
    fingerprint: bytes


@dataclass(slots=True)
class _UnderWay:
    asked: Asked
    # Its name in Redis; empty if it was not known when this began.
    key: bytes
    marker: bytes
    # The outcome once it is final; cancelled if this try ended without one.
    ended: asyncio.Future[tuple[bytes, bytes]]


class Outcomes:
    """Requests under way in this process, and the cache of outcomes in Redis."""

    def __init__(self, redis: Redis | None, mac_key: bytes) -> None:
        self._redis, self._mac_key = redis, mac_key
        # Which life of the database the entries belong to (cache_epoch.py); None: not known, so Redis is not asked.
        self.epoch: str | None = None
        self._under_way: dict[Id, _UnderWay] = {}
        self._waiters = 0
        self._tasks: set[asyncio.Task[None]] = set()
        client = redis.client if redis else None
        self._look = client.register_script(LOOK) if client else None
        self._clear = client.register_script(CLEAR) if client else None
        self._renew = client.register_script(RENEW) if client else None
        self._keep = client.register_script(KEEP) if client else None

    def sees(self) -> bool:
        """Whether Redis can be asked now: if not, a look finds only what is under way in this process."""
        return self._redis is not None and self.epoch is not None and self._redis.available()

    async def look(self, asked: Sequence[Asked]) -> tuple[list[int], list[Call]]:
        """Answers what is known and marks the rest as under way.

        Returns the positions that go on, and the calls that wait for another one's outcome. Whatever goes on must be
        ended by `settle`.
        """
        first: list[int] = []
        waiting: list[Call] = []
        try:
            self._look_here(asked, first, waiting)
            return await self._look_in_redis(asked, first, waiting), waiting
        except BaseException:
            # Nobody would end them, and their keys would be under way for as long as this process lives.
            for position in first:
                self._end(asked[position].rid, None)
            raise

    def _look_here(self, asked: Sequence[Asked], first: list[int], waiting: list[Call]) -> None:
        owner = _MARKER + new_id()
        for position, one in enumerate(asked):
            rival = self._under_way.get(one.rid)
            if rival is None:
                self._under_way[one.rid] = self._begin(one, owner)
                first.append(position)
            elif rival.asked.fingerprint != one.fingerprint:
                if any(asked[p].rid == one.rid for p in first):
                    # The one before it in the same batch comes first (PROTOCOL 7).
                    waiting.append(one.call)
                    self._spawn(self._misuse(one, rival.ended))
                else:
                    one.call.refuse(ConcurrentRequest())
            elif any(asked[p].rid == one.rid for p in first) or self._may_wait(one.call):
                # The same request twice in one batch has one answer; another batch's is waited for if asked to.
                waiting.append(one.call)
                self._spawn(self._follow(one, rival.ended))
            else:
                one.call.refuse(ConcurrentRequest())

    async def _look_in_redis(self, asked: Sequence[Asked], first: list[int], waiting: list[Call]) -> list[int]:
        if self._redis is None or self._look is None or self.epoch is None or not first:
            return first
        mine = [self._under_way[asked[p].rid] for p in first]
        found = await self._redis.try_(
            partial(self._look, keys=[m.key for m in mine], args=[MARKER_MS, *(m.marker for m in mine)])
        )
        there = None if found is None else _there(found, len(mine))
        if there is None:
            CACHE.labels(result="skipped" if found is None else "not_ours").inc(len(first))
            return first
        if not there:
            return first
        go_on = []
        for place, (position, here) in enumerate(zip(first, mine, strict=True), start=1):
            one, value = asked[position], there.get(place, here.marker)
            if value == here.marker:
                go_on.append(position)
                continue
            outcome = self._open(here.key, value)
            if outcome is not None:
                CACHE.labels(result="hit").inc()
                print_, state, payload = outcome
                if print_ != one.fingerprint:
                    one.call.refuse(KeyReused())
                else:
                    _answer(one.call, state, payload)
                self._end(one.rid, (state, payload) if print_ == one.fingerprint else None)
            elif value[:1] == _MARKER and len(value) == 49:
                CACHE.labels(result="under_way").inc()
                self._end(one.rid, None)
                if value[17:] != one.fingerprint:
                    # Only the decision row may say so for good; until then it is a request under way.
                    one.call.refuse(ConcurrentRequest())
                elif self._may_wait(one.call):
                    waiting.append(one.call)
                    self._spawn(self._poll(one, here.key))
                else:
                    one.call.refuse(ConcurrentRequest())
            else:
                # A value that is not ours: ignored, and overwritten by the outcome.
                CACHE.labels(result="not_ours").inc()
                go_on.append(position)
        return go_on

    async def renewing(self, asked: Sequence[Asked]) -> None:
        """Keeps the markers of a batch alive until cancelled: one renewer a batch."""
        while self._redis is not None and self._renew is not None:
            await asyncio.sleep(RENEW_S)
            mine = [self._under_way[a.rid] for a in asked if a.rid in self._under_way]
            mine = [here for here in mine if here.key]
            if mine:
                await self._redis.try_(
                    partial(self._renew, keys=[m.key for m in mine], args=[MARKER_MS, *(m.marker for m in mine)])
                )

    def settle(self, asked: Iterable[Asked], final: Callable[[Call], tuple[bytes, bytes] | None]) -> None:
        """Ends requests under way. `final(call)`: the outcome to keep, or None where it is unknown or retryable."""
        keep: list[tuple[bytes, bytes, bytes, bytes]] = []
        clear: list[tuple[bytes, bytes]] = []
        for one in asked:
            here = self._under_way.get(one.rid)
            if here is None or here.asked.call is not one.call:
                continue
            outcome = final(one.call)
            self._end(one.rid, outcome)
            if not here.key:
                continue
            if outcome is None:
                clear.append((here.key, here.marker))
            else:
                keep.append((here.key, one.fingerprint, *outcome))
        if self._redis is None or self._keep is None or self._clear is None:
            return
        if keep:
            sealed = core.seal_outcomes(self._mac_key, keep)
            self._spawn(self._write(partial(self._keep, [name for name, *_ in keep], [OUTCOME_S, *sealed])))
        if clear:
            self._spawn(self._write(partial(self._clear, [k for k, _ in clear], [v for _, v in clear])))

    async def _write(self, command) -> None:  # type: ignore[no-untyped-def]
        if self._redis is not None:
            await self._redis.try_(command, WRITE_WITHIN_S)

    def _begin(self, one: Asked, owner: bytes) -> _UnderWay:
        key = b""
        if self.epoch is not None:
            key = f"ic:{self.epoch}:{one.merchant_id.hex()}:{one.operation}:{one.rid.hex()}".encode()
        ended = asyncio.get_running_loop().create_future()
        return _UnderWay(one, key, owner + one.fingerprint, ended)

    def _end(self, rid: Id, outcome: tuple[bytes, bytes] | None) -> None:
        here = self._under_way.pop(rid, None)
        if here and not here.ended.done():
            if outcome is None:
                here.ended.cancel()
            else:
                here.ended.set_result(outcome)

    def _may_wait(self, call: Call) -> bool:
        return call.wait_ms > 0 and self._waiters < WAITERS_MAX

    async def _follow(self, one: Asked, ended: asyncio.Future[tuple[bytes, bytes]]) -> None:
        """Answers a call with the outcome of the one before it."""
        self._waiters += 1
        try:
            await asyncio.wait([ended], timeout=max(one.call.wait_ms / 1_000, 0.0) or one.call.remaining())
        finally:
            self._waiters -= 1
        if ended.done() and not ended.cancelled():
            _answer(one.call, *ended.result())
        else:
            one.call.refuse(ConcurrentRequest())

    async def _misuse(self, one: Asked, ended: asyncio.Future[tuple[bytes, bytes]]) -> None:
        """Answers a call whose key came with another body before it. The key is that body's only if that body's is the
        outcome; else it may be this very call's, answered long ago, and must not be told misused (PROTOCOL R5)."""
        await asyncio.wait([ended], timeout=one.call.remaining())
        decided = ended.done() and not ended.cancelled()
        one.call.refuse(KeyReused() if decided else ConcurrentRequest())

    async def _poll(self, one: Asked, key: bytes) -> None:
        """The same for a request that another process works on."""
        self._waiters += 1
        until = asyncio.get_running_loop().time() + one.call.wait_ms / 1_000
        try:
            while self._redis is not None and asyncio.get_running_loop().time() < until:
                value = await self._redis.try_(partial(self._redis.client.get, key))
                if not isinstance(value, bytes):
                    break
                outcome = self._open(key, value)
                if outcome is not None and outcome[0] == one.fingerprint:
                    _answer(one.call, outcome[1], outcome[2])
                    return
                await asyncio.sleep(POLL_S)
        finally:
            self._waiters -= 1
        one.call.refuse(ConcurrentRequest())

    def _open(self, key: bytes, value: bytes) -> tuple[bytes, bytes, bytes] | None:
        if value[:1] != _OUTCOME:
            return None
        if (outcome := core.open_outcome(self._mac_key, key, value)) is None:
            CACHE.labels(result="mac_wrong").inc()
        return outcome

    def _spawn(self, work) -> None:  # type: ignore[no-untyped-def]
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Waits for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


def success(response: bytes) -> tuple[bytes, bytes]:
    """The outcome of a success, as it is kept."""
    return _OK, response


def refused(refusal: Refusal) -> tuple[bytes, bytes]:
    """The outcome of a final refusal, as it is kept."""
    return _REFUSED, refusal.to_status().SerializeToString()


def _there(found: object, count: int) -> dict[int, bytes] | None:
    """What LOOK found: values by the places of their keys, from 1; None: another server said something else."""
    if not isinstance(found, list) or len(found) % 2:
        return None
    pairs = list(zip(found[::2], found[1::2], strict=True))
    if all(isinstance(place, int) and 1 <= place <= count and isinstance(value, bytes) for place, value in pairs):
        return dict(pairs)
    return None


def _answer(call: Call, state: bytes, payload: bytes) -> None:
    if state == _OK:
        call.reply(payload, replayed=True)
    else:
        call.refuse(Told.from_bytes(payload), replayed=True)
