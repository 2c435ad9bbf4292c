"""Several processes of one service behind one port: SO_REUSEPORT, nothing shared, one metrics endpoint.

The kernel gives each new connection to one of them. What makes an invoice exist once is in the databases, so
processes need not know of each other. This parent serves no call: it starts them, brings back what crashes or hangs,
adds up their figures and stops them in good order.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL

from invochain.chassis.process import beating, notify, stop_signal
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import configure_logging, log, serve_metrics
from invochain.supervisor.figures import Figures
from invochain.supervisor.process import Process, Program
from invochain.supervisor.rooms import READY_WITHIN_S, STOP_WITHIN_S, command
from invochain.supervisor.supervisor import Say, Supervisor, first_cause

# How often a silent process is looked at before it counts as hung. Looks are counted, not seconds: where the whole
# machine stood still, this process looked no more than the others spoke.
LOOKS = 15
# What waits on a notify socket between two looks is a few words; this many are read at most.
WORDS_MAX = 64


class Sibling:
    """One of the processes. Ready when it has said READY=1 on its own notify socket; there it goes on saying that its
    event loop turns (WATCHDOG=1)."""

    ready_within_s = READY_WITHIN_S

    def __init__(
        self, name: str, arguments: tuple[str, ...], address: str, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name, self.address = name, address
        self._arguments, self._environment, self._folder = arguments, environment, folder
        self._path = folder / f"{name}.notify"
        self._door: socket.socket | None = None
        # How many looks in a row found that it had said nothing.
        self.silent_looks = 0

    async def prepare(self) -> None:
        self.close()
        self.silent_looks = 0
        self._path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._door.bind(str(self._path))

    def program(self) -> Program:
        return Program(
            name=self.name,
            command=command(*self._arguments),
            environment={
                **self._environment,
                "INVOCHAIN_WORKER": self.name,
                "NOTIFY_SOCKET": str(self._path),
                "PYTHONUNBUFFERED": "1",
            },
            folder=Path.cwd(),
            stop_within_s=STOP_WITHIN_S,
        )

    async def is_ready(self, process: Process) -> bool:
        assert self._door is not None
        try:
            return b"READY=1" in self._door.recv(4_096)
        except BlockingIOError:
            return False

    def look(self) -> None:
        """Hears what a ready process has said since the last look."""
        assert self._door is not None
        self.silent_looks += 1
        for _ in range(WORDS_MAX):
            try:
                self._door.recv(4_096)
            except BlockingIOError:
                return
            self.silent_looks = 0

    def close(self) -> None:
        if self._door is not None:
            self._door.close()


async def serve(room: str, count: int, settings: Settings) -> None:
    """Serves a room with `count` processes until SIGTERM or SIGINT. Raises CannotStart when one does not come up.

    Later, one that ends is started again, and one whose event loop has stood still for `hung_after_s` is killed first:
    the kernel would go on giving it connections.
    """
    configure_logging(room, settings.log_level)
    events = log(room)
    stop = stop_signal()
    with (
        tempfile.TemporaryDirectory(prefix="invochain-") as temporary,
        reserved(getattr(settings, f"{room}_address")) as address,
    ):
        folder = Path(temporary)
        environment = {
            **{name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"},
            "WATCHDOG_USEC": str(settings.hung_after_s * 1_000_000),
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

        def say(line: str) -> None:
            events.info("processes", said=line)

        supervisor = Supervisor(None, say, changed=lambda: figures.now(supervisor.pids), ended=figures.ended)
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
            async with beating(), asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(end_the_hung(siblings, supervisor, settings.hung_after_s, say))
                await stop.wait()
                watch.cancel()
            notify("STOPPING=1")
            events.info("draining")
        finally:
            await supervisor.stop()
            for sibling in siblings:
                sibling.close()
    events.info("stopped")


async def end_the_hung(siblings: Sequence[Sibling], supervisor: Supervisor, hung_after_s: float, say: Say) -> None:
    """Kills, again and again, every ready process that has been silent for so long; the supervisor replaces it.

    A process that is merely busy speaks: its words come from the event loop, which no batch holds for long.
    """
    while True:
        await asyncio.sleep(hung_after_s / LOOKS)
        for sibling in siblings:
            if sibling.name not in supervisor.pids:
                continue
            sibling.look()
            if sibling.silent_looks >= LOOKS:
                say(f"{sibling.name:<10} has not spoken for {hung_after_s:g} s; killing it")
                sibling.silent_looks = 0
                supervisor.signal(sibling.name, SIGKILL)


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
