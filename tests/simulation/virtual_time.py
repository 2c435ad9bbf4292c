"""An event loop whose clock stands still while anything can happen, and jumps when nothing can.

Real sockets (PostgreSQL) and virtual time in one loop, and yet in an order that depends on nothing but the program:
what is ready runs first, until nothing is; then, if a statement is under way, its answer is waited for while the clock
stands; else the clock jumps to the next timer. At most one transaction is under way at a time (world.py), so no two
answers race.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# A statement that has no answer by then never will.
ANSWER_S_MAX = 60


class Stuck(Exception):
    """Somebody waits, and nothing is left that could happen."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.statements = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return []
        if self.statements:
            if not (events := super().select(ANSWER_S_MAX)):
                raise Stuck(f"PostgreSQL did not answer within {ANSWER_S_MAX} s")
            return events
        if timeout is None:
            raise Stuck("nothing is ready, no timer is set, no statement is under way")
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual, in seconds from 0. Whatever uses a real socket does so inside `real()`."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    @contextmanager
    def real(self) -> Iterator[None]:
        """The clock stands while a real socket is waited for."""
        self._virtual.statements += 1
        try:
            yield
        finally:
            self._virtual.statements -= 1
