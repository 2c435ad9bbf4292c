"""Loops that run beside the services: one file each, `run_once` for tests, found by `build` (README.md)."""

from __future__ import annotations

from typing import Protocol


class Worker(Protocol):
    """A loop. The runner calls `run_once` again and again; it must bear being stopped and repeated anywhere.

    A file of this folder offers `async def build(settings: Settings, rooms: Rooms) -> list[Worker]` (workers/rooms.py),
    which returns nothing where a setting it needs is missing.
    """

    # Label of its metrics and log lines, and name of its leader lock.
    name: str
    # The room whose database keeps the leader lock: one process at a time runs the loop. Empty: the worker divides its
    # work among processes itself (by partition), so every process runs it.
    room: str

    @property
    def interval_s(self) -> float:
        """Pause after a round that found nothing; one that did something is followed by the next at once.

        A worker whose small rounds cost nearly as much as large ones has `full_round: int` too: only a round of so many
        items is followed at once. One whose rounds take long and only look has `cut_off_at_stop = True`: a stop does
        not wait for them.
        """
        ...

    async def run_once(self) -> int:
        """One round; returns how many items it did. A stop waits for it: one that goes through a backlog looks at
        `Rooms.stop` between two pieces and leaves the rest."""
        ...
