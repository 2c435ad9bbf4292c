"""The door for calls over grpcio: bytes in, `Call` to the servicer, bytes or a refusal out.

A servicer is a class with `service` (the full proto name) and methods marked `@rpc`. This file does, once for all of
them: trace, who is calling, the key's grammar, deadline, decoding with unknown fields refused, refusal -> status,
one log line, metrics, health, reflection, drain. Nothing in a servicer ever sees grpcio.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import typing
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from invochain.chassis import clock, trace
from invochain.chassis.call import ANONYMOUS, Call, Principal
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.telemetry import RPC_SECONDS, RPC_TOTAL, key_hash, log
from invochain.chassis.trace import Trace
from invochain.errors import (
    Code,
    DeadlineTooShort,
    InternalError,
    KeyInvalid,
    KeyRequired,
    MalformedRequest,
    Refusal,
)

# A handler never gets more than this (PROTOCOL 13), whatever the client asks for.
HANDLER_BUDGET_S = 4.8
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
DRAIN_S = 15.0
KEY_GRAMMAR = re.compile(r"[A-Za-z0-9._:~-]{16,128}", re.ASCII)
WAIT_MS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Rpc:
    """What a method asks of its callers."""

    # Roles of which one is needed; empty: any signed-in user. OWNER always may.
    roles: tuple[str, ...] = ()
    # Needs an idempotency key.
    key: bool = False
    # Needs no token.
    public: bool = False
    # Only for InvoChain services (names), or ("*",).
    services: tuple[str, ...] = ()
    # Services may call it too, without a merchant's token.
    services_too: bool = False


def rpc(**wants: Any) -> Callable[[Any], Any]:
    """Marks a servicer's method as an RPC. `async def Name(self, call[, request]) -> bytes | Message`."""

    def mark(function: Any) -> Any:
        function.rpc = Rpc(**wants)
        return function

    return mark


class Authenticator(Protocol):
    """Verifies tokens (chassis/tokens.py)."""

    async def user(self, bearer: str) -> Principal: ...

    async def service(self, token: str) -> Principal: ...


class Server:
    """One grpc.aio server with the servicers of a process."""

    def __init__(
        self, name: str, authenticator: Authenticator | None, *, reflection_on: bool = True, reuse_port: bool = False
    ) -> None:
        self._name, self._authenticator = name, authenticator
        self._log = log(name)
        self._reflection_on = reflection_on
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", 4 * MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.max_concurrent_streams", 1_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
                ("grpc.max_connection_age_ms", 600_000),
                ("grpc.max_connection_age_grace_ms", 30_000),
                ("grpc.max_metadata_size", 16 * 1024),
            ],
        )

    def add(self, servicer: Any) -> None:
        """Serves every `@rpc` method of the servicer under its `service` name."""
        handlers = {}
        for method, function in inspect.getmembers(servicer, callable):
            wants: Rpc | None = getattr(function, "rpc", None)
            if wants is not None:
                handlers[method] = grpc.unary_unary_rpc_method_handler(
                    self._handler(servicer.service, method, wants, function)
                )
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(servicer.service, handlers)])
        self._services.append(servicer.service)

    def _handler(self, service: str, method: str, wants: Rpc, function: Any) -> Callable[..., Awaitable[bytes]]:
        request_type = _request_type(function)
        path = f"/{service}/{method}"
        seconds = RPC_SECONDS.labels(method=method)
        ok = RPC_TOTAL.labels(method=method, code="OK")

        async def handle(raw: bytes, context: Any) -> bytes:
            started = clock.monotonic()
            call = Call(path, ANONYMOUS, raw, deadline=started + HANDLER_BUDGET_S)
            try:
                metadata = _read_metadata(call, context)
                here = trace.current.set(call.trace)
                call.principal = await self._who(wants, metadata)
                _check_key(call, wants, metadata)
                remaining = call.remaining()
                if remaining <= 0:
                    raise DeadlineTooShort("before the work began")
                async with asyncio.timeout(remaining):
                    if request_type is None:
                        answer = await function(call)
                    else:
                        answer = await function(call, decode(request_type, raw))
                body = answer if isinstance(answer, bytes) else answer.SerializeToString()
                call.out["x-request-id"] = call.request_id
                if call.replayed:
                    call.out["x-idempotent-replayed"] = "true"
                await context.send_initial_metadata(tuple(call.out.items()))
                ok.inc()
                self._say(call, method, "OK", "", started)
                trace.current.reset(here)
                return body
            except Refusal as refusal:
                await self._refuse(context, call, method, refusal, started)
            except TimeoutError:
                await self._refuse(context, call, method, DeadlineTooShort("while the work was under way"), started)
            except asyncio.CancelledError:
                RPC_TOTAL.labels(method=method, code="CANCELLED").inc()
                raise
            except grpc.aio.AbortError:
                raise
            except Exception:  # noqa: BLE001 - the border of a call: logged with its id and told as unknown
                self._log.exception("call_failed", method=method, request_id=call.request_id)
                await self._refuse(context, call, method, InternalError(call.request_id), started)
            finally:
                seconds.observe(clock.monotonic() - started)
            raise AssertionError("unreachable: a refused call has ended")

        return handle

    async def _who(self, wants: Rpc, metadata: dict[str, str]) -> Principal:
        if wants.public or self._authenticator is None:
            return ANONYMOUS
        if (wants.services or wants.services_too) and (token := metadata.get("x-invochain-service-token")):
            principal = await self._authenticator.service(token)
            if wants.services and wants.services != ("*",):
                principal.needs_service("this method", *wants.services)
            return principal
        if wants.services:
            ANONYMOUS.needs_service("this method")
        principal = await self._authenticator.user(metadata.get("authorization", ""))
        if wants.roles:
            principal.needs_role(*wants.roles)
        return principal

    async def _refuse(self, context: Any, call: Call, method: str, refusal: Refusal, started: float) -> None:
        status = refusal.to_status()
        code = Code(status.code).name
        RPC_TOTAL.labels(method=method, code=code).inc()
        self._say(call, method, code, refusal.reason, started)
        trailing = [("grpc-status-details-bin", status.SerializeToString()), ("x-request-id", call.request_id)]
        if call.replayed:
            trailing.append(("x-idempotent-replayed", "true"))
        await context.abort(grpc_code(status.code), status.message, tuple(trailing))

    def _say(self, call: Call, method: str, code: str, reason: str, started: float) -> None:
        self._log.info(
            "call",
            method=method,
            code=code,
            reason=reason,
            trace_id=call.trace.trace_id,
            request_id=call.request_id,
            merchant=call.principal.merchant_id.hex() if call.principal.merchant_id.strip(b"\0") else "",
            service=call.principal.service,
            key=key_hash(call.key),
            replayed=call.replayed,
            ms=round((clock.monotonic() - started) * 1_000, 2),
        )

    async def start(self, address: str) -> int:
        """Listens on host:port (port 0: a free one), says SERVING, and returns the port."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._reflection_on:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        await self.ready(True)
        return int(port)

    async def ready(self, ready: bool) -> None:
        """Readiness. Liveness is the service name `live`, which serves for as long as the process answers."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)
        await self._health.set("live", health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """NOT_SERVING first, then no new calls; returns when those under way are answered, or the time is over."""
        await self.ready(False)
        await self._server.stop(within_s)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def grpc_code(code: int) -> grpc.StatusCode:
    """grpcio's name of a status code."""
    return _CODES[code]


def decode(kind: type[Message], raw: bytes) -> Any:
    """Reads a request; refuses bytes that are not one, and fields it does not have (API section 3)."""
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise MalformedRequest(f"the bytes are not a {kind.DESCRIPTOR.name}") from None
    if found := _unknown_field(message, ""):
        raise MalformedRequest(f"{kind.DESCRIPTOR.name} has no field {found}")
    return message


def _unknown_field(message: Message, path: str) -> str:
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown = UnknownFieldSet(message)
    if len(unknown):
        return f"{path}{unknown[0].field_number}"
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        repeated = isinstance(value, Sequence) or hasattr(value, "add")
        for index, item in enumerate(value if repeated else (value,)):
            inner = f"{path}{field.name}[{index}]." if repeated else f"{path}{field.name}."
            if found := _unknown_field(item, inner):
                return found
    return ""


def _request_type(function: Any) -> type[Message] | None:
    hints = typing.get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    return hints[names[1]] if len(names) > 1 else None


def _read_metadata(call: Call, context: Any) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            # A repeated key must not pick a winner silently.
            metadata[name] = f"{metadata[name]}, {value}" if name in metadata else value
    call.trace = Trace.follow(metadata.get("traceparent", ""))
    call.request_id = metadata.get("x-request-id", "")[:64] or to_text(new_id())
    call.client_ip = _client_ip(context, metadata)
    call.if_match = metadata.get("if-match", "")
    call.consistency_token = metadata.get("x-consistency-token", "")
    wait = metadata.get("x-idempotency-wait-ms", "")
    call.wait_ms = min(int(wait), WAIT_MS_MAX) if wait.isdigit() and len(wait) < 6 else 0
    remaining = context.time_remaining()
    if remaining is not None:
        call.deadline = min(call.deadline, call.arrived + remaining)
    return metadata


def _client_ip(context: Any, metadata: dict[str, str]) -> str:
    """Whose address it is: the gateway says it for its callers; whoever calls directly is known by his own.

    Only a peer on this machine is taken for the gateway; others cannot choose the address they are counted under.
    """
    peer = str(context.peer())
    address = urllib.parse.unquote(peer.split(":", 1)[-1].rpartition(":")[0]).strip("[]")
    local = peer.startswith("unix:") or address in ("127.0.0.1", "::1")
    return metadata.get("x-forwarded-client-ip", address) if local else address


def _check_key(call: Call, wants: Rpc, metadata: dict[str, str]) -> None:
    if wants.key and not call.principal.service:
        key = metadata.get("idempotency-key", "")
        if not key:
            raise KeyRequired()
        if not KEY_GRAMMAR.fullmatch(key):
            raise KeyInvalid(len(key))
        call.key = key
