"""Databases for the tests of this floor and the two above it: one server for all, a fresh migrated database each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

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


@pytest.fixture
def empty(events_postgres: PostgresServer) -> Callable[[], Awaitable[str]]:
    """Makes an empty database with a role of its own; returns its URL."""

    async def make() -> str:
        return await events_postgres.make_database(f"t{next(_numbers)}")

    return make


@pytest.fixture
def database(empty: Callable[[], Awaitable[str]]) -> Make:
    """Makes a fresh database migrated for a room; returns its URL."""

    async def make(room: str) -> str:
        dsn = await empty()
        await migrate(dsn, room)
        return dsn

    return make


@pytest.fixture
async def pool(database: Make) -> AsyncIterator[Callable[..., Awaitable[Postgres]]]:
    """Makes a fresh database migrated for a room and opens a pool on it."""
    opened: list[Postgres] = []

    async def make(room: str = "merchant", size: int = 8, dsn: str = "") -> Postgres:
        postgres = await Postgres.connect(dsn or await database(room), name=room, size=size)
        opened.append(postgres)
        return postgres

    yield make
    for postgres in opened:
        await postgres.close()
