"""What is not settled yet, as operators see it: every place where a saga can wait, and nobody else may look."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from typer.testing import CliRunner

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.cli import app
from tests.kit.market import Market, Trader, fresh_key

CREATE = "invoice.create"


class Floor:
    """A market whose sagas stop where the test wants them to."""

    def __init__(self, market: Market, seller: Trader, buyer: Trader) -> None:
        self.market, self.seller, self.buyer = market, seller, buyer
        self.operator = market.operator()

    async def issue(self) -> tuple[pb.Invoice, str]:
        """An invoice and its request's id."""
        key = fresh_key()
        invoice = await self.market.issue(self.seller, self.market.invoice(self.buyer), key)
        await self.market.running["invoice"][1].servicers[0]._room.settlers.drain()
        return invoice, str(uuid.UUID(bytes=core.request_id(self.seller.merchant_id, CREATE, key)))

    async def put(self, rid: str, state: str) -> None:
        """Sets a hold's state behind everybody's back."""
        await self.market.sql("inventory", "UPDATE reservation SET state = $1 WHERE rid = $2", state, rid)

    async def accept(self, invoice: pb.Invoice) -> None:
        request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
        await self.market.call(self.market.invoices.AcceptInvoice, request, self.buyer)

    async def sagas(self, page_size: int = 0, **more: Any) -> list[pb.Saga]:
        """All pages."""
        found: list[pb.Saga] = []
        request = pb.ListSagasRequest(page_size=page_size, **more)
        while True:
            page = await self.market.call(self.market.invoices.ListSagas, request, self.operator, None)
            assert [] == list(page.not_looked_at)
            assert len(page.sagas) <= (page_size or 50)
            found += page.sagas
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def waiting(self, **more: Any) -> set[tuple[str, int]]:
        return {(saga.invoice_id, saga.waits_for) for saga in await self.sagas(**more)}


@pytest.fixture
async def floor(market: Market) -> Floor:
    seller, buyer = await market.register("27"), await market.register("29")
    await market.stock_up(seller, units=1_000)
    return Floor(market, seller, buyer)


class TestListSagas:
    async def test_nothing_waits_where_everything_is_settled(self, floor: Floor):
        """An issued invoice whose hold is lasting is no saga any more."""
        await floor.issue()
        assert [] == await floor.sagas()

    async def test_a_hold_waits_for_what_its_decision_says(self, floor: Floor):
        """Undecided: for its request; issued: for its confirmation; fenced off: to be given back."""
        issued, rid = await floor.issue()
        await floor.put(rid, "PENDING")
        fenced, fenced_rid = await floor.issue()
        await floor.put(fenced_rid, "PENDING")
        undecided, undecided_rid = await floor.issue()
        await floor.put(undecided_rid, "PENDING")
        # As if those two had died before and after their decision.
        for invoice, sql in (
            (fenced, "UPDATE decision SET state = 'ABORTED' WHERE rid = $1"),
            (undecided, "DELETE FROM decision WHERE rid = $1"),
        ):
            await floor.market.sql("invoice", sql, fenced_rid if invoice is fenced else undecided_rid)
            await floor.market.sql("invoice", "DELETE FROM invoice WHERE invoice_id = $1", invoice.invoice_id)

        wanted = {
            (issued.invoice_id, pb.CONFIRMATION),
            (fenced.invoice_id, pb.GIVING_BACK),
            (undecided.invoice_id, pb.DECISION),
        }
        assert wanted == await floor.waiting()
        (saga,) = [one for one in await floor.sagas() if one.waits_for == pb.CONFIRMATION]
        assert (rid, 1, floor.seller.merchant.merchant_id) == (saga.rid, saga.attempt, saga.merchant_id)
        assert 0 <= saga.age_ms < 120_000
        assert {(fenced.invoice_id, pb.GIVING_BACK)} == await floor.waiting(waits_for=pb.GIVING_BACK)
        assert set() == await floor.waiting(older_than_ms=3_600_000)

    async def test_a_sale_waits_for_the_relay_then_for_each_consumer_then_for_nobody(self, floor: Floor):
        """The same saga seen at each place on its way."""
        invoice, _ = await floor.issue()
        await floor.accept(invoice)
        assert {(invoice.invoice_id, pb.PUBLICATION)} == await floor.waiting()

        # Each group is known to the broker from its first look; then it does not come again.
        async with asyncio.timeout(30):
            await read_nothing(floor.market)
        await floor.market.work("relay")

        async def published() -> bool:
            return {(invoice.invoice_id, pb.CONSUMER)} == await floor.waiting()

        await floor.market.until(published)
        waiting = {saga.consumer: saga.event_type for saga in await floor.sagas(waits_for=pb.CONSUMER)}
        assert dict.fromkeys(("inventory.settle", "inventory.receive"), "invochain.invoice.accepted.v1") == waiting
        await floor.market.work("consumer")

        async def settled() -> bool:
            return not await floor.sagas()

        await floor.market.until(settled)
        assert (990, 0) == await floor.market.stock(floor.seller)

    async def test_what_an_operator_must_see_to_says_so(self, floor: Floor):
        """A sale whose hold is gone, at the inventory, waits for its replay."""
        invoice, rid = await floor.issue()
        await floor.put(rid, "RELEASED")
        await floor.accept(invoice)
        await floor.market.work("relay", "consumer")

        async def parked() -> bool:
            return {(invoice.invoice_id, pb.REPLAY)} == await floor.waiting()

        await floor.market.until(parked)

    async def test_pages_hold_every_saga_once(self, floor: Floor):
        """Over the border of each list, with one on a page; a token of another question is refused."""
        waiting = set()
        for _ in range(3):
            invoice, rid = await floor.issue()
            await floor.put(rid, "PENDING")
            waiting.add(invoice.invoice_id)
            accepted, _ = await floor.issue()
            await floor.accept(accepted)
            waiting.add(accepted.invoice_id)
        sagas = await floor.sagas(page_size=1)
        assert (6, waiting) == (len(sagas), {saga.invoice_id for saga in sagas})

        request = pb.ListSagasRequest(page_size=1)
        page = await floor.market.call(floor.market.invoices.ListSagas, request, floor.operator, None)
        request = pb.ListSagasRequest(page_token=page.next_page_token, older_than_ms=1)
        refused = await floor.market.refused(floor.market.invoices.ListSagas, request, floor.operator, None)
        assert "PAGE_TOKEN_MISMATCH" == refused.reason
        for request, field in ((pb.ListSagasRequest(older_than_ms=-1), "older_than_ms"),):
            refused = await floor.market.refused(floor.market.invoices.ListSagas, request, floor.operator, None)
            assert {(field, "AGE_OUT_OF_RANGE")} == refused.broken

    async def test_is_for_operators_only(self, floor: Floor):
        """Not even the merchant's owner: it tells of everybody's invoices."""
        refused = await floor.market.refused(floor.market.invoices.ListSagas, pb.ListSagasRequest(), floor.seller, None)
        assert ("PERMISSION_DENIED", "ROLE_MISSING") == (refused.code, refused.reason)

    async def test_the_command_prints_a_line_for_each(self, floor: Floor, monkeypatch: pytest.MonkeyPatch):
        """`invochain sagas`, with ages; the count goes to the other stream."""
        invoice, rid = await floor.issue()
        await floor.put(rid, "PENDING")
        monkeypatch.setenv("INVOCHAIN_TOKEN", floor.operator.token)
        address = floor.market.settings.invoice_address
        told = await asyncio.to_thread(CliRunner().invoke, app, ["sagas", "--address", address])
        assert 0 == told.exit_code, told.output
        assert f"CONFIRMATION  invoice {invoice.invoice_id}" in told.stdout
        assert "1 not settled" in told.stderr


async def read_nothing(market: Market) -> None:
    """Makes the consumers' groups known to the broker, as their first look does."""
    from invochain.chassis.embedded_broker import EmbeddedBroker

    broker = await EmbeddedBroker.connect(market.settings.broker_database_url, size=2)
    for group in ("inventory.settle", "inventory.receive"):
        member = broker.consumer(group, "invoice.events")
        await member.poll(1, 0)
        await member.close()
    await broker.close()
