"""What a method of a servicer asks of its callers, and how its messages are read. Any transport serves it by this.

A servicer is a class with `service` (the full proto name) and methods marked `@rpc`, in one of three forms:

    async def Name(self, call[, request: X]) -> bytes | Message     one request, one answer; without X: raw bytes
    def Name(self, call[, request: X]) -> None                      collects=True: somebody answers `call` later
    async def Name(self, call, requests: AsyncIterator[X | bytes])  stream=True: an async generator of answers
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from invochain.chassis.call import Call
from invochain.chassis.telemetry import RPC_SECONDS, RPC_TOTAL
from invochain.errors import KeyInvalid, KeyRequired, MalformedRequest, Refusal

# A handler never gets more than this (PROTOCOL 13), whatever the client asks for.
HANDLER_BUDGET_S = 4.8
# A stream may live as long as its connection, which is aged out then; whoever has more to say resumes on another.
STREAM_LIFE_S = 600.0
# A stream whose caller says nothing for so long is ended, so that the forgotten ones do not add up.
STREAM_IDLE_S = 30.0
KEY_GRAMMAR = re.compile(r"[A-Za-z0-9._:~-]{16,128}", re.ASCII)


def key_refusal(key: str) -> Refusal | None:
    """What is wrong with an idempotency key, if anything: KeyRequired, KeyInvalid."""
    if not key:
        return KeyRequired()
    return None if KEY_GRAMMAR.fullmatch(key) else KeyInvalid(len(key))


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
    # Takes the call and returns at once; a batch answers it.
    collects: bool = False
    # Messages both ways, as many as there are.
    stream: bool = False
    # Streams: seconds that it waits for the caller's next message.
    idle_s: float = STREAM_IDLE_S
    # Bytes of a message from a caller; None: as the door has it (chassis/door.py).
    message_bytes_max: int | None = None
    # Asked every second by machines: neither logged nor counted.
    quiet: bool = False

    @property
    def budget_s(self) -> float:
        """Seconds a call may take, whatever its deadline."""
        return STREAM_LIFE_S if self.stream else HANDLER_BUDGET_S


def rpc(**wants: Any) -> Callable[[Any], Any]:
    """Marks a servicer's method as an RPC."""

    def mark(function: Any) -> Any:
        function.rpc = Rpc(**wants)
        return function

    return mark


class Method:
    """One RPC of a servicer."""

    def __init__(self, service: str, name: str, function: Any) -> None:
        self.path, self.name, self.function = f"/{service}/{name}", name, function
        self.wants: Rpc = function.rpc
        self.request_type = _request_type(function)
        self.seconds = RPC_SECONDS.labels(method=name)
        self.ok = RPC_TOTAL.labels(method=name, code="OK")

    def read(self, raw: bytes) -> Any:
        """A message as the method wants it. Refuses: MalformedRequest."""
        return raw if self.request_type is None else decode(self.request_type, raw)

    def begin(self, call: Call) -> None:
        """Hands a call to a method that collects. Refuses: MalformedRequest, and what the method refuses at once."""
        if self.request_type is None:
            self.function(call)
        else:
            self.function(call, self.read(call.raw))


def methods(servicer: Any) -> Iterator[Method]:
    """Every `@rpc` method of a servicer."""
    for name, function in inspect.getmembers(servicer, callable):
        if hasattr(function, "rpc"):
            yield Method(servicer.service, name, function)


def _request_type(function: Any) -> type[Message] | None:
    names = list(inspect.signature(function).parameters)
    if len(names) < 2:
        return None
    hint = typing.get_type_hints(function)[names[1]]
    if function.rpc.stream:
        (hint,) = typing.get_args(hint)
    return None if hint is bytes else hint


def decode(kind: type[Message], raw: bytes) -> Any:
    """Reads a request; refuses bytes that are not one, and fields it does not have (API section 3)."""
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise MalformedRequest(f"the bytes are not a {kind.DESCRIPTOR.name}") from None
    # Asking every message of a thousand for its unknown fields is slow; dropping them and looking whether it is the
    # shorter for it is not.
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        found = _unknown_field(kind.FromString(raw), "")
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
