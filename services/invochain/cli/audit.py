"""`invochain audit`: what was done to an invoice, and whether the record of it still holds."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

app = typer.Typer(help="The audit chain of invoices.", no_args_is_help=True)


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="audit")


@app.command("show")
def show(invoice_id: Annotated[str, typer.Argument(help="The invoice, a UUID.")]) -> None:
    """Show an invoice's audit entries and verify their chain; exit 1 if it does not hold.

    The database is INVOCHAIN_INVOICE_DATABASE_URL, else the running stack's.
    """
    from invochain.errors import Refusal
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import use_running_stack

    try:
        if not os.environ.get("INVOCHAIN_INVOICE_DATABASE_URL"):
            use_running_stack()
        holds = asyncio.run(_show(invoice_id))
    except (Refusal, CannotStart) as refused:
        typer.echo(f"audit: {refused}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if holds else 1)


@app.command("verify")
def verify() -> None:
    """Verify the record of every invoice against its rows, and name the first bad ones; exit 1 if any.

    Chains and their MACs are recomputed from the entries, and each invoice, line and decision is held against them.
    The databases are INVOCHAIN_*_DATABASE_URL, else the running stack's.
    """
    from invochain.check.rules import RECORD
    from invochain.cli.check import check

    check(lag=0, only=",".join(RECORD), as_json=False)


async def _show(text: str) -> bool:
    import datetime as dt

    from invochain.chassis import secrets
    from invochain.chassis.ids import from_text, to_text
    from invochain.chassis.postgres import Postgres
    from invochain.chassis.settings import Settings
    from invochain.invoice.invoice import InvoiceNotFound
    from invochain.invoice.read_audit import read_audit

    settings = Settings()
    invoice_id = from_text(text, "invoice_id")
    postgres = await Postgres.connect(settings.database_url("invoice"), name="invoice", size=1)
    try:
        async with postgres.reading(wait_s=5) as tx:
            trail = await read_audit(tx, invoice_id, secrets.load(settings.secrets_dir).audit_mac_key)
    finally:
        await postgres.close()
    if trail is None:
        raise InvoiceNotFound(text)
    typer.echo(f"invoice {text}  number {trail.number}  {trail.state}")
    for entry in trail.entries:
        seconds, micros = divmod(entry.time_micros, 1_000_000)
        at = dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=micros).isoformat(timespec="milliseconds")
        who = f"user {to_text(entry.actor_id)} of {to_text(entry.actor_merchant_id)}"
        typer.echo(f"  {entry.version}  {at}  {entry.action:<13} {who}")
        typer.echo(f"     {entry.previous.hex()[:16]} <- {entry.hash.hex()[:16]}")
    if trail.broken:
        typer.echo(f"the chain does NOT hold: {trail.broken}", err=True)
        return False
    typer.echo(f"the chain of {len(trail.entries)} holds")
    return True
