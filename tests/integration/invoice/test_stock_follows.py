"""What an invoice's fate does to stock, with all workers running: sold and received, or given back; units conserved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import hold_states, inventory_port
from tests.kit.market import Market, Trader, fresh_gstin, open_market


@pytest.fixture(scope="module")
async def market(templates, market_valkey, tmp_path_factory) -> AsyncIterator[Market]:
    """The three services and all their workers."""
    async with AsyncExitStack() as stack:
        market = await open_market(stack, templates, market_valkey, tmp_path_factory.mktemp("market"))
        await market.work()
        yield market


async def stock_or_none(market: Market, who: Trader, sku: str = "BOLT-M8") -> tuple[int, int]:
    """Units on hand and reserved; (0, 0) where the merchant does not have the SKU."""
    rows = await market.sql(
        "inventory",
        "SELECT on_hand_milli / 1000, reserved_milli / 1000 FROM stock WHERE merchant_id = $1::text::uuid AND sku = $2",
        who.merchant.merchant_id,
        sku,
    )
    return (rows[0][0], rows[0][1]) if rows else (0, 0)


async def comes_to(market: Market, who: Trader, on_hand: int, reserved: int, sku: str = "BOLT-M8") -> None:
    async def it_has() -> bool:
        return await stock_or_none(market, who, sku) == (on_hand, reserved)

    try:
        await market.until(it_has)
    except TimeoutError:
        raise AssertionError(f"{await stock_or_none(market, who, sku)} is not {(on_hand, reserved)}") from None


async def accept(market: Market, buyer: Trader, invoice: pb.Invoice) -> pb.Invoice:
    request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
    return await market.call(market.invoices.AcceptInvoice, request, buyer)


async def all_is_published(market: Market) -> None:
    """Waits until nothing is left to publish."""

    async def drained() -> bool:
        return not await market.sql("invoice", "SELECT 1 FROM outbox LIMIT 1")

    await market.until(drained)


class TestAcceptance:
    async def test_sells_the_held_stock_and_gives_it_to_the_buyer(self, market, seller, buyer):
        """100 at the seller, 10 sold: 90 and 10, one SALE and one PURCHASE movement."""
        invoice = await market.issue(seller, market.invoice(buyer))
        assert await market.stock(seller) == (100, 10)
        await accept(market, buyer, invoice)
        await comes_to(market, seller, 90, 0)
        await comes_to(market, buyer, 10, 0)
        rows = await market.sql(
            "inventory",
            "SELECT kind, delta_milli FROM movement WHERE invoice_id = $1::text::uuid ORDER BY kind",
            invoice.invoice_id,
        )
        assert [tuple(row) for row in rows] == [("PURCHASE", 10_000), ("SALE", -10_000)]
        assert await hold_states(market, seller) == {1: "COMMITTED"}

    async def test_sells_each_sku_once_summed_over_lines(self, market, seller, buyer):
        """Two lines of bolts, one of nuts, one without a SKU: 5 bolts and 3 nuts move."""
        await market.stock_up(seller, "NUT-M8", 50)
        lines = [
            market.line(2),
            market.line(3, sku="bolt-m8"),
            market.line(3, sku="NUT-M8"),
            market.line(9, sku=""),
        ]
        await accept(market, buyer, await market.issue(seller, market.invoice(buyer, *lines)))
        await comes_to(market, seller, 95, 0)
        await comes_to(market, seller, 47, 0, "NUT-M8")
        await comes_to(market, buyer, 5, 0)
        await comes_to(market, buyer, 3, 0, "NUT-M8")

    async def test_of_an_edit_that_was_asked_for_sells_as_well(self, market, seller, buyer):
        """EDIT_REQUESTED keeps the hold; accepting from there sells it."""
        invoice = await market.issue(seller, market.invoice(buyer))
        request = pb.RequestEditRequest(invoice_id=invoice.invoice_id, reason="cheaper?")
        await market.call(market.invoices.RequestEdit, request, buyer)
        await all_is_published(market)
        assert await market.stock(seller) == (100, 10)
        await accept(market, buyer, invoice)
        await comes_to(market, seller, 90, 0)
        await comes_to(market, buyer, 10, 0)

    async def test_may_overtake_the_confirm(self, market, seller, buyer, monkeypatch):
        """The confirmer is stuck: accepting sells the PENDING hold; a later Confirm is OK and does nothing."""
        late: list = []
        _server, running = market.running["invoice"]
        settlers = running.servicers[0]._room.settlers
        monkeypatch.setattr(settlers.confirm, "soon", late.extend)
        invoice = await market.issue(seller, market.invoice(buyer))
        assert await hold_states(market, seller) == {1: "PENDING"}
        await accept(market, buyer, invoice)
        await comes_to(market, seller, 90, 0)
        assert await hold_states(market, seller) == {1: "COMMITTED"}
        async with AsyncExitStack() as stack:
            assert await inventory_port(market, stack).confirm(late) == [""]
        assert await hold_states(market, seller) == {1: "COMMITTED"}
        await comes_to(market, buyer, 10, 0)

    async def test_by_a_buyer_who_registers_later_gives_him_the_goods(self, market, seller):
        """Issued to an unknown GSTIN; he registers, is linked, accepts: the goods come to him as to anyone."""
        gstin = fresh_gstin("27")
        invoice = await market.issue(seller, market.invoice(gstin))
        late = await market.register(gstin=gstin)

        async def linked() -> bool:
            found = await market.call(market.invoices.ListInvoices, pb.ListInvoicesRequest(side="BOUGHT"), late, None)
            return [i.invoice_id for i in found.invoices] == [invoice.invoice_id]

        await market.until(linked)
        await accept(market, late, invoice)
        await comes_to(market, seller, 90, 0)
        await comes_to(market, late, 10, 0)

    async def test_of_one_sku_that_the_buyer_counts_otherwise_keeps_the_two_apart(self, market, seller, buyer):
        """The buyer has BOLT-M8 by the kilogram: the bolts come under `BOLT-M8@<seller>`."""
        await market.stock_up(buyer, "BOLT-M8", 7, unit="KGS")
        await accept(market, buyer, await market.issue(seller, market.invoice(buyer)))
        await comes_to(market, buyer, 10, 0, f"BOLT-M8@{seller.gstin}")
        assert await stock_or_none(market, buyer) == (7, 0)

    async def test_can_be_sold_on_at_once(self, market, seller, buyer):
        """What was received is the buyer's: he sells 4 of the 10."""
        await accept(market, buyer, await market.issue(seller, market.invoice(buyer)))
        await comes_to(market, buyer, 10, 0)
        third = await market.register("29")
        await accept(market, third, await market.issue(buyer, market.invoice(third, market.line(4))))
        await comes_to(market, buyer, 6, 0)
        await comes_to(market, third, 4, 0)


class TestRejectionAndCancellation:
    @pytest.mark.parametrize("way", ["reject", "cancel"])
    @pytest.mark.parametrize("edited", [False, True])
    async def test_give_the_stock_back(self, market, seller, buyer, way, edited):
        """All 100 are free again, nothing reached the buyer, the hold is REVERSED."""
        invoice = await market.issue(seller, market.invoice(buyer))
        if edited:
            ask = pb.RequestEditRequest(invoice_id=invoice.invoice_id, reason="cheaper?")
            await market.call(market.invoices.RequestEdit, ask, buyer)
        if way == "reject":
            request = pb.RejectInvoiceRequest(invoice_id=invoice.invoice_id, reason="not ordered")
            await market.call(market.invoices.RejectInvoice, request, buyer)
        else:
            await market.call(
                market.invoices.CancelInvoice, pb.CancelInvoiceRequest(invoice_id=invoice.invoice_id), seller
            )
        await comes_to(market, seller, 100, 0)
        assert await hold_states(market, seller) == {1: "REVERSED"}
        assert await stock_or_none(market, buyer) == (0, 0)


class TestManyAtOnce:
    async def test_conserve_every_unit(self, market, seller, buyer):
        """Forty invoices, accepted, rejected, cancelled or left, with copies of each call: what left one side reached
        the other, and the rest is free or held."""
        await market.stock_up(seller, units=900)
        invoices = await asyncio.gather(
            *(market.issue(seller, market.invoice(buyer, market.line(n % 7 + 1))) for n in range(40))
        )
        sold = held = 0
        calls = []
        for n, invoice in enumerate(invoices):
            units, key = n % 7 + 1, f"conserve-{invoice.invoice_id}"
            if n % 4 == 0:
                sold += units
                request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
                calls += [market.call(market.invoices.AcceptInvoice, request, buyer, key)]
            elif n % 4 == 1:
                request = pb.RejectInvoiceRequest(invoice_id=invoice.invoice_id, reason="no")
                calls += [market.call(market.invoices.RejectInvoice, request, buyer, key)]
            elif n % 4 == 2:
                request = pb.CancelInvoiceRequest(invoice_id=invoice.invoice_id)
                calls += [market.call(market.invoices.CancelInvoice, request, seller, key)]
            else:
                held += units
        await asyncio.gather(*calls)
        await comes_to(market, seller, 1_000 - sold, held)
        await comes_to(market, buyer, sold, 0)

    async def test_events_that_come_again_move_nothing_twice(self, market, seller, buyer):
        """Every event of the market is in the log three more times: inbox rows and movement ids hold (PROTOCOL R7)."""
        invoice = await market.issue(seller, market.invoice(buyer))
        await accept(market, buyer, invoice)
        await comes_to(market, buyer, 10, 0)
        await read_to_the_end(market)
        before = await market.sql("inventory", "SELECT movement_id FROM movement ORDER BY movement_id")
        records = await market.sql(
            "broker", "SELECT topic, partition, log_offset FROM log_record WHERE topic = 'invoice.events'"
        )
        for record in records * 3:
            await market.sql("broker", AGAIN, *record)

        await read_to_the_end(market)

        assert await market.sql("inventory", "SELECT movement_id FROM movement ORDER BY movement_id") == before
        assert await stock_or_none(market, seller) == (90, 0)
        assert await stock_or_none(market, buyer) == (10, 0)


# Appends a record of the log once more, as a relay does that died between the append and its own mark.
AGAIN = """
WITH head AS (
    UPDATE topic_partition SET next_offset = next_offset + 1 WHERE topic = $1 AND partition = $2
    RETURNING next_offset - 1 AS at
)
INSERT INTO log_record SELECT topic, partition, head.at, key, value, headers, now() FROM log_record, head
WHERE topic = $1 AND partition = $2 AND log_offset = $3
"""


async def read_to_the_end(market: Market) -> None:
    """Waits until every consumer of invoices has read all there is."""
    await all_is_published(market)

    async def read() -> bool:
        behind = await market.sql(
            "broker",
            """SELECT 1 FROM group_position JOIN topic_partition USING (topic, partition)
               WHERE topic = 'invoice.events' AND group_position.next_offset < topic_partition.next_offset""",
        )
        return not behind

    await market.until(read)
