"""The supervisor with real processes: start in stages, restart what crashes, stop in order, leave nobody behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from invochain.supervisor.errors import CannotStart
from invochain.supervisor.process import Process, Program
from invochain.supervisor.supervisor import Supervisor, first_cause

# Says it is there by a file, ends at SIGTERM with a word, and has a child of its own.
WORKER = """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, lambda *_: (child.kill(), sys.exit(0)))
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
while True: time.sleep(600)
"""
WITHIN_S = 20.0


@dataclass
class FileUnit:
    """A unit that is ready once its file is there."""

    name: str
    folder: Path
    code: str = WORKER
    address: str = "-"
    ready_within_s: float = WITHIN_S
    stop_within_s: float = WITHIN_S
    starts: list[float] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.ready"

    async def prepare(self) -> None:
        self.starts.append(time.monotonic())
        self.file.unlink(missing_ok=True)

    def program(self) -> Program:
        command = [sys.executable, "-c", self.code, str(self.file)]
        return Program(self.name, command, dict(os.environ), self.folder, stop_within_s=self.stop_within_s)

    async def is_ready(self, process: Process) -> bool:
        return self.file.exists() and bool(self.file.read_text())

    @property
    def child(self) -> int:
        return int(self.file.read_text())


class Stage:
    """A supervisor under test and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.supervisor = Supervisor(folder, self.said.append)

    def unit(self, name: str, code: str = WORKER, **more: float) -> FileUnit:
        return FileUnit(name, self.folder, code, **more)

    async def hears(self, words: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not any(words in line for line in self.said):
                await asyncio.sleep(0.01)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    yield made
    await made.supervisor.kill()


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while alive(pid):
            await asyncio.sleep(0.01)


class TestSupervisor:
    async def test_what_crashes_is_started_again_and_said_so(self, stage: Stage):
        """A unit that is killed comes back under a new process id; its neighbour is not touched."""
        one, other = stage.unit("one"), stage.unit("other")
        await stage.supervisor.start(one, other)
        before = stage.supervisor.pids

        os.kill(before["one"], signal.SIGKILL)
        await stage.hears("ready again")

        assert any("was ended by SIGKILL; starting it again in 0.2 s" in line for line in stage.said)
        assert stage.supervisor.pids["one"] != before["one"]
        assert stage.supervisor.pids["other"] == before["other"]

    async def test_one_that_keeps_crashing_waits_longer_each_time(self, stage: Stage):
        """The back-off doubles, so a broken unit does not eat the machine."""
        unit = stage.unit("brittle")
        await stage.supervisor.start(unit)
        unit.code = "raise SystemExit(3)"

        os.kill(stage.supervisor.pids["brittle"], signal.SIGKILL)
        await stage.hears("starting it again in 1 s")

        assert ["0.2", "0.5", "1"] == [
            line.split(" s (")[0].split()[-1] for line in stage.said if "starting it" in line
        ]
        assert any(
            "did not come back: brittle ended with exit code 3 before it was ready" in line for line in stage.said
        )

    async def test_a_unit_that_does_not_come_up_fails_the_start_with_its_last_words(self, stage: Stage):
        """What the process wrote is in the message: nobody has to look for a log file first."""
        broken = stage.unit("broken", "import sys; sys.exit('the disk is made of cheese')")
        with pytest.raises(BaseException) as failure:
            await stage.supervisor.start(stage.unit("fine"), broken)

        cause = first_cause(failure.value)
        assert isinstance(cause, CannotStart)
        assert "broken ended with exit code 1 before it was ready:\nthe disk is made of cheese" in str(cause)

    async def test_a_unit_that_never_gets_ready_is_given_up_and_killed(self, stage: Stage):
        """A start ends, one way or the other, within its bound."""
        slow = stage.unit("slow", "import time; time.sleep(600)", ready_within_s=0.3)
        with pytest.raises(BaseException) as failure:
            await stage.supervisor.start(slow)

        assert "slow was not ready after 0.3 s" in str(first_cause(failure.value))
        assert {} == stage.supervisor.pids

    async def test_stages_stop_in_reverse_order(self, stage: Stage):
        """Whoever was started last is stopped first, so nobody loses what it stands on."""
        for name in ("database", "service", "gateway"):
            await stage.supervisor.start(stage.unit(name))

        await stage.supervisor.stop()

        stopped = [line.split()[0] for line in stage.said if "stopped" in line]
        assert ["gateway", "service", "database"] == stopped

    async def test_one_that_ignores_the_request_to_stop_is_killed_with_its_children(self, stage: Stage):
        """Stopping is bounded even when a process will not hear of it."""
        deaf = stage.unit("deaf", WORKER.replace("lambda *_: (child.kill(), sys.exit(0))", "signal.SIG_IGN"))
        deaf.stop_within_s = 0.3
        await stage.supervisor.start(deaf)
        pid, child = stage.supervisor.pids["deaf"], deaf.child

        await stage.supervisor.stop()

        await gone(pid)
        await gone(child)

    async def test_ctrl_c_in_the_terminal_does_not_reach_the_children(self, stage: Stage):
        """Each unit is a session of its own; only the supervisor decides when it ends."""
        await stage.supervisor.start(stage.unit("one"))

        assert os.getsid(stage.supervisor.pids["one"]) != os.getsid(0)

    @pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="only Linux tells children of their parent's death"
    )
    async def test_children_end_with_a_supervisor_that_was_killed(self, stage: Stage):
        """SIGKILL gives the supervisor no chance to stop anything; the kernel does it."""
        code = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_supervisor import Stage
async def main():
    stage = Stage(Path(sys.argv[1]))
    await stage.supervisor.start(stage.unit("orphan"))
    print(stage.supervisor.pids["orphan"], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
        supervisor = subprocess.Popen([sys.executable, "-c", code, stage.folder], stdout=subprocess.PIPE, text=True)
        try:
            assert supervisor.stdout is not None
            pid = int(await asyncio.wait_for(asyncio.to_thread(supervisor.stdout.readline), WITHIN_S))
            assert alive(pid)
        finally:
            supervisor.kill()
            supervisor.wait()

        await gone(pid)
        # The kernel's help reaches children, not theirs; no unit of ours has any that outlive it.
        os.kill(stage.unit("orphan").child, signal.SIGKILL)
