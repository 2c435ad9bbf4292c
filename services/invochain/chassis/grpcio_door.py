"""The door over grpcio: HTTP/2, limits and messages by the C core, calls on its own event loop."""

from __future__ import annotations

import urllib.parse
from collections.abc import Awaitable, Callable, Collection
from itertools import groupby
from typing import Any

import grpc

from invochain.chassis.door import (
    CONNECTION_AGE_S,
    CONNECTION_GRACE_S,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    STREAMS_MAX,
    Tls,
    message_bytes_max,
)
from invochain.chassis.handler import Handler, Incoming, Metadata, Outcome
from invochain.chassis.rpc import Method

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", RESPONSE_BYTES_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_S * 1_000),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1_000),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    # Only uncompressed messages: a small frame that unpacks into a large one is no way in.
    ("grpc.compression_enabled_algorithms_bitset", 1),
]


class GrpcioDoor:
    """A grpc.aio server."""

    def __init__(self, handler: Handler, methods: Collection[Method], *, reuse_port: bool, tls: Tls | None) -> None:
        self._handler, self._tls = handler, tls
        self._server = grpc.aio.server(options=[*_OPTIONS, ("grpc.so_reuseport", int(reuse_port))])
        for service, group in groupby(methods, lambda method: method.path.split("/")[1]):
            handlers = {method.name: self._served(method) for method in group}
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])

    def _served(self, method: Method) -> grpc.RpcMethodHandler:
        if method.wants.stream:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        limit = message_bytes_max(method.wants)

        async def handle(raw: bytes, context: Any) -> bytes:
            if len(raw) > limit:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message of {len(raw)} bytes is too large")
            outcome = await self._handler.unary(method, _incoming(context, raw))
            if outcome.status is not None:
                await _abort(context, outcome)
            await context.send_initial_metadata(outcome.initial)
            return outcome.body

        return handle

    def _stream(self, method: Method) -> Callable[[Any, Any], Awaitable[None]]:
        async def handle(_requests: Any, context: Any) -> None:
            outcome = await self._handler.stream(method, _incoming(context, b""), _Line(context))
            if outcome.status is not None:
                await _abort(context, outcome)

        return handle

    async def start(self, address: str) -> int:
        """Listens on host:port and returns the port."""
        if self._tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _credentials(self._tls))
        await self._server.start()
        return int(port)

    async def drain(self, within_s: float) -> None:
        """No new calls; returns when those under way are answered, or the time is over."""
        await self._server.stop(within_s)


class _Line:
    """A stream's end at this side."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.write = context.write

    async def read(self) -> bytes | None:
        message = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def open(self, initial: Metadata) -> None:
        await self._context.send_initial_metadata(initial)


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """TLS 1.2 and 1.3: the C core gives Python no way to refuse the older one."""
    authorities = tls.client_authorities
    return grpc.ssl_server_credentials([(tls.key, tls.certificates)], authorities, authorities is not None)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: Any, outcome: Outcome) -> None:
    assert outcome.status is not None
    details = ("grpc-status-details-bin", outcome.status.SerializeToString())
    await context.abort(_CODES[outcome.status.code], outcome.status.message, (details, *outcome.trailing))


def _incoming(context: Any, raw: bytes) -> Incoming:
    metadata: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            metadata[name] = f"{metadata[name]}, {value}" if name in metadata else value
    return Incoming(metadata, _peer(str(context.peer())), context.time_remaining(), raw)


def _peer(said: str) -> str:
    """The address in `ipv4:127.0.0.1:50000` or `ipv6:%5B::1%5D:50000`; empty for a Unix socket."""
    kind, _, address = said.partition(":")
    return "" if kind == "unix" else urllib.parse.unquote(address.rpartition(":")[0]).strip("[]")
