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
from invochain.cli.call import told
from invochain.cli.importing.progress import FileChanged, Outcome
from invochain.cli.importing.rows import CannotRead, Row

# Invoices that are sent and not yet answered, and in one message.
WINDOW = 2_000
ITEMS = 100
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
        async with open_channel(self.address, [("grpc.enable_http_proxy", 0)]) as channel:
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
        """The outcomes of rows that could not be read, as far as all before them is done."""
        found = []
        while self._open and self._open[0].invoice is None:
            row = self._open.popleft()
            found.append(Outcome(row.line, row.key, "UNREADABLE", (("", "UNREADABLE", row.fault),)))
        return found

    async def _write(self, call: Any) -> None:
        """What is open first, then what the file has, a window ahead of the answers."""
        message = api.ImportInvoicesRequest()
        for row in list(self._open):
            if _add(message, row):
                await call.write(message)
                message = api.ImportInvoicesRequest()
        while not self._ended:
            while len(self._open) >= WINDOW and not message.items:
                self._moved.clear()
                await self._moved.wait()
            try:
                row_or_end = next(self.rows, None)
            except (CannotRead, FileChanged) as fault:
                # What was sent before is still answered, and kept.
                self._fault, row_or_end = fault, None
            if row_or_end is None:
                self._ended = True
                break
            self._open.append(row_or_end)
            if _add(message, row_or_end) or len(self._open) >= WINDOW:
                await call.write(message)
                message = api.ImportInvoicesRequest()
        if message.items:
            await call.write(message)
        await call.done_writing()


def _add(message: api.ImportInvoicesRequest, row: Row) -> bool:
    """Puts a row into a message; whether the message is full."""
    if row.invoice is not None:
        message.items.add(offset=row.line, idempotency_key=row.key, invoice=row.invoice)
    return len(message.items) >= ITEMS


def _outcome(row: Row, result: api.ImportInvoicesResult) -> Outcome:
    assert row.line == result.offset, f"the server answered {result.offset}; {row.line} was the next"
    if not result.HasField("error"):
        return Outcome(row.line, row.key, "REPLAYED" if result.replayed else "ISSUED")
    return Outcome(row.line, row.key, *_reason(result.error))


def _reason(status: status_pb2.Status) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    refusal = told(status)
    broken = tuple((v["field"], v["code"], v["description"]) for v in refusal["violations"])
    return refusal["reason"], broken or (("", refusal["reason"], status.message),)
