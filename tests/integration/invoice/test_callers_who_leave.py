"""Callers who hang up at any moment: what was begun is finished or given up, and nothing of it is left over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import grpc
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import outcome
from tests.integration.invoice.test_neighbours import room_of
from tests.kit.market import Market, Trader, fresh_key, open_market

REQUESTS = 1_000
AT_ONCE = 25
PENDING = "SELECT 1 FROM reservation WHERE resolver = 'INVOICE' AND state = 'PENDING'"
INVOICES = "SELECT count(*) AS invoices FROM invoice WHERE merchant_id = $1::text::uuid"


@pytest.fixture(scope="module")
async def market(templates, market_valkey, tmp_path_factory) -> AsyncIterator[Market]:
    """What nobody decides is given back after 4 s instead of 30."""
    async with AsyncExitStack() as stack:
        folder = tmp_path_factory.mktemp("market")
        yield await open_market(stack, templates, market_valkey, folder, abort_after_ms=4_000)


async def hasty(market: Market, seller: Trader, request: pb.CreateInvoiceRequest, key: str, after_s: float) -> bool:
    """Asks and hangs up; whether it was before the answer."""
    metadata = [("authorization", f"Bearer {seller.token}"), ("idempotency-key", key)]
    call = market.invoices.CreateInvoice(request, metadata=metadata, timeout=5)

    async def answer() -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await call

    waiting = asyncio.ensure_future(answer())
    await asyncio.wait([waiting], timeout=after_s)
    left = call.cancel()
    await waiting
    return left


@pytest.mark.timeout(300)
async def test_a_thousand_callers_who_hang_up_leave_nothing_behind(market, seller, buyer):
    """No task, no connection, no mark, no hold; and whoever asks again gets the one invoice of his key."""
    room, chance = room_of(market), random.Random(20260722)
    await market.stock_up(seller, units=2 * REQUESTS)
    request = market.invoice(buyer, market.line(1))
    await market.issue(seller, request)
    # How long a crowd of this size waits here and now: callers leave at any moment of it.
    begun = time.monotonic()
    await asyncio.gather(*(market.issue(seller, request) for _ in range(AT_ONCE)))
    answered_within_s = time.monotonic() - begun
    keys = [fresh_key() for _ in range(REQUESTS)]
    waiting, left = list(keys), []

    async def client() -> None:
        while waiting:
            left.append(await hasty(market, seller, request, waiting.pop(), chance.uniform(0, answered_within_s)))

    before = len(asyncio.all_tasks())
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    assert sum(left) > REQUESTS / 10, "void: nobody hung up in time"

    async def quiet() -> bool:
        busy = [task for task in asyncio.all_tasks() if task.get_name().startswith("batch:")]
        return not busy and not room.outcomes._under_way and not room.lanes and room.postgres._in_use == 0

    await market.until(quiet, 60)

    async def no_task_left() -> bool:
        # Some come and go by themselves (samples, the epoch): no more than there were, give or take those.
        return len(asyncio.all_tasks()) <= before + 5

    await market.until(no_task_left, 60)
    await market.work("resolver")

    async def none_pending() -> bool:
        return not await market.sql("inventory", PENDING)

    await market.until(none_pending, 60)

    async def ask_again() -> None:
        while keys:
            key = keys.pop()

            async def issued(key: str = key) -> bool:
                return isinstance(
                    await outcome(market, market.invoices.CreateInvoice, request, seller, key), pb.Invoice
                )

            await market.until(issued, 60)

    await asyncio.gather(*(ask_again() for _ in range(AT_ONCE)))
    (row,) = await market.sql("invoice", INVOICES, seller.merchant.merchant_id)
    assert row["invoices"] == REQUESTS + AT_ONCE + 1
    assert (await market.stock(seller))[1] == REQUESTS + AT_ONCE + 1
