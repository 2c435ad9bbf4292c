"""The figures of all processes of a service as one: metrics added up from their files, and what each process uses.

The files are named after a process's place in the fleet, not after its process id: who replaces it counts on where it
ended. So counters never go down, and however often a place is filled anew, there are no more files to read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Figures(Collector):
    """What one endpoint says of a fleet. `registry` is read by another thread than the one that calls `now`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pids: dict[str, int] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def now(self, pids: Mapping[str, int]) -> None:
        """Tells who is ready, by place."""
        self._pids = dict(pids)

    def ended(self, name: str) -> None:
        """Tells that the process of a place has ended, ready or not: what it had under way is no longer counted."""
        multiprocess.mark_process_dead(name, str(self._folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        yield from multiprocess.MultiProcessCollector.merge(list(self._files()))  # type: ignore[no-untyped-call]
        cpu = CounterMetricFamily("process_cpu_seconds", "User and system CPU time", labels=["worker"])
        memory = GaugeMetricFamily("process_resident_memory_bytes", "Resident memory", labels=["worker"])
        for name, pid in self._pids.items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            cpu.add_metric([name], (int(fields[11]) + int(fields[12])) / TICKS)
            memory.add_metric([name], int(fields[21]) * PAGE_BYTES)
        yield cpu
        yield memory

    def _files(self) -> Iterator[str]:
        """Those that hold something: a process that starts makes a file first and gives it a size then."""
        for path in self._folder.glob("*.db"):
            with suppress(FileNotFoundError):  # its process has just ended
                if path.stat().st_size:
                    yield str(path)
