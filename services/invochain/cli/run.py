"""`invochain run workers`: the loops beside the services, in the foreground."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Run what is not a service.", no_args_is_help=True)
    group.command("workers")(workers)
    # A callback makes it a group though it has one command yet.
    group.callback()(lambda: None)
    app.add_typer(group, name="run")


def workers(
    only: Annotated[str, typer.Option(help="Kinds of loops, comma-separated (relay,consumer,...); none: all.")] = "",
    address: Annotated[
        str,
        typer.Option(envvar="INVOCHAIN_WORKERS_ADDRESS", help="Where grpc.health.v1 is served; port 0: a free one."),
    ] = "127.0.0.1:0",
) -> None:
    """Relay events, bring them to their consumers, settle and purge, until told to stop. Settings: INVOCHAIN_*."""
    from invochain.chassis import process
    from invochain.chassis.settings import settings
    from invochain.workers import process as workers_process

    kinds = [kind.strip() for kind in only.split(",") if kind.strip()]
    try:
        process.run(workers_process.serve(settings(), address, kinds))
    except workers_process.NoSuchWorker as unknown:
        raise typer.BadParameter(str(unknown), param_hint="--only") from None
