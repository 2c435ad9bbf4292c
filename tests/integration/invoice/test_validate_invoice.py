"""ValidateInvoice: a dry run that equals what is then issued, and the check of documents made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.type import date_pb2

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import row_counts
from tests.kit.market import Market, Trader

VECTORS = Path(__file__).parents[2] / "vectors" / "gst"
MODES = {"compute": pb.COMPUTE, "strict": pb.STRICT, "nic": pb.NIC}


def documents() -> list[dict]:
    """Every vector that is a whole document."""
    return [
        vector
        for file in sorted(VECTORS.glob("document_*.json"))
        for vector in json.loads(file.read_text())["vectors"]
        if vector["kind"] == "document"
    ]


@pytest.fixture(scope="module")
async def trade(market: Market) -> tuple[Trader, Trader]:
    seller = await market.register("27")
    await market.stock_up(seller)
    return seller, await market.register("27")


async def validate(market: Market, who: Trader, **asked) -> pb.ValidateInvoiceResponse:
    return await market.call(market.invoices.ValidateInvoice, pb.ValidateInvoiceRequest(**asked), who, None)


class TestADryRun:
    async def test_equals_what_is_then_issued_and_leaves_no_trace(self, market, trade):
        """Figures, parties, dates and lines: everything but what only an issue gives. Needs no key, takes no stock."""
        seller, buyer = trade
        request = market.invoice(
            buyer,
            market.line(discount_paise=12_345),
            market.line(3, 99, sku="", gst_rate_milli=5_000, other_charges_paise=70),
            totals=pb.Totals(round_off_mode=pb.NEAREST_RUPEE),
            notes="two\nlines",
        )
        before = await row_counts(market)
        dry = (await validate(market, seller, invoice=request.invoice)).invoice
        assert await row_counts(market) == before

        issued = await market.issue(seller, request)
        for field in (
            "number",
            "invoice_id",
            "merchant_id",
            "buyer_merchant_id",
            "state",
            "version",
            "etag",
            "financial_year",
            "create_time",
            "update_time",
            "allowed_actions",
            "compliance_status",
        ):
            issued.ClearField(field)
        assert dry == issued

    async def test_lists_every_violation_as_an_answer(self, market, trade):
        """What CreateInvoice would refuse, told as a response: the same fields and codes."""
        seller, buyer = trade
        request = market.invoice(buyer, market.line(hsn="7", quantity_milli=-1), notes="x" * 3_000)
        answer = await validate(market, seller, invoice=request.invoice)
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller)
        assert {(v.field, v.code) for v in answer.violations} == refusal.broken
        assert not answer.HasField("invoice")
        assert all("found" in v.description for v in answer.violations)

    async def test_does_not_ask_for_stock_or_number(self, market, trade):
        """Too much, an unknown SKU, a number in use: a dry run judges the document only."""
        seller, buyer = trade
        await market.issue(seller, market.invoice(buyer, market.line(sku=""), number="V/1"))
        request = market.invoice(buyer, market.line(10_000, sku="NO-SUCH"), number="V/1")
        assert list((await validate(market, seller, invoice=request.invoice)).violations) == []

    async def test_of_another_sellers_invoice_is_refused_as_creating_it_is(self, market, trade):
        """Without a mode the seller is the caller."""
        seller, buyer = trade
        request = market.invoice(buyer, market.line(sku=""), seller=pb.Party(gstin=buyer.gstin))
        (violation,) = (await validate(market, seller, invoice=request.invoice)).violations
        assert (violation.field, violation.code) == ("invoice.seller.gstin", "SELLER_NOT_CALLER")


class TestADocumentMadeElsewhere:
    async def test_gets_the_verdict_of_every_vector(self, market, trade):
        """All document vectors of RULES, in their neutral form over gRPC: the same codes at the same paths."""
        seller, _ = trade
        vectors = documents()
        assert len(vectors) > 150
        wrong = []
        for vector in vectors:
            asked = {"mode": MODES[vector["mode"]], "document_json": json.dumps(vector["input"])}
            if as_of := vector.get("context", {}).get("as_of"):
                year, month, day = map(int, as_of.split("-"))
                asked["as_of_date"] = date_pb2.Date(year=year, month=month, day=day)
            answer = await validate(market, seller, **asked)
            told = {(v.code, v.field) for v in answer.violations}
            wanted = {(e["code"], e["path"]) for e in vector["expected"]["errors"]}
            if told != wanted:
                wrong.append((vector["id"], told ^ wanted))
        assert wrong == []

    async def test_as_a_message_gets_the_same_figures(self, market, trade):
        """The vectors that pass, as protobuf: the computed figures to the paisa, line by line."""
        seller, _ = trade
        compared = 0
        for vector in documents():
            invoice = as_message(vector["input"])
            if invoice is None or not vector["expected"]["ok"]:
                continue
            asked = {"mode": MODES[vector["mode"]], "invoice": invoice}
            if as_of := vector.get("context", {}).get("as_of"):
                year, month, day = map(int, as_of.split("-"))
                asked["as_of_date"] = date_pb2.Date(year=year, month=month, day=day)
            answer = await validate(market, seller, **asked)
            assert list(answer.violations) == [], vector["id"]
            computed = vector["expected"]["computed"]
            assert answer.invoice.inter_state == computed["inter_state"], vector["id"]
            for name, value in computed["totals"].items():
                assert getattr(answer.invoice.totals, f"{name}_paise") == scaled(value, 2), (vector["id"], name)
            for line, wanted in zip(answer.invoice.lines, computed["lines"], strict=True):
                for name, value in wanted.items():
                    assert getattr(line, f"{name}_paise") == scaled(value, 2), (vector["id"], name)
            compared += 1
        assert compared > 60

    @pytest.mark.parametrize(
        ("asked", "field"),
        [
            ({"mode": 9}, "mode"),
            ({"as_of_date": date_pb2.Date(year=2026, month=1, day=1)}, "as_of_date"),
            ({"document_json": "{}"}, "document_json"),
            ({"mode": pb.STRICT, "as_of_date": date_pb2.Date(year=2026, month=2, day=30)}, "as_of_date"),
            ({"mode": pb.STRICT, "as_of_date": date_pb2.Date(year=-5, month=300, day=-1)}, "as_of_date"),
            ({"mode": pb.STRICT, "as_of_date": date_pb2.Date(year=2**31 - 1, month=1, day=1)}, "as_of_date"),
            ({"mode": pb.STRICT, "as_of_date": date_pb2.Date()}, "as_of_date"),
            ({"mode": pb.STRICT, "document_json": "{}", "invoice": pb.Invoice()}, "document_json"),
            ({"mode": pb.STRICT, "document_json": "not json"}, "document_json"),
            ({"mode": pb.STRICT, "document_json": "[" * 100_000}, "document_json"),
            ({"mode": pb.STRICT, "document_json": '{"number": "\\ud800"}'}, "document_json"),
        ],
        ids=lambda value: str(value)[:40].replace("\n", " ") if isinstance(value, dict) else value,
    )
    async def test_with_a_bad_question_is_refused_by_field(self, market, trade, asked, field):
        """Unknown mode, a date that is none, a text that is no document: INVALID_ARGUMENT, never INTERNAL."""
        seller, _ = trade
        refusal = await market.refused(
            market.invoices.ValidateInvoice, pb.ValidateInvoiceRequest(**asked), seller, None
        )
        assert (refusal.code, {f for f, _ in refusal.broken}) == ("INVALID_ARGUMENT", {field})

    @pytest.mark.parametrize("value", ["1e400", "1e3", "17", "true", "[]", "{}"])
    async def test_with_something_else_than_text_in_it_is_told_where(self, market, trade, value):
        """The neutral form has texts only: a number, however big, is a violation at its path."""
        seller, _ = trade
        text = f'{{"items": [{{"qty": {value}}}], "date": {value}}}'
        answer = await validate(market, seller, mode=pb.STRICT, document_json=text)
        assert {"date", "items[0].qty"} <= {v.field for v in answer.violations}


def scaled(text: str, places: int) -> int:
    """A decimal text in whole 10^-places."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    whole, _, part = digits.partition(".")
    if len(part.rstrip("0")) > places:
        raise ValueError(text)
    return sign * int((whole or "0") + part[:places].ljust(places, "0"))


# Neutral name -> field of the message and its decimal places.
LINE = {
    "qty": ("quantity_milli", 3),
    "unit_price": ("unit_price_milli", 3),
    "gst_rate": ("gst_rate_milli", 3),
    "cess_rate": ("cess_rate_milli", 3),
    "cess_per_unit": ("cess_per_unit_milli", 3),
    "state_cess_rate": ("state_cess_rate_milli", 3),
}
TEXTS = {"sl": "serial_number", "hsn": "hsn", "unit": "unit", "is_service": "is_service"}
PARTY = {"gstin": "gstin", "state": "state", "pos": "place_of_supply"}


def as_message(document: dict) -> pb.Invoice | None:
    """A neutral document as the contract's message; None where the contract cannot say it."""
    try:
        return _as_message(document)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _as_message(document: dict) -> pb.Invoice:
    out = pb.Invoice(number=document.get("number") or "")
    out.supply_type = pb.SupplyType.Value(document["supply_type"])
    out.doc_type = pb.DocumentType.Value(document["doc_type"])
    for name, field in (("date", "invoice_date"), ("tax_point", "tax_point_date")):
        if text := document.get(name):
            year, month, day = map(int, text.split("-"))
            getattr(out, field).CopyFrom(date_pb2.Date(year=year, month=month, day=day))
    for flag in ("reverse_charge", "igst_on_intra", "exclude_tax_from_total"):
        setattr(out, flag, bool(document.get(flag)))
    out.ecommerce_gstin = document.get("ecommerce_gstin") or ""
    for side in ("seller", "buyer"):
        party = getattr(out, side)
        party.SetInParent()
        for name, value in document[side].items():
            if value is None:
                continue
            if name == "taxpayer_type":
                party.taxpayer_type = pb.PartyType.Value(value)
            elif name == "aato_crore":
                party.annual_turnover_paise = scaled(value, 2) * 10_000_000
            else:
                setattr(party, PARTY[name], value)
    if original := document.get("original"):
        year, month, day = map(int, original["date"].split("-"))
        out.original.number = original["number"]
        out.original.invoice_date.CopyFrom(date_pb2.Date(year=year, month=month, day=day))
        for name in ("creditable", "value"):
            if original.get(name) is not None:
                setattr(out.original, f"{name}_paise", scaled(original[name], 2))
    for item in document["items"]:
        line = out.lines.add()
        for name, value in item.items():
            if value is None:
                continue
            if name in TEXTS:
                setattr(line, TEXTS[name], value)
            else:
                field, places = LINE.get(name, (f"{name}_paise", 2))
                setattr(line, field, scaled(value, places))
    for name, value in (document.get("totals") or {}).items():
        if value is None:
            continue
        if name == "round_off_mode":
            out.totals.round_off_mode = {"NONE": pb.NO_ROUND_OFF, "NEAREST_RUPEE": pb.NEAREST_RUPEE}[value]
        else:
            setattr(out.totals, f"{name}_paise", scaled(value, 2))
    return out
