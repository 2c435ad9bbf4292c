"""The stream to the server: sends ahead of the answers, within a window, and begins again where it broke."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.chassis.dial import open_channel
from invochain.chassis.door import MESSAGE_BYTES_MAX, RESPONSE_BYTES_MAX
from invochain.cli.call import told
from invochain.cli.importing.progress import FileChanged, Outcome
from invochain.cli.importing.row import CannotRead, Row

# Rows that are read and not yet known to be durable.
WINDOW = 2_000
# Of one message. An invoice that is larger has one of its own, as far as the server takes it.
ITEMS = 100
MESSAGE_BYTES = 1024 * 1024
# An item beside its invoice and its key: offset, tags and lengths.
ITEM_BYTES = 32
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", RESPONSE_BYTES_MAX)]
BACKOFF_S = (0.1, 0.3, 1.0, 2.0, 5.0)
# The stream broke; what it carried may or may not be done, and the same keys find out.
AGAIN = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


class Stopped(Exception):
    """The import cannot go on now; what is done is kept."""


@dataclass
class Sender:
    """Sends the rows of a file, in order; `take` gets what is durable, in order, and its consistency token."""

    address: str
    rows: Iterator[Row]
    token: Callable[[bool], Awaitable[str]]
    take: Callable[[list[Outcome], str], None]
    patience_s: float
    # Read and not yet known to be durable, in the order of the file; those without an invoice are never sent.
    _open: deque[Row] = field(default_factory=deque)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False
    _fault: Exception | None = None

    async def run(self) -> None:
        """Returns when every row has its outcome. Raises Stopped, and what reading the rows raises."""
        loop = asyncio.get_running_loop()
        failures, since, signed_in_anew = 0, loop.time(), False
        async with open_channel(self.address, OPTIONS) as channel:
            while not (self._ended and not self._open):
                before = len(self._open), self._open[0].line if self._open else 0
                try:
                    await self._stream(InvoiceServiceStub(channel), await self.token(signed_in_anew))
                    if self._ended and self._open:
                        raise Stopped(f"the server ended the stream before it answered line {self._open[0].line}")
                    continue
                except grpc.aio.AioRpcError as broken:
                    error = broken
                moved = before != (len(self._open), self._open[0].line if self._open else 0)
                if moved:
                    failures, since, signed_in_anew = 0, loop.time(), False
                if error.code() is grpc.StatusCode.UNAUTHENTICATED and not signed_in_anew:
                    signed_in_anew = True
                    continue
                if error.code() not in AGAIN:
                    raise Stopped(f"{error.code().name}: {error.details()}")
                if loop.time() - since > self.patience_s:
                    raise Stopped(f"no progress for {self.patience_s:g} s ({error.code().name}: {error.details()})")
                await asyncio.sleep(random.uniform(0.5, 1) * BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
        if self._fault is not None:
            raise self._fault

    async def _stream(self, stub: Any, token: str) -> None:
        """One stream, from the first row that is not durable to the end of the file, or until it breaks."""
        call = stub.ImportInvoices(metadata=[("authorization", f"Bearer {token}")])
        writing = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                outcomes = []
                for result in response.results:
                    outcomes += self._unsent()
                    outcomes.append(_outcome(self._open.popleft(), result))
                self.take([*outcomes, *self._unsent()], response.consistency_token)
                self._moved.set()
        finally:
            # The next stream has a writer of its own: two would take rows from each other.
            writing.cancel()
            (fault,) = await asyncio.gather(writing, return_exceptions=True)
            call.cancel()
        # What breaks the stream breaks the writing too, and the reading says it.
        if isinstance(fault, Exception) and not isinstance(fault, grpc.RpcError | asyncio.InvalidStateError):
            raise fault
        if tail := self._unsent():
            self.take(tail, "")

    def _unsent(self) -> list[Outcome]:
        """The outcomes of rows that are not for the server, as far as all before them is done."""
        found = []
        while self._open and self._open[0].invoice is None:
            row = self._open.popleft()
            broken = tuple(("", row.reason, fault) for fault in row.faults)
            found.append(Outcome(row.line, row.key, row.reason, broken, row.digest))
        return found

    async def _write(self, call: Any) -> None:
        """What is open first, then what the file has, a window ahead of the answers."""
        messages = _Messages(call)
        for row in list(self._open):
            await messages.add(row)
        try:
            while not self._ended:
                if len(self._open) >= WINDOW:
                    await messages.flush()
                    await self._room()
                if (row_or_end := self._next()) is not None:
                    self._open.append(row_or_end)
                    await messages.add(row_or_end)
        except OSError:
            # Outcomes cannot be kept: the stream ends, and says so, instead of waiting for more.
            await call.done_writing()
            raise
        await messages.flush()
        await call.done_writing()

    async def _room(self) -> None:
        """Waits until the window has room; what is not for the server has its outcome without it."""
        while len(self._open) >= WINDOW:
            if outcomes := self._unsent():
                self.take(outcomes, "")
                # Others get a turn, however many such rows there are.
                await asyncio.sleep(0)
            else:
                self._moved.clear()
                await self._moved.wait()

    def _next(self) -> Row | None:
        """The file's next row; None at its end, and where it cannot be read on: then `_ended` is set."""
        try:
            row = next(self.rows, None)
        except (CannotRead, FileChanged) as fault:
            # What was sent before is still answered, and kept.
            self._fault, row = fault, None
        self._ended = row is None
        if row is not None and row.invoice is not None and (size := _bytes(row)) > MESSAGE_BYTES_MAX:
            row.invoice, row.reason = None, "TOO_LARGE"
            row.faults = [f"found {size} bytes; wanted {MESSAGE_BYTES_MAX} at most"]
        return row


class _Messages:
    """Puts rows into messages of a call, as many into each as it may have; a row without an invoice into none."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._message = api.ImportInvoicesRequest()
        self._size = 0

    async def add(self, row: Row) -> None:
        if row.invoice is None:
            return
        size = _bytes(row)
        if len(self._message.items) >= ITEMS or self._size + size > MESSAGE_BYTES:
            await self.flush()
        self._message.items.add(offset=row.line, idempotency_key=row.key, invoice=row.invoice)
        self._size += size

    async def flush(self) -> None:
        if self._message.items:
            await self._call.write(self._message)
            self._message, self._size = api.ImportInvoicesRequest(), 0


def _bytes(row: Row) -> int:
    """At least what a row's item has in a message."""
    assert row.invoice is not None
    return row.invoice.ByteSize() + len(row.key.encode()) + ITEM_BYTES


def _outcome(row: Row, result: api.ImportInvoicesResult) -> Outcome:
    assert row.line == result.offset, f"the server answered {result.offset}; {row.line} was the next"
    if not result.HasField("error"):
        return Outcome(row.line, row.key, "REPLAYED" if result.replayed else "ISSUED", digest=row.digest)
    return Outcome(row.line, row.key, *_reason(result.error), row.digest)


def _reason(status: status_pb2.Status) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    refusal = told(status)
    broken = tuple((v["field"], v["code"], v["description"]) for v in refusal["violations"])
    return refusal["reason"], broken or (("", refusal["reason"], status.message),)
