"""Servers that a whole run shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.kit.market import Market, make_templates, open_market
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer


@pytest.fixture(scope="session")
def market_postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def market_valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
async def templates(market_postgres: PostgresServer) -> PostgresServer:
    await make_templates(market_postgres)
    return market_postgres


@pytest.fixture(scope="session")
async def replicated() -> AsyncIterator[tuple[PostgresServer, ReplicaServer]]:
    """A primary with migrated templates, and a streaming replica of it, which tests may stop, kill and start again."""
    async with PostgresServer() as primary:
        await make_templates(primary)
        async with ReplicaServer(primary) as replica:
            yield primary, replica


@pytest.fixture
async def market(templates: PostgresServer, market_valkey: ValkeyServer, tmp_path) -> AsyncIterator[Market]:
    """The three services of this test alone, with Redis; no workers until `market.work()`."""
    async with AsyncExitStack() as stack:
        yield await open_market(stack, templates, market_valkey, tmp_path)
