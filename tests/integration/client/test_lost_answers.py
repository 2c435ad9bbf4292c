"""What no fault on the way may do to a caller: an invoice twice, stock twice, or a wrong yes or no."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from example_kit import losing_answers

from invochain_client import AsyncClient, Client, OutcomeUnknown, Timing, errors, fresh_key
from invochain_client.types import Merchant
from tests.integration.client.trading import SKU, addresses, bolts, register, register_async, start, stop
from tests.kit.market import Market

# Repeats for long enough that a service can come back.
PATIENT = Timing(call_s=30, attempts_max=60, backoff_first_s=0.5, backoff_max_s=4)
ONCE = Timing(attempts_max=1)


async def a_seller(anyone: AsyncClient) -> tuple[AsyncClient, Merchant]:
    """Has 100 bolts and is signed in; sells to the merchant that comes with it."""
    seller, _ = await register_async(anyone)
    _, buying = await register_async(anyone)
    await seller.stock.adjust(SKU, "ADD", 100, reason="test", hsn="731815", unit="NOS")
    return seller, buying


@pytest.fixture
async def patient(market: Market) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(addresses(market), timing=PATIENT) as client:
        yield client


@pytest.fixture
async def hasty(market: Market) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(addresses(market), timing=ONCE) as client:
        yield client


async def invoice_count(market: Market) -> int:
    (row,) = await market.sql("invoice", "SELECT count(*) AS found FROM invoice")
    return int(row["found"])


class TestAnAnswerThatIsLost:
    async def test_is_had_by_repeating_awaited(self, market):
        """The connection breaks as the answer comes: the second attempt replays it, nothing is done twice."""
        with losing_answers(addresses(market)["invoice"]) as broken:
            async with AsyncClient({**addresses(market), "invoice": broken}) as anyone:
                seller, buying = await a_seller(anyone)
                issued = await seller.invoices.create(bolts(buying))
                stock = await seller.stock.get(SKU)

        assert (issued.replayed, issued.attempts > 1) == (True, True)
        assert (await invoice_count(market), stock.reserved_milli) == (1, 10_000)

    async def test_is_had_by_repeating_blocking(self, market):
        """The same through the blocking client; of an acceptance as well."""

        def trade(invoice_at: str) -> tuple[bool, int, bool]:
            with Client({**addresses(market), "invoice": invoice_at}) as anyone:
                seller, _ = register(anyone)
                buyer, buying = register(anyone)
                seller.stock.adjust(SKU, "ADD", 100, reason="test", hsn="731815", unit="NOS")
                issued = seller.invoices.create(bolts(buying))
                with losing_answers(invoice_at) as broken, Client({**addresses(market), "invoice": broken}) as again:
                    user = buyer._caller.session._user
                    accepted = again.as_user(user.email, user.password).invoices.accept(issued.message.invoice_id)
                return issued.replayed, seller.stock.get(SKU).reserved_milli, accepted.replayed

        with losing_answers(addresses(market)["invoice"]) as broken:
            replayed, reserved, accepted_before = await asyncio.to_thread(trade, broken)

        assert (replayed, reserved, accepted_before) == (True, 10_000, True)
        assert await invoice_count(market) == 1

    async def test_is_found_by_its_key_where_nobody_repeats(self, market):
        """OutcomeUnknown resolves to the invoice that was issued."""
        with losing_answers(addresses(market)["invoice"]) as broken:
            async with AsyncClient({**addresses(market), "invoice": broken}, timing=ONCE) as anyone:
                seller, buying = await a_seller(anyone)
                with pytest.raises(OutcomeUnknown) as caught:
                    await seller.invoices.create(bolts(buying))
                found = await caught.value.resolve_async()
                stored = [one async for one in seller.invoices.list(view="FULL")]

        assert (found.key, found.replayed) == (caught.value.key, True)
        assert [one.invoice_id for one in stored] == [found.message.invoice_id]

    async def test_that_is_cancelled_after_all_is_not(self, market):
        """CancelOperation of what was done returns it: the invoice stands."""
        with losing_answers(addresses(market)["invoice"]) as broken:
            async with AsyncClient({**addresses(market), "invoice": broken}, timing=ONCE) as anyone:
                seller, buying = await a_seller(anyone)
                with pytest.raises(OutcomeUnknown) as caught:
                    await seller.invoices.create(bolts(buying))
                found = await caught.value.resolve_async(cancel=True)

        assert found.message.number
        assert await invoice_count(market) == 1


class TestAServiceThatStops:
    async def test_is_waited_for(self, market, patient):
        """UNAVAILABLE while it is away; once it is back the same call, begun before, succeeds."""
        seller, buying = await a_seller(patient)
        # The budget allows five attempts without an answer: with the whole of each pause, it has seconds to come back.
        seller._caller.draw = lambda: 1.0
        await stop(market, "invoice")
        pending = asyncio.create_task(seller.invoices.create(bolts(buying)))
        await market.until(lambda: _attempts(seller, at_least=1))
        await start(market, "invoice")
        issued = await pending

        assert issued.attempts > 1
        assert await invoice_count(market) == 1

    async def test_leaves_a_key_that_can_be_ended_for_good(self, market, hasty):
        """Nothing was decided: still unknown when asked, CancelledByClient when ended, and so for ever after."""
        seller, buying = await a_seller(hasty)
        key = fresh_key()
        await stop(market, "invoice")
        with pytest.raises(OutcomeUnknown) as caught:
            await seller.invoices.create(bolts(buying), idempotency_key=key)
        with pytest.raises(errors.Unavailable):
            await caught.value.resolve_async()
        await start(market, "invoice")
        await market.until(lambda: _serves(seller))

        with pytest.raises(OutcomeUnknown):
            await caught.value.resolve_async()
        with pytest.raises(errors.CancelledByClient):
            await caught.value.resolve_async(cancel=True)
        with pytest.raises(errors.CancelledByClient) as again:
            await seller.invoices.create(bolts(buying), idempotency_key=key)

        assert again.value.replayed
        assert await invoice_count(market) == 0

    async def test_does_not_sign_anybody_out(self, market, patient):
        """While the merchant service is away, a token in hand goes on serving."""
        seller, buying = await a_seller(patient)
        # The services hold the keys of the tokens, and who seller and buyer are, once they have seen them.
        await seller.invoices.create(bolts(buying))
        await stop(market, "merchant")

        assert (await seller.invoices.create(bolts(buying))).attempts == 1


class TestManyAtOnce:
    async def test_exchange_a_refresh_token_once_awaited(self, market, patient):
        """Fifty tasks meet a token that is over: one exchange in one family, and all are served."""
        seller, _ = await a_seller(patient)
        _expire(seller)

        await asyncio.gather(*(seller.stock.get(SKU) for _ in range(50)))

        assert await _exchanges(market, seller) == [(2, False)]

    async def test_exchange_a_refresh_token_once_blocking(self, market):
        """The same with fifty threads."""

        def trade() -> Client:
            with Client(addresses(market)) as anyone:
                seller, _ = register(anyone)
                seller.stock.adjust(SKU, "ADD", 1, hsn="731815", unit="NOS")
                _expire(seller)
                with ThreadPoolExecutor(50) as threads:
                    list(threads.map(lambda _: seller.stock.get(SKU), range(50)))
                return seller

        seller = await asyncio.to_thread(trade)

        assert await _exchanges(market, seller) == [(2, False)]

    async def test_sign_in_by_password_once_the_family_has_ended(self, market, patient):
        """Somebody used the refresh token elsewhere: the family is over, and its user signs in anew, once for all."""
        seller, _ = await a_seller(patient)
        await market.sql("merchant", "UPDATE refresh_family SET end_time = now()")
        _expire(seller)

        await asyncio.gather(*(seller.stock.get(SKU) for _ in range(20)))

        assert sorted(await _exchanges(market, seller)) == [(1, False), (1, True)]

    async def test_replace_a_token_that_the_services_do_not_take(self, market, patient):
        """A token that is none: refused, renewed once, and the call repeated with its key."""
        seller, buying = await a_seller(patient)
        session = seller._caller.session
        session._pair = replace(session._pair, access="not-a-token")

        issued = await seller.invoices.create(bolts(buying))

        assert (issued.attempts, issued.replayed) == (2, False)


def _expire(client: AsyncClient | Client) -> None:
    """Its access token is over, as after a quarter of an hour."""
    session = client._caller.session
    assert session is not None and session._pair is not None
    session.distrust(session._pair.access)


async def _exchanges(market: Market, client: AsyncClient | Client) -> list[tuple[int, bool]]:
    """Generation and end of every family of the client's user."""
    session = client._caller.session
    assert session is not None
    rows = await market.sql(
        "merchant",
        "SELECT generation, end_time IS NOT NULL AS ended FROM refresh_family JOIN app_user USING (user_id) "
        "WHERE email = $1",
        session._user.email,
    )
    return [(row["generation"], row["ended"]) for row in rows]


async def _attempts(client: AsyncClient, at_least: int) -> bool:
    """Whether so many attempts at the invoice service have had no answer."""
    budget = client._caller.budgets["invoice"]
    return budget._tenths <= budget.MAX - at_least * budget.COST


async def _serves(client: AsyncClient) -> bool:
    try:
        return [one async for one in client.invoices.list()] == []
    except errors.Unavailable:
        return False
