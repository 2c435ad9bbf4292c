"""BatchCreateInvoices: every item its own key and result; or, where it is asked for, all or none (PROTOCOL 9)."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.invoice.servicer import WHOLE_WAITING_MAX
from tests.integration.invoice.probes import decision_of, flush, hold_states, outcome, row_counts
from tests.integration.invoice.test_neighbours import locked, room_of
from tests.kit.market import Market, Refused, Trader, fresh_key


def item(request: pb.CreateInvoiceRequest, key: str = "") -> pb.BatchCreateInvoicesItem:
    return pb.BatchCreateInvoicesItem(invoice=request.invoice, idempotency_key=key or fresh_key())


async def batch(
    market: Market, who: Trader, *items: pb.BatchCreateInvoicesItem, whole: bool = False
) -> list[pb.BatchCreateInvoicesResult]:
    request = pb.BatchCreateInvoicesRequest(items=items, all_or_nothing=whole)
    return list((await market.call(market.invoices.BatchCreateInvoices, request, who, None)).results)


def reasons(results: list[pb.BatchCreateInvoicesResult]) -> list[str]:
    """Of each result its reason; empty for an invoice."""
    return [Refused.of_status(r.error).reason if r.HasField("error") else "" for r in results]


async def invoices_of(market: Market, who: Trader) -> int:
    rows = await market.sql(
        "invoice", "SELECT count(*) FROM invoice WHERE merchant_id = $1::text::uuid", who.merchant.merchant_id
    )
    return int(rows[0]["count"])


async def stock_is(market: Market, who: Trader, reserved: int) -> None:
    async def it_is() -> bool:
        return (await market.stock(who))[1] == reserved

    await market.until(it_is)


# What a batch asks of the two databases before it is answered, each once, whatever its size (PROTOCOL 9).
ROUND_TRIPS = (
    *("stock_lock_free", "reservation_insert", "stock_reserve"),
    *("series_lock", "decide_claim", "series_take_numbers", "invoice_insert", "wal_lsn"),
)


def statements_so_far() -> dict[str, float]:
    name = "pg_query_duration_seconds_count"
    found = {s.labels["statement"]: s.value for m in REGISTRY.collect() for s in m.samples if s.name == name}
    # Behind the answer, of its own pace: holds made lasting.
    return {name: count for name, count in found.items() if name != "reservation_confirm"}


class TestABatch:
    @pytest.mark.parametrize("items", [1, 90])
    async def test_takes_the_same_round_trips_whatever_its_size(self, market, seller, buyer, items):
        """Eight statements and two commits, for one invoice and for ninety of ten lines each."""
        await batch(market, seller, item(market.invoice(buyer)))
        lines = [market.line(1), *(market.line(1, price, sku="") for price in range(1, 10))]
        before = statements_so_far()

        results = await batch(market, seller, *(item(market.invoice(buyer, *lines)) for _ in range(items)))

        assert reasons(results) == [""] * items
        after = statements_so_far()
        asked = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
        assert asked == dict.fromkeys(ROUND_TRIPS, 1)

    async def test_answers_each_item_in_order(self, market, seller, buyer):
        """Right, invalid, short of stock, unknown SKU, number used, right: none disturbs another."""
        await market.issue(seller, market.invoice(buyer, market.line(sku=""), number="A/1"))
        results = await batch(
            market,
            seller,
            item(market.invoice(buyer)),
            item(market.invoice(buyer, market.line(quantity_milli=-1))),
            item(market.invoice(buyer, market.line(500))),
            item(market.invoice(buyer, market.line(sku="NO-SUCH"))),
            item(market.invoice(buyer, number="a/1")),
            item(market.invoice(buyer, market.line(7))),
        )
        assert reasons(results) == [
            "",
            "VALIDATION_FAILED",
            "INSUFFICIENT_STOCK",
            "SKU_NOT_FOUND",
            "DOC_NUMBER_DUPLICATE",
            "",
        ]
        assert Refused.of_status(results[1].error).broken >= {
            ("invoice.lines[0].quantity_milli", next(c for _, c in Refused.of_status(results[1].error).broken))
        }
        assert [results[i].invoice.number for i in (0, 5)] == ["INV/2627/00001", "INV/2627/00002"]
        await stock_is(market, seller, 17)

    async def test_shares_its_keys_with_single_requests(self, market, seller, buyer):
        """A key used by CreateInvoice replays in a batch, and the other way round; the replay says so."""
        one, two = fresh_key(), fresh_key()
        first = await market.issue(seller, market.invoice(buyer), one)
        results = await batch(market, seller, item(market.invoice(buyer), one), item(market.invoice(buyer), two))
        assert [r.replayed for r in results] == [True, False]
        assert results[0].invoice == first
        assert await market.issue(seller, market.invoice(buyer), two) == results[1].invoice
        assert market.last_metadata["x-idempotent-replayed"] == "true"
        await flush(market)
        again = await batch(market, seller, item(market.invoice(buyer), one), item(market.invoice(buyer), two))
        assert ([r.replayed for r in again], again[1].invoice) == ([True, True], results[1].invoice)
        await stock_is(market, seller, 20)

    async def test_with_one_key_twice_issues_once(self, market, seller, buyer):
        """Same body: the same result, marked replayed. Another body: KEY_REUSED for the later one."""
        key, other = fresh_key(), fresh_key()
        results = await batch(
            market,
            seller,
            item(market.invoice(buyer), key),
            item(market.invoice(buyer), key),
            item(market.invoice(buyer, market.line(1)), other),
            item(market.invoice(buyer, market.line(2)), other),
        )
        assert reasons(results) == ["", "", "", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"]
        assert [r.replayed for r in results[:3]] == [False, True, False]
        assert results[0].invoice == results[1].invoice
        await stock_is(market, seller, 11)

    async def test_recut_after_a_lost_answer_deduplicates(self, market, seller, buyer):
        """The same items cut into other batches: every invoice once."""
        items = [item(market.invoice(buyer, market.line(1))) for _ in range(12)]
        first = await batch(market, seller, *items)
        cut = await asyncio.gather(*(batch(market, seller, *items[i : i + 5]) for i in (0, 5, 10)))
        again = [result for part in cut for result in part]
        assert [r.invoice for r in again] == [r.invoice for r in first]
        assert all(r.replayed for r in again)
        assert await invoices_of(market, seller) == 12

    async def test_of_500_is_taken_and_of_501_refused(self, market, seller, buyer):
        """500 invoices in one call, numbered without gaps; one more is refused by name, and nothing of it is stored."""
        await market.stock_up(seller, units=1_000)
        results = await batch(market, seller, *(item(market.invoice(buyer, market.line(1))) for _ in range(500)))
        assert set(reasons(results)) == {""}
        assert [r.invoice.number for r in results] == [f"INV/2627/{n:05d}" for n in range(1, 501)]
        assert "x-consistency-token" in market.last_metadata
        before = await row_counts(market)
        for count in (501, 0):
            request = pb.BatchCreateInvoicesRequest(items=[item(market.invoice(buyer))] * count)
            refusal = await market.refused(market.invoices.BatchCreateInvoices, request, seller, None)
            assert refusal.broken == {("items", "ITEMS_COUNT")}
        assert await row_counts(market) == before

    async def test_names_every_item_with_a_bad_key(self, market, seller, buyer):
        """No key, short key, a key outside the grammar: each by its position, all at once; nothing is done."""
        before = await row_counts(market)
        items = [item(market.invoice(buyer)) for _ in range(4)]
        items[1].idempotency_key, items[2].idempotency_key, items[3].idempotency_key = "", "short", "k" * 15 + "é"
        request = pb.BatchCreateInvoicesRequest(items=items)
        refusal = await market.refused(market.invoices.BatchCreateInvoices, request, seller, None)
        assert refusal.broken == {
            ("items[1].idempotency_key", "IDEMPOTENCY_KEY_REQUIRED"),
            ("items[2].idempotency_key", "IDEMPOTENCY_KEY_INVALID"),
            ("items[3].idempotency_key", "IDEMPOTENCY_KEY_INVALID"),
        }
        assert await row_counts(market) == before

    async def test_sums_one_skus_demand_over_its_items(self, market, seller, buyer):
        """Eleven items of ten bolts against a hundred: ten are issued, one is told how many are free."""
        results = await batch(market, seller, *(item(market.invoice(buyer)) for _ in range(11)))
        told = reasons(results)
        assert (told.count(""), told.count("INSUFFICIENT_STOCK")) == (10, 1)
        (short,) = [Refused.of_status(r.error) for r in results if r.HasField("error")]
        assert (short.facts["asked_milli"], short.facts["free_milli"]) == ("10000", "0")
        await stock_is(market, seller, 100)

    async def test_by_who_may_not_issue_is_refused(self, market, seller, buyer):
        """The whole call: ROLE_MISSING."""
        approver = await market.add_user(seller, "APPROVER")
        request = pb.BatchCreateInvoicesRequest(items=[item(market.invoice(buyer))])
        refusal = await market.refused(market.invoices.BatchCreateInvoices, request, approver, None)
        assert refusal.code == "PERMISSION_DENIED"


WAITERS = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
COUNTERS = "SELECT 1 FROM number_series WHERE merchant_id = $1::text::uuid FOR UPDATE"


class TestTheMetricsOfCreations:
    async def test_count_an_item_when_its_own_answer_is_there(self, market, seller, buyer):
        """The first item waits for its series, which another session holds; those behind it are counted meanwhile."""
        await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))
        busy = item(market.invoice(buyer, market.line(1, sku="")))
        free = [item(market.invoice(buyer, market.line(1, sku=""), number=f"OWN/{n}")) for n in range(20)]
        before = issued_so_far()

        async def counted(items: int) -> bool:
            return [now - then for now, then in zip(issued_so_far(), before, strict=True)] == [items, items]

        async with locked(market, COUNTERS, seller.merchant.merchant_id):
            asking = asyncio.create_task(batch(market, seller, busy, *free))
            await market.until(lambda: counted(20))
            assert not asking.done(), "void: nothing waited"
        assert reasons(await asking) == [""] * 21
        assert await counted(21)

    async def test_count_items_whose_caller_has_left(self, market, seller, buyer):
        """He hangs up while his items wait: they are issued, and counted, once each."""
        await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))
        items = [item(market.invoice(buyer, market.line(1, sku=""))) for _ in range(3)]
        before = issued_so_far()
        async with locked(market, COUNTERS, seller.merchant.merchant_id):
            request = pb.BatchCreateInvoicesRequest(items=items)
            pending = market.invoices.BatchCreateInvoices(
                request, metadata=[("authorization", f"Bearer {seller.token}")], timeout=10
            )
            waits = asyncio.ensure_future(_ended(pending))
            await market.until(lambda: under_way(market, items=3))
            pending.cancel()
            await waits

        async def all_counted() -> bool:
            return issued_so_far() == tuple(count + 3 for count in before)

        await market.until(all_counted)
        assert await invoices_of(market, seller) == 4


def issued_so_far() -> tuple[float, float]:
    """Invoices issued, as the counter has it and as the times do."""
    counted = REGISTRY.get_sample_value("invoice_created_total", {"outcome": "issued"}) or 0.0
    return counted, REGISTRY.get_sample_value("invoice_creation_duration_seconds_count") or 0.0


class TestAllOrNothing:
    async def test_issues_all(self, market, seller, buyer):
        """Three right items: three invoices, ordinary in every way; a retry replays all three."""
        items = [item(market.invoice(buyer, market.line(n))) for n in (1, 2, 3)]
        results = await batch(market, seller, *items, whole=True)
        assert reasons(results) == ["", "", ""]
        assert [r.invoice.number for r in results] == [f"INV/2627/{n:05d}" for n in (1, 2, 3)]
        await stock_is(market, seller, 6)
        for emptied in (False, True):
            if emptied:
                await flush(market)
            again = await batch(market, seller, *items, whole=True)
            assert [r.invoice for r in again] == [r.invoice for r in results]
            assert all(r.replayed for r in again)
        assert await invoices_of(market, seller) == 3

    async def test_stores_nothing_when_one_is_invalid(self, market, seller, buyer):
        """A broken rule in one: its violations, BATCH_REFUSED for the others, no row anywhere; corrected, the same
        keys issue all."""
        items = [item(market.invoice(buyer)) for _ in range(3)]
        items[1].invoice.lines[0].hsn = "7"
        before = await row_counts(market)
        results = await batch(market, seller, *items, whole=True)
        assert reasons(results) == ["BATCH_REFUSED", "VALIDATION_FAILED", "BATCH_REFUSED"]
        assert await row_counts(market) == before
        items[1].invoice.lines[0].hsn = "731815"
        assert reasons(await batch(market, seller, *items, whole=True)) == ["", "", ""]
        await stock_is(market, seller, 30)

    async def test_issues_none_when_stock_is_short(self, market, seller, buyer):
        """The short one is FAILED for good, the others ABORTED; no stock stays held. With a new key for the short one
        and the old keys for the others all are issued, as attempt 2."""
        keys = [fresh_key() for _ in range(3)]
        items = [item(market.invoice(buyer, market.line(n)), key) for n, key in zip((1, 500, 3), keys, strict=True)]
        results = await batch(market, seller, *items, whole=True)
        assert reasons(results) == ["BATCH_REFUSED", "INSUFFICIENT_STOCK", "BATCH_REFUSED"]
        assert await invoices_of(market, seller) == 0
        assert [(await decision_of(market, seller, key))[:2] for key in keys] == [
            ("ABORTED", 1),
            ("FAILED", 1),
            ("ABORTED", 1),
        ]
        await stock_is(market, seller, 0)

        again = await batch(market, seller, *items, whole=True)
        assert reasons(again) == ["BATCH_REFUSED", "INSUFFICIENT_STOCK", "BATCH_REFUSED"]
        items[1] = item(market.invoice(buyer, market.line(2)))
        assert reasons(await batch(market, seller, *items, whole=True)) == ["", "", ""]
        assert (await decision_of(market, seller, keys[0]))[0] == "SUCCEEDED"
        await stock_is(market, seller, 6)

    async def test_issues_none_when_a_number_is_used(self, market, seller, buyer):
        """Found only inside the transaction: it is rolled back, no number of the series is used up."""
        await market.issue(seller, market.invoice(buyer, market.line(sku=""), number="B/1"))
        keys = [fresh_key() for _ in range(3)]
        requests = [market.invoice(buyer), market.invoice(buyer, number="b/1"), market.invoice(buyer, number="B/2")]
        results = await batch(market, seller, *map(item, requests, keys), whole=True)
        assert reasons(results) == ["BATCH_REFUSED", "DOC_NUMBER_DUPLICATE", "BATCH_REFUSED"]
        await stock_is(market, seller, 0)
        assert [(await decision_of(market, seller, key))[0] for key in keys] == ["ABORTED", "FAILED", "ABORTED"]
        assert set((await hold_states(market, seller)).values()) == {"RELEASED"}
        assert (await market.issue(seller, requests[0], keys[0])).number == "INV/2627/00001"
        assert (await market.issue(seller, requests[2], keys[2])).number == "B/2"

    async def test_item_may_go_on_alone(self, market, seller, buyer):
        """A key told BATCH_REFUSED is retryable: alone it is issued; or, the stock gone, refused for good."""
        keys = [fresh_key(), fresh_key(), fresh_key()]
        requests = [
            market.invoice(buyer),
            market.invoice(buyer, market.line(500)),
            market.invoice(buyer, market.line(95)),
        ]
        await batch(market, seller, *map(item, requests, keys), whole=True)
        await stock_is(market, seller, 0)
        assert (await market.issue(seller, requests[0], keys[0])).version == 1
        refusal = await market.refused(market.invoices.CreateInvoice, requests[2], seller, keys[2])
        assert refusal.reason == "INSUFFICIENT_STOCK"
        assert (await decision_of(market, seller, keys[2]))[0] == "FAILED"

    async def test_item_is_not_refused_for_what_its_own_earlier_attempt_holds(self, market, seller, buyer, monkeypatch):
        """Repeated before its release was sent, a key wants more than is free beside its own hold: the hold is given
        back first. So also for a batch, and whichever of its earlier attempts it was."""
        monkeypatch.setattr(room_of(market).settlers.release, "soon", lambda holds: None)
        request, key = market.invoice(buyer, market.line(60)), fresh_key()
        for attempt in (1, 2):
            short = item(market.invoice(buyer, market.line(500)))
            results = await batch(market, seller, item(request, key), short, whole=True)
            assert reasons(results) == ["BATCH_REFUSED", "INSUFFICIENT_STOCK"]
            states = await hold_states(market, seller)
            assert [states[n] for n in range(1, attempt + 1)] == ["RELEASED"] * (attempt - 1) + ["PENDING"]

        assert (await market.issue(seller, request, key)).version == 1

        assert (await decision_of(market, seller, key))[:2] == ("SUCCEEDED", 3)
        await stock_is(market, seller, 60)

    async def test_refuses_one_key_twice(self, market, seller, buyer):
        """Every item brings a key of its own."""
        key = fresh_key()
        request = pb.BatchCreateInvoicesRequest(
            items=[item(market.invoice(buyer), key), item(market.invoice(buyer), key)], all_or_nothing=True
        )
        refusal = await market.refused(market.invoices.BatchCreateInvoices, request, seller, None)
        assert refusal.broken == {("items", "KEY_REPEATED")}

    async def test_outlives_a_caller_who_hangs_up(self, market, seller, buyer):
        """The client cancels at a random moment: all or none, never some; a retry gives the one result."""
        for after_ms in (1, 5, 10, 20, 40, 80):
            items = [item(market.invoice(buyer, market.line(1))) for _ in range(5)]
            request = pb.BatchCreateInvoicesRequest(items=items, all_or_nothing=True)
            sent = [("authorization", f"Bearer {seller.token}")]
            pending = market.invoices.BatchCreateInvoices(request, metadata=sent, timeout=10)
            await asyncio.wait([asyncio.ensure_future(_ended(pending))], timeout=after_ms / 1_000)
            pending.cancel()

            async def all_there(items=items) -> bool:
                return set(reasons(await batch(market, seller, *items, whole=True))) == {""}

            await market.until(all_there)
        await stock_is(market, seller, 30)
        assert await invoices_of(market, seller) == 30

    @pytest.mark.parametrize("copies", [2, 6])
    async def test_at_once_with_itself_issues_each_once(self, market, seller, buyer, copies):
        """Copies of a batch under way at once: each item one invoice; what is refused is CONCURRENT or retryable."""
        items = [item(market.invoice(buyer, market.line(1))) for _ in range(4)]
        results = await asyncio.gather(*(batch(market, seller, *items, whole=True) for _ in range(copies)))
        told = {reason for result in results for reason in reasons(result)}
        assert told <= {"", "CONCURRENT_REQUEST", "BATCH_REFUSED", "SAGA_ABORTED"}

        async def all_there() -> bool:
            return set(reasons(await batch(market, seller, *items, whole=True))) == {""}

        await market.until(all_there)
        assert await invoices_of(market, seller) == 4
        await stock_is(market, seller, 4)

    async def test_waits_for_a_busy_series_without_keeping_others_from_theirs(self, market, seller, buyer):
        """Sixteen batches of a series that another session holds: meanwhile another merchant is served, one by one and
        in batches of his own. Then each of the sixteen is whole, or told to come again; and comes."""
        other = await market.register("27")
        request = market.invoice(buyer, market.line(1, sku=""))
        for who in (seller, other):
            await market.issue(who, request)
        wholes = [[item(request) for _ in range(5)] for _ in range(16)]
        async with locked(market, COUNTERS, seller.merchant.merchant_id):
            asking = [asyncio.create_task(all_or_none(market, seller, items)) for items in wholes]
            await market.until(lambda: under_way(market, items=8 * 5))
            await market.until(lambda: market.sql("invoice", WAITERS))
            for _ in range(5):
                told = await asyncio.gather(all_or_none(market, other, [item(request)]), market.issue(other, request))
                assert told[0] == {""}
                assert len(await market.sql("invoice", WAITERS)) <= 1
            assert not any(one.done() for one in asking), "void: nothing waited"
        assert set().union(*await asyncio.gather(*asking)) <= {"", *RETRYABLE}

        async def all_there() -> bool:
            told = [await all_or_none(market, seller, items) for items in wholes]
            return told == [{""}] * 16

        await market.until(all_there)
        assert await invoices_of(market, seller) == 1 + 16 * 5

    async def test_beside_many_others_is_issued_whole_and_keeps_no_single_one_waiting(self, market, seller, buyer):
        """Sixteen batches of one series at once, stock and all, beside single creations of another merchant: those are
        all issued, within the time that a caller has."""
        other = await market.register("27")
        await market.stock_up(seller, units=1_000)
        await market.issue(other, market.invoice(buyer, market.line(1, sku="")))
        wholes = [[item(market.invoice(buyer, market.line(1))) for _ in range(20)] for _ in range(16)]
        asking = [asyncio.create_task(all_or_none(market, seller, items)) for items in wholes]
        while not all(one.done() for one in asking):
            single = await outcome(
                market, market.invoices.CreateInvoice, market.invoice(buyer, market.line(1, sku="")), other
            )
            assert isinstance(single, pb.Invoice), single
        assert set().union(*await asyncio.gather(*asking)) <= {"", *RETRYABLE}

        async def all_there() -> bool:
            return [await all_or_none(market, seller, items) for items in wholes] == [{""}] * 16

        await market.until(all_there)
        await stock_is(market, seller, 320)

    async def test_is_refused_when_too_many_wait(self, market, seller, buyer):
        """One has its turn and so many wait: the next is told at once, and nothing of it is begun."""
        await market.issue(seller, request := market.invoice(buyer, market.line(1, sku="")))
        asking = []
        async with room_of(market).deciding:
            for in_turn, wait in ((1, 0), (1, WHOLE_WAITING_MAX)):
                while len(asking) < in_turn + wait:
                    asking.append(asyncio.create_task(all_or_none(market, seller, [item(request)])))
                await market.until(lambda expected=(in_turn, wait): queue_is(market, *expected))
            assert await all_or_none(market, seller, [item(request, key := fresh_key())]) == {"BULKHEAD_FULL"}
        assert set().union(*await asyncio.gather(*asking)) <= {"", *RETRYABLE}
        assert await decision_of(market, seller, key) == ("", 0, "")


# What ends with one of these may be repeated with the same keys.
RETRYABLE = {
    "BATCH_REFUSED",
    "BULKHEAD_FULL",
    "CONCURRENT_REQUEST",
    "DEADLINE_TOO_SHORT",
    "DEPENDENCY_DOWN",
    "SAGA_ABORTED",
}


async def all_or_none(market: Market, who: Trader, items: list[pb.BatchCreateInvoicesItem]) -> set[str]:
    """What a batch of all or nothing was told: {""} if all are issued; never some of them."""
    request = pb.BatchCreateInvoicesRequest(items=items, all_or_nothing=True)
    answer = await outcome(market, market.invoices.BatchCreateInvoices, request, who, None)
    told = {answer.reason} if isinstance(answer, Refused) else set(reasons(answer.results))
    assert told == {""} or "" not in told
    return told


async def under_way(market: Market, *, items: int) -> bool:
    """Whether so many items have begun and are not answered, or more."""
    return len(room_of(market).outcomes._under_way) >= items


async def queue_is(market: Market, in_turn: int, waiting: int) -> bool:
    _server, running = market.running["invoice"]
    queue = running.servicers[0]._creating_whole
    return (len(queue._running), len(queue._waiting)) == (in_turn, waiting)


async def _ended(pending) -> None:
    import grpc

    try:
        await pending
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
