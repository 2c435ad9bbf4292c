"""Requests that share a batch, a series or a midnight: none fails, delays or decides for another (PROTOCOL 3, 9)."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager

import asyncpg
import pytest

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis import clock
from invochain.chassis.call import Call, Principal
from invochain.chassis.ids import new_id
from invochain.errors import DependencyDown
from invochain.invoice import decide, lanes, name_locks, number_series
from invochain.invoice.all_or_nothing import create_all_or_nothing
from invochain.invoice.create_invoice import create_invoices
from invochain.invoice.inventory_port import Hold
from invochain.invoice.room import InvoiceRoom
from tests.integration.invoice.probes import age_holds, decision_of, hold_states, outcome, settle
from tests.kit.market import Market, Refused, Trader, fresh_key


def room_of(market: Market) -> InvoiceRoom:
    _server, running = market.running["invoice"]
    return running.servicers[0]._room


def call_of(who: bytes, request: pb.CreateInvoiceRequest, key: str = "", within_s: float = 4.8) -> Call:
    """A call as the door makes it, so that a test chooses who shares a batch."""
    principal = Principal(merchant_id=who, user_id=new_id(), roles=frozenset({"OWNER"}))
    return Call(
        "CreateInvoice", principal, request.SerializeToString(), clock.monotonic() + within_s, key or fresh_key()
    )


async def told(call: Call) -> pb.Invoice | str:
    """The invoice, or the reason of the refusal."""
    try:
        return pb.Invoice.FromString(await call.answer)
    except Exception as refusal:  # noqa: BLE001 - whatever it is, it is compared
        return refusal.reason


async def batch(market: Market, *calls: Call) -> list[pb.Invoice | str]:
    await create_invoices(room_of(market), list(calls))
    return [await asyncio.wait_for(told(call), 10) for call in calls]


@asynccontextmanager
async def locked(market: Market, text: str, *args, room: str = "invoice"):
    """Holds the rows of a SELECT .. FOR UPDATE in another session."""
    connection = await asyncpg.connect(market.databases[room])
    transaction = connection.transaction()
    await transaction.start()
    assert await connection.fetch(text, *args)
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


class TestABatch:
    async def test_with_a_seller_nobody_can_ask_for_serves_the_others(self, market, seller, buyer, monkeypatch):
        """The merchant service is down and one seller is not known yet: only his request is refused, and retryable."""

        async def down(*_args):
            raise DependencyDown("the merchant directory")

        await market.issue(seller, market.invoice(buyer, market.line(sku="")))
        monkeypatch.setattr(room_of(market).parties, "_fetch", down)
        request = market.invoice(buyer, market.line(sku=""))
        ours, theirs = await batch(market, call_of(seller.merchant_id, request), call_of(new_id(), request))
        assert (isinstance(ours, pb.Invoice), theirs) == (True, "DEPENDENCY_DOWN")

    async def test_with_one_poisonous_item_issues_the_others(self, market, seller, buyer):
        """An SQL error nobody expected, for one buyer: batches are taken apart until it is alone. No gap."""
        victim = await market.register("27")
        await market.sql(
            "invoice", f"ALTER TABLE invoice ADD CONSTRAINT poison CHECK (buyer_gstin <> '{victim.gstin}') NOT VALID"
        )
        try:
            calls = [call_of(seller.merchant_id, market.invoice(buyer, market.line(1))) for _ in range(20)]
            calls[7] = call_of(seller.merchant_id, market.invoice(victim, market.line(1)), key := fresh_key())
            results = await batch(market, *calls)
        finally:
            await market.sql("invoice", "ALTER TABLE invoice DROP CONSTRAINT poison")
        assert results[7] == "INTERNAL"
        numbers = [r.number for r in results if isinstance(r, pb.Invoice)]
        assert sorted(numbers) == [f"INV/2627/{n:05d}" for n in range(1, 20)]
        assert await decision_of(market, seller, key) == ("", 0, "")
        # Its hold is not given back by guess: a retry uses it.
        assert (await market.issue(seller, market.invoice(victim, market.line(1)), key)).number == "INV/2627/00020"

    async def test_of_another_body_under_way_elsewhere_is_concurrent(self, market, seller, buyer, monkeypatch):
        """The key's first request is not decided yet, in another batch: CONCURRENT_REQUEST, not KEY_REUSED."""
        key, begun, go_on = fresh_key(), asyncio.Event(), asyncio.Event()
        real = decide.decide

        async def slow(*args, **how):
            begun.set()
            await go_on.wait()
            return await real(*args, **how)

        monkeypatch.setattr(decide, "decide", slow)
        one, other = market.invoice(buyer, market.line(1)), market.invoice(buyer, market.line(2))
        first = asyncio.create_task(batch(market, call_of(seller.merchant_id, one, key)))
        await begun.wait()
        second = await batch(market, call_of(seller.merchant_id, other, key))
        go_on.set()
        assert second == ["CONCURRENT_REQUEST"]
        assert [r.version for r in await first] == [1]
        refusal = await outcome(market, market.invoices.CreateInvoice, other, seller, key)
        assert refusal.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"

    async def test_that_waited_too_long_for_stock_decides_nothing(self, market, seller, buyer, monkeypatch):
        """Less than half a second is left when the hold is made: DECIDE is not begun, the resolver frees the hold."""
        room, key = room_of(market), fresh_key()
        real = room.inventory.reserve

        async def slow(request, **how):
            answer = await real(request, **how)
            while call.remaining() > 0.4:
                await asyncio.sleep(0.01)
            return answer

        monkeypatch.setattr(room.inventory, "reserve", slow)
        call = call_of(seller.merchant_id, market.invoice(buyer), key, within_s=0.7)
        (result,) = await batch(market, call)
        assert result == "DEADLINE_TOO_SHORT"
        assert await decision_of(market, seller, key) == ("", 0, "")
        await age_holds(market, 31, seller)
        await settle(market)
        assert await hold_states(market, seller) == {1: "RELEASED"}


class TestAStockRow:
    LOCK = "SELECT 1 FROM stock WHERE merchant_id = $1::text::uuid FOR UPDATE"

    async def test_that_is_busy_delays_only_what_takes_it(self, market, seller, buyer):
        """Held longer than the inventory lets a call wait: the neighbour is issued, the other once the row is free."""
        mine = call_of(seller.merchant_id, market.invoice(buyer, market.line(1)))
        theirs = call_of(seller.merchant_id, market.invoice(buyer, market.line(1, sku="")))
        async with locked(market, self.LOCK, seller.merchant.merchant_id, room="inventory"):
            handed_over = await create_invoices(room_of(market), [mine, theirs])
            assert (await told(theirs)).number == "INV/2627/00001"
            assert (list(handed_over), mine.answer.done()) == ([mine], False)
        assert (await asyncio.wait_for(told(mine), 5)).number == "INV/2627/00002"
        assert (await market.stock(seller))[1] == 1

    async def test_may_be_given_back_by_more_requests_than_one_call_takes(self, market, seller):
        """A batch of requests with several earlier attempts each frees all of these before it asks again."""
        earlier = [Hold(seller.merchant_id, new_id(), 1, bytes(32)) for _ in range(core.HOLDS_MAX + 1)]
        assert await room_of(market).inventory.release_first(earlier, time_left_s=4.8) == [""] * len(earlier)

    async def test_that_is_busy_refuses_a_whole_batch_as_one_to_be_repeated(self, market, seller, buyer):
        """All or nothing: nobody else waits with it, so it is told at once, and the same keys issue afterwards."""
        keys = fresh_key(), fresh_key()
        request = market.invoice(buyer, market.line(1))

        def calls() -> list[Call]:
            return [call_of(seller.merchant_id, request, key) for key in keys]

        async with locked(market, self.LOCK, seller.merchant.merchant_id, room="inventory"):
            await create_all_or_nothing(room_of(market), refused := calls())
            assert {await told(call) for call in refused} == {"CONCURRENT_REQUEST"}
        await create_all_or_nothing(room_of(market), again := calls())
        assert [(await told(call)).number for call in again] == ["INV/2627/00001", "INV/2627/00002"]


class TestASeries:
    LOCK = "SELECT 1 FROM number_series WHERE merchant_id = $1::text::uuid FOR UPDATE"
    # As whoever writes an invoice with a number of the merchant's own.
    NAMES = "SELECT pg_advisory_xact_lock_shared(1, $1)::text"

    async def test_that_is_busy_delays_nobody_else(self, market, seller, buyer):
        """One merchant's counter is held by another session: his invoice waits in its lane, the other's is issued."""
        other = await market.register("27")
        for who in (seller, other):
            await market.issue(who, market.invoice(buyer, market.line(1, sku="")))
        mine = call_of(seller.merchant_id, market.invoice(buyer, market.line(1, sku="")))
        theirs = call_of(other.merchant_id, market.invoice(buyer, market.line(1, sku="")))
        async with locked(market, self.LOCK, seller.merchant.merchant_id):
            handed_over = await create_invoices(room_of(market), [mine, theirs])
            assert (await told(theirs)).number == "INV/2627/00002"
            assert (list(handed_over), mine.answer.done()) == ([mine], False)
        assert (await asyncio.wait_for(told(mine), 5)).number == "INV/2627/00002"

    async def test_that_stays_busy_is_told_as_retryable(self, market, seller, buyer):
        """Held for longer than the lock time-out: UNAVAILABLE; afterwards the same key issues."""
        key, request = fresh_key(), market.invoice(buyer, market.line(1))
        await market.issue(seller, market.invoice(buyer, market.line(1)))
        async with locked(market, self.LOCK, seller.merchant.merchant_id):
            refusal = await outcome(market, market.invoices.CreateInvoice, request, seller, key)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")
        assert (await market.issue(seller, request, key)).number == "INV/2627/00002"

    async def test_that_cannot_be_made_yet_delays_nobody_else(self, market, seller, buyer):
        """A first series waits for its merchant's own numbers under way: issued are meanwhile who has a series, and
        who begins one; and once the names are free, the one that waited."""
        other, newcomer = await market.register("27"), await market.register("27")
        while name_locks.bucket(newcomer.merchant_id) == name_locks.bucket(seller.merchant_id):
            newcomer = await market.register("27")
        await market.issue(other, market.invoice(buyer, market.line(1, sku="")))
        request = market.invoice(buyer, market.line(1, sku=""))
        mine, theirs, first = (call_of(who.merchant_id, request) for who in (seller, other, newcomer))
        async with locked(market, self.NAMES, name_locks.bucket(seller.merchant_id)):
            handed_over = await create_invoices(room_of(market), [mine, theirs, first])
            assert [(await told(call)).number for call in (theirs, first)] == ["INV/2627/00002", "INV/2627/00001"]
            assert (list(handed_over), mine.answer.done()) == ([mine], False)
        assert (await asyncio.wait_for(told(mine), 5)).number == "INV/2627/00001"

    async def test_that_this_process_has_not_met_waits_for_nobody(self, market, seller, buyer):
        """Its counter was made before this process began, or by another one: no name is locked to find that out."""
        request = market.invoice(buyer, market.line(1, sku=""))
        await market.issue(seller, request)
        room_of(market).series.clear()
        async with locked(market, self.NAMES, name_locks.bucket(seller.merchant_id)):
            mine = call_of(seller.merchant_id, request)
            assert await create_invoices(room_of(market), [mine]) == []
            assert (await told(mine)).number == "INV/2627/00002"

    async def test_that_cannot_be_made_for_long_is_told_as_retryable(self, market, seller, buyer):
        """The names stay locked for longer than the lock time-out: UNAVAILABLE; afterwards the same key issues."""
        key, request = fresh_key(), market.invoice(buyer, market.line(1))
        async with locked(market, self.NAMES, name_locks.bucket(seller.merchant_id)):
            refusal = await outcome(market, market.invoices.CreateInvoice, request, seller, key)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")
        assert (await market.issue(seller, request, key)).number == "INV/2627/00001"

    async def test_that_waits_to_be_made_keeps_no_own_number_waiting(self, market, seller, buyer, monkeypatch):
        """Nor fails it: the merchant's own numbers are issued while another of them is being written. One of them has
        the prefix of the series, which is refused then as it would have been at once."""
        monkeypatch.setattr(number_series, "LOCK_TIMEOUT_MS", 4_000)
        mine = call_of(seller.merchant_id, market.invoice(buyer, market.line(1, sku="")))
        async with locked(market, self.NAMES, name_locks.bucket(seller.merchant_id)):
            await create_invoices(room_of(market), [mine])
            for number in ("A/1", "A/2", "INV/2627/7"):
                await market.issue(seller, market.invoice(buyer, market.line(1, sku=""), number=number))
            assert not mine.answer.done(), "void: it did not wait"
        assert await asyncio.wait_for(told(mine), 5) == "VALIDATION_FAILED"

    async def test_of_a_prefix_that_own_numbers_have_is_refused_before_stock_is_held(self, market, seller, buyer):
        """Also while another own number is being written: afterwards the key would be of a request that holds stock."""
        await market.issue(seller, market.invoice(buyer, market.line(1, sku=""), number="INV/2627/7"))
        async with locked(market, self.NAMES, name_locks.bucket(seller.merchant_id)):
            refusal = await outcome(
                market, market.invoices.CreateInvoice, market.invoice(buyer, market.line(1)), seller
            )
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
        assert await market.stock(seller) == (100, 0)

    @pytest.mark.parametrize(
        "failure", [DependencyDown("the invoice database"), asyncpg.QueryCanceledError("too long")]
    )
    async def test_whose_second_look_fails_frees_its_key(self, market, seller, buyer, monkeypatch, failure):
        """In its lane a request is checked again; refused there, its key is not under way for ever."""
        key, request = fresh_key(), market.invoice(buyer, market.line(1, sku=""))
        await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))

        async def second_look_fails(_room, _calls):
            raise failure

        monkeypatch.setattr(lanes, "check", second_look_fails)
        async with locked(market, self.LOCK, seller.merchant.merchant_id):
            mine = call_of(seller.merchant_id, request, key)
            await create_invoices(room_of(market), [mine])
            assert await asyncio.wait_for(told(mine), 5) == "DEPENDENCY_DOWN"
        monkeypatch.undo()
        assert (await market.issue(seller, request, key)).number == "INV/2627/00002"


class TestMidnight:
    @pytest.mark.parametrize("app_day", [dt.date(2026, 11, 1), dt.date(2026, 3, 31)], ids=["this year", "last year"])
    async def test_between_check_and_claim_dates_the_invoice_by_the_database(
        self, market, seller, buyer, monkeypatch, app_day
    ):
        """The application is behind, even by a financial year: the invoice has the database's day and series."""
        (row,) = await market.sql("invoice", "SELECT (now() AT TIME ZONE 'Asia/Kolkata')::date AS day")
        monkeypatch.setattr(clock, "today_ist", lambda: app_day)
        key, request = fresh_key(), market.invoice(buyer)
        invoice = await market.issue(seller, request, key)
        date = invoice.invoice_date
        assert dt.date(date.year, date.month, date.day) == row["day"]
        assert (invoice.number, invoice.financial_year) == ("INV/2627/00001", "2026-27")
        assert await decision_of(market, seller, key) == ("SUCCEEDED", 1, "")
        assert await market.stock(seller) == (100, 10)
        monkeypatch.undo()
        assert await market.issue(seller, request, key) == invoice

    async def test_changes_no_date_that_the_client_gave(self, market, seller, buyer, monkeypatch):
        """A date in the request is the invoice's date, whatever the clocks say."""
        from google.type import date_pb2

        monkeypatch.setattr(clock, "today_ist", lambda: dt.date(2026, 11, 1))
        given = date_pb2.Date(year=2026, month=10, day=31)
        invoice = await market.issue(seller, market.invoice(buyer, market.line(sku=""), invoice_date=given))
        assert invoice.invoice_date == given


class TestALastNumber:
    async def test_of_a_series_is_followed_by_a_clear_refusal(self, market, seller, buyer):
        """16 characters are the law's limit (G13): INV/2627/9999999 is the last one; then another series is wanted."""
        await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))
        mine = seller.merchant.merchant_id
        await market.sql(
            "invoice", "UPDATE number_series SET last_given = 9999998 WHERE merchant_id = $1::text::uuid", mine
        )
        try:
            last = await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))
            refusal = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer), seller)
        finally:
            # As many as there are, so that the books balance.
            await market.sql(
                "invoice", "UPDATE number_series SET last_given = 2 WHERE merchant_id = $1::text::uuid", mine
            )
        assert last.number == "INV/2627/9999999"
        assert isinstance(refusal, Refused)
        assert refusal.broken == {("invoice.series", "SERIES_EXHAUSTED")}


class TestTheLastSeller:
    async def test_who_is_refused_leaves_stock_for_the_next(self, market, seller: Trader, buyer: Trader):
        """A refused number frees its hold: the last ten bolts can be sold again."""
        await market.issue(seller, market.invoice(buyer, market.line(90), number="Z/1"))
        refusal = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer, number="Z/1"), seller)
        assert refusal.reason == "DOC_NUMBER_DUPLICATE"

        async def sold() -> bool:
            request = market.invoice(buyer, market.line(10))
            return isinstance(await outcome(market, market.invoices.CreateInvoice, request, seller), pb.Invoice)

        await market.until(sold)
        assert await market.stock(seller) == (100, 100)
