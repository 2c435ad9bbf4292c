"""A servicer that shows what a transport does: it echoes, refuses, waits, floods; and what a test needs to watch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from invochain.chassis.call import Call, Principal
from invochain.chassis.rpc import rpc
from invochain.chassis.server import Server
from invochain.errors import TokenInvalid, invalid

SERVICE = "probe.v1.Probe"
GOOD = ("authorization", "Bearer good")
VIEWER = Principal(merchant_id=b"m" * 16, roles=frozenset({"VIEWER"}))
KIB = 1024


class Doorkeeper:
    """Knows one user and one service; a user who has come once it knows by sight."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def known(self, bearer: str) -> Principal | None:
        return VIEWER if bearer in self._seen else None

    async def user(self, bearer: str) -> Principal:
        await asyncio.sleep(0)
        if bearer != GOOD[1]:
            raise TokenInvalid()
        self._seen.add(bearer)
        return VIEWER

    async def service(self, token: str) -> Principal:
        if token != "of the invoice service":
            raise TokenInvalid()
        return Principal(service="invoice")


@dataclass
class Seen:
    """What happened inside."""

    calls: list[Call] = field(default_factory=list)
    collected: list[Call] = field(default_factory=list)
    cancelled: int = 0
    under_way: int = 0
    under_way_max: int = 0
    read: int = 0
    written: int = 0
    ended: list[str] = field(default_factory=list)


class Probe:
    """One method for each thing that a transport must do."""

    service = SERVICE

    def __init__(self) -> None:
        self.seen = Seen()
        self.gate = asyncio.Event()

    @rpc(public=True, message_bytes_max=4 * KIB * KIB)
    async def Echo(self, call: Call) -> bytes:
        self.seen.calls.append(call)
        call.out["x-consistency-token"] = "0/16B3748"
        return call.raw

    @rpc(public=True)
    async def Decoded(self, call: Call, request: HealthCheckRequest) -> HealthCheckResponse:
        return HealthCheckResponse(status=len(request.service))

    @rpc(public=True)
    async def Refuse(self, call: Call) -> bytes:
        call.replayed = True
        raise invalid("a.field", "A_CODE", "दो lines\nand 100 %")

    @rpc(public=True)
    async def Break(self, call: Call) -> bytes:
        raise RuntimeError("a defect")

    @rpc(public=True)
    async def Sized(self, call: Call) -> bytes:
        return bytes(int(call.raw))

    @rpc(public=True)
    async def Wait(self, call: Call) -> bytes:
        return await self._at_the_gate(call)

    @rpc(key=True)
    async def Keyed(self, call: Call) -> bytes:
        self.seen.calls.append(call)
        return call.key.encode()

    @rpc(roles=("ISSUER",))
    async def ForIssuers(self, call: Call) -> bytes:
        return b""

    @rpc(services=("invoice",))
    async def ForServices(self, call: Call) -> bytes:
        return call.principal.service.encode()

    @rpc(key=True, collects=True)
    def Collect(self, call: Call) -> None:
        """Answered together with whoever came in the same round; what begins with x is refused, with ! at once."""
        if call.raw.startswith(b"!"):
            raise invalid("a.field", "A_CODE", "at once")
        call.on_replay = self._dress
        self.seen.collected.append(call)
        asyncio.get_running_loop().call_soon(self._answer_all)

    async def _dress(self, call: Call) -> None:
        await asyncio.sleep(0)
        call.out["x-consistency-token"] = "0/2"

    def _answer_all(self) -> None:
        for call in self.seen.collected:
            if call.raw.startswith(b"x"):
                call.refuse(invalid("a.field", "A_CODE", "later"))
            elif not call.raw.startswith(b"never"):
                call.reply(call.raw, replayed=call.raw.startswith(b"again"))

    @rpc(public=True, stream=True, idle_s=60, message_bytes_max=4 * KIB * KIB)
    async def Talk(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Answers each message with itself; says how the stream ended."""
        call.out["x-first"] = "yes"
        try:
            async for message in requests:
                self.seen.read += 1
                if message == b"refuse":
                    raise invalid("a.field", "A_CODE", "words")
                yield message
            self.seen.ended.append("half closed")
        except BaseException as error:
            self.seen.ended.append(type(error).__name__)
            raise

    @rpc(public=True, stream=True)
    async def Count(
        self, call: Call, requests: AsyncIterator[HealthCheckRequest]
    ) -> AsyncIterator[HealthCheckResponse]:
        """Reads to the end, then answers once."""
        async for _ in requests:
            self.seen.read += 1
        yield HealthCheckResponse(status=self.seen.read)

    @rpc(public=True, stream=True)
    async def Flood(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Sends 1,000 messages of 64 KiB."""
        async for _ in requests:
            break
        for _ in range(1_000):
            yield bytes(64 * KIB)
            self.seen.written += 1

    @rpc(public=True, stream=True)
    async def Reluctant(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Reads one message, and the others when the gate is open."""
        async for _ in requests:
            self.seen.read += 1
            await self.gate.wait()
        yield str(self.seen.read).encode()

    @rpc(public=True, stream=True, idle_s=0.2)
    async def Impatient(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message

    @rpc(stream=True)
    async def Private(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield call.principal.merchant_id

    async def _at_the_gate(self, call: Call) -> bytes:
        seen = self.seen
        seen.calls.append(call)
        seen.under_way += 1
        seen.under_way_max = max(seen.under_way_max, seen.under_way)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            seen.cancelled += 1
            raise
        finally:
            seen.under_way -= 1
        return call.raw


@dataclass
class Wire:
    """A served probe and a channel to it."""

    server: Server
    probe: Probe
    port: int
    channel: grpc.aio.Channel

    @property
    def seen(self) -> Seen:
        return self.probe.seen

    def method(self, name: str) -> Any:
        return self.channel.unary_unary(f"/{SERVICE}/{name}")

    def stream(self, name: str, **more: Any) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{name}")(**more)

    async def refused(self, name: str, raw: bytes = b"", **more: Any) -> grpc.aio.AioRpcError:
        """The error of a call that must fail."""
        try:
            answer = await self.method(name)(raw, **{"timeout": 20, **more})
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"it was not refused: {answer!r}")


async def until(true: Callable[[], object], within_s: float = 20) -> None:
    """Polls a state until it holds."""
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)


async def fails(awaited: Awaitable[object]) -> grpc.aio.AioRpcError:
    """The error that something must end with."""
    try:
        found = await awaited
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it did not fail: {found!r}")
