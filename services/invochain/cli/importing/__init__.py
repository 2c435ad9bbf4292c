"""`invochain import FILE`: issues the invoices of a file, each exactly once, however often it is interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from invochain.cli.importing.progress import Outcome, Progress
    from invochain.cli.importing.row import Row
    from invochain.cli.importing.rows import Reader

    Token = Callable[[bool], Awaitable[str]]


def register(app: typer.Typer) -> None:
    app.command("import")(import_)


def import_(
    file: Annotated[
        Path, typer.Argument(help="JSON lines (the API's JSON form), or CSV with a header if it ends in .csv.")
    ],
    token: Annotated[str, typer.Option(envvar="INVOCHAIN_TOKEN", help="Access token of a user who may issue.")] = "",
    email: Annotated[str, typer.Option(envvar="INVOCHAIN_EMAIL", help="Instead of a token: sign in, and again.")] = "",
    password: Annotated[
        str, typer.Option(envvar="INVOCHAIN_PASSWORD", help="For --email; better in the variable.")
    ] = "",
    source: Annotated[
        str,
        typer.Option(
            help="A name for these sales, such as 2026-11-22; needed where invoices have neither key nor number."
        ),
    ] = "",
    from_start: Annotated[
        bool, typer.Option(help="Forget how far an earlier import came. What it issued is found by its keys.")
    ] = False,
    patience: Annotated[int, typer.Option(help="Seconds without progress before it gives up.")] = 60,
    address: Annotated[
        str, typer.Option(help="host:port of the invoice service; the running stack's by default.")
    ] = "",
    merchant_address: Annotated[str, typer.Option(help="The same of the merchant service, for --email.")] = "",
) -> None:
    """Issue every invoice of a file; resumes after a break, and reports what was refused with its line.

    A run that was interrupted goes on where it stopped. Refusals are in FILE.refused.csv; correct those lines and run
    the same command with --from-start: what was issued is not issued again. A refusal such as INSUFFICIENT_STOCK stays
    with its key: to try such a line again, give it another idempotency_key. Exit 0: all are issued; 1: not all.

    In a CSV, rows below one another with the same `invoice` (else `number`, else `idempotency_key`) are one invoice. It
    is issued whole or not at all: a row that cannot be read refuses its invoice, and one of which nobody can say whose
    it is (too many or too few cells, no name) those above and below it. Rows that stand apart refuse theirs too.
    """
    import asyncio

    from invochain.cli.importing.progress import FileChanged, Progress
    from invochain.cli.importing.row import CannotRead
    from invochain.cli.importing.rows import Reader
    from invochain.cli.importing.sending import Stopped
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import running_stack

    try:
        if not token and not (email and password):
            raise CannotStart("nobody is signed in", "give --token, or --email and INVOCHAIN_PASSWORD")
        if not address or (email and not merchant_address):
            stack = running_stack()
            address = address or stack.addresses["invoice"]
            merchant_address = merchant_address or stack.addresses["merchant"]
        reader = Reader(file, source, csv=file.suffix.lower() == ".csv")
        progress = Progress.load(file, from_start=from_start)
        asyncio.run(_run(reader, progress, address, _signing_in(merchant_address, token, email, password), patience))
    except FileChanged:
        _stop(
            f"{file} is not what it was up to line {progress.offset}; --from-start reads it anew, and what was issued "
            "is found by its keys"
        )
    except (CannotStart, CannotRead) as fault:
        _stop(str(fault))
    except OSError as fault:
        _stop(f"{fault.filename}: {fault.strerror}")
    except (Stopped, KeyboardInterrupt) as fault:
        _stop(f"stopped after line {progress.offset}: {fault or 'interrupted'}; the same command goes on from there")
    typer.echo(f"{progress.issued} issued, {progress.replayed} issued before, {progress.refused} refused")
    if progress.refused:
        typer.echo(f"what was refused, by line: {progress.report}")
        raise typer.Exit(1)


def _stop(words: str) -> None:
    typer.echo(f"import: {words}", err=True)
    raise typer.Exit(1)


async def _run(reader: Reader, progress: Progress, address: str, token: Token, patience_s: float) -> None:
    """Skips what is done, sends the rest, and shows how it goes."""
    import asyncio
    import itertools
    import sys

    from rich import progress as rich
    from rich.console import Console

    from invochain.cli.importing.sending import Sender

    lines = await asyncio.to_thread(_count_lines, reader.path)
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("", total=lines, completed=progress.offset)

        def take(outcomes: list[Outcome], consistency_token: str) -> None:
            progress.take(outcomes, consistency_token)
            said = f"{progress.issued + progress.replayed} issued, {progress.refused} refused"
            bars.update(bar, completed=progress.offset, description=said)

        # The first row comes after a CSV's names and all that is done: that may take a while, and a stream would wait.
        rows = _after(reader, progress)
        first = await asyncio.to_thread(next, rows, None)
        await Sender(address, itertools.chain((first,) if first else (), rows), token, take, patience_s).run()
        bars.update(bar, completed=lines)


def _after(reader: Reader, progress: Progress) -> Iterator[Row]:
    """The rows behind those that are done. Raises FileChanged if these are not there as they were."""
    from invochain.cli.importing.progress import FileChanged

    the_same = progress.offset == 0
    for row in reader.rows():
        if row.line <= progress.offset:
            the_same = progress.passed(row.line, row.key, row.digest)
        elif not the_same:
            raise FileChanged
        else:
            yield row
    if not the_same:
        raise FileChanged


def _count_lines(path: Path) -> int:
    try:
        with open(path, "rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        # Reading it says why.
        return 0


def _signing_in(merchant_address: str, token: str, email: str, password: str) -> Token:
    """Where the access token comes from: as given, or by signing in whenever the last one is refused."""
    import grpc

    from invochain.api.merchant.v1 import merchant_service_pb2 as api
    from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
    from invochain.chassis.dial import open_channel
    from invochain.cli.importing.sending import Stopped

    held = token

    async def current(refused: bool) -> str:
        nonlocal held
        if refused and not email:
            raise Stopped("the access token is refused; give a fresh one, or --email and INVOCHAIN_PASSWORD")
        if refused or not held:
            async with open_channel(merchant_address) as channel:
                request = api.SignInRequest(email=email, password=password)
                try:
                    held = (await MerchantServiceStub(channel).SignIn(request, timeout=10)).access_token
                except grpc.aio.AioRpcError as error:
                    raise Stopped(f"sign-in: {error.code().name}: {error.details()}") from None
        return held

    return current
