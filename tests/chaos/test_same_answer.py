"""A key that was answered keeps its answer, also beside a request that misuses the key in the same batch (R5)."""

from __future__ import annotations

import uuid

import redis.asyncio as redis

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.market import Refused, fresh_key

KEY_REUSED = "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"


async def batch(market, seller, key, *requests):
    """One batch whose items all have one key; each result as an invoice id or a reason."""
    items = [pb.BatchCreateInvoicesItem(idempotency_key=key, invoice=request.invoice) for request in requests]
    response = await market.call(
        market.invoices.BatchCreateInvoices, pb.BatchCreateInvoicesRequest(items=items), seller, None
    )
    return [
        r.invoice.invoice_id if r.HasField("invoice") else Refused.of_status(r.error).reason for r in response.results
    ]


async def forget(market):
    """Redis loses everything: the rows answer."""
    client = redis.Redis.from_url(market.settings.redis_url)
    await client.flushall()
    await client.aclose()


async def test_an_issued_key_is_not_told_to_be_misused_because_another_body_came_first(market):
    """Issued, forgotten by Redis, then [another body, the same body] in one batch: the first is the misuse, and the
    second is told its invoice, or to come again. Found by a kill point."""
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller)
    key, mine, other = fresh_key(), market.invoice(buyer), market.invoice(buyer, market.line(3))
    issued = (await market.issue(seller, mine, key)).invoice_id
    await forget(market)

    first, second = await batch(market, seller, key, other, mine)

    assert first == KEY_REUSED
    assert second in (issued, "CONCURRENT_REQUEST")
    assert (await market.issue(seller, mine, key)).invoice_id == issued


async def test_the_later_of_two_bodies_is_misuse_once_the_earlier_is_decided(market):
    """Nothing was asked before: the first of the batch is issued, the second is told that its key is used."""
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller)

    first, second = await batch(
        market, seller, fresh_key(), market.invoice(buyer), market.invoice(buyer, market.line(3))
    )

    assert (uuid.UUID(first).version, second) == (8, KEY_REUSED)
    assert await market.stock(seller) == (100, 10)
