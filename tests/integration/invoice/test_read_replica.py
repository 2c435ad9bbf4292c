"""GetInvoice and ListInvoices with a streaming replica: your own writes, a dated past, pages that do not go back."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.market import Market, fresh_key, open_market
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer

AS_OF, TOKEN = "x-as-of", "x-consistency-token"


@pytest.fixture(scope="module")
async def market(
    replicated: tuple[PostgresServer, ReplicaServer],
    market_valkey: ValkeyServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Market]:
    """The three services; invoices are read from the replica too."""
    primary, replica = replicated
    async with AsyncExitStack() as stack:
        yield await open_market(stack, primary, market_valkey, tmp_path_factory.mktemp("market"), replica=replica)


@pytest.fixture
async def replay(replicated: tuple[PostgresServer, ReplicaServer]) -> AsyncIterator[asyncpg.Connection]:
    """The replica's superuser; replay goes on when the test is over."""
    connection = await asyncpg.connect(replicated[1].dsn())
    yield connection
    await connection.execute("SELECT pg_wal_replay_resume()")
    await connection.close()


async def get(market, who, invoice_id, **metadata):
    """An invoice, and whether a replica answered."""
    request = pb.GetInvoiceRequest(invoice_id=invoice_id)
    found = await market.call(market.invoices.GetInvoice, request, who, None, **metadata)
    return found, AS_OF in market.last_metadata


async def issued(market, seller, buyer):
    """A new invoice, and the token of its commit."""
    invoice = await market.issue(seller, market.invoice(buyer))
    return invoice, market.last_metadata[TOKEN]


async def on_the_replica(market, who, invoice, token):
    """Waits until the replica serves it to a caller with its token."""

    async def there():
        found, by_replica = await get(market, who, invoice.invoice_id, x_consistency_token=token)
        assert found == invoice
        return by_replica

    await market.until(there)


async def paused(market, replay):
    await replay.execute("SELECT pg_wal_replay_pause()")

    async def so():
        return await replay.fetchval("SELECT pg_get_wal_replay_pause_state()") == "paused"

    await market.until(so)


async def test_a_reader_with_a_token_sees_its_own_write_and_one_without_the_past_by_its_date(
    market, seller, buyer, replay
):
    """Replay stands still between the issue and the acceptance."""
    invoice, token = await issued(market, seller, buyer)
    await on_the_replica(market, seller, invoice, token)
    await paused(market, replay)
    began = dt.datetime.now(dt.UTC)
    await market.call(market.invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id), buyer)
    accepted = market.last_metadata[TOKEN]

    found, by_replica = await get(market, seller, invoice.invoice_id, x_consistency_token=accepted)
    assert (found.state, by_replica) == (pb.ACCEPTED, False)

    found, by_replica = await get(market, seller, invoice.invoice_id)
    if by_replica:  # else the 5 s were over: a busy machine
        assert found.state == pb.ISSUED
        assert dt.datetime.fromisoformat(market.last_metadata[AS_OF]) < began + dt.timedelta(seconds=1)
    listed = await market.call(market.invoices.ListInvoices, pb.ListInvoicesRequest(), seller, None)
    assert [i.state for i in listed.invoices] == [pb.ISSUED if AS_OF in market.last_metadata else pb.ACCEPTED]


async def test_a_replay_brings_a_token_too(market, seller, buyer, replay):
    """Who was cut off and asks again then sees what was written the first time, whoever answered the replay."""
    invoice, _ = await issued(market, seller, buyer)
    await paused(market, replay)
    accept, key = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id), fresh_key()
    await market.call(market.invoices.AcceptInvoice, accept, buyer, key)
    await market.call(market.invoices.AcceptInvoice, accept, buyer, key)
    assert market.last_metadata["x-idempotent-replayed"] == "true"

    found, by_replica = await get(market, buyer, invoice.invoice_id, x_consistency_token=market.last_metadata[TOKEN])
    assert (found.state, by_replica) == (pb.ACCEPTED, False)


async def test_what_a_replica_does_not_know_is_asked_at_the_primary(market, seller, buyer, replay):
    """A NOT_FOUND from the past would be wrong for ever in the eyes of who was just told the id."""
    await paused(market, replay)
    invoice, _ = await issued(market, seller, buyer)

    found, by_replica = await get(market, buyer, invoice.invoice_id)
    assert (found.invoice_id, by_replica) == (invoice.invoice_id, False)


async def test_the_pages_of_a_list_do_not_go_back_in_time(market, seller, buyer, replay):
    """Page one comes from the primary, which has five; a replica that has two would end the list at page two."""
    invoices = []
    for _ in range(2):
        invoice, token = await issued(market, seller, buyer)
        invoices.append(invoice.invoice_id)
    await on_the_replica(market, seller, invoice, token)
    await paused(market, replay)
    for _ in range(3):
        invoice, token = await issued(market, seller, buyer)
        invoices.append(invoice.invoice_id)

    request = pb.ListInvoicesRequest(page_size=2, order_by="create_time asc")
    seen, page_token = [], token
    metadata = {"x_consistency_token": token}
    while page_token:
        page = await market.call(market.invoices.ListInvoices, request, seller, None, **metadata)
        assert AS_OF not in market.last_metadata
        seen += [i.invoice_id for i in page.invoices]
        request.page_token = page_token = page.next_page_token
        metadata = {}

    assert seen == invoices


@pytest.mark.parametrize("token", ["garbage", "0/16B3748", "0000002A/0/1", "00000001/FFFFFFFF/FFFFFFFF"])
async def test_a_strange_token_fails_no_read(market, seller, buyer, token):
    """It is ours to know what it means; what we do not know is answered by the primary."""
    invoice, _ = await issued(market, seller, buyer)
    assert await get(market, seller, invoice.invoice_id, x_consistency_token=token) == (invoice, False)


async def test_an_import_brings_a_token_with_its_results_the_second_time_too(market, seller, buyer, replay):
    """Results come while the stream is open, so their token comes with them; results told again have one as well."""
    invoice, token = await issued(market, seller, buyer)
    await on_the_replica(market, seller, invoice, token)
    await paused(market, replay)
    item = pb.ImportInvoicesItem(
        offset=1, idempotency_key=fresh_key(), invoice=market.invoice(buyer, market.line(1)).invoice
    )
    for replayed in (False, True):

        async def sent():
            yield pb.ImportInvoicesRequest(items=[item])

        metadata = [("authorization", f"Bearer {seller.token}")]
        (answer,) = [one async for one in market.invoices.ImportInvoices(sent(), metadata=metadata, timeout=30)]
        assert answer.results[0].replayed == replayed
        request = pb.ListInvoicesRequest()
        listed = await market.call(
            market.invoices.ListInvoices, request, seller, None, x_consistency_token=answer.consistency_token
        )
        assert AS_OF not in market.last_metadata
        assert answer.results[0].invoice.invoice_id in [one.invoice_id for one in listed.invoices]
