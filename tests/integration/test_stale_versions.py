"""Optimistic concurrency over the wire: who changes what he has not seen is refused, and of two at once one wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor

from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.api.merchant.v1 import merchant_service_pb2 as merchant_pb
from invochain.api.operator.v1 import operator_service_pb2 as operator_pb
from tests.kit.market import Market, Refused, Trader, fresh_key, open_market
from tests.kit.servers import PostgresServer, ValkeyServer

SERVICES = (pb, stock_pb, merchant_pb, operator_pb)


@pytest.fixture(scope="module")
async def market(
    templates: PostgresServer, market_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Market]:
    """One for the file: every case brings its own traders."""
    async with AsyncExitStack() as stack:
        yield await open_market(stack, templates, market_valkey, tmp_path_factory.mktemp("market"))


@dataclass
class Case:
    """What is changed: a stub's method and a request that carries an etag; who may, and how it is read back."""

    method: Any
    request: Callable[[str], Any]
    who: Trader
    etag: str
    read: Callable[[], Awaitable[Any]]


async def an_invoice(market: Market, move: str) -> Case:
    seller, buyer = await market.register(), await market.register()
    invoice = await market.issue(seller, market.invoice(buyer, market.line(sku="")))
    if move == "DeclineEdit":
        request = pb.RequestEditRequest(invoice_id=invoice.invoice_id, reason="the quantity")
        invoice = await market.call(market.invoices.RequestEdit, request, buyer)
    kind = getattr(pb, f"{move}Request" if f"{move}Request" in dir(pb) else f"{move}InvoiceRequest")
    fields = {"reason": "because"} if "reason" in kind.DESCRIPTOR.fields_by_name else {}

    async def read() -> pb.Invoice:
        wanted = pb.GetInvoiceRequest(invoice_id=invoice.invoice_id)
        return await market.call(market.invoices.GetInvoice, wanted, seller, None)

    return Case(
        getattr(market.invoices, move),
        lambda etag: kind(invoice_id=invoice.invoice_id, etag=etag, **fields),
        seller if move in ("CancelInvoice", "DeclineEdit") else buyer,
        invoice.etag,
        read,
    )


async def stock(market: Market) -> Case:
    keeper = await market.register()
    await market.stock_up(keeper)

    async def read() -> stock_pb.Stock:
        return await market.call(market.inventory.GetStock, stock_pb.GetStockRequest(sku="BOLT-M8"), keeper, None)

    return Case(
        market.inventory.AdjustStock,
        lambda etag: stock_pb.AdjustStockRequest(sku="BOLT-M8", adjustment="ADD", quantity_milli=1_000, etag=etag),
        keeper,
        (await read()).etag,
        read,
    )


async def merchant(market: Market) -> Case:
    owner = await market.register()

    async def read() -> merchant_pb.Merchant:
        return await market.call(market.merchants.GetMerchant, merchant_pb.GetMerchantRequest(), owner, None)

    def request(etag: str) -> merchant_pb.UpdateMerchantRequest:
        # Two that are the same would be no change at all.
        return merchant_pb.UpdateMerchantRequest(merchant={"trade_name": fresh_key(), "etag": etag})

    return Case(market.merchants.UpdateMerchant, request, owner, (await read()).etag, read)


MOVES = ("AcceptInvoice", "RejectInvoice", "RequestEdit", "DeclineEdit", "CancelInvoice")
CASES: dict[str, Callable[[Market], Awaitable[Case]]] = {
    **{move: lambda market, move=move: an_invoice(market, move) for move in MOVES},
    "AdjustStock": stock,
    "UpdateMerchant": merchant,
}
# Held by tests of their own: two operators on one letter (tests/integration/durable/test_operator_servicer.py).
ELSEWHERE = {"ApproveDiscard"}


def test_every_method_that_takes_an_etag_is_here():
    """A new one without its case fails."""

    def takes(message: descriptor.Descriptor) -> bool:
        # An invoice to be issued has none yet; what it would say there is the server's to say.
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name == "Merchant"]
        return "etag" in message.fields_by_name or any("etag" in one.fields_by_name for one in inner)

    found = {
        method.name
        for file in SERVICES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if takes(method.input_type)
    }
    assert found - {"RegisterMerchant"} == CASES.keys() | ELSEWHERE


@pytest.mark.parametrize("by_header", [False, True], ids=["etag", "if-match"])
@pytest.mark.parametrize("name", CASES)
async def test_a_stale_version_changes_nothing(market: Market, name: str, by_header: bool):
    """ABORTED(VERSION_MISMATCH); nothing is written, and the key is not used up."""
    case = await CASES[name](market)
    before, key = await case.read(), fresh_key()
    metadata = {"if_match": "999"} if by_header else {}

    refused = await market.refused(case.method, case.request("" if by_header else "999"), case.who, key, **metadata)

    assert (refused.code, refused.reason) == ("ABORTED", "VERSION_MISMATCH")
    assert await case.read() == before
    await market.call(case.method, case.request(case.etag), case.who, key)
    assert (await case.read()).etag != before.etag


@pytest.mark.parametrize("name", CASES)
async def test_of_two_who_saw_the_same_version_one_wins(market: Market, name: str):
    """At once, with keys of their own: the version grows by one, and the other is told why."""
    case = await CASES[name](market)
    asked = [market.call(case.method, case.request(case.etag), case.who) for _ in range(2)]
    done = await asyncio.gather(*asked, return_exceptions=True)

    lost = [Refused.of(one) for one in done if isinstance(one, grpc.aio.AioRpcError)]
    # A move that was made leaves a state from which it cannot be made again: that is told first.
    assert [one.reason for one in lost] in (["VERSION_MISMATCH"], ["INVALID_STATE"])
    assert int((await case.read()).etag) == int(case.etag) + 1
