"""GetInvoice and ListInvoices: both sides, pages without gaps or repeats, filters that mean what they say."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import asyncpg
import pytest
from google.type import date_pb2

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.telemetry import PG_QUERY_SECONDS
from invochain.invoice import read_invoice
from tests.kit.market import Market, Trader


@dataclass
class Shelf:
    """A seller's invoices: to a buyer within the state and to one elsewhere; the buyer has sold one himself."""

    seller: Trader
    buyer: Trader
    elsewhere: Trader
    sold: list[pb.Invoice]
    bought: pb.Invoice


@pytest.fixture(scope="module")
async def shelf(market: Market) -> Shelf:
    seller, buyer, elsewhere = [await market.register(state) for state in ("27", "27", "29")]
    sold = []
    for n in range(12):
        request = market.invoice(
            elsewhere if n % 3 == 2 else buyer,
            market.line(1, 100 * (n + 1), sku=""),
            number=f"N/{n:02d}",
            invoice_date=date_pb2.Date(year=2026, month=9 if n < 6 else 10, day=n + 1),
        )
        sold.append(await market.issue(seller, request))
    bought = await market.issue(buyer, market.invoice(seller, market.line(1, 7, sku="")))
    for n, action in ((0, "accept"), (1, "reject")):
        if action == "accept":
            request = pb.AcceptInvoiceRequest(invoice_id=sold[n].invoice_id)
            await market.call(market.invoices.AcceptInvoice, request, buyer)
        else:
            request = pb.RejectInvoiceRequest(invoice_id=sold[n].invoice_id, reason="no")
            await market.call(market.invoices.RejectInvoice, request, buyer)
    return Shelf(seller, buyer, elsewhere, sold, bought)


async def page(market: Market, who: Trader, **asked) -> pb.ListInvoicesResponse:
    return await market.call(market.invoices.ListInvoices, pb.ListInvoicesRequest(**asked), who, None)


async def refused(market: Market, who: Trader, **asked):
    return await market.refused(market.invoices.ListInvoices, pb.ListInvoicesRequest(**asked), who, None)


async def every_page(market: Market, who: Trader, **asked) -> list[pb.Invoice]:
    found, token = [], ""
    while True:
        one = await page(market, who, page_token=token, **asked)
        found += one.invoices
        token = one.next_page_token
        if not token:
            return found


def numbers(invoices) -> list[str]:
    return [invoice.number for invoice in invoices]


class TestGet:
    async def test_shows_each_side_its_own_actions(self, market, shelf):
        """The same invoice with lines; what may be done differs."""
        request = pb.GetInvoiceRequest(invoice_id=shelf.sold[3].invoice_id)
        mine = await market.call(market.invoices.GetInvoice, request, shelf.seller, None)
        theirs = await market.call(market.invoices.GetInvoice, request, shelf.buyer, None)
        assert list(mine.allowed_actions) == ["cancel"]
        assert list(theirs.allowed_actions) == ["accept", "reject", "request_edit"]
        for one in (mine, theirs):
            del one.allowed_actions[:]
        assert mine == theirs
        assert (len(mine.lines), mine.totals.total_paise) == (1, 47_200)

    async def test_takes_an_id_in_capitals(self, market, shelf):
        """Ids are UUIDs: their case does not matter, or they are refused by name."""
        request = pb.GetInvoiceRequest(invoice_id=shelf.sold[3].invoice_id.upper())
        try:
            found = await market.call(market.invoices.GetInvoice, request, shelf.seller, None)
        except Exception as error:  # noqa: BLE001
            assert "invoice_id" in str(error)
        else:
            assert found.number == "N/03"

    @pytest.mark.parametrize("invoice_id", ["", "x", "N/03", "0" * 36, "x" * 1_000_000])
    async def test_of_what_is_no_id_is_refused(self, market, shelf, invoice_id):
        """Named, in short, whatever came."""
        request = pb.GetInvoiceRequest(invoice_id=invoice_id)
        refusal = await market.refused(market.invoices.GetInvoice, request, shelf.seller, None)
        assert (refusal.code, {f for f, _ in refusal.broken}) == ("INVALID_ARGUMENT", {"invoice_id"})
        assert len(refusal.message) < 500

    async def test_that_waits_for_a_lock_too_long_may_be_asked_again(self, market, shelf):
        """lock_timeout is nobody's mistake: UNAVAILABLE, not INTERNAL (PROTOCOL 9)."""
        holder = await asyncpg.connect(market.databases["invoice"])
        async with holder.transaction():
            await holder.execute("LOCK TABLE invoice IN ACCESS EXCLUSIVE MODE")
            request = pb.GetInvoiceRequest(invoice_id=shelf.sold[0].invoice_id)
            refused = await market.refused(market.invoices.GetInvoice, request, shelf.seller, None)
        await holder.close()
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")


class TestSides:
    async def test_show_what_was_sold_what_was_bought_and_both(self, market, shelf):
        """Newest first; both sides merged by time."""
        sold = list(reversed(numbers(shelf.sold)))
        assert numbers((await page(market, shelf.seller, side="SOLD")).invoices) == sold
        assert numbers((await page(market, shelf.seller, side="BOUGHT")).invoices) == [shelf.bought.number]
        assert numbers((await page(market, shelf.seller)).invoices) == [shelf.bought.number, *sold]
        assert numbers((await page(market, shelf.elsewhere)).invoices) == ["N/11", "N/08", "N/05", "N/02"]
        assert numbers((await page(market, shelf.elsewhere, side="SOLD")).invoices) == []

    async def test_never_show_another_merchants(self, market, shelf):
        """Whatever the filter says."""
        stranger = await market.register("27")
        for asked in ({}, {"filter": f"seller_gstin = {shelf.seller.gstin}"}, {"filter": 'number = "N/03"'}):
            assert (await page(market, stranger, **asked)).invoices == []


class TestViews:
    async def test_leave_the_lines_out_unless_asked(self, market, shelf):
        """BASIC by default; FULL is what Get shows; all else is equal."""
        basic = (await page(market, shelf.seller, filter='number = "N/04"')).invoices[0]
        full = (await page(market, shelf.seller, filter='number = "N/04"', view="FULL")).invoices[0]
        assert (len(basic.lines), len(full.lines)) == (0, 1)
        got = await market.call(
            market.invoices.GetInvoice, pb.GetInvoiceRequest(invoice_id=basic.invoice_id), shelf.seller, None
        )
        assert full == got
        del full.lines[:]
        assert basic == full

    async def test_show_what_changed_since_the_issue(self, market, shelf):
        """State, version, reason and actions are today's."""
        (rejected,) = (await page(market, shelf.seller, filter="state = REJECTED")).invoices
        assert (rejected.number, rejected.version, rejected.state_reason) == ("N/01", 2, "no")
        assert list(rejected.allowed_actions) == []


class TestPages:
    @pytest.mark.parametrize("order", ["", "create_time desc", "create_time asc", "create_time"])
    @pytest.mark.parametrize("size", [1, 2, 5, 13, 500])
    async def test_put_together_are_the_whole_list(self, market, shelf, order, size):
        """No gap and no repeat at any size, in either order, also where both sides are merged."""
        newest_first = [shelf.bought.number, *reversed(numbers(shelf.sold))]
        wanted = newest_first if order in ("", "create_time desc") else newest_first[::-1]
        assert numbers(await every_page(market, shelf.seller, page_size=size, order_by=order)) == wanted

    async def test_have_no_gap_while_invoices_are_written(self, market):
        """Newest first, invoices issued between and during the pages: what was there at the start is seen once each."""
        seller, buyer = await market.register("27"), await market.register("27")
        there = await asyncio.gather(
            *(market.issue(seller, market.invoice(buyer, market.line(1, sku=""))) for _ in range(30))
        )
        writing = True

        async def write() -> None:
            while writing:
                await market.issue(seller, market.invoice(buyer, market.line(1, sku="")))

        writer = asyncio.create_task(write())
        try:
            for _ in range(3):
                seen = [i.invoice_id for i in await every_page(market, seller, page_size=4)]
                assert len(seen) == len(set(seen))
                assert {i.invoice_id for i in there} <= set(seen)
        finally:
            writing = False
            await writer

    async def test_of_invoices_of_one_instant_are_told_apart_by_id(self, market):
        """A batch has one creation time: pages of one still show each once."""
        seller, buyer = await market.register("27"), await market.register("27")
        items = [
            pb.BatchCreateInvoicesItem(
                invoice=market.invoice(buyer, market.line(1, sku="")).invoice, idempotency_key=f"one-instant-{n:04d}"
            )
            for n in range(7)
        ]
        await market.call(market.invoices.BatchCreateInvoices, pb.BatchCreateInvoicesRequest(items=items), seller, None)
        for order in ("create_time desc", "create_time asc"):
            seen = numbers(await every_page(market, seller, page_size=1, order_by=order))
            assert sorted(seen) == [f"INV/2627/{n:05d}" for n in range(1, 8)]

    async def test_have_at_most_500_and_by_default_50(self, market):
        """0 means 50, more than 500 means 500, a negative size is refused."""
        seller, buyer = await market.register("27"), await market.register("27")
        items = [
            pb.BatchCreateInvoicesItem(
                invoice=market.invoice(buyer, market.line(1, sku="")).invoice, idempotency_key=f"page-size-{n:06d}"
            )
            for n in range(501)
        ]
        for part in (items[:500], items[500:]):
            request = pb.BatchCreateInvoicesRequest(items=part)
            await market.call(market.invoices.BatchCreateInvoices, request, seller, None)
        sizes = [len((await page(market, seller, page_size=size)).invoices) for size in (0, 1, 500, 501, 2**31 - 1)]
        assert sizes == [50, 1, 500, 500, 500]
        refusal = await refused(market, seller, page_size=-1)
        assert refusal.broken == {("page_size", "PAGE_SIZE_NEGATIVE")}

    @pytest.mark.parametrize("order", ["create_time desc", "create_time asc"])
    @pytest.mark.parametrize("walked", [2, 5, 13])
    async def test_of_a_filter_that_few_satisfy_may_be_short_and_miss_none(
        self, market, shelf, monkeypatch, order, walked
    ):
        """A page ends after so many rows looked at, with a token; put together the pages are the whole list."""
        monkeypatch.setattr(read_invoice, "WALKED_MAX", walked)
        for text, wanted in (
            ("total_paise = 35400", {"N/02"}),
            ("total_paise > 1000000", set()),
            ("state = REJECTED", {"N/01"}),
        ):
            asked = {"filter": text, "order_by": order}
            assert set(numbers(await every_page(market, shelf.seller, page_size=1, **asked))) == wanted
        first = await page(market, shelf.seller, filter="total_paise > 1000000", order_by=order)
        assert (len(first.invoices), bool(first.next_page_token)) == (0, True)


class TestAToken:
    async def test_belongs_to_its_list_and_its_caller(self, market, shelf):
        """Another filter, order, side or caller: PAGE_TOKEN_MISMATCH. Another size or view is no other list."""
        token = (await page(market, shelf.seller, page_size=2)).next_page_token
        for who, asked in (
            (shelf.seller, {"filter": "state = ISSUED"}),
            (shelf.seller, {"order_by": "create_time asc"}),
            (shelf.seller, {"side": "SOLD"}),
            (shelf.buyer, {}),
        ):
            refusal = await refused(market, who, page_token=token, **asked)
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "PAGE_TOKEN_MISMATCH")
        assert len((await page(market, shelf.seller, page_token=token, page_size=3, view="FULL")).invoices) == 3

    async def test_that_was_changed_is_refused(self, market, shelf):
        """Each character changed, cut, or grown: refused, never another page and never INTERNAL."""
        token = (await page(market, shelf.seller, page_size=2)).next_page_token
        spoilt = [token[:i] + ("A" if token[i] != "A" else "B") + token[i + 1 :] for i in range(0, len(token), 9)]
        for bad in (*spoilt, token[:-1], token + "A", token * 20, "x", "é", "\x00"):
            assert (await refused(market, shelf.seller, page_token=bad)).reason == "PAGE_TOKEN_MISMATCH"


FILTERS = [
    ("state = ISSUED", range(2, 12)),
    ("state = ACCEPTED", [0]),
    ('state = "REJECTED"', [1]),
    ('number = "N/03"', [3]),
    ("number = n/03", [3]),
    ("financial_year = 2026-27", range(12)),
    ("financial_year = 2025-26", []),
    ("supply_type = B2B", range(12)),
    ("supply_type = SEZWP", []),
    ("doc_type = INV", range(12)),
    ("invoice_date = 2026-09-03", [2]),
    ("invoice_date >= 2026-10-01", range(6, 12)),
    ("invoice_date > 2026-10-07", range(7, 12)),
    ("invoice_date < 2026-09-03", [0, 1]),
    ("invoice_date <= 2026-09-03", [0, 1, 2]),
    ("invoice_date >= 2026-09-03 AND invoice_date <= 2026-09-05", [2, 3, 4]),
    ("invoice_date >= 2026-09-03 AND invoice_date >= 2026-09-01 AND invoice_date < 2026-09-05", [2, 3]),
    ("invoice_date > 2026-09-05 AND invoice_date < 2026-09-05", []),
    ("total_paise = 35400", [2]),
    ("total_paise > 35400 AND total_paise < 59000", [3]),
    ("total_paise >= 35400 AND total_paise <= 59000", [2, 3, 4]),
    ("total_paise >= -5", range(12)),
    ("state = ISSUED AND total_paise < 40000", [2]),
]


class TestAFilter:
    @pytest.mark.parametrize(("text", "wanted"), FILTERS, ids=[text for text, _ in FILTERS])
    async def test_finds_what_it_says(self, market, shelf, text, wanted):
        """All terms hold together; the answer is the same page by page."""
        found = numbers(await every_page(market, shelf.seller, filter=text, side="SOLD", page_size=4))
        assert sorted(found) == [f"N/{n:02d}" for n in wanted]

    async def test_by_gstin_finds_a_party(self, market, shelf):
        """Buyer's and seller's."""
        found = await page(market, shelf.seller, filter=f"buyer_gstin = {shelf.elsewhere.gstin}")
        assert sorted(numbers(found.invoices)) == ["N/02", "N/05", "N/08", "N/11"]
        found = await page(market, shelf.seller, filter=f"seller_gstin = {shelf.buyer.gstin}")
        assert numbers(found.invoices) == [shelf.bought.number]

    @pytest.mark.parametrize(
        "text",
        [
            "colour = red",
            "state",
            "state =",
            "state > ISSUED",
            "state = SOMEHOW",
            "supply_type = B3B",
            "state = ISSUED OR state = ACCEPTED",
            "state = ISSUED AND state = ACCEPTED",
            "state = ISSUED AND",
            "NOT state = ISSUED",
            "invoice_date = yesterday",
            "invoice_date = 2026-02-30",
            "invoice_date > 9999-12-31",
            "invoice_date < 0001-01-01",
            "total_paise = 354.00",
            "total_paise = 1e3",
            "total_paise = 1_000",
            "total_paise = ٣",
            "total_paise > 99999999999999999999",
            "total_paise > 9223372036854775807",
            "total_paise < -9223372036854775808",
            'number = "\x00"',
            'number = "a\x1b"',
            "number = 'x'; DROP TABLE invoice",
            "x" * 501,
        ],
    )
    async def test_that_it_cannot_read_is_refused(self, market, shelf, text):
        """INVALID_ARGUMENT on `filter` with what was found; never an empty list, never INTERNAL."""
        refusal = await refused(market, shelf.seller, filter=text)
        assert (refusal.code, {field for field, _ in refusal.broken}) == ("INVALID_ARGUMENT", {"filter"})

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"order_by": "total_paise desc"}, "order_by"),
            ({"order_by": "create_time sideways"}, "order_by"),
            ({"order_by": "create_time desc, number"}, "order_by"),
            ({"side": 7}, "side"),
            ({"view": 7}, "view"),
        ],
    )
    async def test_beside_an_unknown_order_side_or_view_is_refused(self, market, shelf, asked, field):
        """Named."""
        refusal = await refused(market, shelf.seller, **asked)
        assert (refusal.code, {f for f, _ in refusal.broken}) == ("INVALID_ARGUMENT", {field})


class TestTheCost:
    @pytest.mark.parametrize("view", [pb.BASIC, pb.FULL])
    async def test_a_page_is_one_statement_however_long_it_is(self, market: Market, shelf: Shelf, view):
        """No statement for each invoice or each line of it, with lines asked for or not (no N+1)."""
        for size in (1, 5, 500):
            before = asked_of_postgres()
            found = await page(market, shelf.seller, page_size=size, view=view)
            assert len(found.invoices) == min(size, 13)
            assert asked_of_postgres() - before == {"invoice_list_newest_first": 1}


def asked_of_postgres() -> Counter[str]:
    """How often each statement was run by this process; without what watches the databases in the background."""
    samples = next(iter(PG_QUERY_SECONDS.collect())).samples
    counts = {s.labels["statement"]: int(s.value) for s in samples if s.name.endswith("_count")}
    return Counter({name: n for name, n in counts.items() if name.startswith(("invoice_", "move_", "decide_"))})
