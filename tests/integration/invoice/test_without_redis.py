"""Redis is a cache: absent, killed, frozen, emptied or lied to, everything stays correct; only slower (PROTOCOL 7)."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.chassis import secrets
from tests.integration.invoice.probes import another_door, outcome
from tests.kit.fault_proxy import Link
from tests.kit.market import Market, Refused, Trader, fresh_key, open_market
from tests.kit.servers import ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> AsyncIterator[ValkeyServer]:
    """A Valkey of this file's own, to be killed and frozen."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
async def market(templates, valkey, tmp_path_factory) -> AsyncIterator[Market]:
    async with AsyncExitStack() as stack:
        yield await open_market(stack, templates, valkey, tmp_path_factory.mktemp("market"))


async def main_job(market: Market, seller: Trader, buyer: Trader, door: InvoiceServiceStub | None = None) -> None:
    """Issue, repeat, reuse, accept, repeat: what must hold whatever Redis does."""
    door = door or market.invoices
    held = (await market.stock(seller))[1]
    key, request = fresh_key(), market.invoice(buyer, market.line(1))
    invoice = await market.call(door.CreateInvoice, request, seller, key)
    assert await market.call(door.CreateInvoice, request, seller, key) == invoice
    assert market.last_metadata["x-idempotent-replayed"] == "true"
    reused = await outcome(market, door.CreateInvoice, market.invoice(buyer, market.line(2)), seller, key)
    assert reused.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
    accept = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
    accepted = await market.call(door.AcceptInvoice, accept, buyer, key)
    assert await market.call(door.AcceptInvoice, accept, buyer, key) == accepted
    short = market.invoice(buyer, market.line(5_000))
    refusals = [await outcome(market, door.CreateInvoice, short, seller, f"{key}-short") for _ in range(2)]
    assert [(r.reason, r.replayed) for r in refusals] == [("INSUFFICIENT_STOCK", False), ("INSUFFICIENT_STOCK", True)]

    async def one_is_held() -> bool:
        return (await market.stock(seller))[1] == held + 1

    await market.until(one_is_held)


async def copies(market: Market, seller: Trader, buyer: Trader, doors: list[InvoiceServiceStub]) -> None:
    """Thirty copies of a request over all doors: one invoice; each copy gets it, or is told of the one under way."""
    key, request = fresh_key(), market.invoice(buyer, market.line(1))
    calls = [outcome(market, doors[n % len(doors)].CreateInvoice, request, seller, key) for n in range(30)]
    outcomes = await asyncio.gather(*calls)
    assert len({o.invoice_id for o in outcomes if isinstance(o, pb.Invoice)}) == 1
    assert {o.reason for o in outcomes if isinstance(o, Refused)} <= {"CONCURRENT_REQUEST"}


class TestWithoutRedis:
    async def test_the_main_job_is_done(self, market, seller, buyer):
        """A service that was started without Redis."""
        async with AsyncExitStack() as stack:
            doors = [await another_door(market, stack, redis_url="") for _ in range(2)]
            await main_job(market, seller, buyer, doors[0])
            await copies(market, seller, buyer, doors)

    async def test_a_redis_that_was_never_there_costs_nothing_but_time(self, market, seller, buyer):
        """An address where nobody listens: the service starts, and does the job."""
        async with AsyncExitStack() as stack:
            door = await another_door(market, stack, redis_url="redis://127.0.0.1:1")
            started = time.monotonic()
            await main_job(market, seller, buyer, door)
            assert time.monotonic() - started < 5


class TestARedisThatFails:
    async def test_by_being_killed_is_missed_by_nobody(self, market, valkey, seller, buyer):
        """Killed between two requests, restarted empty: the same answers before, meanwhile and after."""
        key, request = fresh_key(), market.invoice(buyer, market.line(1))
        first = await market.issue(seller, request, key)
        await valkey.kill9()
        try:
            assert await market.issue(seller, request, key) == first
            await main_job(market, seller, buyer)
        finally:
            await valkey.start()
        assert await market.issue(seller, request, key) == first
        await main_job(market, seller, buyer)

    async def test_by_freezing_delays_a_request_by_its_time_out_only(self, market, valkey, seller, buyer):
        """Stopped in its tracks with connections open: 25 ms a look, then it is left alone for a second."""
        await main_job(market, seller, buyer)
        valkey.freeze()
        try:
            started = time.monotonic()
            await main_job(market, seller, buyer)
            assert time.monotonic() - started < 5
            async with AsyncExitStack() as stack:
                second = await another_door(market, stack)
                await copies(market, seller, buyer, [market.invoices, second])
        finally:
            valkey.thaw()
        await main_job(market, seller, buyer)

    async def test_in_the_middle_of_a_crowd_changes_no_answer(self, market, valkey, seller, buyer):
        """Frozen, thawed and killed under load: every key one invoice, found again afterwards."""
        await market.stock_up(seller, units=1_000)
        keys = [fresh_key() for _ in range(60)]
        request = market.invoice(buyer, market.line(1))

        async def client(key: str) -> str:
            while True:
                told = await outcome(market, market.invoices.CreateInvoice, request, seller, key)
                if isinstance(told, pb.Invoice):
                    return told.invoice_id
                assert told.reason in ("CONCURRENT_REQUEST", "DEPENDENCY_DOWN"), told

        other = await market.register("27")
        await market.stock_up(other)
        first = asyncio.gather(*(client(key) for key in keys for _ in range(2)))
        valkey.freeze()
        try:
            await main_job(market, other, buyer)
        finally:
            valkey.thaw()
        await valkey.kill9()
        try:
            await main_job(market, other, buyer)
            ids = await first
        finally:
            await valkey.start()
        assert len(set(ids)) == len(keys)
        assert await asyncio.gather(*(client(key) for key in keys for _ in range(2))) == ids


@pytest.mark.parametrize("redis_there", [True, False], ids=["redis up", "redis down"])
class TestTheSameWithAndWithout:
    """Redis knows nothing that the decision rows do not say."""

    @pytest.fixture
    async def door(self, market, redis_there) -> AsyncIterator[InvoiceServiceStub]:
        async with AsyncExitStack() as stack:
            yield await another_door(market, stack, **({} if redis_there else {"redis_url": ""}))

    async def test_a_buyers_key_is_judged_by_each_seller(self, market, seller, buyer, door):
        """The row of an action lies beside the invoice: one key for invoices of two sellers is two keys, one key for
        two invoices of one seller is misuse."""
        other = await market.register("27")
        await market.stock_up(other)
        mine, second = [await market.issue(seller, market.invoice(buyer, market.line(1))) for _ in range(2)]
        theirs = await market.issue(other, market.invoice(buyer, market.line(1)))
        key = fresh_key()
        accepts = [pb.AcceptInvoiceRequest(invoice_id=i.invoice_id) for i in (mine, theirs, second)]
        told = [await outcome(market, door.AcceptInvoice, accept, buyer, key) for accept in accepts]
        assert [one.state for one in told[:2]] == [pb.ACCEPTED, pb.ACCEPTED]
        assert told[2].reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
        # And all at once, in one batch or in several.
        key = fresh_key()
        invoices = [await market.issue(who, market.invoice(buyer, market.line(1))) for who in (seller, seller, other)]
        accepts = [pb.AcceptInvoiceRequest(invoice_id=i.invoice_id) for i in invoices]
        told = await asyncio.gather(*(outcome(market, door.AcceptInvoice, accept, buyer, key) for accept in accepts))
        assert told[2].state == pb.ACCEPTED
        misused = [one for one in told[:2] if isinstance(one, Refused)]
        assert [one.reason for one in misused] == ["KEY_REUSED_WITH_DIFFERENT_PAYLOAD"]

    async def test_a_refused_key_holds_nothing_when_it_is_repeated(self, market, seller, buyer, door, redis_there):
        """The stock has come meanwhile: the refusal stands, and not even for a moment is a unit taken from others."""
        key, request = fresh_key(), market.invoice(buyer, market.line(500))
        assert (await outcome(market, door.CreateInvoice, request, seller, key)).reason == "INSUFFICIENT_STOCK"
        await market.stock_up(seller, units=1_000)
        told = await outcome(market, door.CreateInvoice, request, seller, key)
        assert (told.reason, told.replayed) == ("INSUFFICIENT_STOCK", True)
        assert await market.sql("inventory", HOLDS_EVER, seller.merchant.merchant_id) == []


HOLDS_EVER = "SELECT 1 FROM reservation WHERE merchant_id = $1::text::uuid"


class TestARedisBehindALink:
    """A cache that is slow, paused, emptied, or another one: the main job is done, and no answer changes."""

    @pytest.fixture
    async def linked(self, market, valkey) -> AsyncIterator[tuple[Link, InvoiceServiceStub]]:
        link = await Link("redis", valkey.host, valkey.port).start()
        url = market.settings.redis_url.replace(f":{valkey.port}", f":{link.port}")
        async with AsyncExitStack() as stack:
            yield link, await another_door(market, stack, redis_url=url)
        await link.close()

    async def test_of_ten_seconds_latency(self, market, seller, buyer, linked):
        link, door = linked
        await main_job(market, seller, buyer, door)
        link.delay(5.0)
        begun = time.monotonic()
        await main_job(market, seller, buyer, door)
        assert time.monotonic() - begun < 10
        await copies(market, seller, buyer, [market.invoices, door])
        assert link.did["delayed"] > 0, "void: nothing was late"

    async def test_that_pauses_its_clients(self, market, valkey, seller, buyer, linked):
        _link, door = linked
        client = redis.Redis.from_url(market.settings.redis_url)
        await client.execute_command("CLIENT", "PAUSE", "3000", "ALL")
        begun = time.monotonic()
        await main_job(market, seller, buyer, door)
        assert time.monotonic() - begun < 10
        await copies(market, seller, buyer, [market.invoices, door])
        await client.aclose()

    async def test_that_is_emptied_again_and_again(self, market, seller, buyer, linked):
        """FLUSHALL between and under requests that are repeated: markers and outcomes go, answers stay."""
        _link, door = linked
        await market.stock_up(seller, units=1_000)
        client = redis.Redis.from_url(market.settings.redis_url)
        keys, request = [fresh_key() for _ in range(40)], market.invoice(buyer, market.line(1))

        async def ask(key: str) -> str:
            while True:
                told = await outcome(market, door.CreateInvoice, request, seller, key)
                if isinstance(told, pb.Invoice):
                    return told.invoice_id
                assert told.code in ("ABORTED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"), told
                await asyncio.sleep(0.05)

        async def flush() -> None:
            for _ in range(200):
                await client.flushall()
                await asyncio.sleep(0.005)

        flushing = asyncio.create_task(flush())
        first = await asyncio.gather(*(ask(key) for key in keys for _ in range(2)))
        await flushing
        await client.aclose()
        assert len(set(first)) == len(keys)
        assert await asyncio.gather(*(ask(key) for key in keys for _ in range(2))) == first

    async def test_whose_replica_takes_over_empty(self, market, seller, buyer, linked):
        """The same address is another server from one moment to the next, and it knows nothing."""
        link, door = linked
        key, request = fresh_key(), market.invoice(buyer, market.line(1))
        first = await market.call(door.CreateInvoice, request, seller, key)
        async with ValkeyServer() as other:
            # The password goes with the address.
            client = redis.Redis.from_url(other.url)
            password = market.settings.redis_url.split("//")[1].split("@")[0].lstrip(":")
            if password and "@" in market.settings.redis_url:
                await client.config_set("requirepass", password)
            await client.aclose()
            link.redirect(other.host, other.port)
            assert await market.call(door.CreateInvoice, request, seller, key) == first
            await main_job(market, seller, buyer, door)
            assert link.did["resets"] > 0, "void: nobody was connected"


class TestAValueInRedis:
    async def cached(self, market: Market, seller: Trader, buyer: Trader) -> tuple[redis.Redis, bytes, str, pb.Invoice]:
        """An issued invoice and the cache entry of its key. Redis may be left alone for a second after a failure."""
        client = redis.Redis.from_url(market.settings.redis_url)
        async with asyncio.timeout(20):
            while True:
                await client.flushall()
                key = fresh_key()
                invoice = await market.issue(seller, market.invoice(buyer, market.line(1)), key)
                for _ in range(10):
                    names = await client.keys("*")
                    if len(names) == 1 and (await client.get(names[0]) or b"")[:1] == b"O":
                        return client, names[0], key, invoice
                    await asyncio.sleep(0.02)
                await market.stock_up(seller, units=1)

    async def test_answers_a_repeat_without_the_database(self, market, seller, buyer):
        """The proof that the cache is read at all: with our MAC it is believed."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        value = await client.get(name)
        # Kind, MAC, fingerprint, state, then the answer.
        assert pb.Invoice.FromString(value[66:]) == invoice
        assert await client.ttl(name) > 23 * 3600
        await market.sql("invoice", "ALTER TABLE decision RENAME TO decision_away")
        try:
            assert await market.issue(seller, market.invoice(buyer, market.line(1)), key) == invoice
        finally:
            await market.sql("invoice", "ALTER TABLE decision_away RENAME TO decision")
            await client.aclose()

    @pytest.mark.parametrize("how", ["one bit", "foreign mac", "cut", "nothing of ours", "empty", "another key's"])
    async def test_that_is_not_ours_is_ignored(self, market, seller, buyer, how):
        """Corrupted, forged, cut, swapped with another key's: the decision row answers instead."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        value = bytearray(await client.get(name))
        if how == "one bit":
            value[-9] ^= 1
        elif how == "foreign mac":
            body = bytes(value[33:]).replace(invoice.number.encode(), b"FAKE/0000/0001")
            value = b"O" + hmac.digest(b"another key of 32 bytes.........", name + b"\0" + body, "sha256") + body
        elif how == "cut":
            value = value[:40]
        elif how == "nothing of ours":
            value = b"\xff" * 200
        elif how == "empty":
            value = b""
        else:
            other = fresh_key()
            await market.issue(seller, market.invoice(buyer, market.line(1)), other)

            async def both() -> bool:
                return len([k for k in await client.keys("*") if (await client.get(k))[:1] == b"O"]) == 2

            await market.until(both)
            (foreign,) = [k for k in await client.keys("*") if k != name]
            value = await client.get(foreign)
        await client.set(name, bytes(value))

        assert await market.issue(seller, market.invoice(buyer, market.line(1)), key) == invoice
        await client.aclose()

    async def test_of_another_type_is_ignored(self, market, seller, buyer):
        """A list where a text should be: an error of Redis, not of ours."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        await client.delete(name)
        await client.rpush(name, "x")
        assert await market.issue(seller, market.invoice(buyer, market.line(1)), key) == invoice
        await client.delete(name)
        await client.aclose()

    async def test_that_marks_a_dead_process_runs_out(self, market, seller, buyer):
        """The marker of a process that died: CONCURRENT_REQUEST until it runs out, then the invoice."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        value = await client.get(name)
        await client.set(name, b"M" + b"d" * 16 + value[33:65], px=400)
        request = market.invoice(buyer, market.line(1))
        told = await outcome(market, market.invoices.CreateInvoice, request, seller, key)
        assert (told.code, told.reason) == ("ABORTED", "CONCURRENT_REQUEST")
        assert 100 <= told.retry_ms <= 300

        async def answered() -> bool:
            return await outcome(market, market.invoices.CreateInvoice, request, seller, key) == invoice

        await market.until(answered)
        await client.aclose()

    async def test_of_an_earlier_epoch_is_never_read(self, market, seller, buyer):
        """After a restore every cache key is another one: a lie of before is not found."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        await market.sql("invoice", "INSERT INTO restore_epoch SELECT max(epoch) + 1 FROM restore_epoch")
        async with AsyncExitStack() as stack:
            second = await another_door(market, stack)
            request = market.invoice(buyer, market.line(1))
            assert await market.call(second.CreateInvoice, request, seller, key) == invoice

            async def kept_anew() -> bool:
                return len(await client.keys("*")) == 2

            await market.until(kept_anew)
        assert name in await client.keys("*")
        await client.aclose()

    async def test_is_not_found_any_more_once_the_database_was_restored(self, market, seller, buyer):
        """A running service follows: a lie under our own MAC, believed before, is not read a moment after."""
        client, name, key, invoice = await self.cached(market, seller, buyer)
        value = await client.get(name)
        lie = value[33:].replace(invoice.number.encode(), b"FAKE/0000/0001")
        mac = hmac.digest(secrets.load(market.settings.secrets_dir).cache_mac_key, name + b"\0" + lie, "sha256")
        await client.set(name, b"O" + mac + lie)
        request = market.invoice(buyer, market.line(1))
        assert (await market.issue(seller, request, key)).number == "FAKE/0000/0001"
        await market.sql("invoice", "INSERT INTO restore_epoch SELECT max(epoch) + 1 FROM restore_epoch")

        async def told_the_truth() -> bool:
            return await outcome(market, market.invoices.CreateInvoice, request, seller, key) == invoice

        await market.until(told_the_truth)
        await client.aclose()

    async def test_is_never_another_keys_however_often_callers_hang_up(self, market, seller, buyer):
        """Callers cancelled at any moment leave no reply behind for the next command."""
        await market.stock_up(seller, units=1_000)
        keys = [fresh_key() for _ in range(20)]
        numbers = {}
        for n, key in enumerate(keys):
            numbers[key] = (await market.issue(seller, market.invoice(buyer, market.line(1), notes=str(n)), key)).number

        async def hasty(n: int) -> None:
            key = keys[n % 20]
            request = market.invoice(buyer, market.line(1), notes=str(n % 20))
            metadata = [("authorization", f"Bearer {seller.token}"), ("idempotency-key", key)]
            call = market.invoices.CreateInvoice(request, metadata=metadata, timeout=5)
            await asyncio.wait([asyncio.ensure_future(_swallow(call))], timeout=n % 7 / 1_000)
            call.cancel()

        await asyncio.gather(*(hasty(n) for n in range(300)))
        for n, key in enumerate(keys):

            async def same(n: int = n, key: str = key) -> bool:
                request = market.invoice(buyer, market.line(1), notes=str(n))
                told = await outcome(market, market.invoices.CreateInvoice, request, seller, key)
                assert isinstance(told, pb.Invoice) or told.reason == "CONCURRENT_REQUEST"
                return isinstance(told, pb.Invoice) and told.number == numbers[key]

            await market.until(same)


async def _swallow(call) -> None:
    import grpc

    try:
        await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        pass
