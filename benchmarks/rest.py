"""The load of REST: POSTs encoded beforehand over kept-open connections, one after the other on each."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any


def requests(host: str, path: str, bodies: list[dict[str, Any]], token: str, count: int) -> list[bytes]:
    """HTTP/1.1 requests, every one with a key of its own."""
    made = []
    encoded = [json.dumps(body).encode() for body in bodies]
    for number in range(count):
        body = encoded[number % len(encoded)]
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nIdempotency-Key: {uuid.uuid4()}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


class Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one is whole."""

    def __init__(self, todo: list[bytes]) -> None:
        self._todo, self._buffer = todo, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._todo:
            self._transport.write(self._todo.pop())
        else:
            self._transport.close()
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) >= length:
            if not head.startswith(b"HTTP/1.1 2") and not self.done.done():
                self._transport.close()
                self.done.set_exception(SystemExit(f"the gateway answered {self._buffer[:400]!r}"))
                return
            self._buffer = b""
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the gateway closed a connection"))


async def per_second(address: str, made: list[bytes], connections: int) -> float:
    """Answers a second."""
    host, port = address.rsplit(":", 1)
    todo, loop = list(made), asyncio.get_running_loop()
    started = time.monotonic()
    opened = [await loop.create_connection(lambda: Connection(todo), host, int(port)) for _ in range(connections)]
    await asyncio.gather(*(connection.done for _, connection in opened))
    return len(made) / (time.monotonic() - started)
