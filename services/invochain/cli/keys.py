"""`invochain keys`: make the secrets folder, list, rotate and revoke the keys that sign access tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The secrets folder and the keys that sign access tokens.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option("--secrets-dir", help="The secrets folder; default: INVOCHAIN_SECRETS_DIR, else the running stack's."),
]


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="keys")


@app.command("make")
def make(secrets_dir: Folder = None) -> None:
    """Make whatever is missing in the secrets folder. Safe to repeat; what is there stays."""
    from invochain.chassis import secrets
    from invochain.chassis.settings import settings

    folder = secrets_dir or settings().secrets_dir
    with _told():
        secrets.ensure(folder)
        secrets.load(folder)
    typer.echo(f"all secrets are in {folder}, readable by this user alone")


@app.command("list")
def list_(secrets_dir: Folder = None) -> None:
    """Say which keys of access tokens there are, and what each does now."""
    from invochain.chassis import clock, secrets

    with _told():
        folder = _folder(secrets_dir)
        keys, now = secrets.load(folder), clock.now()
        signing = keys.signing_key(now).kid
    for key in keys.token_keys:
        if key.kid == signing:
            does = "signs"
        elif key.sign_from > now:
            does = f"signs from {key.sign_from:%Y-%m-%d %H:%M:%S} UTC"
        elif key.verifies(now):
            does = f"verifies until {key.verify_until:%Y-%m-%d %H:%M:%S} UTC"
        else:
            does = "over; goes with the next rotation"
        typer.echo(f"{key.kid}  made {key.made_at:%Y-%m-%d %H:%M:%S} UTC  {does}")


@app.command("rotate")
def rotate(
    secrets_dir: Folder = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Sign by it now; a verifier may not know it for up to 5 s.")
    ] = False,
) -> None:
    """Add a key. It is published now and signs in two minutes; the others verify until their tokens have ended.

    Needs no restart: the merchant service reads the folder when it changes.
    """
    from invochain.chassis import secrets

    with _told():
        fresh = secrets.rotate(_folder(secrets_dir), at_once=at_once)
    typer.echo(f"{fresh.kid} signs from {fresh.sign_from:%Y-%m-%d %H:%M:%S} UTC")


@app.command("revoke")
def revoke(
    kid: Annotated[str, typer.Argument(help="Which key; `keys list` says.")], secrets_dir: Folder = None
) -> None:
    """Take a key away: its tokens are refused everywhere within a minute. The last one is replaced by a new key."""
    from invochain.chassis import secrets

    with _told():
        try:
            fresh = secrets.revoke(_folder(secrets_dir), kid)
        except KeyError:
            raise secrets.SecretsUnusable(f"there is no token key {kid}; `invochain keys list` lists them") from None
    typer.echo(f"{kid} is gone; its tokens are refused everywhere within a minute")
    if fresh:
        typer.echo(f"{fresh.kid} signs in its place")


def _folder(chosen: Path | None) -> Path:
    from invochain.supervisor.state import running_stack

    if chosen:
        return chosen
    if setting := os.environ.get("INVOCHAIN_SECRETS_DIR"):
        return Path(setting)
    return Path(running_stack().environment["INVOCHAIN_SECRETS_DIR"])


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done is one line and exit code 1."""
    from invochain.chassis.secrets import SecretsUnusable
    from invochain.supervisor.errors import CannotStart

    try:
        yield
    except (SecretsUnusable, CannotStart, OSError) as refused:
        typer.echo(f"keys: {refused}", err=True)
        raise typer.Exit(1) from None
