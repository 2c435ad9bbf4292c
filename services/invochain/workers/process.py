"""The workers' process: finds the loops, runs them, says whether it is ready, stops in order."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection

import invochain.workers
from invochain.chassis import faults
from invochain.chassis.process import spare_the_collector, stop_signal
from invochain.chassis.server import Server, tls_of
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import configure_logging, log, serve_metrics
from invochain.workers import Worker, runner
from invochain.workers.rooms import Rooms


class NoSuchWorker(Exception):
    """A name that no file of workers has."""


def kinds() -> list[str]:
    """The kinds of loops there are: the files here that have `build`."""
    names = sorted(module.name for module in pkgutil.iter_modules(invochain.workers.__path__))
    return [name for name in names if hasattr(importlib.import_module(f"invochain.workers.{name}"), "build")]


async def make(settings: Settings, rooms: Rooms, only: Collection[str] = ()) -> list[Worker]:
    """Makes the loops of the kinds named (none named: all). Raises NoSuchWorker."""
    known = kinds()
    if unknown := sorted(set(only) - set(known)):
        raise NoSuchWorker(f"there is no worker {', '.join(unknown)}; known are {', '.join(known)}")
    workers: list[Worker] = []
    for name in known:
        if not only or name in only:
            workers += await importlib.import_module(f"invochain.workers.{name}").build(settings, rooms)
    return workers


async def serve(settings: Settings, address: str, only: Collection[str] = ()) -> None:
    """Runs the loops until SIGTERM or SIGINT. `address` serves grpc.health.v1: readiness "", liveness "live"."""
    configure_logging("workers", settings.log_level)
    faults.arm(settings.fault)
    events = log("workers")
    stop = stop_signal()
    rooms = Rooms(settings, stop)
    server = Server("workers", None, reflection_on=False, tls=tls_of(settings))
    try:
        workers = await make(settings, rooms, only)
        spare_the_collector()
        port = await server.start(address)
        metrics_port = serve_metrics(settings.metrics_port)
        events.info(
            "running",
            workers=[worker.name for worker in workers],
            health=f"{address.rsplit(':', 1)[0]}:{port}",
            metrics_port=metrics_port,
        )
        await runner.run(workers, stop, rooms.leader)
        events.info("stopped")
    finally:
        await server.drain(1)
        await rooms.close()
