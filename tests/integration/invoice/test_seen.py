"""What an operator sees: one JSON line a call, traces across hops and events, metrics by the names he knows; and what
nobody may see in a log."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import structlog

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.telemetry import configure_logging, key_hash, serve_metrics
from tests.integration.invoice.probes import outcome
from tests.kit.market import PASSWORD, Market, Trader, fresh_key, open_market

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
# Names operators already use, by process; the gateway has its own three.
METRICS = (
    "invoice_created_total",
    "invoice_creation_duration_seconds",
    "invoice_action_total",
    "inventory_reservation_failures_total",
    "saga_compensation_total",
    "inventory_reserve_total",
    "inventory_stock_level",
    "inventory_lock_wait_seconds",
    "rate_limit_exceeded_total",
    "circuit_breaker_state",
    "pg_connections_active",
    "pg_query_duration_seconds",
)
GSTIN = re.compile(r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z]")


@pytest.fixture(scope="module")
def said() -> Iterator[list[dict]]:
    """What the processes log, as their processors render it. Set up before they start: loggers are bound then."""
    heard: list[dict] = []

    class Ear:
        def msg(self, message: str) -> None:
            heard.extend(map(json.loads, message.splitlines()))

        info = warning = error = debug = critical = exception = msg

    before = structlog.get_config()
    configure_logging("test", "DEBUG")
    structlog.configure(logger_factory=lambda *_: Ear(), cache_logger_on_first_use=False)
    yield heard
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="module")
async def market(said, templates, market_valkey, tmp_path_factory) -> AsyncIterator[Market]:
    async with AsyncExitStack() as stack:
        yield await open_market(stack, templates, market_valkey, tmp_path_factory.mktemp("market"))


@pytest.fixture
def lines(said, seller, buyer) -> list[dict]:
    """What is logged from here on."""
    said.clear()
    return said


async def a_full_run(market: Market, seller: Trader, buyer: Trader) -> list[str]:
    """Everything that can be said: successes, replays, every kind of refusal, actions, reads. Returns the keys used."""
    keys = [fresh_key() for _ in range(4)]
    request = market.invoice(buyer, market.line(2), notes="canary-note")
    invoice = await market.issue(seller, request, keys[0])
    await market.issue(seller, request, keys[0])
    call = market.invoices
    for method, body, who, key in (
        (call.CreateInvoice, market.invoice(buyer, market.line(3)), seller, keys[0]),
        (call.CreateInvoice, market.invoice(buyer, market.line(5_000)), seller, keys[1]),
        (call.CreateInvoice, market.invoice(buyer.gstin[:-1] + "?", market.line(-1)), seller, keys[2]),
        (call.CreateInvoice, market.invoice(buyer, number=invoice.number), seller, keys[3]),
        (call.CreateInvoice, market.invoice(buyer), Trader(seller.merchant, "canary-token"), None),
        (call.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id), buyer, keys[0]),
        (call.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id), buyer, keys[1]),
        (call.RejectInvoice, pb.RejectInvoiceRequest(invoice_id=invoice.invoice_id, reason="canary"), buyer, keys[2]),
        (call.ListInvoices, pb.ListInvoicesRequest(filter=f"buyer_gstin = {buyer.gstin}"), seller, None),
        (call.ListInvoices, pb.ListInvoicesRequest(filter=f"colour = {buyer.gstin}"), seller, None),
        (call.GetInvoice, pb.GetInvoiceRequest(invoice_id=buyer.gstin), seller, None),
        (call.CancelOperation, pb.CancelOperationRequest(operation="invoice.create", key=keys[2]), seller, None),
        (call.ValidateInvoice, pb.ValidateInvoiceRequest(invoice=request.invoice), seller, None),
    ):
        await outcome(market, method, body, who, key)
    return keys


class TestALogLine:
    async def test_of_a_call_says_what_happened_to_whom_and_how_long(self, market, seller, buyer, lines):
        """One line: method, code, reason, trace, merchant, hash of the key, milliseconds."""
        key = fresh_key()
        await market.issue(seller, market.invoice(buyer, market.line(1)), key, traceparent=TRACEPARENT)
        (line,) = [one for one in lines if one.get("method") == "CreateInvoice"]
        assert (line["event"], line["code"], line["trace_id"]) == ("call", "OK", TRACE)
        assert (line["merchant"], line["key"]) == (seller.merchant_id.hex(), key_hash(key))
        assert line["ms"] > 0
        assert {"time", "level", "request_id", "replayed"} <= line.keys()

    async def test_is_written_once_for_each_call(self, market, seller, buyer, lines):
        """Successes and refusals alike; copies each have their own."""
        request = market.invoice(buyer, market.line(1))
        key = fresh_key()
        await asyncio.gather(*(outcome(market, market.invoices.CreateInvoice, request, seller, key) for _ in range(7)))
        mine = [one for one in lines if one.get("method") == "CreateInvoice" and one["key"] == key_hash(key)]
        assert len(mine) == 7

    async def test_never_shows_a_gstin_a_token_a_password_a_key_or_a_body(self, market, seller, buyer, lines):
        """A full run with registrations, refusals and workers: nothing of it in any line."""
        await market.work()
        third = await market.register("29")
        keys = await a_full_run(market, seller, buyer)
        await a_full_run(market, seller, third)

        async def published() -> bool:
            return not await market.sql("invoice", "SELECT 1 FROM outbox LIMIT 1")

        await market.until(published)
        text = json.dumps(lines)
        assert len(lines) > 40
        assert GSTIN.findall(text) == []
        for secret in (PASSWORD, seller.token, seller.token[-40:], "canary", "eyJ", *keys, "@example.in"):
            assert secret not in text

    async def test_of_a_broken_statement_shows_no_value_of_a_row(self, market, seller, buyer, lines):
        """A constraint that fails puts the row into PostgreSQL's words: they are not passed on."""
        table = "ALTER TABLE invoice ADD CONSTRAINT test_only CHECK (buyer_gstin <> '{}') NOT VALID"
        await market.sql("invoice", table.format(buyer.gstin))
        try:
            refusal = await market.refused(market.invoices.CreateInvoice, market.invoice(buyer, market.line(1)), seller)
        finally:
            await market.sql("invoice", "ALTER TABLE invoice DROP CONSTRAINT test_only")
        assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
        assert GSTIN.findall(json.dumps(lines) + refusal.message) == []
        assert any(one["event"] == "batch_failed_in_sql" for one in lines)


class TestATrace:
    async def test_goes_to_the_inventory_and_into_the_event(self, market, seller, buyer, lines):
        """The caller's trace id is in the inventory's line and in the outbox rows of issue and acceptance."""
        invoice = await market.issue(seller, market.invoice(buyer, market.line(1)), traceparent=TRACEPARENT)
        reserve = [one for one in lines if one.get("method") == "BatchReserveStock" and one["trace_id"] == TRACE]
        assert len(reserve) == 1
        accept = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
        await market.call(market.invoices.AcceptInvoice, accept, buyer, traceparent=TRACEPARENT)
        rows = await market.sql(
            "invoice", "SELECT traceparent FROM outbox WHERE aggregate_id = $1::text::uuid", invoice.invoice_id
        )
        if rows:
            assert {row["traceparent"].split("-")[1] for row in rows} == {TRACE}
        else:
            records = await market.sql("broker", "SELECT headers::text FROM log_record")
            assert any(TRACE in row["headers"] for row in records)

    @pytest.mark.parametrize("bad", ["", "garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01", "00-" + "z" * 32 + "-1-1"])
    async def test_that_is_none_is_replaced(self, market, seller, buyer, lines, bad):
        """A traceparent that does not read as one starts a new trace."""
        await market.issue(seller, market.invoice(buyer, market.line(1)), traceparent=bad or "x")
        (line,) = [one for one in lines if one.get("method") == "CreateInvoice"]
        assert re.fullmatch(r"[0-9a-f]{32}", line["trace_id"])
        assert line["trace_id"] not in ("0" * 32, TRACE)


class TestMetrics:
    async def test_have_the_names_operators_use(self, market, seller, buyer):
        """All are served by /metrics, after a run those of the invoice service have moved."""
        await a_full_run(market, seller, buyer)
        port = serve_metrics(0)
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        named = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        missing = [name for name in METRICS if name not in named and name.removesuffix("_total") not in named]
        assert missing == []
        for sample in (
            'invoice_created_total{outcome="issued"}',
            'invoice_created_total{outcome="replayed"}',
            'invoice_created_total{outcome="INSUFFICIENT_STOCK"}',
            'invoice_action_total{action="accept",outcome="done"}',
            'invoice_creation_duration_seconds_bucket{le="0.5"}',
            'inventory_reservation_failures_total{reason="INSUFFICIENT_STOCK"}',
        ):
            (value,) = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.M)
            assert float(value) > 0, sample

    async def test_have_no_label_that_grows_with_customers(self, market, seller, buyer):
        """No merchant, SKU, GSTIN, id or key in any label."""
        await a_full_run(market, seller, buyer)
        port = serve_metrics(0)
        text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        assert GSTIN.findall(text) == []
        for value in (seller.merchant.merchant_id, seller.merchant_id.hex(), "BOLT", "example.in"):
            assert value not in text
        assert not re.search(r'\{[^}]*(merchant|sku|user|ip|gstin)="', text)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()
