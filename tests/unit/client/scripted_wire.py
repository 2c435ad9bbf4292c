"""A wire that answers by script on a clock of its own: what the caller decides is looked at without any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from invochain_client.api.merchant.v1 import merchant_service_pb2 as merchant_pb
from invochain_client.refusal import Refusal
from invochain_client.wire import Failed, Lock, Method, Reply

LOST = Refusal("UNAVAILABLE", "connection reset")
LATE = Refusal("DEADLINE_EXCEEDED", "deadline exceeded")
SHORT = Refusal(
    "FAILED_PRECONDITION",
    "short",
    "INSUFFICIENT_STOCK",
    {"sku": "BOLT-M8", "asked_milli": "40000", "free_milli": "12500"},
)


def aborted(reason: str, retry_after_s: float | None) -> Refusal:
    return Refusal("ABORTED", "not done", reason, retry_after_s=retry_after_s)


def refused(code: str, reason: str = "", retry_after_s: float | None = None) -> Refusal:
    return Refusal(code, "refused", reason, retry_after_s=retry_after_s)


@dataclass
class Sent:
    """One attempt, as it reached the wire."""

    method: str
    request: bytes
    metadata: dict[str, str]
    within_s: float
    at_s: float


class _Free:
    async def acquire(self, within_s: float) -> bool:
        return True

    def release(self) -> None:
        return


@dataclass
class ScriptedWire:
    """Answers each method's calls from its own list, then with an empty answer. Blocking: nothing ever suspends.

    An entry is an answer, a Refusal, or a callable that gets the wire and returns one of them.
    """

    script: dict[str, list[Any]] = field(default_factory=dict)
    replayed: bool = False
    # Consistency tokens of the answers, in order; then none.
    tokens: list[str] = field(default_factory=list)
    expires_in: int = 900
    now_s: float = 1_000.0
    sent: list[Sent] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    blocking: bool = True

    async def unary(
        self, method: Method[Any], request: bytes, metadata: Sequence[tuple[str, str]], within_s: float
    ) -> Reply[Any]:
        self.sent.append(Sent(method.name, request, dict(metadata), within_s, self.now_s))
        left = self.script.get(method.name, [])
        entry = left.pop(0) if left else self._usual(method)
        if callable(entry):
            entry = entry(self)
        if isinstance(entry, Refusal):
            raise Failed(entry)
        metadata_back = {"x-idempotent-replayed": "true"} if self.replayed else {}
        if self.tokens:
            metadata_back["x-consistency-token"] = self.tokens.pop(0)
        return Reply(entry, metadata_back)

    def _usual(self, method: Method[Any]) -> Any:
        if method.answer is merchant_pb.TokenPair:
            number = sum(one.method in ("SignIn", "RefreshToken") for one in self.sent)
            return merchant_pb.TokenPair(
                access_token=f"access-{number}", refresh_token=f"refresh-{number}", expires_in=self.expires_in
            )
        return method.answer()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def monotonic_s(self) -> float:
        return self.now_s

    def lock(self) -> Lock:
        return _Free()

    async def close(self) -> None:
        return

    def of(self, method: str) -> list[Sent]:
        return [one for one in self.sent if one.method == method]


def taking(seconds: float, entry: Any) -> Callable[[ScriptedWire], Any]:
    """An entry that comes after a while."""

    def come(wire: ScriptedWire) -> Any:
        wire.now_s += seconds
        return entry

    return come
