"""Bad input: a refusal that names the field, what was found and what is wanted, all at once; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from google.type import date_pb2

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import codes, fields, row_counts
from tests.kit.market import Market, Refused, Trader, fresh_gstin, fresh_key

MAX = 2**63 - 1
LINE = "invoice.lines[0]."


def day(year: int, month: int, day_: int) -> date_pb2.Date:
    return date_pb2.Date(year=year, month=month, day=day_)


@pytest.fixture(scope="module")
async def trade(market: Market) -> tuple[Trader, Trader]:
    """A seller with stock and a buyer that all these tests share: no bad request may change anything of theirs."""
    seller = await market.register("27")
    await market.stock_up(seller, units=10_000)
    return seller, await market.register("27")


# Field of a line -> value -> the violation's code, on that field unless another is named.
LINES = [
    ({"quantity_milli": 0}, "quantity_milli", "QTY_NOT_POSITIVE"),
    ({"quantity_milli": -1}, "quantity_milli", "NEGATIVE_AMOUNT"),
    ({"quantity_milli": 10**13}, "quantity_milli", "AMOUNT_OUT_OF_RANGE"),
    ({"quantity_milli": MAX}, "quantity_milli", "AMOUNT_OUT_OF_RANGE"),
    ({"quantity_milli": -MAX - 1}, "quantity_milli", "NEGATIVE_AMOUNT"),
    ({"unit_price_milli": -1}, "unit_price_milli", "NEGATIVE_AMOUNT"),
    ({"unit_price_milli": 10**15}, "unit_price_milli", "AMOUNT_OUT_OF_RANGE"),
    ({"unit_price_milli": MAX}, "unit_price_milli", "AMOUNT_OUT_OF_RANGE"),
    ({"unit_price_milli": 10**15 - 1, "quantity_milli": 10**13 - 1}, "gross_paise", "AMOUNT_OVERFLOW"),
    ({"gst_rate_milli": 100_010}, "gst_rate_milli", "GST_RATE_UNKNOWN"),
    ({"gst_rate_milli": 17_000}, "gst_rate_milli", "GST_RATE_UNKNOWN"),
    ({"gst_rate_milli": -1}, "gst_rate_milli", "NEGATIVE_AMOUNT"),
    ({"gst_rate_milli": 2**31 - 1}, "gst_rate_milli", None),
    ({"discount_paise": -1}, "discount_paise", "NEGATIVE_AMOUNT"),
    ({"discount_paise": 1_000_001}, "discount_paise", "DISCOUNT_EXCEEDS_GROSS"),
    ({"discount_paise": MAX}, "discount_paise", None),
    ({"cess_rate_milli": -5}, "cess_rate_milli", "NEGATIVE_AMOUNT"),
    ({"cess_nonadvol_paise": -5}, "cess_nonadvol_paise", "NEGATIVE_AMOUNT"),
    ({"other_charges_paise": -5}, "other_charges_paise", "NEGATIVE_AMOUNT"),
    ({"other_charges_paise": MAX}, "other_charges_paise", "AMOUNT_OUT_OF_RANGE"),
    ({"gross_paise": 1_000_001}, "gross_paise", "GROSS_MISMATCH"),
    ({"taxable_paise": 999_999}, "taxable_paise", "TAXABLE_MISMATCH"),
    ({"cgst_paise": 90_001}, "cgst_paise", "TAX_AMOUNT_MISMATCH"),
    ({"sgst_paise": 89_999}, "sgst_paise", "TAX_AMOUNT_MISMATCH"),
    ({"igst_paise": 180_000}, "igst_paise", None),
    ({"total_paise": 1_180_001}, "total_paise", "LINE_TOTAL_MISMATCH"),
    ({"total_paise": MAX}, "total_paise", None),
    ({"hsn": "7"}, "hsn", "HSN_FORMAT_INVALID"),
    ({"hsn": "７３１８１５"}, "hsn", "HSN_FORMAT_INVALID"),
    ({"hsn": "998314"}, "hsn", None),
    ({"unit": "XYZ"}, "unit", "UQC_INVALID"),
    ({"unit": "nos"}, "unit", "UQC_INVALID"),
    ({"unit": ""}, "unit", None),
    ({"sku": "BOLT M8"}, "sku", "SKU_INVALID"),
    ({"sku": "BOLT\u200d-M8"}, "sku", "SKU_INVALID"),
    ({"sku": "\u0410BC"}, "sku", "SKU_INVALID"),
    ({"sku": "BOLT-M8 "}, "sku", "SKU_INVALID"),
    ({"sku": "BOLT\x00"}, "sku", "SKU_INVALID"),
    ({"sku": "A" * 81}, "sku", "SKU_INVALID"),
    ({"is_service": True, "hsn": "998314"}, "sku", "SKU_ON_SERVICE"),
    ({"serial_number": "0x1"}, "serial_number", "ITEM_SL_INVALID"),
    ({"serial_number": "1\x00"}, "serial_number", "ITEM_SL_INVALID"),
    ({"description": "ab"}, "description", "TEXT_LENGTH"),
    ({"description": "a" * 301}, "description", "TEXT_LENGTH"),
    ({"description": "bolt\x1b[31m"}, "description", "TEXT_CONTROL_CHARACTER"),
    ({"description": "bolt\r\nDROP"}, "description", "TEXT_CONTROL_CHARACTER"),
]

# Fields of the document -> path -> code.
DOCUMENTS = [
    ({"number": "-ABC"}, "number", "DOC_NUMBER_LEADING_CHAR"),
    ({"number": "0ABC"}, "number", "DOC_NUMBER_LEADING_CHAR"),
    ({"number": "A" * 17}, "number", "DOC_NUMBER_TOO_LONG"),
    ({"number": "ＩＮＶ1"}, "number", "DOC_NUMBER_CHARSET"),
    ({"number": "\u0410BC/1"}, "number", "DOC_NUMBER_CHARSET"),
    ({"number": "INV\u200d1"}, "number", "DOC_NUMBER_CHARSET"),
    ({"number": "INV 1"}, "number", "DOC_NUMBER_CHARSET"),
    ({"number": "INV1\x00"}, "number", "DOC_NUMBER_CHARSET"),
    ({"series": "TOOLONG"}, "series", "SERIES_INVALID"),
    ({"series": "inv"}, "series", "SERIES_INVALID"),
    ({"series": "0A"}, "series", "SERIES_INVALID"),
    ({"series": "A", "number": "X/1"}, "series", "SERIES_WITH_NUMBER"),
    ({"invoice_date": day(2027, 1, 1)}, "invoice_date", "DATE_IN_FUTURE"),
    ({"invoice_date": day(2017, 6, 30)}, "invoice_date", "DATE_BEFORE_GST"),
    ({"invoice_date": day(1969, 12, 31)}, "invoice_date", "DATE_BEFORE_GST"),
    ({"invoice_date": day(2026, 2, 29)}, "invoice_date", "DATE_INVALID"),
    ({"invoice_date": day(-1, 13, 300)}, "invoice_date", "DATE_INVALID"),
    ({"invoice_date": day(0, 0, 0)}, "invoice_date", "DATE_INVALID"),
    ({"due_date": day(2026, 2, 31)}, "due_date", "DATE_INVALID"),
    ({"notes": "x" * 2_001}, "notes", "TEXT_LENGTH"),
    ({"notes": "nul\x00"}, "notes", "TEXT_CONTROL_CHARACTER"),
    ({"doc_type": "CRN"}, "doc_type", "DOC_TYPE_NOT_ISSUED_HERE"),
    ({"doc_type": 77}, "doc_type", None),
    ({"supply_type": 99}, "supply_type", "SUPPLY_TYPE_INVALID"),
    ({"supply_type": 0}, "supply_type", "SUPPLY_TYPE_INVALID"),
    ({"pos": "00"}, "buyer.place_of_supply", "POS_INVALID"),
    ({"ecommerce_gstin": "x"}, "ecommerce_gstin", "ECOMMERCE_GSTIN_NOT_TCS"),
    ({"original": pb.OriginalDocument(number="A/1")}, "original", "ORIGINAL_NOT_ALLOWED"),
    ({"totals": pb.Totals(round_off_paise=10_000)}, "totals.round_off_paise", "ROUND_OFF_OUT_OF_RANGE"),
    ({"totals": pb.Totals(discount_paise=-1)}, "totals.discount_paise", "NEGATIVE_AMOUNT"),
    ({"totals": pb.Totals(round_off_mode=9)}, "totals.round_off_mode", None),
    ({"totals": pb.Totals(taxable_paise=1_000_001)}, "totals.taxable_paise", None),
    ({"totals": pb.Totals(total_paise=1_179_999)}, "totals.total_paise", "DOCUMENT_TOTAL_MISMATCH"),
    ({"seller": pb.Party(place_of_supply="27")}, "seller.place_of_supply", "FIELD_NOT_ALLOWED"),
    ({"seller": pb.Party(state="29")}, "seller.state", "SELLER_NOT_CALLER"),
    ({"seller": pb.Party(annual_turnover_paise=1)}, "seller.annual_turnover_paise", "FIELD_NOT_ALLOWED"),
    ({"ship_to": pb.Party(gstin="27AAPFU0939F1ZA")}, "ship_to.gstin", "GSTIN_CHECKSUM_INVALID"),
    ({"ship_to": pb.Party(state="4711")}, "ship_to.state", "STATE_CODE_INVALID"),
    ({"dispatch_from": pb.Party(gstin="nobody\x00")}, "dispatch_from.gstin", "GSTIN_LENGTH_INVALID"),
    ({"dispatch_from": pb.Party(phone="+91")}, "dispatch_from.phone", "PHONE_INVALID"),
    (
        {"ship_to": pb.Party(address=pb.PostalAddress(pin_code="012345"))},
        "ship_to.address.pin_code",
        "PIN_INVALID",
    ),
]

OUTPUT_ONLY = {
    "invoice_id": "018f0000-0000-7000-8000-000000000000",
    "merchant_id": "018f0000-0000-7000-8000-000000000000",
    "buyer_merchant_id": "018f0000-0000-7000-8000-000000000000",
    "state": "ACCEPTED",
    "version": 7,
    "etag": "7",
    "financial_year": "2026-27",
    "inter_state": True,
    "create_time": {"seconds": 1},
    "update_time": {"seconds": 1},
    "allowed_actions": ["accept"],
    "compliance_status": "COMPLIANT",
    "violations": [{"field": "x"}],
    "state_reason": "because",
}


async def refused_without_trace(
    market: Market, seller: Trader, bad: pb.CreateInvoiceRequest, good: pb.CreateInvoiceRequest
) -> Refused:
    """The refusal of a bad request; no table has a row more, and the corrected request succeeds under the same key."""
    key, before = fresh_key(), await row_counts(market)
    refusal = await market.refused(market.invoices.CreateInvoice, bad, seller, key)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED"), refusal
    assert await row_counts(market) == before
    assert (await market.issue(seller, good, key)).version == 1
    assert "x-idempotent-replayed" not in market.last_metadata
    return refusal


class TestALine:
    @pytest.mark.parametrize(("bad", "field", "code"), LINES)
    async def test_that_is_wrong_is_named(self, market, trade, bad, field, code):
        """The field, and nothing but this line; the key is free for the corrected request."""
        seller, buyer = trade
        line = market.line(**bad) if "sku" in bad or bad.get("is_service") else market.line(**{"sku": "", **bad})
        good = market.invoice(buyer, market.line(sku=""))
        refusal = await refused_without_trace(market, seller, market.invoice(buyer, line), good)
        assert LINE + field in fields(refusal), refusal.broken
        assert code is None or (LINE + field, code) in refusal.broken
        assert "found" in refusal.message

    async def test_that_is_absent_is_named(self, market, trade):
        """No lines; 1,001 lines."""
        seller, buyer = trade
        good = market.invoice(buyer, market.line(sku=""))
        none = market.invoice(buyer)
        del none.invoice.lines[:]
        assert ("invoice.lines", "ITEMS_EMPTY") in (await refused_without_trace(market, seller, none, good)).broken
        many = market.invoice(buyer, *[market.line(1, sku="")] * 1_001)
        assert ("invoice.lines", "ITEMS_TOO_MANY") in (await refused_without_trace(market, seller, many, good)).broken

    async def test_thousand_of_them_are_taken(self, market, trade):
        """1,000 lines of one SKU: one invoice, their demand summed into one hold."""
        seller, buyer = trade
        invoice = await market.issue(seller, market.invoice(buyer, *[market.line(1)] * 1_000))
        assert (len(invoice.lines), invoice.lines[999].serial_number) == (1_000, "1000")
        rows = await market.sql(
            "inventory",
            "SELECT quantities_milli FROM reservation WHERE merchant_id = $1::text::uuid",
            seller.merchant.merchant_id,
        )
        assert [row["quantities_milli"] for row in rows] == [[1_000_000]]


class TestADocument:
    @pytest.mark.parametrize(("bad", "field", "code"), DOCUMENTS)
    async def test_that_is_wrong_is_named(self, market, trade, bad, field, code):
        """The field by its path in the request; the key is free for the corrected request."""
        seller, buyer = trade
        line = market.line(sku="")
        good = market.invoice(buyer, line)
        refusal = await refused_without_trace(market, seller, market.invoice(buyer, line, **bad), good)
        assert f"invoice.{field}" in fields(refusal), refusal.broken
        assert code is None or (f"invoice.{field}", code) in refusal.broken

    @pytest.mark.parametrize("field", OUTPUT_ONLY)
    async def test_with_what_the_server_sets_is_refused(self, market, trade, field):
        """State, ids, times and versions are never read from input."""
        seller, buyer = trade
        line = market.line(sku="")
        bad = market.invoice(buyer, line)
        bad.MergeFrom(pb.CreateInvoiceRequest(invoice=pb.Invoice(**{field: OUTPUT_ONLY[field]})))
        refusal = await refused_without_trace(market, seller, bad, market.invoice(buyer, line))
        assert (f"invoice.{field}", "OUTPUT_ONLY") in refusal.broken

    async def test_of_the_old_samples_shows_both_figures(self, market, trade):
        """15000 for an item of 11800: found 15000.00, wanted 11800.00."""
        seller, buyer = trade
        bad = market.invoice(buyer, market.line(sku=""), totals=pb.Totals(total_paise=1_500_000))
        good = market.invoice(buyer, market.line(sku=""), totals=pb.Totals(total_paise=1_180_000))
        refusal = await refused_without_trace(market, seller, bad, good)
        assert refusal.broken == {("invoice.totals.total_paise", "DOCUMENT_TOTAL_MISMATCH")}
        assert "15000.00" in refusal.message
        assert "11800.00" in refusal.message

    async def test_names_everything_at_once(self, market, trade):
        """Broken fields of several lines, the buyer and the document are told together."""
        seller, buyer = trade
        bad = market.invoice(
            buyer.gstin[:-1] + "?",
            market.line(sku="", quantity_milli=-1),
            market.line(sku="", hsn="7"),
            market.line(sku="bad sku"),
            number="-1",
            notes="x" * 3_000,
        )
        refusal = await refused_without_trace(market, seller, bad, market.invoice(buyer, market.line(sku="")))
        assert {
            "invoice.lines[0].quantity_milli",
            "invoice.lines[1].hsn",
            "invoice.lines[2].sku",
            "invoice.notes",
        } <= set(fields(refusal))

    async def test_with_a_thousand_broken_lines_is_told_so_and_not_cut_off(self, market, trade):
        """The details fit into what headers may carry, the message counts all; ValidateInvoice lists every one."""
        seller, buyer = trade
        bad = market.invoice(buyer, *[market.line(1, sku="", hsn="7", quantity_milli=-1)] * 1_000)
        refusal = await refused_without_trace(market, seller, bad, market.invoice(buyer, market.line(sku="")))
        assert len(refusal.broken) >= 10
        assert "more)" in refusal.message
        dry = pb.ValidateInvoiceRequest(invoice=bad.invoice)
        answer = await market.call(market.invoices.ValidateInvoice, dry, seller, None)
        assert len(answer.violations) >= 1_000

    @pytest.mark.parametrize("field", ["number", "series", "notes"])
    async def test_with_a_megabyte_in_a_text_is_told_so(self, market, trade, field):
        """What was found is shown in short: the refusal stays readable."""
        seller, buyer = trade
        bad = market.invoice(buyer, market.line(sku=""), **{field: "A" * 1_000_000})
        refusal = await refused_without_trace(market, seller, bad, market.invoice(buyer, market.line(sku="")))
        assert f"invoice.{field}" in fields(refusal)
        assert len(refusal.message) < 500


class TestAParty:
    async def test_with_a_wrong_check_character_is_told_the_right_one(self, market, trade):
        """One character off: found, and which one it should be."""
        seller, buyer = trade
        right = buyer.gstin[-1]
        wrong = buyer.gstin[:-1] + ("A" if right != "A" else "B")
        good = market.invoice(buyer, market.line(sku=""))
        refusal = await refused_without_trace(market, seller, market.invoice(wrong, market.line(sku="")), good)
        assert ("invoice.buyer.gstin", "GSTIN_CHECKSUM_INVALID") in refusal.broken
        assert wrong in refusal.message
        assert f"check character {right}" in refusal.message

    @pytest.mark.parametrize("gstin", ["", "27AAACM0001", "27aaacm0001a1zq", "２7AAACM0001A1ZQ", "x" * 15, "URP"])
    async def test_without_a_registration_cannot_buy_b2b(self, market, trade, gstin):
        """Empty, short, lower case, fullwidth, nonsense, URP: named on the buyer's GSTIN."""
        seller, buyer = trade
        bad = market.invoice(gstin, market.line(sku=""), pos="27")
        refusal = await refused_without_trace(market, seller, bad, market.invoice(buyer, market.line(sku="")))
        assert "invoice.buyer.gstin" in fields(refusal)

    async def test_cannot_sell_in_anothers_name(self, market, trade):
        """The seller is the merchant of the token; a body that names another is refused."""
        seller, buyer = trade
        line = market.line(sku="")
        bad = market.invoice(fresh_gstin("27"), line, seller=pb.Party(gstin=buyer.gstin))
        good = market.invoice(buyer, line, seller=pb.Party(gstin=seller.gstin, state="27"))
        refusal = await refused_without_trace(market, seller, bad, good)
        assert refusal.broken == {("invoice.seller.gstin", "SELLER_NOT_CALLER")}


class TestStock:
    async def test_that_is_unknown_is_named(self, market, trade):
        """NOT_FOUND with the SKU; final for the key."""
        seller, buyer = trade
        key, request = fresh_key(), market.invoice(buyer, market.line(sku="NO-SUCH"))
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        assert (refusal.code, refusal.reason, refusal.facts["sku"]) == ("NOT_FOUND", "SKU_NOT_FOUND", "NO-SUCH")
        again = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        assert (again.reason, again.replayed) == ("SKU_NOT_FOUND", True)

    async def test_that_is_too_little_says_which_how_much_and_what_is_free(self, market, seller, buyer):
        """SKU, asked and free; the demand is summed over the lines; nothing is held."""
        request = market.invoice(buyer, market.line(60), market.line(60, sku="bolt-m8"))
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller)
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "INSUFFICIENT_STOCK")
        facts = {name: refusal.facts[name] for name in ("sku", "asked_milli", "free_milli")}
        assert facts == {"sku": "BOLT-M8", "asked_milli": "120000", "free_milli": "100000"}
        assert await market.stock(seller) == (100, 0)

    async def test_in_another_unit_is_refused(self, market, seller, buyer):
        """Bolts are counted in NOS, ten kilograms of them are not sold."""
        refusal = await market.refused(
            market.invoices.CreateInvoice, market.invoice(buyer, market.line(unit="KGS")), seller
        )
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "UNIT_MISMATCH")
        assert await market.stock(seller) == (100, 0)


class TestTheKey:
    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            (None, "IDEMPOTENCY_KEY_REQUIRED"),
            ("k" * 15, "IDEMPOTENCY_KEY_INVALID"),
            ("k" * 129, "IDEMPOTENCY_KEY_INVALID"),
            ("key with a blank in it", "IDEMPOTENCY_KEY_INVALID"),
            ('"quoted-key-of-22-char"', "IDEMPOTENCY_KEY_INVALID"),
        ],
    )
    async def test_that_is_missing_or_malformed_is_refused(self, market, trade, key, reason):
        """For every method that changes something; nothing is stored."""
        seller, buyer = trade
        before = await row_counts(market)
        somewhere = "018f0000-0000-7000-8000-000000000000"
        for method, request in (
            (market.invoices.CreateInvoice, market.invoice(buyer, market.line(sku=""))),
            (market.invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=somewhere)),
            (market.invoices.RejectInvoice, pb.RejectInvoiceRequest(invoice_id=somewhere, reason="no")),
            (market.invoices.RequestEdit, pb.RequestEditRequest(invoice_id=somewhere, reason="no")),
            (market.invoices.DeclineEdit, pb.DeclineEditRequest(invoice_id=somewhere)),
            (market.invoices.CancelInvoice, pb.CancelInvoiceRequest(invoice_id=somewhere)),
        ):
            refusal = await market.refused(method, request, seller, key)
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)
        assert await row_counts(market) == before

    @pytest.mark.parametrize("key", ["k" * 16, "k" * 128, "A.b_c:d~e-0123456"])
    async def test_inside_the_grammar_is_taken(self, market, trade, key):
        """16 and 128 characters, and every punctuation of the grammar."""
        _, buyer = trade
        other = await market.register("27")
        assert (await market.issue(other, market.invoice(buyer, market.line(sku="")), key)).version == 1


class TestBytes:
    """What is no message: refused as a whole, with the place where it went wrong."""

    async def refused(self, market: Market, seller: Trader, raw: bytes) -> Refused:
        call = market.channels["invoice"].unary_unary("/invochain.api.invoice.v1.InvoiceService/CreateInvoice")
        metadata = [("authorization", f"Bearer {seller.token}"), ("idempotency-key", fresh_key())]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(raw, metadata=metadata, timeout=10)
        return Refused.of(caught.value)

    @pytest.mark.parametrize(
        ("spoil", "place"),
        [
            (lambda raw: raw + b"\xf8\x07\x01", "field 127"),
            (lambda raw: raw[:-3], "cut off"),
            (lambda raw: b"\x0a\x02\x08\x01", "invoice.number"),
            (lambda raw: b"\x0a\x04\x0a\x02\xff\xfe", "invoice.number"),
            (lambda raw: b"\x0a\x05\x3a\x03\xa0\x06\x01", "invoice.lines[0].field 100"),
            (lambda raw: b"\x0b\x0c", ""),
            (lambda raw: b"\x00\x00", ""),
            (lambda raw: b"\xff" * 40, ""),
            (lambda raw: b"\x0a" * 10_000, ""),
        ],
        ids=["unknown field", "cut off", "wrong type", "no utf-8", "nested unknown", "group", "zeros", "ones", "deep"],
    )
    async def test_that_are_no_request_are_refused_by_place(self, market, trade, spoil: Callable, place):
        """MALFORMED_REQUEST with the path; nothing is stored."""
        seller, buyer = trade
        before = await row_counts(market)
        raw = market.invoice(buyer, market.line(sku="")).SerializeToString()
        refusal = await self.refused(market, seller, spoil(raw))
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        assert place in refusal.message
        assert await row_counts(market) == before

    async def test_beyond_4_mib_are_refused_before_they_are_read(self, market, trade):
        """RESOURCE_EXHAUSTED; the service goes on."""
        seller, buyer = trade
        refusal = await self.refused(market, seller, b"\x0a" + bytes(4 * 1024 * 1024))
        assert refusal.code == "RESOURCE_EXHAUSTED"
        assert (await market.issue(seller, market.invoice(buyer, market.line(sku="")))).version == 1

    async def test_of_other_methods_are_refused_alike(self, market, trade):
        """Unknown fields are refused by every method, not only on the hot path."""
        seller, _ = trade
        metadata = [("authorization", f"Bearer {seller.token}"), ("idempotency-key", fresh_key())]
        for method in ("GetInvoice", "ListInvoices", "AcceptInvoice", "BatchCreateInvoices", "ValidateInvoice"):
            call = market.channels["invoice"].unary_unary(f"/invochain.api.invoice.v1.InvoiceService/{method}")
            for raw in (b"\xf8\x07\x01", b"\xff\xff\xff"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(raw, metadata=metadata, timeout=10)
                refusal = Refused.of(caught.value)
                assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST"), method


class TestAToken:
    @pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
    async def test_that_is_none_opens_nothing(self, market, trade, token):
        """Every method is UNAUTHENTICATED, before its body is looked at."""
        _, buyer = trade
        nobody = Trader(buyer.merchant, token)
        for method, request in (
            (market.invoices.CreateInvoice, pb.CreateInvoiceRequest()),
            (market.invoices.BatchCreateInvoices, pb.BatchCreateInvoicesRequest()),
            (market.invoices.GetInvoice, pb.GetInvoiceRequest()),
            (market.invoices.ListInvoices, pb.ListInvoicesRequest()),
            (market.invoices.GetOperation, pb.GetOperationRequest()),
            (market.invoices.CancelOperation, pb.CancelOperationRequest()),
        ):
            refusal = await market.refused(method, request, nobody)
            assert (refusal.code, codes(refusal)) == ("UNAUTHENTICATED", set())

    async def test_without_the_role_issues_nothing(self, market, trade):
        """An APPROVER may not issue, validate or cut batches."""
        seller, buyer = trade
        approver = await market.add_user(seller, "APPROVER")
        for method, request in (
            (market.invoices.CreateInvoice, market.invoice(buyer)),
            (market.invoices.ValidateInvoice, pb.ValidateInvoiceRequest()),
            (market.invoices.BatchCreateInvoices, pb.BatchCreateInvoicesRequest()),
        ):
            refusal = await market.refused(method, request, approver)
            assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")
