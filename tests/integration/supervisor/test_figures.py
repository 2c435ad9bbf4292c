"""One endpoint's figures when real processes die: nothing of the dead is under way, nothing counted is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL

from invochain.supervisor.figures import Figures
from invochain.supervisor.fleet import Sibling
from invochain.supervisor.process import Program
from invochain.supervisor.supervisor import Supervisor

WITHIN_S = 60.0
# Has five items waiting, counts one thing, and is ready; or ends before it is, where a file says so.
LIFE = """
import pathlib, signal, sys
from invochain.chassis import process, telemetry
telemetry.BATCH_WAITING.labels("bolts").set(5)
telemetry.CACHE_EPOCHS.inc()
telemetry.INVOICE_CREATION_SECONDS.observe(0.02)
if pathlib.Path(sys.argv[1]).exists():
    sys.exit(1)
process.notify("READY=1")
signal.pause()
"""


class Brief(Sibling):
    """A sibling that does nothing but count its lives."""

    broken: Path

    def program(self) -> Program:
        return replace(super().program(), command=[sys.executable, "-c", LIFE, str(self.broken)])


def test_a_file_that_was_only_just_made_spoils_no_figures(tmp_path):
    """Given a file without a size, as a process makes it a moment before it writes, what the others counted is read."""
    one = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "INVOCHAIN_WORKER": "room-1"}
    count = "from invochain.chassis import telemetry; telemetry.CACHE_EPOCHS.inc()"
    subprocess.run([sys.executable, "-c", count], env=one, check=True, timeout=WITHIN_S)
    for kind in ("counter", "histogram", "gauge_livesum"):
        (tmp_path / f"{kind}_room-2.db").touch()

    assert Figures(tmp_path).registry.get_sample_value("outcome_cache_epochs_total") == 1


async def test_what_a_process_had_under_way_ends_with_it_and_what_it_counted_stays(tmp_path):
    """Given two processes of which one is killed and ends twice more before it is ready: at each death its gauges are
    gone at once, its counters are whole, and there are no more files than before."""
    figures = Figures(tmp_path)
    # Of each death the supervisor speaks: what the figures were by then.
    at_death: list[tuple[float, float, float]] = []
    deaths = asyncio.Semaphore(0)

    def now() -> tuple[float, float, float]:
        read = figures.registry.get_sample_value
        return (
            read("batch_waiting", {"batch": "bolts"}),
            read("outcome_cache_epochs_total"),
            read("invoice_creation_duration_seconds_count"),
        )

    def say(line: str) -> None:
        if "starting it again" in line:
            at_death.append(now())
            deaths.release()
            if len(at_death) == 3:
                broken.unlink()

    supervisor = Supervisor(None, say, changed=lambda: figures.now(supervisor.pids), ended=figures.ended)
    broken = tmp_path / "broken"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    siblings = [Brief(f"room-{n}", (), "-", environment, tmp_path) for n in (1, 2)]
    for sibling in siblings:
        sibling.broken = broken
    try:
        await supervisor.start(*siblings)
        assert now() == (10, 2, 2)
        files = set(tmp_path.glob("*.db"))
        broken.touch()

        supervisor.signal("room-1", SIGKILL)

        async with asyncio.timeout(WITHIN_S):
            for _ in range(3):
                await deaths.acquire()
            while len(supervisor.pids) < 2:
                await asyncio.sleep(0.02)
        assert at_death == [(5, 2, 2), (5, 3, 3), (5, 4, 4)]
        assert now() == (10, 5, 5)
        assert set(tmp_path.glob("*.db")) == files
    finally:
        await supervisor.kill()
        for sibling in siblings:
            sibling.close()
