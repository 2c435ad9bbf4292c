"""Starts units in stages, restarts what crashes, stops in the reverse order. Knows nothing of what the units do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from signal import Signals

from invochain.supervisor import unit as units
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.process import Process
from invochain.supervisor.unit import Unit

Say = Callable[[str], None]

# A crashed unit comes back at once the first time, then waits twice as long each time, up to the last.
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
# Whoever has lived this long starts with a clean sheet.
STABLE_AFTER_S = 60.0


class Supervisor:
    """The processes of one stack. `changed` is called whenever one of them became ready or ended, `ended` with the name
    of each that ended by itself, also before it was ready again.

    Each logs to a file of its own in `log_folder`; None: where we do.
    """

    def __init__(
        self,
        log_folder: Path | None,
        say: Say,
        changed: Callable[[], None] = lambda: None,
        ended: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._log_folder = log_folder
        self._say = say
        self._changed = changed
        self._ended = ended
        self._stages: list[list[Unit]] = []
        self._processes: dict[str, Process] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of those that are ready, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def signal(self, name: str, number: Signals) -> None:
        """Sends a signal to one that is ready; one that has just ended is left in peace."""
        self._processes[name].signal(number)

    async def start(self, *stage: Unit) -> None:
        """Start some units side by side and return when all are ready; from then on they are kept alive.

        Raises CannotStart when one of them does not come up; `stop` then ends the others.
        """
        self._stages.append(list(stage))
        async with asyncio.TaskGroup() as group:
            for unit in stage:
                group.create_task(self._start_first(unit))

    async def _start_first(self, unit: Unit) -> None:
        began_s = time.monotonic()
        process = await units.start(unit, self._log_folder)
        self._enter(unit, process)
        self._watches[unit.name] = asyncio.create_task(self._keep_alive(unit, process), name=f"watch {unit.name}")
        self._say(f"{unit.name:<10} ready   {unit.address:<24} {time.monotonic() - began_s:5.1f} s")

    def _enter(self, unit: Unit, process: Process) -> None:
        self._processes[unit.name] = process
        self._changed()

    async def _keep_alive(self, unit: Unit, process: Process) -> None:
        crashes = 0
        while True:
            code = await process.ended()
            await process.kill9()  # what it may have left behind
            del self._processes[unit.name]
            self._ended(unit.name)
            self._changed()
            crashes = 0 if time.monotonic() - process.started_at_s > STABLE_AFTER_S else crashes
            said = units.describe_end(code)
            while True:
                wait_s = BACKOFF_S[min(crashes, len(BACKOFF_S) - 1)]
                crashes += 1
                where = f" (see log/{unit.name}.log)" if self._log_folder else ""
                self._say(f"{unit.name:<10} {said}; starting it again in {wait_s:g} s{where}")
                await asyncio.sleep(wait_s)
                began_s = time.monotonic()
                try:
                    process = await units.start(unit, self._log_folder)
                except (CannotStart, OSError) as error:
                    said = f"did not come back: {str(error).splitlines()[0]}"
                    self._ended(unit.name)
                    continue
                break
            self._enter(unit, process)
            self._say(f"{unit.name:<10} ready again after {time.monotonic() - began_s:.1f} s")

    async def stop(self) -> None:
        """Stop everything, the last stage first, each unit within its own bound. May be called at any moment, once."""
        for stage in reversed(self._stages):
            async with asyncio.TaskGroup() as group:
                for unit in stage:
                    group.create_task(self._stop_one(unit))

    async def _stop_one(self, unit: Unit) -> None:
        await self._forget(unit)
        if process := self._processes.pop(unit.name, None):
            began_s = time.monotonic()
            await process.stop()
            self._say(f"{unit.name:<10} stopped after {time.monotonic() - began_s:.1f} s")

    async def kill(self) -> None:
        """End everything at once, by SIGKILL. What was promised is on disk already."""
        for unit in (unit for stage in self._stages for unit in stage):
            await self._forget(unit)
        processes = list(self._processes.values())
        self._processes.clear()
        for process in processes:
            await process.kill9()

    async def _forget(self, unit: Unit) -> None:
        if watch := self._watches.pop(unit.name, None):
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


def first_cause(error: BaseException) -> BaseException:
    """The first failure inside a group: several units of one stage may fail together, and one is enough to say."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
