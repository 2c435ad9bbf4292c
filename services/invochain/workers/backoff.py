"""How long to wait after a failure: doubling, with jitter, up to 5 s, and back to nothing after a success."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from invochain.chassis import clock

FIRST_S = 0.1
# A cause that has gone is noticed within this; PROTOCOL 10.
LONGEST_S = 5.0

Key = TypeVar("Key", bound=Hashable)


class Backoff(Generic[Key]):
    """Remembers, for each thing that fails, until when it is left alone."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._until: dict[Key, tuple[float, float]] = {}

    def failed(self, key: Key, longest_s: float | None = None) -> float:
        """Notes a failure; returns how many seconds to leave it alone, `longest_s` at most."""
        _, delay = self._until.get(key, (0.0, FIRST_S / 2))
        delay = min(delay * 2, longest_s or self._longest_s)
        pause = random.uniform(delay / 2, delay)
        self._until[key] = (clock.monotonic() + pause, delay)
        return pause

    def worked(self, keys: Iterable[Key]) -> None:
        """Notes successes."""
        for key in keys:
            self._until.pop(key, None)

    def failing(self, key: Key) -> bool:
        """Whether the last try failed."""
        return key in self._until

    def waiting(self) -> set[Key]:
        """What is to be left alone now."""
        now = clock.monotonic()
        return {key for key, (until, _) in self._until.items() if until > now}
