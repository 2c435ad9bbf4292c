"""The main job through both clients against real services, and what the services refuse, as exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest

from invochain_client import AsyncClient, Client, errors, fresh_key, rupees, traceparent
from invochain_client.types import InvoiceState, Merchant, NewUser, ReservationState
from tests.integration.client.trading import (
    PASSWORD,
    SKU,
    a_merchant,
    addresses,
    bolts,
    register,
    register_async,
)
from tests.kit.market import Market, fresh_gstin, open_market
from tests.kit.servers import PostgresServer, ValkeyServer


@pytest.fixture(scope="module")
async def market(templates: PostgresServer, market_valkey: ValkeyServer, tmp_path_factory) -> AsyncIterator[Market]:
    """One market with its workers for the file: every test brings merchants of its own."""
    async with AsyncExitStack() as stack:
        market = await open_market(stack, templates, market_valkey, tmp_path_factory.mktemp("market"))
        await market.work()
        yield market


@pytest.fixture
async def anyone(market: Market) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(addresses(market)) as client:
        yield client


@pytest.fixture
async def seller(anyone: AsyncClient) -> AsyncClient:
    """Has 100 bolts."""
    client, _ = await register_async(anyone)
    await client.stock.adjust(SKU, "ADD", 100, reason="test", hsn="731815", unit="NOS")
    return client


@pytest.fixture
async def trade(anyone: AsyncClient) -> tuple[AsyncClient, Merchant]:
    """A buyer and who that is."""
    return await register_async(anyone)


class TestTheMainJob:
    async def test_is_done_awaited(self, seller, trade):
        """Issued, repeated with the same key, accepted; 90 at the seller and 10 at the buyer."""
        buyer, buying = trade
        key = fresh_key()

        issued = await seller.invoices.create(bolts(buying), idempotency_key=key)
        again = await seller.invoices.create(bolts(buying), idempotency_key=key)
        accepted = await buyer.invoices.accept(issued.message.invoice_id, etag=issued.message.etag)

        assert issued.message.totals.total_paise == rupees("11800.00")
        assert (issued.replayed, again.replayed, again.key, again.attempts) == (False, True, key, 1)
        assert again.message == issued.message
        assert accepted.message.state == InvoiceState.ACCEPTED
        await seller.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == 90_000)
        bought = await buyer.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == 10_000)
        assert [one.delta_milli async for one in buyer.stock.movements(SKU)] == [10_000]
        assert [one.sku async for one in buyer.stock.list()] == [bought.sku]

    async def test_is_done_blocking(self, market):
        """The same through the blocking client, in a thread of its own."""

        def trade() -> None:
            with Client(addresses(market)) as anyone:
                seller, _ = register(anyone)
                buyer, buying = register(anyone)
                seller.stock.adjust(SKU, "ADD", 100, reason="test", hsn="731815", unit="NOS")
                issued = seller.invoices.create(bolts(buying))
                assert seller.invoices.create(bolts(buying), idempotency_key=issued.key).replayed
                buyer.invoices.accept(issued.message.invoice_id)
                seller.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == 90_000)
                buyer.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == 10_000)
                assert [one.number for one in buyer.invoices.list(side="BOUGHT")] == [issued.message.number]

        await asyncio.to_thread(trade)

    async def test_is_done_once_by_twenty_threads_with_one_key(self, market):
        """Every thread gets the same invoice; stock is taken once."""

        def trade() -> tuple[set[str], int]:
            with Client(addresses(market)) as anyone:
                seller, _ = register(anyone)
                seller.stock.adjust(SKU, "ADD", 100, reason="test", hsn="731815", unit="NOS")
                invoice, key = bolts(fresh_gstin("29")), fresh_key()
                with ThreadPoolExecutor(20) as threads:
                    jobs = [threads.submit(seller.invoices.create, invoice, idempotency_key=key) for _ in range(20)]
                    ids = {job.result().message.invoice_id for job in jobs}
                return ids, seller.stock.get(SKU).reserved_milli

        ids, reserved = await asyncio.to_thread(trade)

        assert (len(ids), reserved) == (1, 10_000)

    async def test_carries_the_callers_trace_into_the_event(self, market, seller, trade):
        """The trace id of `traceparent` is the one of the event that leaves."""
        trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        before = traceparent.set(f"00-{trace_id}-00f067aa0ba902b7-01")
        await seller.invoices.create(bolts(trade[1]))
        traceparent.reset(before)

        async def arrived() -> bool:
            carried = await market.sql("broker", "SELECT headers FROM log_record")
            return trace_id in str(carried)

        await market.until(arrived)


class TestARefusal:
    async def test_names_the_sku_what_was_asked_and_what_is_free(self, seller, trade):
        """InsufficientStock, in units and thousandths; final for its key, and so said again."""
        for replayed in (False, True):
            with pytest.raises(errors.InsufficientStock) as caught:
                await seller.invoices.create(bolts(trade[1], 101), idempotency_key="one-hundred-and-one")
            short = caught.value
            assert (short.sku, short.asked, short.free, short.free_milli) == (SKU, 101, 100, 100_000)
            assert short.replayed is replayed

    async def test_lists_every_broken_rule_with_its_place(self, seller):
        """ValidationFailed; the key is free for the corrected request."""
        wrong = bolts(fresh_gstin())
        wrong.lines.append(wrong.lines[0])
        wrong.lines[0].hsn, wrong.lines[1].hsn = "73", "7318 15"
        with pytest.raises(errors.ValidationFailed) as caught:
            await seller.invoices.create(wrong, idempotency_key="one-key-for-both-requests")

        fields = {violation.field for violation in caught.value.violations}
        assert fields >= {"invoice.lines[0].hsn", "invoice.lines[1].hsn"}
        assert all(violation.code and violation.description for violation in caught.value.violations)
        right = await seller.invoices.create(bolts(fresh_gstin()), idempotency_key="one-key-for-both-requests")
        assert not right.replayed

    async def test_of_a_key_with_another_body(self, seller, trade):
        """KeyReused; nothing is issued."""
        key = fresh_key()
        await seller.invoices.create(bolts(trade[1], 1), idempotency_key=key)

        with pytest.raises(errors.KeyReused):
            await seller.invoices.create(bolts(trade[1], 2), idempotency_key=key)

        assert len([one async for one in seller.invoices.list()]) == 1

    async def test_of_an_action_names_the_state_and_what_is_allowed(self, seller, trade):
        """InvalidState after a rejection: nothing is allowed any more."""
        buyer, buying = trade
        invoice_id = (await seller.invoices.create(bolts(buying))).message.invoice_id
        await buyer.invoices.request_edit(invoice_id, "9 bolts, please")
        with pytest.raises(errors.InvalidState) as caught:
            await buyer.invoices.request_edit(invoice_id, "8 bolts, please")
        assert (caught.value.state, set(caught.value.allowed_actions)) == ("EDIT_REQUESTED", {"accept", "reject"})

        await seller.invoices.decline_edit(invoice_id)
        await buyer.invoices.reject(invoice_id, "then not")
        with pytest.raises(errors.InvalidState) as caught:
            await seller.invoices.cancel(invoice_id)
        assert (caught.value.state, caught.value.allowed_actions) == ("REJECTED", ())

    async def test_of_a_stale_etag_is_not_repeated(self, seller, trade):
        """VersionMismatch comes after one attempt, with both etags."""
        buyer, buying = trade
        first = (await seller.invoices.create(bolts(buying))).message
        await buyer.invoices.request_edit(first.invoice_id, "9 bolts, please")

        with pytest.raises(errors.VersionMismatch) as caught:
            await buyer.invoices.accept(first.invoice_id, etag=first.etag)

        assert (caught.value.found, caught.value.retry_after_s) == (first.etag, None)
        assert caught.value.present not in ("", first.etag)

    async def test_of_what_is_another_merchants_or_not_there(self, anyone, seller, trade):
        """A stranger's invoice and an unknown SKU are NotFound; a number used twice is NumberTaken."""
        mine = await seller.invoices.create(bolts(trade[1], number="A-1"))
        stranger, _ = await register_async(anyone)

        with pytest.raises(errors.InvoiceNotFound):
            await stranger.invoices.get(mine.message.invoice_id)
        with pytest.raises(errors.SkuNotFound) as unknown:
            await stranger.invoices.create(bolts(trade[1]))
        with pytest.raises(errors.NumberTaken) as taken:
            await seller.invoices.create(bolts(trade[1], number="a-1"))

        assert (unknown.value.sku, taken.value.number.upper()) == (SKU, "A-1")
        assert isinstance(unknown.value, errors.NotFound)

    async def test_of_a_user_without_the_role(self, anyone, seller, trade):
        """RoleMissing names the roles of which one is wanted."""
        email = f"viewer-{fresh_key()}@example.in"
        user = NewUser(email=email, name="Viewer", password=PASSWORD, roles=["VIEWER"])
        await seller.merchants.add_user(user)

        with pytest.raises(errors.RoleMissing) as caught:
            await anyone.as_user(email, PASSWORD).invoices.create(bolts(trade[1]))

        assert "ISSUER" in caught.value.wanted

    async def test_of_nobody_and_of_a_wrong_password(self, anyone, seller):
        """Without a user TokenInvalid; with a wrong password CredentialsInvalid, at the first call."""
        with pytest.raises(errors.TokenInvalid):
            await anyone.invoices.get(fresh_key())
        with pytest.raises(errors.CredentialsInvalid):
            await anyone.as_user("nobody@example.in", PASSWORD).invoices.get(fresh_key())

    async def test_of_a_merchant_that_is_registered(self, anyone):
        """The same key replays, another one is refused."""
        merchant, owner = a_merchant()
        first = await anyone.merchants.register(merchant, owner)
        again = await anyone.merchants.register(merchant, owner, idempotency_key=first.key)
        assert again.replayed and again.message == first.message

        with pytest.raises(errors.GstinAlreadyRegistered):
            await anyone.merchants.register(merchant, NewUser(email="else@example.in", name="E", password=PASSWORD))


class TestLists:
    async def test_walk_over_all_pages(self, seller, trade):
        """Seven invoices, three a page: each once, newest first, and none beyond the filter."""
        made = [(await seller.invoices.create(bolts(trade[1], units))).message.number for units in range(1, 8)]

        walked = [one.number async for one in seller.invoices.list(page_size=3)]
        dear = [one.number async for one in seller.invoices.list(filter=f"total_paise > {rupees('5900.00')}")]

        assert walked == made[::-1]
        assert dear == made[:4:-1]


class TestABatch:
    async def test_has_a_result_for_each_invoice(self, seller, trade):
        """One issued, one refused with its facts, one replayed; order kept."""
        before = await seller.invoices.create(bolts(trade[1], 1))

        issued, short, again = await seller.invoices.create_many(
            [bolts(trade[1], 2), bolts(trade[1], 500), (before.key, bolts(trade[1], 1))]
        )

        assert issued.invoice is not None and not issued.replayed
        assert isinstance(short.error, errors.InsufficientStock) and short.error.asked == 500
        assert again.replayed and again.invoice == before.message

    async def test_of_all_or_nothing_issues_nothing_if_one_is_refused(self, seller, trade):
        """The right one comes back as BatchRefused."""
        right, short = await seller.invoices.create_many(
            [bolts(trade[1], 2), bolts(trade[1], 500)], all_or_nothing=True
        )

        assert isinstance(right.error, errors.BatchRefused)
        assert isinstance(short.error, errors.InsufficientStock)
        assert [one async for one in seller.invoices.list()] == []


class TestTheRest:
    async def test_validates_and_explains_without_storing(self, seller, trade):
        """What would be issued, what is broken, and where a figure comes from."""
        checked = await seller.invoices.validate(bolts(trade[1]))
        explained = await seller.invoices.explain(bolts(trade[1]))

        assert checked.invoice.totals.total_paise == rupees("11800.00") and not checked.violations
        assert explained.financial_year
        assert [one async for one in seller.invoices.list()] == []

    async def test_holds_stock_and_settles_it(self, seller):
        """Made, seen pending, one confirmed, one released, an unknown one told apart."""
        first = (await seller.reservations.make({SKU: 3}, ttl_s=600)).message
        second = (await seller.reservations.make({SKU: "4"})).message
        pending = [one.reservation_id async for one in seller.reservations.pending()]
        (confirmed,) = await seller.reservations.confirm([first.reservation_id])
        (released,) = await seller.reservations.release([second.reservation_id])
        (held,) = await seller.reservations.release([first.reservation_id])

        assert set(pending) == {first.reservation_id, second.reservation_id}
        assert (confirmed.state, released.state) == (ReservationState.COMMITTED, ReservationState.RELEASED)
        assert isinstance(held.error, errors.ReservationHeld)
        found = await seller.reservations.get(second.reservation_id)
        stock = await seller.stock.get(SKU)
        assert found.state == ReservationState.RELEASED
        assert (stock.on_hand_milli, stock.reserved_milli) == (97_000, 0)

    async def test_reads_and_changes_the_merchant(self, seller):
        """An update by mask, guarded by the etag."""
        merchant = await seller.merchants.get()
        changed = await seller.merchants.update(
            Merchant(trade_name="Bolts and More", etag=merchant.etag), ["trade_name"]
        )

        assert changed.message.trade_name == "Bolts and More"
        with pytest.raises(errors.VersionMismatch):
            await seller.merchants.update(Merchant(trade_name="Bolts", etag=merchant.etag), ["trade_name"])
