"""The two transports: gRPC that is awaited, gRPC that blocks. Nothing here decides anything.

Channels are opened at their first call: a client may be made before its event loop runs, or before a fork.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import status_pb2

from invochain_client.refusal import Refusal, read

M = TypeVar("M", bound=Message)
VERSION = "0.1.0"
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

_OPTIONS: Sequence[tuple[str, Any]] = (
    # Repeats are decided in calling.py, where the key is: the channel repeats nothing by itself.
    ("grpc.enable_retries", 0),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # The services allow a ping every 20 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The least time a connection may take until it can be used, TLS included; else that is the pause before the next
    # try, 1.2 s at most, and over a slow link no try would ever be long enough.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.primary_user_agent", f"invochain-client-python/{VERSION}"),
)


@dataclass(frozen=True, slots=True)
class Method(Generic[M]):
    """A method of the contract: the room that serves it, its name, what it answers."""

    room: str
    name: str
    answer: type[M]
    # Needs no token.
    public: bool = False

    @property
    def path(self) -> str:
        return f"/invochain.api.{self.room}.v1.{self.room.capitalize()}Service/{self.name}"


@dataclass(frozen=True, slots=True)
class Reply(Generic[M]):
    """An answer with its initial metadata."""

    message: M
    metadata: Mapping[str, str]


class Failed(Exception):
    """A call without an answer, or with a refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


class Lock(Protocol):
    """At most one at a time."""

    async def acquire(self, within_s: float) -> bool: ...

    def release(self) -> None: ...


class Wire(Protocol):
    """What calling.py stands on. Over a blocking wire no coroutine ever suspends."""

    @property
    def blocking(self) -> bool: ...

    async def unary(
        self, method: Method[M], request: bytes, metadata: Sequence[tuple[str, str]], within_s: float
    ) -> Reply[M]:
        """Calls once, with a serialized request. Raises Failed."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def monotonic_s(self) -> float: ...

    def lock(self) -> Lock: ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Addresses:
    """Where each service listens (host:port), and how it is spoken to: None is plaintext."""

    of: Mapping[str, str]
    credentials: grpc.ChannelCredentials | None = None


class _Channels:
    """One channel to each address, one callable of it to each method."""

    def __init__(self, addresses: Addresses, secure: Any, insecure: Any) -> None:
        self._addresses, self._secure, self._insecure = addresses, secure, insecure
        self._opened: dict[str, Any] = {}
        self._callables: dict[Method[Any], Any] = {}
        self._opening = threading.Lock()
        self._closed = False

    def callable(self, method: Method[Any]) -> Any:
        found = self._callables.get(method)
        if found is None:
            with self._opening:
                channel = self._channel(self._addresses.of[method.room])
                found = channel.unary_unary(method.path, response_deserializer=method.answer.FromString)
                self._callables[method] = found
        return found

    def _channel(self, address: str) -> Any:
        if self._closed:
            raise RuntimeError("this client is closed")
        if address not in self._opened:
            credentials = self._addresses.credentials
            self._opened[address] = (
                self._secure(address, credentials, options=_OPTIONS)
                if credentials
                else self._insecure(address, options=_OPTIONS)
            )
        return self._opened[address]

    def end(self) -> list[Any]:
        """The channels to close; nothing is opened any more."""
        with self._opening:
            self._closed = True
            opened = list(self._opened.values())
            self._opened.clear()
            self._callables.clear()
        return opened


class AsyncWire:
    """grpc.aio, in the caller's event loop."""

    blocking = False

    def __init__(self, addresses: Addresses) -> None:
        self._channels = _Channels(addresses, grpc.aio.secure_channel, grpc.aio.insecure_channel)

    async def unary(
        self, method: Method[M], request: bytes, metadata: Sequence[tuple[str, str]], within_s: float
    ) -> Reply[M]:
        call = self._channels.callable(method)(request, timeout=within_s, metadata=tuple(metadata))
        try:
            message = await call
            return Reply(message, _texts(await call.initial_metadata()))
        except grpc.aio.AioRpcError as error:
            raise Failed(_refusal(error, metadata)) from None

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def monotonic_s(self) -> float:
        return time.monotonic()

    def lock(self) -> Lock:
        return _AsyncLock()

    async def close(self) -> None:
        for channel in self._channels.end():
            await channel.close()


class BlockingWire:
    """grpc in the caller's thread; any number of threads."""

    blocking = True

    def __init__(self, addresses: Addresses) -> None:
        self._channels = _Channels(addresses, grpc.secure_channel, grpc.insecure_channel)

    async def unary(
        self, method: Method[M], request: bytes, metadata: Sequence[tuple[str, str]], within_s: float
    ) -> Reply[M]:
        try:
            message, call = self._channels.callable(method).with_call(
                request, timeout=within_s, metadata=tuple(metadata)
            )
            return Reply(message, _texts(call.initial_metadata()))
        except grpc.RpcError as error:
            raise Failed(_refusal(error, metadata)) from None

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - this wire is the one that blocks

    def monotonic_s(self) -> float:
        return time.monotonic()

    def lock(self) -> Lock:
        return _ThreadLock()

    async def close(self) -> None:
        for channel in self._channels.end():
            channel.close()


class _AsyncLock:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def acquire(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                return await self._lock.acquire()
        except TimeoutError:
            return False

    def release(self) -> None:
        self._lock.release()


class _ThreadLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def acquire(self, within_s: float) -> bool:
        return self._lock.acquire(timeout=max(0.0, within_s))

    def release(self) -> None:
        self._lock.release()


def _texts(metadata: Any) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _refusal(error: Any, sent: Sequence[tuple[str, str]]) -> Refusal:
    """What a failed call says; without details of ours, its code and words."""
    trailing = list(error.trailing_metadata() or ())
    texts = _texts(trailing)
    request_id = texts.get("x-request-id") or dict(sent).get("x-request-id", "")
    for name, value in trailing:
        if name == "grpc-status-details-bin":
            replayed = texts.get("x-idempotent-replayed") == "true"
            return read(status_pb2.Status.FromString(value), request_id=request_id, replayed=replayed)
    return Refusal(error.code().name, error.details() or "", request_id=request_id)
