"""`invochain operator`: users who run the platform. No RPC makes one; whoever may write the database may."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated

import typer

app = typer.Typer(help="Users who run the platform and belong to no merchant.", no_args_is_help=True)


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="operator")


@app.command("add")
def add(
    email: Annotated[str, typer.Option(help="Signs in by it; unique on the platform.")],
    name: Annotated[str, typer.Option(help="1 to 100 characters.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input, up to the line's end.")
    ] = False,
) -> None:
    """Add an operator. The database is INVOCHAIN_MERCHANT_DATABASE_URL, else the running stack's."""
    from invochain.chassis.settings import Settings
    from invochain.errors import Refusal, ValidationFailed
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import use_running_stack

    try:
        if not os.environ.get("INVOCHAIN_MERCHANT_DATABASE_URL"):
            use_running_stack()
        dsn = Settings().database_url("merchant")
        if password_stdin:
            password = sys.stdin.readline().rstrip("\r\n")
        else:
            password = typer.prompt("Password (12 to 128 characters)", hide_input=True, confirmation_prompt=True)
        user_id = asyncio.run(_add(dsn, email, name, password))
    except ValidationFailed as refused:
        for broken in refused.broken:
            typer.echo(f"operator: {broken.field.removeprefix('user.')}: {broken.description}", err=True)
        raise typer.Exit(1) from None
    except (Refusal, CannotStart) as refused:
        typer.echo(f"operator: {refused}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"operator {email.lower()} added, user id {user_id}")


async def _add(dsn: str, email: str, name: str, password: str) -> str:
    from invochain.api.merchant.v1.merchant_service_pb2 import NewUser
    from invochain.chassis.postgres import Postgres
    from invochain.errors import DependencyDown, ValidationFailed
    from invochain.merchant import add_user
    from invochain.merchant.merchant import OPERATOR, Findings, check_user
    from invochain.merchant.passwords import Passwords
    from invochain.merchant.settings import MerchantSettings

    user, found = NewUser(email=email, name=name, password=password), Findings()
    check_user(user, "user", found)
    if found:
        raise ValidationFailed(found)
    passwords = Passwords(MerchantSettings())
    stored = await passwords.hash(password)
    await passwords.close()
    try:
        postgres = await Postgres.connect(dsn, name="merchant", size=2, application="invochain:operator")
    except OSError as error:
        raise DependencyDown("the merchant database") from error
    try:
        async with postgres.transaction() as tx:
            return (await add_user.insert(tx, None, user, [OPERATOR], stored)).user_id
    finally:
        await postgres.close()
