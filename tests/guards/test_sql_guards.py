"""Each guard of a statement of PROTOCOL 4, removed once, is noticed. `pytest -s` prints the table."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator

import asyncpg
import pytest

import invochain
from invochain.chassis.postgres import Sql, _prepare_connection
from tests.guards import inventory_statements, invoice_statements
from tests.guards.mutation import Guard, guards, written
from tests.guards.scenarios import SCENARIOS
from tests.guards.world import World
from tests.kit.servers import PostgresServer

assert invoice_statements and inventory_statements

# What PROTOCOL 4 speaks of: whoever writes to these tables under a guard has a scenario.
TABLES = {"decision", "invoice", "number_series", "stock", "reservation"}
# Written by another section's rules.
OUTSIDE = {"invoice_link_buyer": "the merchant directory"}
# Guards that can go without a difference, and why.
EQUIVALENT = {
    "reservation_due: resolver = 'NONE'": "CHECK reservation_expires_only_unresolved",
}


def _statements() -> dict[str, str]:
    for module in pkgutil.walk_packages(invochain.__path__, "invochain."):
        if not module.name.startswith(("invochain.api", "invochain._core", "invochain.cli")):
            importlib.import_module(module.name)
    return {sql.name: sql.text for sql in Sql.registered if sql.module.startswith("invochain.")}


STATEMENTS = _statements()
GUARDS = [guard for name in SCENARIOS if name in STATEMENTS for guard in guards(name, STATEMENTS[name])]


@pytest.fixture(scope="module")
async def rooms(templates: PostgresServer) -> AsyncIterator[dict[str, asyncpg.Connection]]:
    connections = {}
    for room in ("invoice", "inventory"):
        connections[room] = await asyncpg.connect(templates.dsn(room), statement_cache_size=0)
        await _prepare_connection(connections[room])
    yield connections
    for connection in connections.values():
        await connection.close()


async def tell(rooms: dict[str, asyncpg.Connection], name: str, texts: dict[str, str]) -> None:
    """Runs a scenario in a transaction that leaves nothing."""
    room, scenario = SCENARIOS[name]
    transaction = rooms[room].transaction()
    await transaction.start()
    try:
        await scenario(World(rooms[room], texts))
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_statement_does_what_its_scenario_tells(rooms, name):
    """With all guards."""
    await tell(rooms, name, STATEMENTS)


@pytest.mark.parametrize("guard", GUARDS, ids=str)
async def test_a_guard_that_is_removed_is_noticed(rooms, guard: Guard):
    """The scenario fails, or the database itself refuses what comes of it."""
    try:
        await tell(rooms, guard.name, {**STATEMENTS, guard.name: guard.mutated})
    except (AssertionError, asyncpg.IntegrityConstraintViolationError) as noticed:
        print(f"{guard}: {type(noticed).__name__}")
        assert str(guard) not in EQUIVALENT
    else:
        assert str(guard) in EQUIVALENT, f"nobody noticed that this is gone: {guard}\n{guard.mutated}"


def test_every_statement_that_writes_under_a_guard_has_a_scenario():
    """A new statement gets one, or says why not; a scenario of a statement that is gone goes, too."""
    guarded = {name for name, text in STATEMENTS.items() if written(text) & TABLES and guards(name, text)}
    assert guarded - SCENARIOS.keys() - OUTSIDE.keys() == set()
    assert SCENARIOS.keys() - STATEMENTS.keys() == set()
