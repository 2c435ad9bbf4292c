"""Channels to our other services: short-lived service tokens, trace context, no hidden retries (PROTOCOL 13)."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import status_pb2

from invochain.chassis.dial import open_channel
from invochain.chassis.tokens import ServiceIdentity
from invochain.chassis.trace import Trace
from invochain.errors import Code, DependencyDown, Refusal, Told

OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The least time a connection may take until it can be used, TLS included; else that is the pause before the next
    # try, 1.2 s at most, and on a busy machine each try would be given up a moment too early, for ever.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


class Channel:
    """A channel to one service, speaking as `identity`."""

    def __init__(self, address: str, identity: ServiceIdentity, what: str) -> None:
        self.channel = open_channel(address, OPTIONS)
        self._identity, self.what = identity, what

    def metadata(self, trace: Trace | None) -> tuple[tuple[str, str], ...]:
        traced = (("traceparent", trace.traceparent),) if trace else ()
        return (*self._identity.metadata(), *traced)

    async def call(self, method: Any, request: Any, *, timeout_s: float, trace: Trace | None = None) -> Any:
        """Calls a stub's method. Refuses with what the peer said, or DependencyDown when it did not answer."""
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata(trace))
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self.what) from error

    async def close(self) -> None:
        await self.channel.close()


class RawChannel:
    """The same channel for a generated stub whose messages are bytes on both sides: the core encodes and decodes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel.channel

    def unary_unary(self, method: str, *_: Any, **__: Any) -> Any:
        return self._channel.unary_unary(method)


def refusal_of(error: grpc.aio.AioRpcError, what: str) -> Refusal:
    """What a failed call says. Outcomes that are unknown are DependencyDown, whatever the code (PROTOCOL R8)."""
    code = error.code()
    if code in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    ):
        return DependencyDown(what)
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return Told(status_pb2.Status.FromString(value))
    return Told(status_pb2.Status(code=int(Code[code.name]), message=error.details() or ""))
