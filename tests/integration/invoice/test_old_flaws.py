"""The flaws of the system before this one, each by its name, none of them here."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.ids import to_text
from invochain.inventory import receive_goods
from tests.integration.invoice.probes import another_door, flush, hold_states, outcome
from tests.kit.market import Market, Refused, Trader, fresh_key


async def accept(market: Market, who: Trader, invoice: pb.Invoice, key: str = "") -> pb.Invoice | Refused:
    request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
    return await outcome(market, market.invoices.AcceptInvoice, request, who, key)


class TestTheOldSystem:
    @pytest.mark.parametrize("cache", ["there", "emptied"])
    async def test_took_a_reused_key_with_another_payload(self, market, seller, buyer, cache):
        """It answered the second payload with the first one's invoice. Here: KEY_REUSED, and nothing of it is kept."""
        key = fresh_key()
        await market.issue(seller, market.invoice(buyer, market.line(1)), key)
        if cache == "emptied":
            await flush(market)
        refusal = await market.refused(
            market.invoices.CreateInvoice, market.invoice(buyer, market.line(9)), seller, key
        )
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD")

        async def one_bolt() -> bool:
            return await market.stock(seller) == (100, 1)

        await market.until(one_bolt)

    async def test_accepted_twice(self, market, seller, buyer):
        """It sold the stock twice. Here a second accept, under another key, is INVALID_STATE: nothing is allowed."""
        await market.work("relay", "consumer")
        invoice = await market.issue(seller, market.invoice(buyer))
        assert (await accept(market, buyer, invoice)).state == pb.ACCEPTED
        refusal = await accept(market, buyer, invoice)
        assert (refusal.reason, refusal.facts["state"], refusal.facts["allowed_actions"]) == (
            "INVALID_STATE",
            "ACCEPTED",
            "",
        )

        async def sold_once() -> bool:
            return await market.stock(seller) == (90, 0)

        await market.until(sold_once)

    async def test_accepted_after_a_rejection(self, market, seller, buyer):
        """It sold stock that had been given back. Here: INVALID_STATE, and the stock stays free."""
        invoice = await market.issue(seller, market.invoice(buyer))
        reject = pb.RejectInvoiceRequest(invoice_id=invoice.invoice_id, reason="not ordered")
        await market.call(market.invoices.RejectInvoice, reject, buyer)
        refusal = await accept(market, buyer, invoice)
        assert (refusal.reason, refusal.facts["state"]) == ("INVALID_STATE", "REJECTED")

        async def free() -> bool:
            return await market.stock(seller) == (100, 0)

        await market.until(free)

    async def test_let_accept_and_cancel_both_win(self, market, seller, buyer):
        """Read, then write: both saw ISSUED. Here the row lock picks one, through any number of processes."""
        async with AsyncExitStack() as stack:
            second = await another_door(market, stack)
            for _ in range(10):
                invoice = await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))
                cancel = pb.CancelInvoiceRequest(invoice_id=invoice.invoice_id)
                results = await asyncio.gather(
                    accept(market, buyer, invoice), outcome(market, second.CancelInvoice, cancel, seller)
                )
                assert [isinstance(r, pb.Invoice) for r in results].count(True) == 1
                found = await market.call(
                    market.invoices.GetInvoice, pb.GetInvoiceRequest(invoice_id=invoice.invoice_id), seller, None
                )
                (won,) = [r for r in results if isinstance(r, pb.Invoice)]
                assert (found.state, found.version) == (won.state, 2)

    async def test_did_half_of_a_transfer_to_the_buyer(self, market, seller, buyer, monkeypatch):
        """It took from the seller and died before the buyer had it. Here the receipt is an effect of its own that comes
        again until it is done."""
        real, failures = receive_goods._receive, []

        async def dies_twice(tx, consumer, goods):
            if len(failures) < 2 and any(one.buyer_id == buyer.merchant_id for one in goods):
                failures.append(True)
                await real(tx, consumer, goods)
                raise OSError("the process died before COMMIT")
            await real(tx, consumer, goods)

        monkeypatch.setattr(receive_goods, "_receive", dies_twice)
        await market.work("relay", "consumer")
        await accept(market, buyer, await market.issue(seller, market.invoice(buyer)))

        async def whole() -> bool:
            rows = await market.sql(
                "inventory",
                "SELECT on_hand_milli FROM stock WHERE merchant_id = $1::text::uuid",
                buyer.merchant.merchant_id,
            )
            return [row["on_hand_milli"] for row in rows] == [10_000]

        await market.until(whole)
        assert len(failures) == 2
        assert (await market.stock(seller))[0] == 90

    @pytest.mark.parametrize("clients", [10, 200])
    async def test_hung_at_ten_clients(self, market, seller, buyer, clients):
        """Its pool waited on itself. Here ten and two hundred at once are answered, all of them."""
        await market.stock_up(seller, units=clients)
        calls = [market.issue(seller, market.invoice(buyer, market.line(1))) for _ in range(clients)]
        invoices = await asyncio.wait_for(asyncio.gather(*calls), 30)
        assert len({i.number for i in invoices}) == clients
        assert (await market.stock(seller))[1] == clients

    async def test_counted_money_in_floats(self, market, seller, buyer):
        """0.1 + 0.2, a tenth of a paisa here and there. Here amounts are integers, and sums are exact to the paisa."""
        lines = [market.line(1, sku="", quantity_milli=100, unit_price_milli=p) for p in (1_005, 2_675, 1_115)]
        big = market.line(1, sku="", quantity_milli=1_000, unit_price_milli=99_999_999_999_990)
        invoice = await market.issue(seller, market.invoice(buyer, *lines, big))
        assert [line.gross_paise for line in invoice.lines] == [10, 27, 11, 9_999_999_999_999]
        assert invoice.totals.taxable_paise == sum(line.taxable_paise for line in invoice.lines)
        assert invoice.totals.total_paise == sum(line.total_paise for line in invoice.lines)
        columns = await market.sql(
            "invoice",
            """SELECT DISTINCT data_type FROM information_schema.columns
               WHERE table_schema = current_schema() AND column_name ~ '_(paise|milli)$'""",
        )
        assert {row["data_type"] for row in columns} <= {"bigint", "integer"}

    async def test_released_what_was_never_reserved(self, market, seller, buyer):
        """It added the units to stock. Here a release of an unknown id frees nothing, and no merchant may release the
        hold of an invoice."""
        unknown = stock_pb.ReservationRef(reservation_id="018f0000-0000-7000-8000-000000000000")
        request = stock_pb.ReleaseReservationsRequest(reservations=[unknown])
        await outcome(market, market.inventory.ReleaseReservations, request, seller, None)
        assert await market.stock(seller) == (100, 0)

        await market.issue(seller, market.invoice(buyer))
        rows = await market.sql(
            "inventory",
            """SELECT reservation_id, fingerprint FROM reservation
               WHERE merchant_id = $1::text::uuid AND resolver = 'INVOICE'""",
            seller.merchant.merchant_id,
        )
        (hold,) = rows
        held = stock_pb.ReservationRef(
            reservation_id=to_text(hold["reservation_id"].bytes), fingerprint=hold["fingerprint"]
        )
        request = stock_pb.ReleaseReservationsRequest(reservations=[held])
        await outcome(market, market.inventory.ReleaseReservations, request, seller, None)
        assert await market.stock(seller) == (100, 10)
        assert set((await hold_states(market, seller)).values()) <= {"PENDING", "HELD"}
