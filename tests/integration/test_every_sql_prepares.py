"""Every statement there is, prepared under the role of the service that owns it."""

from __future__ import annotations

import importlib
import pkgutil

import asyncpg
import pytest

import invochain
from invochain.chassis.postgres import Sql
from tests.kit.market import ROOMS
from tests.kit.servers import PostgresServer

# Rooms whose statements run in other rooms' databases too: each of them must be able to prepare them.
SHARED = {
    "durable": ("merchant", "inventory", "invoice"),
    "workers": ("merchant", "inventory", "invoice"),
}
# Statements of the chassis that need tables, by the file they are in.
CHASSIS = {"embedded_broker": ("broker",), "migrate": ROOMS, "postgres": ROOMS, "session": ROOMS}


def _statements() -> list[tuple[Sql, str]]:
    for module in pkgutil.walk_packages(invochain.__path__, "invochain."):
        if not module.name.startswith(("invochain.api", "invochain._core", "invochain.cli")):
            importlib.import_module(module.name)
    found = []
    for sql in Sql.registered:
        if not sql.module.startswith("invochain."):
            continue
        if sql.owner == "chassis":
            rooms = next((rooms for name, rooms in CHASSIS.items() if name in sql.module), ROOMS)
        else:
            rooms = SHARED.get(sql.owner, (sql.owner,))
        found += [(sql, room) for room in rooms]
    return found


@pytest.mark.parametrize(("sql", "room"), _statements(), ids=lambda x: x.name if isinstance(x, Sql) else x)
async def test_prepares(templates: PostgresServer, sql: Sql, room: str):
    """It parses, every table and column is there, and the role may use them."""
    connection = await asyncpg.connect(templates.dsn(room))
    try:
        await connection.prepare(sql.text)
    finally:
        await connection.close()


@pytest.mark.parametrize("room", ROOMS)
async def test_a_role_reaches_no_other_room(templates: PostgresServer, room: str):
    """Each service's role sees its own database only."""
    for other in ROOMS:
        if other != room:
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError)):
                await asyncpg.connect(templates.dsn(room, other))


def test_names_are_unique():
    """A metric label names one statement."""
    names = [sql.name for sql in Sql.registered if sql.module.startswith("invochain.")]
    assert len(names) == len(set(names))
