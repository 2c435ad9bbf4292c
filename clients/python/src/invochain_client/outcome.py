"""Neither yes nor no: what a caller holds when an answer was lost, and how it finds out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from invochain_client.blocking import run_now
from invochain_client.errors import InvochainError

# Finds out what became of a change; True ends its key for good if nothing is decided. Raises Undecided.
Fate: TypeAlias = Callable[[bool], Coroutine[Any, Any, Any]]


class OutcomeUnknown(InvochainError):
    """The change may have been made or not: some attempt had no answer, and repeating it came to no answer either.

    Keep `key` with what the call was for. The same call with the same key, at any later time, finds out (and does it if
    it was not done); `resolve` asks now. `__cause__` is the last failure.
    """

    def __init__(self, cause: InvochainError, operation: str, key: str, fate: Fate, *, blocking: bool) -> None:
        super().__init__(cause.refusal)
        self.cause = cause
        # For example invoice.create.
        self.operation = operation
        # The idempotency key; empty for a call that takes none.
        self.key = key
        self._fate, self._blocking = fate, blocking

    def __str__(self) -> str:
        key = f" with the key {self.key}" if self.key else ""
        return f"it is not known whether {self.operation}{key} was done; repeat it with this key ({self.cause})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The way to ask is bound to open channels: elsewhere, the same call with the same key finds out.
        return (_told_elsewhere, (self.cause, self.operation, self.key))

    def resolve(self, *, cancel: bool = False) -> Any:
        """Finds out: the Answer if it was done; raises the refusal if it was refused for good.

        What GetOperation knows (invoice.*) is asked, without doing it; if nothing is decided yet, OutcomeUnknown is
        raised again, or, with `cancel`, the key is ended for good and CancelledByClient raised: then it was not and
        never will be done. Other operations are repeated with the same key, and cannot be cancelled (ValueError).
        Where nobody can be asked, that is raised: Unavailable, DeadlineExceeded.
        """
        if not self._blocking:
            raise TypeError("this was raised by an AsyncClient: await resolve_async() instead")
        return run_now(self._ask(cancel))

    async def resolve_async(self, *, cancel: bool = False) -> Any:
        """`resolve` for what an AsyncClient raised."""
        if self._blocking:
            raise TypeError("this was raised by a Client: call resolve() instead")
        return await self._ask(cancel)

    async def _ask(self, cancel: bool) -> Any:
        try:
            return await self._fate(cancel)
        except Undecided:
            raise self  # noqa: B904 - its cause stays the failure it began with


class Undecided(Exception):
    """GetOperation knows of no decision. Seen inside OutcomeUnknown only."""


def _told_elsewhere(cause: InvochainError, operation: str, key: str) -> OutcomeUnknown:
    async def fate(cancel: bool) -> Any:
        raise TypeError(f"this came from another process: repeat {operation} with the key {key!r}")

    return OutcomeUnknown(cause, operation, key, fate, blocking=True)
