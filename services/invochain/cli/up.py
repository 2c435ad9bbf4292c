"""`invochain up`: the whole of InvoChain on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from invochain.supervisor.stack import Options, Stack

# One Ctrl-C may arrive twice, from the terminal and from a program in between (make, timeout): not yet impatience.
ONE_GESTURE_S = 0.5


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the databases; survives restarts. Default: INVOCHAIN_DATA_DIR, else "
            "/var/lib/invochain for root, ~/.local/share/invochain for others."
        ),
    ] = None,
    ephemeral: Annotated[bool, typer.Option(help="A throw-away folder and random ports; nothing is kept.")] = False,
    gateway_port: Annotated[int | None, typer.Option(help="Port of the REST gateway, on 127.0.0.1.")] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER, for gateway, merchant, inventory, invoice, postgres, replica, valkey or "
            "NAME-metrics; may be given several times. Default: last time's, else a free one."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, envvar="INVOCHAIN_SERVICE_WORKERS", help="Processes of each service."),
    ] = 1,
    replica: Annotated[
        bool, typer.Option(help="A streaming read replica too, which answers GetInvoice and ListInvoices.")
    ] = False,
    demo: Annotated[bool, typer.Option(help="Walk the main job once all is up.")] = False,
    exit_after: Annotated[
        bool, typer.Option("--exit", help="Stop after the demo; the exit code is the demo's.")
    ] = False,
) -> None:
    """Start PostgreSQL, Valkey, the services, the workers and the gateway, and keep them running until Ctrl-C."""
    from invochain.supervisor.stack import Options

    if data_dir and ephemeral:
        raise typer.BadParameter("--data-dir keeps the data and --ephemeral throws them away; choose one")
    if exit_after and not demo:
        raise typer.BadParameter("--exit stops after the demo; give --demo as well")
    ports = dict(_port(text) for text in port or ())
    if gateway_port is not None:
        ports["gateway"] = gateway_port
    options = Options(data_folder=data_dir, ephemeral=ephemeral, ports=ports, workers=workers, replica=replica)
    raise typer.Exit(asyncio.run(_up(options, demo=demo, exit_after=exit_after)))


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdigit() or not 0 < int(number) < 65_536:
        raise typer.BadParameter(f"--port {text}: wanted NAME=NUMBER with a number from 1 to 65535")
    return name, int(number)


async def _up(options: Options, *, demo: bool, exit_after: bool) -> int:
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.stack import Stack

    say = _Clock()
    try:
        stack = Stack(options, say)
    except CannotStart as error:
        return _complain(error)
    stops = _Stops()
    main = asyncio.create_task(_run(stack, say, demo=demo, exit_after=exit_after))
    # The first Ctrl-C ends what is under way, start or service; the second does not wait for open requests.
    first = asyncio.create_task(stops.first.wait())
    await asyncio.wait({main, first}, return_when=asyncio.FIRST_COMPLETED)
    if not main.done():
        say("stopping (Ctrl-C again to stop at once)")
        main.cancel()
    result = (await asyncio.gather(main, return_exceptions=True))[0]
    first.cancel()
    if isinstance(result, CannotStart):
        _complain(result)
    stopping = asyncio.create_task(stack.stop())
    second = asyncio.create_task(stops.second.wait())
    await asyncio.wait({stopping, second}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        say("stopping at once")
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await stack.kill()
    else:
        await stopping
    second.cancel()
    say("stopped")
    if isinstance(result, CannotStart):
        return 1
    if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
        raise result
    return result if isinstance(result, int) else 0


async def _run(stack: Stack, say: _Clock, *, demo: bool, exit_after: bool) -> int:
    """Start the stack, walk the demo if asked, then serve until cancelled. Returns the demo's exit code."""
    await stack.start()
    say(f"all healthy; REST at {stack.state.gateway_url}, Ctrl-C stops everything")
    code = 0
    if demo:
        code = await _walk_demo(stack)
        if code:
            print(f"the demo ended with exit code {code}", flush=True)
    if exit_after:
        return code
    await asyncio.Event().wait()
    raise AssertionError("unreachable: only a cancellation ends the wait")


async def _walk_demo(stack: Stack) -> int:
    """`invochain demo` in this terminal, with the settings of the stack."""
    import os

    from invochain.supervisor.rooms import command

    process = await asyncio.create_subprocess_exec(
        *command("demo"), env={**os.environ, **stack.state.environment, "INVOCHAIN_DATA_DIR": str(stack.folder.path)}
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Stops:
    """Ctrl-C or SIGTERM once, and once more."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._first_at_s = 0.0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._told)

    def _told(self) -> None:
        if not self.first.is_set():
            self._first_at_s = time.monotonic()
            self.first.set()
        elif time.monotonic() - self._first_at_s > ONE_GESTURE_S:
            self.second.set()


class _Clock:
    """Says a line with the time since the start in front of it."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __call__(self, line: str) -> None:
        try:
            print(f"[{time.monotonic() - self._began_s:6.1f} s] {line}", flush=True)
        except BrokenPipeError:
            pass  # the reader has gone; the stack has not


def _complain(error: Exception) -> int:
    found, _, remedy = str(error).partition("\n")
    print(f"invochain: {found}", *([remedy] if remedy else []), sep="\n", file=sys.stderr, flush=True)
    return 1
