"""AskGst: the vectors of every kind over gRPC, and what is asked wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.type import date_pb2

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.cli.gst import answer_difference
from tests.integration.invoice.probes import row_counts
from tests.kit.market import Market, Trader

VECTORS = Path(__file__).parents[2] / "vectors" / "gst"
MODES = {"compute": pb.COMPUTE, "strict": pb.STRICT, "nic": pb.NIC}


def vectors() -> list[dict]:
    return [vector for file in sorted(VECTORS.glob("*.json")) for vector in json.loads(file.read_text())["vectors"]]


@pytest.fixture(scope="module")
async def partner(market: Market) -> Trader:
    return await market.register("27")


async def ask(market: Market, who: Trader, **asked) -> pb.AskGstResponse:
    return await market.call(market.invoices.AskGst, pb.AskGstRequest(**asked), who, None)


def question(vector: dict) -> dict:
    """A vector as it is asked."""
    asked = {"kind": vector["kind"], "input_json": json.dumps(vector["input"])}
    if vector["kind"] == "document":
        asked["mode"] = MODES[vector["mode"]]
        if as_of := vector.get("context", {}).get("as_of"):
            year, month, day = map(int, as_of.split("-"))
            asked["as_of_date"] = date_pb2.Date(year=year, month=month, day=day)
    return asked


class TestAQuestion:
    async def test_of_every_vector_gets_the_answer_that_it_names(self, market, partner):
        """All vectors of all kinds: verdict, the set of (code, path), and every key of `computed`, to the paisa."""
        wrong, kinds = [], set()
        for vector in vectors():
            told = await ask(market, partner, **question(vector))
            answer = {
                "ok": not told.violations,
                "errors": [{"code": v.code, "path": v.field} for v in told.violations],
                "computed": json.loads(told.computed_json) if told.computed_json else None,
            }
            kinds.add(vector["kind"])
            if difference := answer_difference(vector, answer):
                wrong.append((vector["id"], difference))
        assert wrong == []
        assert kinds == set(core.GST_KINDS)

    async def test_leaves_no_trace(self, market, partner):
        """Nothing is stored, whatever the answer."""
        before = await row_counts(market)
        (violation,) = (await ask(market, partner, kind="gstin", input_json='{"gstin": "27AAPFU0939F1ZX"}')).violations
        assert (violation.field, violation.code) == ("gstin", "GSTIN_CHECKSUM_INVALID")
        assert "V" in violation.description
        assert await row_counts(market) == before

    async def test_about_a_document_is_judged_as_creating_it_is_unless_it_says_otherwise(self, market, partner):
        """Without a mode a claim that is off by a paisa is refused, as CreateInvoice does."""
        vector = next(v for v in vectors() if v["id"] == "S-document_strict-001")
        vector["input"]["totals"]["total"] = "1.23"
        asked = question(vector)
        in_mode = {mode: await ask(market, partner, **asked | {"mode": mode}) for mode in (0, pb.STRICT, pb.COMPUTE)}
        assert in_mode[0] == in_mode[pb.STRICT]
        assert [v.code for v in in_mode[0].violations] == ["DOCUMENT_TOTAL_MISMATCH"]
        assert list(in_mode[pb.COMPUTE].violations) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"kind": "horoscope", "input_json": "{}"}, "kind"),
        ({"input_json": "{}"}, "kind"),
        ({"kind": "rate"}, "input_json"),
        ({"kind": "rate", "input_json": "[]"}, "input_json"),
        ({"kind": "rate", "input_json": "null"}, "input_json"),
        ({"kind": "rate", "input_json": "{" * 100_000}, "input_json"),
        ({"kind": "return_summary", "input_json": '{"documents": 7}'}, "input_json"),
        ({"kind": "document", "input_json": '{"items": {}}'}, "input_json"),
        ({"kind": "document", "input_json": "{}", "mode": 9}, "mode"),
        ({"kind": "gstin", "input_json": "{}", "mode": pb.NIC}, "mode"),
        ({"kind": "gstin", "input_json": "{}", "as_of_date": date_pb2.Date(year=2026)}, "as_of_date"),
        ({"kind": "document", "input_json": "{}", "as_of_date": date_pb2.Date(year=2026, month=13)}, "as_of_date"),
    ],
    ids=lambda value: str(value)[:50].replace("\n", " ") if isinstance(value, dict) else value,
)
async def test_a_question_of_another_shape_is_refused_by_field(market, partner, asked, field):
    """An unknown kind, something else than an object, a mode where none belongs: INVALID_ARGUMENT, never INTERNAL."""
    refusal = await market.refused(market.invoices.AskGst, pb.AskGstRequest(**asked), partner, None)
    assert (refusal.code, {name for name, _ in refusal.broken}) == ("INVALID_ARGUMENT", {field})
