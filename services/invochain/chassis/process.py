"""A process: start what a room needs, serve, and stop in order when told to (SIGTERM, SIGINT)."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvloop

from invochain.chassis import faults
from invochain.chassis.handler import Authenticator
from invochain.chassis.server import Server, tls_of
from invochain.chassis.settings import Settings, settings
from invochain.chassis.telemetry import configure_logging, log, serve_metrics


@dataclass
class Running:
    """A started room: what it serves, and what to close, in order, after the last call is answered."""

    servicers: list[Any]
    authenticator: Authenticator | None
    closers: Sequence[Callable[[], Awaitable[None]]] = ()

    async def close(self) -> None:
        for closer in self.closers:
            await closer()


async def serve(name: str, start: Callable[[Settings], Awaitable[Running]], address: str) -> None:
    """Serves a room until SIGTERM or SIGINT; then NOT_SERVING first, drain, close."""
    config = settings()
    configure_logging(name, config.log_level)
    faults.arm(config.fault)
    events = log(name)
    stop = stop_signal()
    running = await start(config)
    reflection_on = config.reflection and config.environment != "production"
    server = Server(
        name, running.authenticator, reflection_on=reflection_on, reuse_port=config.reuse_port, tls=tls_of(config)
    )
    for servicer in running.servicers:
        server.add(servicer)
    spare_the_collector()
    port = await server.start(address)
    events.info(
        "serving", address=f"{address.rsplit(':', 1)[0]}:{port}", metrics_port=serve_metrics(config.metrics_port)
    )
    notify("READY=1")
    async with beating():
        await stop.wait()
        with suppress(OSError):
            # Whoever watches may be gone or stand still; what was taken is answered all the same.
            notify("STOPPING=1", socket.MSG_DONTWAIT)
        events.info("draining")
        await server.drain()
        await running.close()
    events.info("stopped")


def notify(state: str, flags: int = 0) -> None:
    """Tells whoever watches this process how it is, by the protocol of systemd (Type=notify); nobody there: nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.sendto(state.encode(), flags, "\0" + address[1:] if address.startswith("@") else address)


# Words to the watchdog in the time after which it takes us for hung.
BEATS = 4


@asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Says inside the block, again and again, that the event loop turns; nobody asks (WATCHDOG_USEC): nothing."""
    within_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())

    async def beat() -> None:
        while True:
            # Not heard, or not now (the words before it still wait): this process serves on, and must not wait for it.
            with suppress(OSError):
                notify("WATCHDOG=1", socket.MSG_DONTWAIT)
            await asyncio.sleep(within_us / BEATS / 1_000_000)

    beats = asyncio.create_task(beat(), name="watchdog") if within_us and ours else None
    try:
        yield
    finally:
        if beats:
            beats.cancel()


# Objects made before a young collection; a batch of 500 makes some 10,000 that live until it is answered.
YOUNG_OBJECTS = 25_000


def spare_the_collector() -> None:
    """Keeps the cyclic garbage collector from walking what a started process holds for good, again and again.

    Calls make hardly any cycles, but many objects that live for a batch: with Python's default of 700 every batch was
    walked several times (measured: 12 % of the invoice process's time under load).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def run(main: Awaitable[None]) -> None:
    """Runs a process's main coroutine on uvloop."""
    uvloop.run(main)  # type: ignore[arg-type]
