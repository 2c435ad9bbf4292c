"""`invochain check`: whether the invariants hold, with the figure of each."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from invochain.check.check_all import Found


def register(app: typer.Typer) -> None:
    app.command("check")(check)


def check(
    lag: Annotated[
        float, typer.Option(min=0, help="Seconds that one database may be behind another; 0: a system at rest.")
    ] = 60,
    only: Annotated[str, typer.Option(help="Invariants, comma-separated (I1,I5,...); none: all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an invariant.")] = False,
) -> None:
    """Look whether the invariants of PROTOCOL 15 hold, reading only; exit 1 on any hit.

    The databases are INVOCHAIN_*_DATABASE_URL, else the running stack's.
    """
    from invochain.chassis.secrets import SecretsUnusable
    from invochain.check.check_all import CheckFailed, NoSuchInvariant, chosen
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import use_running_stack

    try:
        chosen(only.split(","))
    except NoSuchInvariant as unknown:
        raise typer.BadParameter(str(unknown), param_hint="--only") from None
    try:
        if not os.environ.get("INVOCHAIN_INVOICE_DATABASE_URL"):
            use_running_stack()
        holds = asyncio.run(_check(lag, only.split(","), as_json))
    except (CheckFailed, CannotStart, SecretsUnusable) as failed:
        typer.echo(f"check: {failed}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if holds else 1)


async def _check(lag_s: float, only: list[str], as_json: bool) -> bool:
    """Prints each rule as soon as it is known."""
    from invochain.chassis.settings import Settings
    from invochain.check.check_all import check_rule, chosen
    from invochain.check.snapshot import Databases

    settings = Settings()
    for room in ("merchant", "inventory", "invoice"):
        settings.database_url(room)
    databases = Databases(settings)
    violations = 0
    try:
        for rule in chosen(only):
            found = await check_rule(databases, rule, lag_s)
            violations += found.violations
            _print_json(found) if as_json else _print(found)
    finally:
        await databases.close()
    if not as_json:
        typer.echo("every invariant holds" if not violations else f"{violations} violations", err=bool(violations))
    return not violations


def _print(found: Found) -> None:
    rule = found.rule
    if rule.missing:
        typer.echo(f"{rule.name:<4} no subject yet: {rule.missing}")
        return
    verdict = f"{found.violations} VIOLATIONS" if found.violations else "holds"
    skipped = f"  (in part: {found.skipped})" if found.skipped else ""
    typer.echo(f"{rule.name:<4} {verdict:<14} {found.rows:>9} rows {found.seconds:>8.3f} s  {rule.says}{skipped}")
    for example in found.examples:
        typer.echo(f"       {example}")


def _print_json(found: Found) -> None:
    import json

    told: dict[str, Any] = {
        "invariant": found.rule.name,
        "says": found.rule.says,
        "when": found.rule.when,
        "rows": found.rows,
        "violations": found.violations,
        "seconds": round(found.seconds, 6),
        "examples": found.examples,
        "not_looked_at": found.skipped,
    }
    typer.echo(json.dumps(told, separators=(",", ":")))
