"""A market for each file: its tests bring traders of their own. After every test the books must balance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.integration.invoice.probes import broken_invariants
from tests.kit.market import Market, Trader, open_market
from tests.kit.servers import PostgresServer, ValkeyServer


@pytest.fixture(scope="module")
async def market(
    templates: PostgresServer, market_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Market]:
    """The three services, with Redis; no workers until `market.work()`."""
    async with AsyncExitStack() as stack:
        yield await open_market(stack, templates, market_valkey, tmp_path_factory.mktemp("market"))


@pytest.fixture
async def seller(market: Market) -> Trader:
    """A new merchant in Maharashtra with 100 bolts."""
    trader = await market.register("27")
    await market.stock_up(trader)
    return trader


@pytest.fixture
async def buyer(market: Market) -> Trader:
    """A new merchant in Maharashtra."""
    return await market.register("27")


@pytest.fixture(autouse=True)
async def books(market: Market) -> AsyncIterator[None]:
    """What must hold in any snapshot holds after every test (PROTOCOL 15)."""
    yield
    assert await broken_invariants(market) == {}
