"""What is done for every call, whatever transport brought it.

Trace, who is calling, the key's grammar, deadline, refusal -> status, one log line, metrics. A transport
(grpcio_door.py, tonic_door.py) says what came in as `Incoming`, and sends out the `Outcome`; nothing else is its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from invochain.chassis import clock, trace
from invochain.chassis.call import ANONYMOUS, NOBODY, Call, Principal
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.postgres import PASSING
from invochain.chassis.rpc import Method, key_refusal
from invochain.chassis.telemetry import EXPIRED, RPC_TOTAL, key_hash, log, shown
from invochain.chassis.trace import Trace
from invochain.chassis.turn import quoted, turn
from invochain.errors import (
    Code,
    DeadlineTooShort,
    DependencyDown,
    InternalError,
    Refusal,
    ShuttingDown,
)

WAIT_MS_MAX = 2_000
Metadata = tuple[tuple[str, str], ...]
# Metadata that are read here; a transport need not bring others.
READ = (
    "authorization",
    "idempotency-key",
    "if-match",
    "traceparent",
    "x-consistency-token",
    "x-forwarded-client-ip",
    "x-idempotency-wait-ms",
    "x-invochain-service-token",
    "x-request-id",
)


# Those of them that show who is calling.
SHOWN_BY = ("authorization", "x-invochain-service-token")


class Authenticator(Protocol):
    """Verifies tokens (chassis/tokens.py)."""

    def known(self, bearer: str) -> Principal | None:
        """Whom a token stands for that was verified before; None: `user` has to look."""

    async def user(self, bearer: str) -> Principal: ...

    async def service(self, token: str) -> Principal: ...


class Incoming(NamedTuple):
    """A call as a transport hands it over."""

    # Text only, in lower case; of one that was sent twice both values, so that none wins silently.
    metadata: Mapping[str, str]
    # The address at the other end, without a port; empty: a socket of this machine.
    peer: str
    # Seconds that the caller waits; None: for ever.
    remaining_s: float | None
    raw: bytes = b""


class Outcome(NamedTuple):
    """How a call ended: with `body`, or with a status that is not OK, which goes into `grpc-status-details-bin` too."""

    initial: Metadata = ()
    body: bytes = b""
    status: Status | None = None
    trailing: Metadata = ()


class Line(Protocol):
    """The transport's end of a stream."""

    async def read(self) -> bytes | None:
        """The caller's next message; None after the last."""

    async def open(self, initial: Metadata) -> None:
        """Sends the initial metadata."""

    async def write(self, message: bytes) -> None:
        """Sends a message; returns when there is room for another."""


class Handler:
    """Serves the methods of a process."""

    def __init__(self, name: str, authenticator: Authenticator | None) -> None:
        self._authenticator = authenticator
        self._name, self._log = name, log(name)
        self._streams: set[Requests] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def unary(self, method: Method, came: Incoming) -> Outcome:
        """One request, one answer. Raises CancelledError only: the caller has gone."""
        call = _call(method, came)
        here = trace.current.set(call.trace)
        try:
            await self._admit(method, call, came.metadata)
            async with asyncio.timeout(call.remaining()):
                if method.wants.collects:
                    method.begin(call)
                    # The batch's task is not the caller's: one who hangs up cancels nothing (PROTOCOL 3).
                    answer = await asyncio.shield(call.answer)
                    await _dress(call)
                elif method.request_type is None:
                    answer = await method.function(call)
                else:
                    answer = await method.function(call, method.read(came.raw))
            return self._answered(method, call, _bytes(answer))
        except BaseException as error:  # noqa: BLE001 - judged there: a refusal, a deadline, the caller's leave, a defect
            return self._ended(method, call, error)
        finally:
            trace.current.reset(here)
            turn.observe(method.seconds, clock.monotonic() - call.arrived)

    async def look(self, method: Method, came: Incoming) -> Outcome | None:
        """Looks at a call before its request is read; None: it may come. Raises CancelledError only."""
        call = _call(method, came)
        here = trace.current.set(call.trace)
        try:
            async with asyncio.timeout(call.remaining()):
                await self._admit(method, call, came.metadata)
            return None
        except BaseException as error:  # noqa: BLE001 - as above
            return self._ended(method, call, error)
        finally:
            trace.current.reset(here)

    def collect(self, method: Method, came: Incoming, told: Callable[[Outcome], None]) -> Call | None:
        """A collecting method without a task of its own: `told` gets the outcome, later.

        None: nothing is done, for whose token it is must be looked up first; `unary` serves it.
        """
        call = _call(method, came)
        here = trace.current.set(call.trace)

        def tell(answer: asyncio.Future[bytes]) -> None:
            turn.observe(method.seconds, clock.monotonic() - call.arrived)
            error = answer.exception()
            told(self._ended(method, call, error) if error else self._answered(method, call, answer.result()))

        async def dress_and_tell() -> None:
            try:
                await _dress(call)
            except Exception as error:  # noqa: BLE001 - judged as in `unary`: the answer must leave, whatever it is
                told(self._ended(method, call, error))
            else:
                tell(call.answer)

        def answered(answer: asyncio.Future[bytes]) -> None:
            if call.replayed and call.on_replay is not None and answer.exception() is None:
                task = asyncio.create_task(dress_and_tell())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                tell(answer)

        call.answer.add_done_callback(answered)
        try:
            principal = self._known(method, came.metadata)
            if principal is None:
                return None
            call.principal = principal
            self._check(method, call, came.metadata)
            method.begin(call)
        except Exception as error:  # noqa: BLE001 - judged in `answered`
            call.fail(error)
        finally:
            trace.current.reset(here)
        return call

    async def stream(self, method: Method, came: Incoming, line: Line) -> Outcome:
        """Messages both ways. The answers have gone by `line` when it returns. Raises CancelledError only."""
        call = _call(method, came)
        trace.current.set(call.trace)
        requests = Requests(method, line)
        self._streams.add(requests)
        try:
            await self._admit(method, call, came.metadata)
            async with asyncio.timeout(call.remaining()), aclosing(method.function(call, requests)) as answers:
                await line.open(_initial(call))
                async for answer in answers:
                    await line.write(_bytes(answer))
            return self._answered(method, call, b"")
        except BaseException as error:  # noqa: BLE001 - as above
            return self._ended(method, call, error)
        finally:
            self._streams.discard(requests)
            turn.observe(method.seconds, clock.monotonic() - call.arrived)

    def stop(self) -> None:
        """Streams that wait for their callers end with ShuttingDown; what they have begun, they finish first."""
        self._stopping = True
        for requests in self._streams:
            requests.stop()

    async def _admit(self, method: Method, call: Call, metadata: Mapping[str, str]) -> None:
        """Who is calling, with which key, in time."""
        call.principal = self._known(method, metadata) or await self._who(method, metadata)
        self._check(method, call, metadata)

    def _check(self, method: Method, call: Call, metadata: Mapping[str, str]) -> None:
        if method.wants.roles and not call.principal.service:
            call.principal.needs_role(*method.wants.roles)
        _check_key(call, method, metadata)
        if call.remaining() <= 0:
            EXPIRED.labels(where=method.name).inc()
            raise DeadlineTooShort("before the work began")
        if method.wants.stream and self._stopping:
            raise ShuttingDown()

    def _known(self, method: Method, metadata: Mapping[str, str]) -> Principal | None:
        """Who is calling, where that needs no waiting."""
        wants = method.wants
        if wants.public or self._authenticator is None:
            return ANONYMOUS
        if wants.services or wants.services_too:
            return None
        return self._authenticator.known(metadata.get("authorization", ""))

    async def _who(self, method: Method, metadata: Mapping[str, str]) -> Principal:
        wants = method.wants
        assert self._authenticator is not None
        if (wants.services or wants.services_too) and (token := metadata.get("x-invochain-service-token")):
            principal = await self._authenticator.service(token)
            if wants.services and wants.services != ("*",):
                principal.needs_service("this method", *wants.services)
            return principal
        if wants.services:
            ANONYMOUS.needs_service("this method")
        return await self._authenticator.user(metadata.get("authorization", ""))

    def _answered(self, method: Method, call: Call, body: bytes) -> Outcome:
        turn.count(method.ok)
        self._say(method, call, "OK", "")
        return Outcome(_initial(call), body)

    def _ended(self, method: Method, call: Call, error: BaseException) -> Outcome:
        """The outcome of a call that was not answered. Raises what is not the call's own."""
        if isinstance(error, TimeoutError):
            error = DeadlineTooShort("while the work was under way")
        elif isinstance(error, PASSING):
            error = DependencyDown("the database")
        elif isinstance(error, asyncio.CancelledError):
            RPC_TOTAL.labels(method=method.name, code="CANCELLED").inc()
            raise error
        elif not isinstance(error, Refusal):
            if not isinstance(error, Exception):
                raise error
            # The border of a call: what nobody expected is logged with its id and told as unknown.
            self._log.error("call_failed", method=method.name, request_id=call.request_id, exc_info=error)
            error = InternalError(call.request_id)
        status = error.to_status()
        code = Code(status.code).name
        RPC_TOTAL.labels(method=method.name, code=code).inc()
        self._say(method, call, code, error.reason)
        trailing: Metadata = (("x-request-id", call.request_id),)
        if call.replayed:
            trailing += (("x-idempotent-replayed", "true"),)
        return Outcome(status=status, trailing=trailing)

    def _say(self, method: Method, call: Call, code: str, reason: str) -> None:
        if method.wants.quiet or not shown.info:
            return
        # Written by hand, for it is a tenth of a call's cost otherwise. Only the request's id and the reason are words
        # of others; the rest is hexadecimal digits and names of ours.
        merchant = call.principal.merchant_id.hex() if call.principal.merchant_id != NOBODY else ""
        turn.log(
            self._name,
            f'"method": "{method.name}", "code": "{code}", "reason": {quoted(reason)}, '
            f'"trace_id": "{call.trace.trace_id}", "request_id": {quoted(call.request_id)}, "merchant": "{merchant}", '
            f'"service": "{call.principal.service}", "key": "{key_hash(call.key)}", '
            f'"replayed": {"true" if call.replayed else "false"}, '
            f'"ms": {(clock.monotonic() - call.arrived) * 1_000:.2f}, "event": "call"',
        )


class Requests(AsyncIterator[Any]):
    """A stream's messages as they come, decoded where the method wants them decoded; ends when the caller has no more.

    The next one is read from the wire when it is asked for, so a method that is slow slows its caller down.
    Refuses: MalformedRequest, DeadlineTooShort (no message for `idle_s`), ShuttingDown.
    """

    def __init__(self, method: Method, line: Line) -> None:
        self._method, self._line = method, line
        self._waiting: asyncio.Timeout | None = None
        self._stopping = False

    async def __anext__(self) -> Any:
        if self._stopping:
            raise ShuttingDown()
        try:
            async with asyncio.timeout(self._method.wants.idle_s) as self._waiting:
                raw = await self._line.read()
        except TimeoutError:
            raise (ShuttingDown() if self._stopping else DeadlineTooShort("while no message came")) from None
        finally:
            self._waiting = None
        if raw is None:
            raise StopAsyncIteration
        return self._method.read(raw)

    def stop(self) -> None:
        """No more messages: whoever waits for one is told ShuttingDown now, the others when they ask."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())


def _call(method: Method, came: Incoming) -> Call:
    metadata = came.metadata
    arrived = clock.monotonic()
    budget_s = method.wants.budget_s
    wait = metadata.get("x-idempotency-wait-ms", "")
    return Call(
        method.path,
        ANONYMOUS,
        came.raw,
        arrived + (budget_s if came.remaining_s is None else min(budget_s, came.remaining_s)),
        trace=Trace.follow(metadata.get("traceparent", "")),
        request_id=metadata.get("x-request-id", "")[:64] or to_text(new_id()),
        wait_ms=min(int(wait), WAIT_MS_MAX) if wait.isdigit() and len(wait) < 6 else 0,
        if_match=metadata.get("if-match", ""),
        client_ip=_client_ip(came.peer, metadata),
        consistency_token=metadata.get("x-consistency-token", ""),
        arrived=arrived,
    )


def _client_ip(peer: str, metadata: Mapping[str, str]) -> str:
    """Whose address it is: the gateway says it for its callers; whoever calls directly is known by his own.

    Only a peer on this machine is taken for the gateway; others cannot choose the address they are counted under.
    """
    local = peer in ("", "127.0.0.1", "::1")
    return metadata.get("x-forwarded-client-ip", peer) if local else peer


def _check_key(call: Call, method: Method, metadata: Mapping[str, str]) -> None:
    if method.wants.key and not call.principal.service:
        key = metadata.get("idempotency-key", "")
        if refusal := key_refusal(key):
            raise refusal
        call.key = key


def _initial(call: Call) -> Metadata:
    replayed = (("x-idempotent-replayed", "true"),) if call.replayed else ()
    return (*call.out.items(), ("x-request-id", call.request_id), *replayed)


async def _dress(call: Call) -> None:
    if call.replayed and call.on_replay is not None:
        await call.on_replay(call)


def _bytes(answer: bytes | Message) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
