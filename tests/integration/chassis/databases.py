"""Databases for the tests of this floor and the two above it.

One server and one database for all; each test gets schemas of its own in it, which take a millisecond where a database
takes a hundred. What is the database's own (advisory locks, notifications) is shared: it goes with a test's sessions.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from invochain.chassis.migrate import migrate
from invochain.chassis.postgres import Postgres
from tests.kit.servers import PostgresServer

Make = Callable[[str], Awaitable[str]]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def events_postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
async def events_dsn(events_postgres: PostgresServer) -> str:
    return await events_postgres.make_database("events")


@pytest.fixture
def empty(events_dsn: str) -> Callable[[], Awaitable[str]]:
    """Makes a place with nothing in it; returns its URL."""

    async def make() -> str:
        schema = f"t{next(_numbers)}"
        connection = await asyncpg.connect(events_dsn)
        await connection.execute(f"CREATE SCHEMA {schema}")
        await connection.close()
        return f"{events_dsn}{'&' if '?' in events_dsn else '?'}search_path={schema}"

    return make


@pytest.fixture
def database(empty: Callable[[], Awaitable[str]]) -> Make:
    """Makes an empty place and migrates it for a room; returns its URL."""

    async def make(room: str) -> str:
        dsn = await empty()
        await migrate(dsn, room)
        return dsn

    return make


@pytest.fixture
async def pool(database: Make) -> AsyncIterator[Callable[..., Awaitable[Postgres]]]:
    """Opens a pool, on a fresh place migrated for a room or on the one given."""
    opened: list[Postgres] = []

    async def make(room: str = "merchant", size: int = 8, dsn: str = "") -> Postgres:
        postgres = await Postgres.connect(dsn or await database(room), name=room, size=size)
        opened.append(postgres)
        return postgres

    yield make
    for postgres in opened:
        await postgres.close()
