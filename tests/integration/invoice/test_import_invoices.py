"""ImportInvoices: a stream in order, each item its own key and result; and nothing twice however it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.market import Refused, fresh_key

WITHIN_S = 60


def item(offset: int, request: pb.CreateInvoiceRequest, key: str = "") -> pb.ImportInvoicesItem:
    return pb.ImportInvoicesItem(offset=offset, invoice=request.invoice, idempotency_key=key or fresh_key())


async def stream(market, who, *messages: list[pb.ImportInvoicesItem]) -> list[pb.ImportInvoicesResponse]:
    """All answers to some messages. Raises AioRpcError, with the answers before it as `.answers`."""

    async def sent() -> AsyncIterator[pb.ImportInvoicesRequest]:
        for items in messages:
            yield pb.ImportInvoicesRequest(items=items)

    answers: list[pb.ImportInvoicesResponse] = []
    call = market.invoices.ImportInvoices(sent(), metadata=[("authorization", f"Bearer {who.token}")], timeout=WITHIN_S)
    try:
        async for answer in call:
            answers.append(answer)
    except grpc.aio.AioRpcError as error:
        error.answers = answers
        raise
    return answers


def results(answers: list[pb.ImportInvoicesResponse]) -> list[pb.ImportInvoicesResult]:
    return [result for answer in answers for result in answer.results]


def reason(result: pb.ImportInvoicesResult) -> str:
    return Refused.of_status(result.error).reason if result.HasField("error") else ""


async def refused(market, who, *messages) -> tuple[Refused, list[pb.ImportInvoicesResult]]:
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stream(market, who, *messages)
        # grpcio's client says this in place of the status where the stream ended while it was writing; then once more.
        if error.value.details() != "Internal error from Core":
            return Refused.of(error.value), results(error.value.answers)


async def test_every_item_has_its_result_in_its_order_and_answers_are_durable_prefixes(market, seller, buyer):
    """Right, invalid, short, misnamed key, right, and two hundred more: none disturbs another."""
    odd = [
        item(1, market.invoice(buyer)),
        item(2, market.invoice(buyer, market.line(quantity_milli=-1))),
        item(5, market.invoice(buyer, market.line(500))),
        item(7, market.invoice(buyer), key="short"),
        item(8, market.invoice(buyer)),
    ]
    many = [item(100 + n, market.invoice(buyer, market.line(sku=""))) for n in range(200)]

    answers = await stream(market, seller, odd, many[:100], many[100:])

    found = results(answers)
    assert [result.offset for result in found] == [1, 2, 5, 7, 8, *range(100, 300)]
    assert [reason(result) for result in found[:5]] == [
        "",
        "VALIDATION_FAILED",
        "INSUFFICIENT_STOCK",
        "IDEMPOTENCY_KEY_INVALID",
        "",
    ]
    assert not any(reason(result) for result in found[5:])
    assert len({result.invoice.number for result in found if not reason(result)}) == 202
    assert all(answer.durable_offset == answer.results[-1].offset and len(answer.results) <= 100 for answer in answers)
    assert await market.stock(seller) == (100, 20)


async def test_sent_again_it_is_replayed(market, seller, buyer):
    """Given an import, the same items give the same invoices, marked replayed; a changed one is told KEY_REUSED."""
    items = [item(n, market.invoice(buyer), f"import-key-{seller.gstin}-{n}") for n in range(1, 6)]
    first = results(await stream(market, seller, items))
    items[4] = item(5, market.invoice(buyer, market.line(3)), items[4].idempotency_key)

    again = results(await stream(market, seller, items))

    assert [r.invoice for r in again[:4]] == [r.invoice for r in first[:4]]
    assert [r.replayed for r in first] == [False] * 5
    assert [r.replayed for r in again[:4]] == [True] * 4
    assert reason(again[4]) == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
    assert await market.stock(seller) == (100, 50)


async def test_a_key_of_an_import_is_the_key_of_a_single_request(market, seller, buyer):
    """PROTOCOL 2: one operation, whichever RPC it came by."""
    request, key = market.invoice(buyer), fresh_key()
    issued = await market.issue(seller, request, key)

    (result,) = results(await stream(market, seller, [item(1, request, key)]))

    assert (result.invoice, result.replayed) == (issued, True)


@pytest.mark.parametrize(
    ("offsets", "field", "code"),
    [
        ([3, 3], "items[1].offset", "OFFSET_NOT_RISING"),
        ([0], "items[0].offset", "OFFSET_NOT_RISING"),
        ([], "items", "ITEMS_COUNT"),
        (list(range(1, 102)), "items", "ITEMS_COUNT"),
    ],
)
async def test_a_message_that_breaks_the_stream_is_refused_behind_the_results_before_it(
    market, seller, buyer, offsets, field, code
):
    """A message with a wrong offset or count issues nothing; those before it have their results."""
    good = [item(1, market.invoice(buyer)), item(2, market.invoice(buyer))] if offsets and offsets[0] == 3 else []
    bad = [item(offset, market.invoice(buyer)) for offset in offsets]

    told, before = await refused(market, seller, *([good] if good else []), bad)

    assert (told.code, told.broken) == ("INVALID_ARGUMENT", {(field, code)})
    assert len(before) == len(good)
    assert await market.stock(seller) == (100, 10 * len(good))


async def test_bytes_that_are_no_message_end_the_stream(market, seller):
    """An unknown field is refused, as everywhere."""
    call = market.channels["invoice"].stream_stream("/invochain.api.invoice.v1.InvoiceService/ImportInvoices")

    async def sent():
        yield b"\xf8\x3f\x01"

    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in call(sent(), metadata=[("authorization", f"Bearer {seller.token}")], timeout=WITHIN_S):
            pass
    assert Refused.of(error.value).code == "INVALID_ARGUMENT"


async def test_who_may_not_issue_may_not_import(market, seller, buyer):
    """A viewer of the merchant is refused before anything is read."""
    viewer = await market.add_user(seller, "VIEWER")

    told, before = await refused(market, viewer, [item(1, market.invoice(buyer))])

    assert (told.code, before) == ("PERMISSION_DENIED", [])
    assert await market.stock(seller) == (100, 0)


async def test_a_caller_who_hangs_up_and_resumes_loses_and_doubles_nothing(market, seller, buyer):
    """Cancelled after its first answer, the import is sent again from there: every item is issued once."""
    items = [item(n, market.invoice(buyer, market.line(sku=""))) for n in range(1, 301)]

    async def sent():
        for start in range(0, 300, 100):
            yield pb.ImportInvoicesRequest(items=items[start : start + 100])

    metadata = [("authorization", f"Bearer {seller.token}")]
    call = market.invoices.ImportInvoices(sent(), metadata=metadata, timeout=WITHIN_S)
    durable = (await call.read()).durable_offset
    call.cancel()

    found: dict[int, pb.ImportInvoicesResult] = {}
    async with asyncio.timeout(WITHIN_S):
        while durable < 300:
            rest = items[durable:]
            messages = [rest[start : start + 100] for start in range(0, len(rest), 100)]
            try:
                got = results(await stream(market, seller, *messages))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.ABORTED, error
                got = results(error.answers)
            found.update((result.offset, result) for result in got)
            durable = max(found, default=durable)

    assert not [reason(result) for result in found.values() if reason(result)]
    rows = await market.sql(
        "invoice", "SELECT count(*) FROM invoice WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
    )
    assert rows[0]["count"] == 300
