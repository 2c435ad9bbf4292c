"""How often what stands at the head of a stopped partition was tried, and when that is enough (PROTOCOL 14)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from invochain.chassis import clock
from invochain.durable.dead_letters import TRIES_MAX, TRYING_S_MAX


@dataclass(slots=True)
class Head:
    """One event at the head, tried `count` times since `since` (clock.monotonic())."""

    what: Hashable
    count: int
    since: float
    # When a try last counted.
    last: float

    def enough(self) -> bool:
        """10 tries, or 10 minutes of them."""
        return self.count >= TRIES_MAX or clock.monotonic() - self.since >= TRYING_S_MAX


class Tries:
    """The heads of the partitions that are stopped."""

    def __init__(self) -> None:
        self._heads: dict[int, Head] = {}

    def again(self, partition: int, what: Hashable, others_at: float = math.inf) -> Head:
        """Counts one more try of `what`; another head than before begins anew.

        `others_at` (clock.monotonic()): when others last went on. A try counts only if that was since the one before.
        """
        now = clock.monotonic()
        head = self._heads.get(partition)
        if head is None or head.what != what:
            head = self._heads[partition] = Head(what, 1, now, now)
        elif others_at > head.last:
            head.count, head.last = head.count + 1, now
        return head

    def trying(self, partition: int) -> bool:
        """Whether the partition is stopped at a head that is tried again."""
        return partition in self._heads

    def forget(self, partitions: Iterable[int]) -> None:
        """These went on."""
        for partition in partitions:
            self._heads.pop(partition, None)
