"""CreateInvoice over real gRPC, PostgreSQL and Valkey: issued once, taxed right, taking stock once."""

from __future__ import annotations

import asyncio

import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import hold_states
from tests.kit.market import Market, Trader, fresh_gstin, fresh_key


class TestAnInvoice:
    async def test_within_a_state_carries_central_and_state_tax(self, market, seller, buyer):
        """10 x 1,000.00 at 18 %: 11,800.00 with CGST 900.00 and SGST 900.00."""
        invoice = await market.issue(seller, market.invoice(buyer))

        totals = invoice.totals
        assert (totals.taxable_paise, totals.cgst_paise, totals.sgst_paise) == (1_000_000, 90_000, 90_000)
        assert (totals.igst_paise, totals.total_paise) == (0, 1_180_000)
        assert (invoice.state, invoice.version, invoice.number[:9]) == (pb.ISSUED, 1, "INV/2627/")
        assert invoice.seller.gstin == seller.gstin
        assert invoice.buyer_merchant_id == buyer.merchant.merchant_id
        assert list(invoice.allowed_actions) == ["cancel"]
        assert await market.stock(seller) == (100, 10)

    async def test_across_states_carries_integrated_tax(self, market, seller):
        """The same to a buyer elsewhere: IGST 1,800.00."""
        invoice = await market.issue(seller, market.invoice(fresh_gstin("29")))

        assert (invoice.totals.igst_paise, invoice.totals.cgst_paise) == (180_000, 0)
        assert invoice.inter_state
        assert invoice.buyer_merchant_id == ""

    async def test_is_written_with_its_lines_audit_entry_event_and_decision(self, market, seller, buyer):
        """One transaction leaves one invoice, its lines, one audit entry, one event and one SUCCEEDED row."""
        invoice = await market.issue(seller, market.invoice(buyer, market.line(), market.line(2, 50, sku="")))

        async def written(what: str, where: str = "invoice_id") -> list[tuple]:
            text = f"SELECT {what} WHERE {where} = $1::text::uuid ORDER BY 1"
            return [tuple(row) for row in await market.sql("invoice", text, invoice.invoice_id)]

        assert await written("state, version, total_paise FROM invoice") == [("ISSUED", 1, invoice.totals.total_paise)]
        items = await written("line, sku, total_paise FROM invoice_item")
        assert items == [(1, "BOLT-M8", 1_180_000), (2, None, 11_800)]
        assert await written("version, action FROM audit_entry") == [(1, "issue")]
        assert await written("type, version FROM outbox", "aggregate_id") == [("invochain.invoice.issued.v1", 1)]
        decision = "decision.state, decision.attempt FROM decision JOIN invoice USING (merchant_id, rid)"
        assert await written(decision) == [("SUCCEEDED", 1)]

    async def test_has_a_hold_that_becomes_lasting(self, market, seller, buyer):
        """After COMMIT the confirmer makes the hold HELD, without any worker."""
        await market.issue(seller, market.invoice(buyer))

        async def held() -> bool:
            return await hold_states(market, seller) == {1: "HELD"}

        await market.until(held)

    async def test_reads_back_as_it_was_answered(self, market, seller, buyer):
        """GetInvoice gives the seller the same invoice; the buyer sees what he may do."""
        invoice = await market.issue(seller, market.invoice(buyer))

        request = pb.GetInvoiceRequest(invoice_id=invoice.invoice_id)
        assert await market.call(market.invoices.GetInvoice, request, seller, None) == invoice
        theirs = await market.call(market.invoices.GetInvoice, request, buyer, None)
        assert list(theirs.allowed_actions) == ["accept", "reject", "request_edit"]


class TestNumbers:
    async def test_of_a_series_have_no_gaps(self, market, seller, buyer):
        """Concurrent invoices of one series get consecutive numbers; a refused one uses none."""
        requests = [market.issue(seller, market.invoice(buyer, market.line(1))) for _ in range(12)]
        refused = market.refused(market.invoices.CreateInvoice, market.invoice(buyer, market.line(500)), seller)
        *invoices, refusal = await asyncio.gather(*requests, refused)

        assert refusal.reason == "INSUFFICIENT_STOCK"
        assert sorted(i.number for i in invoices) == [f"INV/2627/{n:05d}" for n in range(1, 13)]

    async def test_of_the_client_are_unique_in_any_case_of_letters(self, market, seller, buyer):
        """`inv/1` after `INV/1` is a duplicate; the stock that was held for it comes free."""
        await market.issue(seller, market.invoice(buyer, number="INV/1"))
        refusal = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer, number="inv/1"), seller)

        assert (refusal.code, refusal.reason) == ("ALREADY_EXISTS", "DOC_NUMBER_DUPLICATE")

        async def only_one_is_held() -> bool:
            return await market.stock(seller) == (100, 10)

        await market.until(only_one_is_held)

    async def test_of_a_series_belong_to_the_server(self, market, seller, buyer):
        """Once the server numbers a series, a client cannot take a number in it."""
        await market.issue(seller, market.invoice(buyer))
        request = market.invoice(buyer, number="INV/2627/00077")

        refusal = await market.refused(market.invoices.CreateInvoice, request, seller)

        assert refusal.reason == "DOC_NUMBER_DUPLICATE"

    async def test_a_series_is_refused_where_the_client_used_its_prefix(self, market, seller, buyer):
        """INV/2627/00077 was given by the client, so the server cannot number INV."""
        await market.issue(seller, market.invoice(buyer, number="INV/2627/00077"))

        refusal = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer), seller)

        assert ("invoice.series", "SERIES_PREFIX_USED") in refusal.broken
        assert (await market.issue(seller, market.invoice(buyer, series="B"))).number == "B/2627/00001"


class TestTheSameKey:
    async def test_and_body_gives_the_first_answer_and_moves_no_stock(self, market, seller, buyer):
        """A repeat is answered from what was decided, and says so."""
        key, request = fresh_key(), market.invoice(buyer)
        first = await market.issue(seller, request, key)
        assert "x-idempotent-replayed" not in market.last_metadata
        second = await market.issue(seller, request, key)

        assert second == first
        assert market.last_metadata["x-idempotent-replayed"] == "true"
        assert await market.stock(seller) == (100, 10)

    async def test_is_answered_by_the_database_when_redis_has_forgotten(self, market, seller, buyer):
        """Redis is a cache: emptied, the claim finds the winner's row."""
        key, request = fresh_key(), market.invoice(buyer)
        first = await market.issue(seller, request, key)
        await _flush(market)

        assert await market.issue(seller, request, key) == first
        assert await market.stock(seller) == (100, 10)

    async def test_is_answered_by_the_invoice_when_the_decision_row_is_purged(self, market, seller, buyer):
        """A success is for ever: the invoice itself is the decision."""
        key, request = fresh_key(), market.invoice(buyer)
        first = await market.issue(seller, request, key)
        await market.sql(
            "invoice", "DELETE FROM decision WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
        )
        await _flush(market)

        assert await market.issue(seller, request, key) == first
        other = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer, notes="no"), seller, key)
        assert other.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"

    @pytest.mark.parametrize("redis", ["there", "emptied"])
    async def test_with_another_body_is_refused(self, market, seller, buyer, redis):
        """The reused key is named, and the stock of the other body is not kept."""
        key = fresh_key()
        await market.issue(seller, market.invoice(buyer), key)
        if redis == "emptied":
            await _flush(market)

        refusal = await market.refused(
            market.invoices.CreateInvoice, market.invoice(buyer, market.line(3)), seller, key
        )

        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD")

        async def only_the_first_is_held() -> bool:
            return await market.stock(seller) == (100, 10)

        await market.until(only_the_first_is_held)

    @pytest.mark.parametrize("purged", [False, True])
    @pytest.mark.parametrize("units", [0, 3, 500])
    async def test_with_a_body_that_takes_stock_of_its_own_keeps_none(self, market, seller, buyer, units, purged):
        """The first body took no stock, so the other one meets no hold, only the decision (or the invoice where that is
        purged): KEY_REUSED, never a refusal for want of stock, and what it held comes free."""
        key = fresh_key()
        first = market.invoice(buyer, market.line(1, sku=""))
        invoice = await market.issue(seller, first, key)
        if purged:
            await market.sql(
                "invoice", "DELETE FROM decision WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
            )
        await _flush(market)

        other = market.invoice(buyer, market.line(units or 2, sku="BOLT-M8" if units else ""))
        refusal = await market.refused(market.invoices.CreateInvoice, other, seller, key)

        assert refusal.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"

        async def nothing_is_held() -> bool:
            return await market.stock(seller) == (100, 0)

        await market.until(nothing_is_held)
        assert await market.issue(seller, first, key) == invoice

    async def test_by_another_merchant_is_another_key(self, market, seller, buyer):
        """The scope of a key is its merchant."""
        key, request = fresh_key(), market.invoice(fresh_gstin("29"), market.line(sku=""))
        first = await market.issue(seller, request, key)
        second = await market.issue(buyer, request, key)
        assert first.invoice_id != second.invoice_id

    async def test_a_hundred_times_at_once_gives_one_invoice(self, market, seller, buyer):
        """Concurrent copies: each gets the one invoice, or is told that another one is under way."""
        key, request = fresh_key(), market.invoice(buyer)
        outcomes = await asyncio.gather(
            *(_outcome(market, seller, request, key) for _ in range(100)), return_exceptions=False
        )

        invoices = {o for o in outcomes if not o.startswith("refused")}
        assert len(invoices) == 1
        assert {o for o in outcomes if o.startswith("refused")} <= {"refused CONCURRENT_REQUEST"}
        assert await market.stock(seller) == (100, 10)

    async def test_waits_for_the_first_one_where_it_is_asked_to(self, market, seller, buyer):
        """With x-idempotency-wait-ms every copy gets the result."""
        key, request = fresh_key(), market.invoice(buyer)
        wait = {"x_idempotency_wait_ms": "2000"}
        outcomes = await asyncio.gather(*(market.issue(seller, request, key, **wait) for _ in range(20)))
        assert len({o.invoice_id for o in outcomes}) == 1

    async def test_after_a_final_refusal_is_refused_the_same(self, market, seller, buyer):
        """INSUFFICIENT_STOCK is final for the key, also once stock has come; a new key succeeds."""
        key, request = fresh_key(), market.invoice(buyer, market.line(101))

        async def nothing_is_held() -> bool:
            return await market.stock(seller) == (150, 0)

        first = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        await market.stock_up(seller, units=50)
        for emptied in (False, True):
            if emptied:
                await _flush(market)
            again = await market.refused(market.invoices.CreateInvoice, request, seller, key)
            assert (again.reason, again.message, again.replayed) == (first.reason, first.message, True)
        # The repeat that Redis did not know held stock until it met the row; it comes free behind the answer.
        await market.until(nothing_is_held)
        assert (await market.issue(seller, request)).totals.total_paise > 0


class TestManyAtOnce:
    @pytest.mark.parametrize("clients", [10, 200])
    async def test_create_without_hanging(self, market, seller, buyer, clients):
        """The old system stopped for ever at ten: its pool deadlocked on itself."""
        await market.stock_up(seller, units=1_000)
        requests = [market.issue(seller, market.invoice(buyer, market.line(1))) for _ in range(clients)]
        invoices = await asyncio.wait_for(asyncio.gather(*requests), 30)

        assert len({i.number for i in invoices}) == clients
        assert await market.stock(seller) == (1_100, clients)

    async def test_never_sell_more_than_there_is(self, market, seller, buyer):
        """100 units, 150 buyers of one: 100 invoices, 50 refusals that say how many are free."""
        calls = [_outcome(market, seller, market.invoice(buyer, market.line(1)), "") for _ in range(150)]
        outcomes = await asyncio.gather(*calls)

        refused = [o for o in outcomes if o.startswith("refused")]
        assert (len(outcomes) - len(refused), set(refused)) == (100, {"refused INSUFFICIENT_STOCK"})
        assert await market.stock(seller) == (100, 100)


async def _flush(market: Market) -> None:
    import redis.asyncio as redis

    client = redis.Redis.from_url(market.settings.redis_url)
    await client.flushall()
    await client.aclose()


async def _outcome(market: Market, who: Trader, request: pb.CreateInvoiceRequest, key: str) -> str:
    import grpc

    from tests.kit.market import Refused

    try:
        return (await market.issue(who, request, key)).invoice_id
    except grpc.aio.AioRpcError as error:
        return f"refused {Refused.of(error).reason}"
