"""One supervised process: started away from our terminal, watched, and stopped within a bound.

Built on `subprocess.Popen` and a pidfd rather than on `asyncio.subprocess`, whose children are killed when the event
loop that started them closes: a test server is started by one loop, or by none, and used from another.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM, Signals
from typing import IO

from invochain.supervisor.account import Account
from invochain.supervisor.errors import CannotStart

LAUNCH = Path(__file__).with_name("launch.py")

# After SIGKILL only a process stuck in the kernel remains; waiting longer than this helps nobody.
KILLED_WITHIN_S = 5.0
# How often to look where the kernel has no pidfd to wake us (not Linux).
POLL_S = 0.02


@dataclass(frozen=True)
class Program:
    """What to run and how to end it.

    `death_signal` is what the kernel sends when the supervisor itself is killed. `stop_within_s` bounds the time
    between `stop_signal` and SIGKILL to it and all that descend from it.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    account: Account | None = None
    stop_signal: Signals = SIGTERM
    death_signal: Signals = SIGKILL
    stop_within_s: float = 10.0


class Process:
    """A running `Program`. Start it from a thread that outlives it: the death signal is tied to that thread."""

    def __init__(self, program: Program, log: Path | None) -> None:
        """Starts it. What it says goes to `log`; None: where our own words go."""
        self.program = program
        self.log = log
        self.started_at_s = time.monotonic()
        self._log_size_at_start = log.stat().st_size if log and log.exists() else 0
        if log is None:
            self._popen = self._spawn(None)
        else:
            # Append mode, so that the file may be shortened while the child writes to it (see logs.py).
            with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
                self._popen = self._spawn(output)
        self._pidfd = os.pidfd_open(self._popen.pid) if hasattr(os, "pidfd_open") else -1

    def _spawn(self, output: IO[bytes] | None) -> subprocess.Popen[bytes]:
        program = self.program
        account = program.account
        shim = [
            *(sys.executable, "-I", "-S", str(LAUNCH)),
            str(os.getpid()),
            str(int(program.death_signal)),
            f"{account.uid}:{account.gid}" if account else "-",
        ]
        return subprocess.Popen(
            [*shim, *program.command],
            env=dict(program.environment),
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor only
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._popen.poll()

    def signal(self, number: Signals) -> None:
        """Send a signal to the process alone. One that has ended is left in peace."""
        self._popen.send_signal(number)

    def signal_family(self, number: Signals) -> None:
        """Send a signal to the process and all that descend from it, the parent first.

        Not the process group: each backend of PostgreSQL is a group of its own.
        """
        if self._popen.poll() is not None:
            return
        if number == SIGKILL:
            self.signal(SIGSTOP)  # so that no child is born while we count them
        for pid in (self.pid, *descendants(self.pid)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    async def ended(self) -> int:
        """Wait for the end; returns the exit code. May be awaited from any event loop, and cancelled."""
        if self._popen.poll() is None and self._pidfd >= 0:
            loop = asyncio.get_running_loop()
            woken = asyncio.Event()
            # A descriptor of this wait alone: two waits on one descriptor would take each other's reader away.
            own = os.dup(self._pidfd)
            loop.add_reader(own, woken.set)
            try:
                await woken.wait()
            finally:
                loop.remove_reader(own)
                os.close(own)
            self._popen.wait()
        while (code := self._popen.poll()) is None:  # noqa: ASYNC110 - only where there is no pidfd
            await asyncio.sleep(POLL_S)
        return code

    async def stop(self) -> int:
        """Ask it to end, wait `stop_within_s`, then kill it and its children. Returns the exit code."""
        self.signal(self.program.stop_signal)
        try:
            await asyncio.wait_for(self.ended(), self.program.stop_within_s)
        except TimeoutError:
            self.signal_family(SIGKILL)
        code = await asyncio.wait_for(self.ended(), KILLED_WITHIN_S)
        self._close()
        self._end_group()
        return code

    async def kill9(self) -> int:
        """End it and its children as a power failure would; returns the exit code."""
        self.signal_family(SIGKILL)
        code = await asyncio.wait_for(self.ended(), KILLED_WITHIN_S)
        self._close()
        self._end_group()
        return code

    def _end_group(self) -> None:
        """Kill what its leader left behind in the process group; the number of a group in use is not given away."""
        try:
            os.killpg(self.pid, SIGKILL)
        except ProcessLookupError:
            pass

    def _close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def last_words(self, lines: int = 12) -> str:
        """The end of what it wrote since it was started, for the person who has to find out why it ended."""
        if self.log is None:
            return "(its words are above)"
        with open(self.log, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            begin = self._log_size_at_start if self._log_size_at_start <= size else 0
            log.seek(max(begin, size - 16_384))
            return b"\n".join(log.read().splitlines()[-lines:]).decode(errors="replace")


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # "pid (name) state ppid ...", and the name may hold anything, a closing bracket too.
            parent = int(entry.read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


async def run_to_end(program: Program, log: Path, within_s: float) -> None:
    """Run a program that does one thing and ends. Raises CannotStart with its last words when it fails or is late."""
    process = Process(program, log)
    try:
        code = await asyncio.wait_for(process.ended(), within_s)
    except TimeoutError:
        raise CannotStart(f"{program.name} took longer than {within_s:g} s:\n{process.last_words()}") from None
    finally:
        await process.kill9()
    if code != 0:
        raise CannotStart(f"{program.name} ended with {code}:\n{process.last_words()}")
