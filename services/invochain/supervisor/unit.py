"""A unit: one process of the stack, from nothing to answering."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Protocol

from invochain.supervisor.errors import CannotStart
from invochain.supervisor.process import Process, Program

# Between two looks at whether a unit answers; ten of them are lost in the start of one Python process.
POLL_S = 0.02


class Unit(Protocol):
    """What the supervisor has to know of a process. A unit is started many times: after each crash anew."""

    name: str
    # Where it is reached, for people.
    address: str
    # From the start of the process to its first answer; later it counts as failed.
    ready_within_s: float

    async def prepare(self) -> None:
        """Make what the program needs before it runs; called before every start."""

    def program(self) -> Program: ...

    async def is_ready(self, process: Process) -> bool:
        """Whether it does its work now. Must not take longer than about a second."""


async def start(unit: Unit, log_folder: Path | None) -> Process:
    """Start a unit and return when it is ready.

    Raises CannotStart, with the last words of the process, when it ends first or is not ready in time.
    """
    await unit.prepare()
    process = Process(unit.program(), log_folder / f"{unit.name}.log" if log_folder else None)
    deadline_s = process.started_at_s + unit.ready_within_s
    try:
        while not await unit.is_ready(process):
            if (code := process.exit_code) is not None:
                raise CannotStart(f"{unit.name} {describe_end(code)} before it was ready:\n{process.last_words()}")
            if time.monotonic() > deadline_s:
                raise CannotStart(f"{unit.name} was not ready after {unit.ready_within_s:g} s:\n{process.last_words()}")
            await asyncio.sleep(POLL_S)
    except BaseException:
        await process.kill9()
        raise
    return process


def describe_end(exit_code: int) -> str:
    """What an exit code means, in words."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    from signal import Signals

    try:
        name = Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was ended by {name}"
