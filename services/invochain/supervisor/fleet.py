"""Several processes of one service behind one port: SO_REUSEPORT, nothing shared, one metrics endpoint.

The kernel gives each new connection to one of them. What makes an invoice exist once is in the databases, so
processes need not know of each other. This parent serves no call: it starts them, brings back what crashes, adds up
their figures and stops them in good order.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from invochain.chassis.process import notify, stop_signal
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import configure_logging, log, serve_metrics
from invochain.supervisor.process import Process, Program
from invochain.supervisor.rooms import READY_WITHIN_S, STOP_WITHIN_S, command
from invochain.supervisor.supervisor import Supervisor, first_cause

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sibling:
    """One of the processes. Ready when it has said READY=1 on its own notify socket."""

    ready_within_s = READY_WITHIN_S

    def __init__(
        self, name: str, arguments: tuple[str, ...], address: str, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name, self.address = name, address
        self._arguments, self._environment, self._folder = arguments, environment, folder
        self._path = folder / f"{name}.notify"
        self._door: socket.socket | None = None

    async def prepare(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._door.bind(str(self._path))

    def program(self) -> Program:
        return Program(
            name=self.name,
            command=command(*self._arguments),
            environment={**self._environment, "NOTIFY_SOCKET": str(self._path), "PYTHONUNBUFFERED": "1"},
            folder=Path.cwd(),
            stop_within_s=STOP_WITHIN_S,
        )

    async def is_ready(self, process: Process) -> bool:
        assert self._door is not None
        try:
            return b"READY=1" in self._door.recv(4_096)
        except BlockingIOError:
            return False

    def close(self) -> None:
        if self._door is not None:
            self._door.close()


async def serve(room: str, count: int, settings: Settings) -> None:
    """Serves a room with `count` processes until SIGTERM or SIGINT. Raises CannotStart when one does not come up."""
    configure_logging(room, settings.log_level)
    events = log(room)
    stop = stop_signal()
    with (
        tempfile.TemporaryDirectory(prefix="invochain-") as temporary,
        reserved(getattr(settings, f"{room}_address")) as address,
    ):
        folder = Path(temporary)
        environment = {
            **os.environ,
            "PROMETHEUS_MULTIPROC_DIR": temporary,
            "INVOCHAIN_REUSE_PORT": "1",
            "INVOCHAIN_PROCESSES": str(count),
            f"INVOCHAIN_{room.upper()}_ADDRESS": address,
        }
        siblings = [
            Sibling(f"{room}-{n}", ("serve", room, "--workers", "1"), address, environment, folder)
            for n in range(1, count + 1)
        ]
        figures = Figures(folder)
        supervisor = Supervisor(
            None, lambda line: events.info("processes", said=line), changed=lambda: figures.now(supervisor.pids)
        )
        try:
            try:
                await supervisor.start(*siblings)
            except BaseExceptionGroup as group:
                raise first_cause(group) from None
            events.info(
                "serving",
                address=address,
                processes=count,
                metrics_port=serve_metrics(settings.metrics_port, figures.registry),
            )
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
            events.info("draining")
        finally:
            await supervisor.stop()
            for sibling in siblings:
                sibling.close()
    events.info("stopped")


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Holds host:port (port 0: a free one) for sockets of this user that ask for SO_REUSEPORT, and listens to nothing.

    Without it a restarting process could lose the port to somebody else.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind((host.strip("[]"), int(port)))
        yield f"{host}:{place.getsockname()[1]}"


class Figures(Collector):
    """The figures of all processes as one: metrics added up from their files, and what each process uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._pids: dict[str, int] = {}
        self.registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(self.registry, path=self._folder)  # type: ignore[no-untyped-call]
        self.registry.register(self)

    def now(self, pids: Mapping[str, int]) -> None:
        """Tells who lives; what a dead one had under way is no longer counted."""
        for pid in set(self._pids.values()) - set(pids.values()):
            multiprocess.mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
        self._pids = dict(pids)

    def collect(self) -> Iterator[Metric]:
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
