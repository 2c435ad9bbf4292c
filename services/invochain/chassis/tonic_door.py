"""The door over tonic: HTTP/2, TLS and limits in the Rust core, on a thread that never waits for Python.

One wake-up of the event loop takes all that has come and answers all that is decided. A method that collects costs no
task: its calls go to their batch as they are taken, and the batch's answers leave together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial

from google.rpc import code_pb2

from invochain import core
from invochain.chassis.call import Call
from invochain.chassis.door import (
    CONNECTION_AGE_S,
    CONNECTION_GRACE_S,
    METADATA_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    STREAMS_MAX,
    Tls,
    message_bytes_max,
)
from invochain.chassis.handler import READ, SHOWN_BY, Handler, Incoming, Metadata, Outcome
from invochain.chassis.rpc import HANDLER_BUDGET_S, Method
from invochain.chassis.telemetry import log
from invochain.errors import DeadlineTooShort

_LIMITS = {
    "response_bytes_max": RESPONSE_BYTES_MAX,
    "metadata_bytes_max": METADATA_BYTES_MAX,
    "streams_max": STREAMS_MAX,
    "request_within_s": HANDLER_BUDGET_S,
    "connection_age_s": CONNECTION_AGE_S,
    "connection_grace_s": CONNECTION_GRACE_S,
}
# The transport's own thread cuts what is left when the time is over, and says so; it has this long to do it.
_CUT_WITHIN_S = 2.0


class TonicDoor:
    """A server of the Rust core."""

    def __init__(self, handler: Handler, methods: Sequence[Method], *, reuse_port: bool, tls: Tls | None) -> None:
        self._handler, self._methods = handler, methods
        self._reuse_port, self._tls = reuse_port, tls
        self._log = log("chassis")
        # What is under way, by the transport's id: who works on it, and where its messages go.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._calls: dict[int, Call] = {}
        self._lines: dict[int, _Line] = {}
        self._answers: list[tuple[int, Metadata, bytes]] = []
        # By the number in core-rs/python/src/transport.rs.
        self._on = (
            self._call,
            self._message,
            self._half_closed,
            self._room,
            self._expired,
            self._gone,
            self._is_drained,
            self._asked,
        )

    async def start(self, address: str) -> int:
        """Listens on host:port and returns the port."""
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        tls = (self._tls.certificates, self._tls.key, self._tls.client_authorities) if self._tls else None
        methods = [
            (method.path, _kind(method), method.wants.public, message_bytes_max(method.wants))
            for method in self._methods
        ]
        self._wire = core.Transport(address, methods, READ, SHOWN_BY, _LIMITS, reuse_port=self._reuse_port, tls=tls)
        self._loop.add_reader(self._wire.fileno(), self._wake)
        return self._wire.port

    async def drain(self, within_s: float) -> None:
        """No new calls; returns when those under way are answered, or the time is over and they are cut off."""
        if self._drained.done():
            return
        self._wire.drain(within_s)
        await asyncio.wait([self._drained], timeout=within_s + _CUT_WITHIN_S)
        self._loop.remove_reader(self._wire.fileno())
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._is_drained(0)
        self._wire.close()

    # ------------------------------------------------------------ what comes from the wire

    def _wake(self) -> None:
        for kind, *facts in self._wire.take():
            self._on[kind](*facts)

    def _call(
        self, id_: int, position: int, metadata: Mapping[str, str], peer: str, remaining_us: int | None, raw: bytes
    ) -> None:
        method = self._methods[position]
        came = _incoming(metadata, peer, remaining_us, raw)
        if method.wants.stream:
            self._lines[id_] = _Line(self._wire, id_)
            work = self._stream(id_, method, came, self._lines[id_])
        else:
            if method.wants.collects:
                call = self._handler.collect(method, came, partial(self._collected, id_))
                if call is not None:
                    self._calls[id_] = call
                    return
            work = self._unary(id_, method, came)
        self._begin(id_, work)

    def _asked(
        self, id_: int, position: int, metadata: Mapping[str, str], peer: str, remaining_us: int | None, raw: bytes
    ) -> None:
        came = _incoming(metadata, peer, remaining_us, raw)
        self._begin(id_, self._let_in(id_, self._methods[position], came))

    def _begin(self, id_: int, work: Coroutine[None, None, None]) -> None:
        task = self._tasks[id_] = self._loop.create_task(work)
        task.add_done_callback(partial(self._finished, id_))

    def _message(self, id_: int, body: bytes) -> None:
        if line := self._lines.get(id_):
            line.came(body)

    def _half_closed(self, id_: int) -> None:
        if line := self._lines.get(id_):
            line.came(None)

    def _room(self, id_: int) -> None:
        if line := self._lines.get(id_):
            line.has_room()

    def _expired(self, id_: int) -> None:
        if call := self._calls.get(id_):
            call.refuse(DeadlineTooShort("while the work was under way"))

    def _gone(self, id_: int) -> None:
        # A collected call goes on without its caller: its batch is not the caller's to cancel (PROTOCOL 3).
        if task := self._tasks.get(id_):
            task.cancel()

    def _is_drained(self, _: int) -> None:
        if not self._drained.done():
            self._drained.set_result(None)

    # ------------------------------------------------------------ what goes out

    async def _let_in(self, id_: int, method: Method, came: Incoming) -> None:
        outcome = await self._handler.look(method, came)
        if outcome is None:
            self._wire.admit(id_)
        else:
            self._refuse(id_, outcome)

    async def _unary(self, id_: int, method: Method, came: Incoming) -> None:
        self._answer(id_, await self._handler.unary(method, came))

    async def _stream(self, id_: int, method: Method, came: Incoming, line: _Line) -> None:
        outcome = await self._handler.stream(method, came, line)
        if outcome.status is None:
            self._wire.end_stream(id_)
        else:
            self._refuse(id_, outcome)

    def _collected(self, id_: int, outcome: Outcome) -> None:
        self._calls.pop(id_, None)
        self._answer(id_, outcome)

    def _answer(self, id_: int, outcome: Outcome) -> None:
        if outcome.status is not None:
            self._refuse(id_, outcome)
            return
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append((id_, outcome.initial, outcome.body))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        self._wire.answer(answers)

    def _refuse(self, id_: int, outcome: Outcome) -> None:
        assert outcome.status is not None
        details = outcome.status.SerializeToString()
        self._wire.refuse(id_, outcome.status.code, outcome.status.message, details, outcome.trailing)

    def _finished(self, id_: int, task: asyncio.Task[None]) -> None:
        del self._tasks[id_]
        self._lines.pop(id_, None)
        if not task.cancelled() and (error := task.exception()):
            # A defect of the door itself: the caller must not wait for what never comes.
            self._log.error("call_failed", exc_info=error)
            self._wire.refuse(id_, code_pb2.INTERNAL, "internal error", b"", ())


class _Line:
    """A stream's end at this side."""

    def __init__(self, wire: core.Transport, id_: int) -> None:
        self._wire, self._id = wire, id_
        self._messages: deque[bytes | None] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._full: asyncio.Future[None] | None = None

    def came(self, message: bytes | None) -> None:
        self._messages.append(message)
        _wake(self._waiting)

    def has_room(self) -> None:
        _wake(self._full)

    async def read(self) -> bytes | None:
        """The caller's next message; None after the last."""
        if not self._messages:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self._messages[0] is None:
            return None
        message = self._messages.popleft()
        assert message is not None
        self._wire.consumed(self._id, len(message))
        return message

    async def open(self, initial: Metadata) -> None:
        self._wire.open_stream(self._id, initial)

    async def write(self, message: bytes) -> None:
        """Sends a message; returns when there is room for another."""
        if not self._wire.send(self._id, message):
            self._full = asyncio.get_running_loop().create_future()
            await self._full


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _incoming(metadata: Mapping[str, str], peer: str, remaining_us: int | None, raw: bytes) -> Incoming:
    return Incoming(metadata, peer, None if remaining_us is None else remaining_us / 1e6, raw)


def _kind(method: Method) -> str:
    return "stream" if method.wants.stream else "collects" if method.wants.collects else "unary"
