"""One call, from the arguments to its outcome: key, token, trace, deadline, attempts. Every call goes through here.

key and request id ─▶ attempt ─▶ answer                       ─▶ Answer
                        ▲   └──▶ token refused     renew, once ─┐
                        │   └──▶ worth repeating   pause ───────┤
                        └───────────────────────────────────────┘
                            └──▶ final refusal                ─▶ its exception
                            └──▶ no end, and some attempt may have done it ─▶ OutcomeUnknown
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from invochain_client.errors import InvochainError, error_of
from invochain_client.outcome import OutcomeUnknown
from invochain_client.refusal import Refusal
from invochain_client.retrying import FINAL, UNKNOWN, Budget, Timing, in_trouble, may_repeat, pause_s
from invochain_client.session import Session
from invochain_client.wire import Failed, Method, Reply, Wire

M = TypeVar("M", bound=Message)
T = TypeVar("T")

# The W3C trace context of the caller, for code without a tracing library: traceparent.set("00-…").
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_CONSISTENCY = "x-consistency-token"
_HEX = re.compile(r"[0-9A-Fa-f]{1,16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a change came to."""

    message: T
    # An earlier call with this key, or an earlier attempt of this one, had done it; nothing was done by this attempt.
    replayed: bool
    # The idempotency key it was done under; empty for a call that takes none.
    key: str
    # Attempts this call took.
    attempts: int
    # Finds the log lines.
    request_id: str


def fresh_key() -> str:
    """A new idempotency key. Keep it with what the call is for: then a repeat after a crash is a repeat."""
    return str(uuid.uuid4())


class Caller:
    """Calls the services as one user, or as nobody."""

    def __init__(
        self,
        wire: Wire,
        timing: Timing,
        session: Session | None = None,
        trace: Callable[[], str | None] = traceparent.get,
        budgets: dict[str, Budget] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.wire, self.timing, self.trace = wire, timing, trace
        self.session = session
        # Users who share channels share the care for the services behind them.
        self.budgets = (
            budgets if budgets is not None else {room: Budget() for room in ("merchant", "inventory", "invoice")}
        )
        self.draw = draw
        self._consistency: dict[str, str] = {}

    async def read(self, method: Method[M], request: Message, timeout_s: float | None = None) -> M:
        """Calls a method that changes nothing. Raises the exception of its refusal."""
        return (await _Attempts(self, method, request, "", timeout_s).run()).message

    async def write(
        self,
        method: Method[M],
        request: Message,
        operation: str,
        *,
        key: str | None = None,
        keyed: bool = True,
        timeout_s: float | None = None,
        ask: Callable[[str, bool], Coroutine[Any, Any, Answer[Any]]] | None = None,
    ) -> Answer[M]:
        """Calls a method that changes something, every attempt with the same key.

        `ask(key, cancel)` finds out what became of a key; without it, the call is repeated. Raises the exception of the
        refusal, or OutcomeUnknown.
        """
        key = (fresh_key() if key is None else key) if keyed else ""
        attempts = _Attempts(self, method, request, key, timeout_s)
        try:
            reply = await attempts.run()
        except InvochainError as error:
            if not attempts.may_be_done or error.code in FINAL:
                raise

            async def fate(cancel: bool) -> Answer[Any]:
                if ask is not None:
                    return await ask(key, cancel)
                if cancel:
                    raise ValueError(
                        f"{operation} cannot be cancelled; without cancel it is repeated with its key"
                    ) from None
                return await self.write(method, request, operation, key=key, keyed=keyed, timeout_s=timeout_s)

            raise OutcomeUnknown(error, operation, key, fate, blocking=self.wire.blocking) from error
        replayed = reply.metadata.get("x-idempotent-replayed") == "true"
        return Answer(reply.message, replayed, key, attempts.count, attempts.request_id)

    async def pages(
        self, method: Method[M], request: Any, items: Callable[[M], Iterable[T]], timeout_s: float | None = None
    ) -> AsyncGenerator[T, None]:
        """What a list holds, page after page; the next one is fetched when it is needed. `request` is used up."""
        while True:
            page = await self.read(method, request, timeout_s)
            for item in items(page):
                yield item
            request.page_token = getattr(page, "next_page_token")  # noqa: B009 - a field of every list's answer
            if not request.page_token:
                return

    async def wait_until(self, look: Callable[[], Awaitable[T]], true: Callable[[T], bool], within_s: float) -> T:
        """Looks again and again until what is seen satisfies `true`, and returns it. Raises TimeoutError."""
        until_s = self.wire.monotonic_s() + within_s
        pause = 0.02
        while not true(seen := await look()):
            remaining_s = until_s - self.wire.monotonic_s()
            if remaining_s <= 0:
                raise TimeoutError(f"not so within {within_s:g} s; last seen: {seen}")
            await self.wire.sleep(min(pause, remaining_s))
            pause = min(2 * pause, 0.5)
        return seen

    def metadata(self, method: Method[Any], key: str, request_id: str) -> list[tuple[str, str]]:
        """What goes with every attempt, but for the token."""
        sent = [("x-request-id", request_id)]
        if key:
            sent.append(("idempotency-key", key))
        trace = self.trace()
        if trace and _TRACEPARENT.fullmatch(trace):
            sent.append(("traceparent", trace))
        if token := self._consistency.get(method.room):
            sent.append((_CONSISTENCY, token))
        return sent

    def learn(self, method: Method[Any], reply: Reply[Any]) -> None:
        """Reads after a write see it, whichever replica serves them (PROTOCOL 8)."""
        if not (token := reply.metadata.get(_CONSISTENCY)):
            return
        # Answers to calls side by side come in any order; the latest write is the one to see.
        known, told = _place(self._consistency.get(method.room, "")), _place(token)
        if not known or not told or told >= known:
            self._consistency[method.room] = token


def _place(token: str) -> tuple[int, ...]:
    """A consistency token as numbers that grow with every write; none for one of a form that is not known."""
    parts = token.split("/")
    return tuple(int(part, 16) for part in parts) if all(map(_HEX.fullmatch, parts)) else ()


class _Attempts(Generic[M]):
    """The attempts of one call."""

    def __init__(self, caller: Caller, method: Method[M], request: Message, key: str, timeout_s: float | None) -> None:
        self._caller, self._method, self._key = caller, method, key
        # Once for all attempts: they are equal to the byte.
        self._request = request.SerializeToString()
        self._until_s = caller.wire.monotonic_s() + (caller.timing.call_s if timeout_s is None else timeout_s)
        self._renewed = False
        # Whether this attempt reached the wire.
        self._sent = False
        self.request_id = str(uuid.uuid4())
        self.count = 0
        # Some attempt had no answer: what it asked for may have been done.
        self.may_be_done = False

    async def run(self) -> Reply[M]:
        """The answer. Raises the exception of the last refusal."""
        while True:
            self.count += 1
            self._sent = False
            # Until the token is there, nothing is sent to the service itself.
            room, token = "merchant", ""
            try:
                token = await self._token()
                room = self._method.room
                reply = await self._send(token)
            except Failed as failed:
                refusal = failed.refusal
            else:
                self._caller.budgets[room].answered()
                self._caller.learn(self._method, reply)
                return reply
            self.may_be_done |= self._sent and refusal.code in UNKNOWN
            if not self._renew(token, refusal):
                await self._pause_or_raise(refusal, room)

    async def _token(self) -> str:
        session = self._caller.session
        return (
            "" if session is None or self._method.public else await session.bearer(self.request_id, self._remaining_s())
        )

    async def _send(self, token: str) -> Reply[M]:
        within_s = min(self._caller.timing.attempt_s, self._remaining_s())
        if within_s <= 0:
            raise Failed(Refusal("DEADLINE_EXCEEDED", "the time was over before anything was sent"))
        metadata = self._caller.metadata(self._method, self._key, self.request_id)
        if token:
            metadata.append(("authorization", f"Bearer {token}"))
        self._sent = True
        return await self._caller.wire.unary(self._method, self._request, metadata, within_s)

    def _renew(self, token: str, refusal: Refusal) -> bool:
        """Whether a refused token is the reason, and another one may help: it is renewed once."""
        if refusal.code != "UNAUTHENTICATED" or not token or self._renewed:
            return False
        assert self._caller.session is not None
        self._caller.session.distrust(token)
        self._renewed = True
        return True

    async def _pause_or_raise(self, refusal: Refusal, room: str) -> None:
        """Waits until the next attempt is due. Raises the refusal's exception when there is none."""
        caller, budget = self._caller, self._caller.budgets[room]
        if in_trouble(refusal):
            budget.unanswered()
        wait_s = pause_s(refusal, self.count, caller.timing, caller.draw)
        worth_it = may_repeat(refusal) and budget.allows and self.count < caller.timing.attempts_max
        if not worth_it or wait_s >= self._remaining_s():
            raise error_of(refusal)
        await caller.wire.sleep(wait_s)

    def _remaining_s(self) -> float:
        return self._until_s - self._caller.wire.monotonic_s()
