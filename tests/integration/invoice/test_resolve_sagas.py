"""What each crash leaves behind, and who settles it: the rows of PROTOCOL 5 and 6, made by hand on real servers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from invochain import core
from invochain.chassis import clock
from invochain.chassis.ids import to_text
from invochain.chassis.postgres import CommitUnknown
from invochain.errors import DependencyDown
from invochain.invoice import attempts, decide
from invochain.invoice.resolve_sagas import resolve
from tests.integration.invoice.probes import (
    age_holds,
    another_door,
    decision_of,
    fingerprint_of,
    flush,
    hold_by_hand,
    hold_states,
    inventory_port,
    outcome,
    room_postgres,
    settle,
)
from tests.kit.market import Market, Refused, Trader, fresh_key


async def held(market: Market, who: Trader) -> None:
    """Waits until a merchant's hold is lasting."""

    async def is_held() -> bool:
        return "HELD" in (await hold_states(market, who)).values()

    await market.until(is_held)


async def set_hold(market: Market, who: Trader, state: str) -> None:
    """Puts a hold into a state, as if what came after it had been lost."""
    await market.sql(
        "inventory",
        "UPDATE reservation SET state = $1 WHERE merchant_id = $2::text::uuid",
        state,
        who.merchant.merchant_id,
    )


class TestAHoldWhoseRequestDied:
    async def test_is_left_alone_while_its_request_may_live(self, market, seller, buyer):
        """Undecided and 20 s old: seen (older than 10 s), and left (younger than 30 s)."""
        key = fresh_key()
        await hold_by_hand(market, seller, market.invoice(buyer), key)
        await age_holds(market, 20, seller)

        found = await settle(market)

        assert (found.fenced, found.released, found.left >= 1) == (0, 0, True)
        assert await hold_states(market, seller) == {1: "PENDING"}
        assert await decision_of(market, seller, key) == ("", 0, "")

    async def test_is_fenced_then_released(self, market, seller, buyer):
        """Undecided and 31 s old: ABORTED(1) is written with the request's fingerprint, then the stock comes free."""
        key = fresh_key()
        hold = await hold_by_hand(market, seller, market.invoice(buyer), key)
        assert await market.stock(seller) == (100, 10)
        await age_holds(market, 31, seller)

        await settle(market)

        assert await decision_of(market, seller, key) == ("ABORTED", 1, "SAGA_ABORTED")
        rows = await market.sql(
            "invoice", "SELECT fingerprint FROM decision WHERE rid = $1::text::uuid", to_text(hold.rid)
        )
        assert rows[0]["fingerprint"] == hold.fingerprint
        assert await hold_states(market, seller) == {1: "RELEASED"}
        assert await market.stock(seller) == (100, 0)

    async def test_is_used_by_the_retry_that_comes_in_time(self, market, seller, buyer):
        """The client repeats at once: the same hold, one invoice, ten bolts."""
        key, request = fresh_key(), market.invoice(buyer)
        await hold_by_hand(market, seller, request, key)
        await market.issue(seller, request, key)
        await held(market, seller)
        assert (await hold_states(market, seller), await market.stock(seller)) == ({1: "HELD"}, (100, 10))

    async def test_is_followed_by_attempt_2_when_the_retry_comes_late(self, market, seller, buyer):
        """After the tombstone a retry goes on with a fresh hold; the answer is that of attempt 2, for ever."""
        key, request = fresh_key(), market.invoice(buyer)
        await hold_by_hand(market, seller, request, key)
        await age_holds(market, 31, seller)
        await settle(market)
        await flush(market)

        invoice = await market.issue(seller, request, key)

        assert await decision_of(market, seller, key) == ("SUCCEEDED", 2, "")
        await held(market, seller)
        assert await hold_states(market, seller) == {1: "RELEASED", 2: "HELD"}
        await flush(market)
        assert await market.issue(seller, request, key) == invoice
        assert await market.stock(seller) == (100, 10)

    async def test_is_followed_by_one_attempt_2_however_many_retry_at_once(self, market, seller, buyer):
        """Twelve retries through two processes without Redis join the reopened attempt: one claims it, the others
        answer from its row."""
        key, request = fresh_key(), market.invoice(buyer)
        await hold_by_hand(market, seller, request, key)
        await age_holds(market, 31, seller)
        await settle(market)
        async with AsyncExitStack() as stack:
            doors = [await another_door(market, stack, redis_url="") for _ in range(2)]
            outcomes = await asyncio.gather(
                *(outcome(market, doors[n % 2].CreateInvoice, request, seller, key) for n in range(12))
            )
            told = {o.reason for o in outcomes if isinstance(o, Refused)}
            assert told <= {"CONCURRENT_REQUEST", "SAGA_ABORTED"}
            assert len({o.invoice_id for o in outcomes if not isinstance(o, Refused)}) == 1
        assert (await decision_of(market, seller, key))[:2] == ("SUCCEEDED", 2)
        assert await market.stock(seller) == (100, 10)

    async def test_is_not_claimed_again_once_its_attempt_has_ended(self, market, seller, buyer, monkeypatch):
        """A handler that joined OPEN(2) comes to DECIDE after another one succeeded there: it replays that answer."""
        key, request = fresh_key(), market.invoice(buyer, market.line(sku=""))
        rid = core.request_id(seller.merchant_id, "invoice.create", key)
        await market.sql(
            "invoice",
            """INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
               VALUES ($1::text::uuid, $2::text::uuid, 'invoice.create', 'OPEN', 2, $3, 1)""",
            seller.merchant.merchant_id,
            to_text(rid),
            fingerprint_of(request),
        )
        async with AsyncExitStack() as stack:
            second = await another_door(market, stack, redis_url="")
            real, rival = attempts.reopen, []

            async def overtaken(room, work, at, **how):
                ready = await real(room, work, at, **how)
                if not rival:
                    rival.append(None)
                    rival[0] = await market.call(second.CreateInvoice, request, seller, key)
                return ready

            monkeypatch.setattr(attempts, "reopen", overtaken)
            invoice = await market.issue(seller, request, key)
        assert invoice == rival[0]
        assert market.last_metadata["x-idempotent-replayed"] == "true"

    async def test_of_an_open_second_attempt_is_fenced_as_its_own_attempt(self, market, seller, buyer):
        """OPEN(2) whose handler died: ABORTED(2), released; the next retry is attempt 3."""
        key, request = fresh_key(), market.invoice(buyer)
        await hold_by_hand(market, seller, request, key)
        await age_holds(market, 31, seller)
        await settle(market)
        await market.sql(
            "invoice",
            "UPDATE decision SET state = 'OPEN', attempt = 2 WHERE merchant_id = $1::text::uuid",
            seller.merchant.merchant_id,
        )
        await hold_by_hand(market, seller, request, key, attempt=2)
        await age_holds(market, 31, seller)

        await settle(market)

        assert await decision_of(market, seller, key) == ("ABORTED", 2, "SAGA_ABORTED")
        await flush(market)
        await market.issue(seller, request, key)
        await held(market, seller)
        assert await hold_states(market, seller) == {1: "RELEASED", 2: "RELEASED", 3: "HELD"}

    async def test_of_an_attempt_later_than_its_row_is_fenced_all_the_same(self, market, seller, buyer):
        """The row was purged or set back, and says ABORTED(1) or nothing while attempt 2 holds stock: it becomes
        ABORTED(2), and only then is the stock let go of. (Left alone, it would be held until a client repeats the key.)
        """
        key, request = fresh_key(), market.invoice(buyer, market.line(1))
        await hold_by_hand(market, seller, request, key, attempt=1)
        await hold_by_hand(market, seller, request, key, attempt=2)
        await age_holds(market, 31, seller)
        await settle(market)
        assert await decision_of(market, seller, key) == ("ABORTED", 2, "SAGA_ABORTED")
        assert await hold_states(market, seller) == {1: "RELEASED", 2: "RELEASED"}

        await hold_by_hand(market, seller, request, key, attempt=3)
        await age_holds(market, 31, seller)
        await settle(market)
        assert await decision_of(market, seller, key) == ("ABORTED", 3, "SAGA_ABORTED")
        assert (await hold_states(market, seller))[3] == "RELEASED"
        assert await market.stock(seller) == (100, 0)

        await market.issue(seller, request, key)
        assert (await decision_of(market, seller, key))[:2] == ("SUCCEEDED", 4)

    async def test_that_left_no_tombstone_is_followed_by_a_definite_answer(self, market, seller, buyer):
        """ABORTED(1) without a hold, and the stock is gone: attempt 2 ends it, there is no SAGA_ABORTED for ever."""
        key, request = fresh_key(), market.invoice(buyer, market.line(101))
        rid = core.request_id(seller.merchant_id, "invoice.create", key)
        await market.sql(
            "invoice",
            """INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
               VALUES ($1::text::uuid, $2::text::uuid, 'invoice.create', 'ABORTED', 1, $3, 1)""",
            seller.merchant.merchant_id,
            to_text(rid),
            fingerprint_of(request),
        )
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        assert refusal.reason == "INSUFFICIENT_STOCK"
        assert await decision_of(market, seller, key) == ("FAILED", 2, "INSUFFICIENT_STOCK")


class TestALateDecision:
    async def test_is_fenced_by_the_tombstone_and_goes_on_as_attempt_2(self, market, seller, buyer, monkeypatch):
        """A process stopped between Reserve and DECIDE: the resolver wrote ABORTED(1), the late claim loses to it."""
        key, request = fresh_key(), market.invoice(buyer)
        real, fenced = decide.decide, []

        async def stopped_for_a_while(room, work, at, **how):
            if not fenced:
                fenced.append(True)
                await age_holds(market, 31, seller)
                await settle(market)
                assert await hold_states(market, seller) == {1: "RELEASED"}
            return await real(room, work, at, **how)

        monkeypatch.setattr(decide, "decide", stopped_for_a_while)
        invoice = await market.issue(seller, request, key)

        assert invoice.invoice_id == to_text(
            core.invoice_id(core.request_id(seller.merchant_id, "invoice.create", key))
        )
        assert (await decision_of(market, seller, key))[:2] == ("SUCCEEDED", 2)
        await held(market, seller)
        assert await hold_states(market, seller) == {1: "RELEASED", 2: "HELD"}
        assert await market.stock(seller) == (100, 10)

    async def test_of_a_task_older_than_15_s_decides_nothing(self, market, seller, buyer, monkeypatch):
        """A zombie that comes back after its time is refused before it asks the database (PROTOCOL 3a)."""
        key, request = fresh_key(), market.invoice(buyer)
        real = clock.monotonic
        seen = []

        async def never(*_args, **_how):
            seen.append("decided")
            raise AssertionError("a zombie decided")

        async def reserve_then_sleep(room, work, at, _real=None):
            # Time passes for this batch alone.
            work.started = real() - 16
            return at

        from invochain.invoice import create_invoice

        monkeypatch.setattr(decide, "decide", never)
        monkeypatch.setattr(create_invoice, "reserve", reserve_then_sleep)
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        assert (refusal.code, refusal.reason, seen) == ("ABORTED", "SAGA_ABORTED", [])
        assert await decision_of(market, seller, key) == ("", 0, "")

    async def test_reserved_again_after_the_tombstone_is_released_again(self, market, seller, buyer):
        """A Reserve that was under way for ever arrives after ABORTED(1) but finds no tombstone: the row is negative,
        so the resolver gives it back."""
        key, request = fresh_key(), market.invoice(buyer)
        hold = await hold_by_hand(market, seller, request, key)
        await age_holds(market, 31, seller)
        await settle(market)
        await market.sql(
            "inventory", "DELETE FROM reservation WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
        )
        again = await hold_by_hand(market, seller, request, key)
        assert again == hold
        await age_holds(market, 11, seller)

        await settle(market)

        assert (await hold_states(market, seller), await market.stock(seller)) == ({1: "RELEASED"}, (100, 0))


class TestAnIssuedInvoice:
    async def test_whose_confirm_was_lost_gets_its_lasting_hold(self, market, seller, buyer):
        """SUCCEEDED and PENDING: the resolver confirms; twice does no harm."""
        await market.issue(seller, market.invoice(buyer))
        await held(market, seller)
        await set_hold(market, seller, "PENDING")
        await age_holds(market, 11, seller)

        first = await settle(market)

        assert first.confirmed >= 1
        assert await hold_states(market, seller) == {1: "HELD"}
        assert await market.stock(seller) == (100, 10)

    async def test_whose_decision_row_is_purged_still_decides(self, market, seller, buyer):
        """No row, but an invoice: SUCCEEDED(its attempt), so Confirm and never Release (PROTOCOL R5)."""
        key = fresh_key()
        await market.issue(seller, market.invoice(buyer), key)
        await held(market, seller)
        await set_hold(market, seller, "PENDING")
        await market.sql(
            "invoice", "DELETE FROM decision WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
        )
        await age_holds(market, 60, seller)

        await settle(market)

        assert await hold_states(market, seller) == {1: "HELD"}
        assert await decision_of(market, seller, key) == ("", 0, "")


class TestAHoldThatNothingWants:
    async def test_after_a_final_refusal_is_released(self, market, seller, buyer):
        """FAILED row, PENDING hold of a rival attempt that died: given back after 10 s, not after 30."""
        key, request = fresh_key(), market.invoice(buyer, number="DUP/1")
        await market.issue(seller, market.invoice(buyer, market.line(sku=""), number="DUP/1"))
        refusal = await market.refused(market.invoices.CreateInvoice, request, seller, key)
        assert refusal.reason == "DOC_NUMBER_DUPLICATE"

        async def free() -> bool:
            return await market.stock(seller) == (100, 0)

        await market.until(free)
        await market.sql(
            "inventory", "DELETE FROM reservation WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
        )
        await hold_by_hand(market, seller, request, key)
        await age_holds(market, 11, seller)

        await settle(market)

        assert (await decision_of(market, seller, key))[:2] == ("FAILED", 1)
        assert await market.stock(seller) == (100, 0)

    async def test_made_for_another_body_is_released(self, market, seller, buyer):
        """The key's row was decided for another fingerprint: this hold can never be wanted."""
        key = fresh_key()
        await market.issue(seller, market.invoice(buyer, market.line(sku="")), key)
        await hold_by_hand(market, seller, market.invoice(buyer), key)
        assert await market.stock(seller) == (100, 10)
        await age_holds(market, 11, seller)

        await settle(market)

        assert (await hold_states(market, seller), await market.stock(seller)) == ({1: "RELEASED"}, (100, 0))

    async def test_of_an_earlier_attempt_is_released_though_a_later_one_is_open(self, market, seller, buyer):
        """OPEN(2): whatever attempt 1 still holds is for nothing."""
        key, request = fresh_key(), market.invoice(buyer)
        hold = await hold_by_hand(market, seller, request, key)
        await market.sql(
            "invoice",
            """INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
               VALUES ($1::text::uuid, $2::text::uuid, 'invoice.create', 'OPEN', 2, $3, 1)""",
            seller.merchant.merchant_id,
            to_text(hold.rid),
            hold.fingerprint,
        )
        await age_holds(market, 11, seller)
        await settle(market)
        assert (await hold_states(market, seller), (await decision_of(market, seller, key))[:2]) == (
            {1: "RELEASED"},
            ("OPEN", 2),
        )

    async def test_of_any_attempt_is_released_once_its_key_failed_for_good(self, market, seller, buyer):
        """FAILED is final for all attempts, also for one that is later than the row says."""
        key, request = fresh_key(), market.invoice(buyer)
        hold = await hold_by_hand(market, seller, request, key, attempt=2)
        await market.sql(
            "invoice",
            """INSERT INTO decision (merchant_id, rid, operation, state, attempt, reason, answer)
               VALUES ($1::text::uuid, $2::text::uuid, 'invoice.create', 'FAILED', 1, 'CANCELLED_BY_CLIENT', '')""",
            seller.merchant.merchant_id,
            to_text(hold.rid),
        )
        await age_holds(market, 11, seller)
        await settle(market)
        assert await hold_states(market, seller) == {2: "RELEASED"}


class TestAStop:
    async def test_ends_with_the_page_under_way_and_leaves_the_others(self, market, seller, buyer, monkeypatch):
        """Three pages wait, and it is told to end at the first: that is settled, and the next process does the rest."""
        for _ in range(3):
            await hold_by_hand(market, seller, market.invoice(buyer), fresh_key())
        await age_holds(market, 31, seller)
        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            postgres = await room_postgres(market, stack)
            port = inventory_port(market, stack)
            pending = port.pending

            async def page_of_one(**asked):
                stop.set()
                return await pending(**asked, page_size=1)

            monkeypatch.setattr(port, "pending", page_of_one)
            found = await resolve(postgres, port, partition=0, partitions=1, stop=stop)
        assert (found.released, found.confirmed, found.left) == (1, 0, 0)
        assert await market.stock(seller) == (100, 20)
        await settle(market)
        assert await market.stock(seller) == (100, 0)


class TestWhenTheDecider:
    async def test_is_down_the_hold_stays(self, market, seller, buyer):
        """Without the invoice database nothing is released, however old (mutant unilateral_expiry)."""
        key = fresh_key()
        await hold_by_hand(market, seller, market.invoice(buyer), key)
        await age_holds(market, 3_600, seller)
        async with AsyncExitStack() as stack:
            postgres = await room_postgres(market, stack)
            port = inventory_port(market, stack)
            await postgres.close()
            with pytest.raises((DependencyDown, asyncpg.InterfaceError)):
                await resolve(postgres, port, partition=0, partitions=1)
        await market.work("expirer")
        assert await hold_states(market, seller) == {1: "PENDING"}
        assert await market.stock(seller) == (100, 10)
        await settle(market)
        assert await hold_states(market, seller) == {1: "RELEASED"}

    async def test_cannot_commit_its_tombstone_nothing_is_released(self, market, seller, buyer, monkeypatch):
        """R2: the release comes after the negative row's COMMIT, never before it."""
        key = fresh_key()
        await hold_by_hand(market, seller, market.invoice(buyer), key)
        await age_holds(market, 31, seller)
        async with AsyncExitStack() as stack:
            postgres = await room_postgres(market, stack)
            port = inventory_port(market, stack)

            @asynccontextmanager
            async def lost_at_commit():
                async with postgres._connection(0.2) as connection:
                    from invochain.chassis.postgres import Tx

                    await connection.execute("BEGIN")
                    yield Tx(connection)
                    await connection.execute("ROLLBACK")
                    raise CommitUnknown

            monkeypatch.setattr(postgres, "transaction", lost_at_commit)
            with pytest.raises(CommitUnknown):
                await resolve(postgres, port, partition=0, partitions=1)
        assert await hold_states(market, seller) == {1: "PENDING"}
        assert await decision_of(market, seller, key) == ("", 0, "")

    async def test_races_a_decision_under_way_both_agree(self, market, seller, buyer):
        """Resolver and retries at once, thirty times: one invoice or none, and the stock agrees."""
        await market.stock_up(seller, units=1_000)
        for _ in range(30):
            trader_key, request = fresh_key(), market.invoice(buyer)
            await hold_by_hand(market, seller, request, trader_key)
            await age_holds(market, 31, seller)
            created, _found = await asyncio.gather(
                outcome(market, market.invoices.CreateInvoice, request, seller, trader_key), settle(market)
            )
            if isinstance(created, Refused):
                assert created.reason == "SAGA_ABORTED"
                await market.issue(seller, request, trader_key)
        invoices = await market.sql(
            "invoice", "SELECT count(*) FROM invoice WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
        )
        assert invoices[0]["count"] == 30

        async def settled() -> bool:
            await age_holds(market, 31, seller)
            await settle(market)
            return await market.stock(seller) == (1_100, 300)

        await market.until(settled)


class TestAnUnknownCommit:
    """COMMIT was sent and its answer lost: a row is an answer, no row is none (PROTOCOL 3, R8)."""

    @pytest.mark.parametrize("went_through", [True, False])
    async def test_leads_to_one_result_after_a_retry(self, market, seller, buyer, went_through):
        """The connection is cut at COMMIT, before or after the server did it: one invoice, one hold, in the end."""
        key, request = fresh_key(), market.invoice(buyer)
        async with AsyncExitStack() as stack:
            proxy = await CommitCutter(market.databases["invoice"], stack, went_through=went_through).start()
            second = await another_door(market, stack, invoice_database_url=proxy.dsn)
            # Series, parties and pool are warm before the cut, so that it hits the decision.
            await market.call(second.CreateInvoice, market.invoice(buyer, market.line(sku="")), seller)
            proxy.armed = True
            first = await outcome(market, second.CreateInvoice, request, seller, key)
            assert proxy.cut == 1
            if went_through:
                # The same task read the row on a fresh connection.
                assert not isinstance(first, Refused)
            else:
                assert (first.code, first.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")
                assert await hold_states(market, seller) == {1: "PENDING"}
            await flush(market)
            invoice = await market.call(second.CreateInvoice, request, seller, key)
        if went_through:
            assert invoice == first
        await age_holds(market, 11, seller)
        await settle(market)
        assert (await hold_states(market, seller), await market.stock(seller)) == ({1: "HELD"}, (100, 10))

    async def test_that_hides_a_refusal_is_told_as_that_refusal_later(self, market, seller, buyer):
        """INSUFFICIENT_STOCK was committed, its answer lost: unknown now, the same refusal after a retry."""
        key, request = fresh_key(), market.invoice(buyer, market.line(101))
        async with AsyncExitStack() as stack:
            proxy = await CommitCutter(market.databases["invoice"], stack, went_through=True).start()
            second = await another_door(market, stack, invoice_database_url=proxy.dsn)
            await market.call(second.CreateInvoice, market.invoice(buyer, market.line(sku="")), seller)
            proxy.armed = True
            first = await outcome(market, second.CreateInvoice, request, seller, key)
            assert (first.code, proxy.cut) == ("UNAVAILABLE", 1)
            await market.stock_up(seller, units=100)
            await flush(market)
            again = await outcome(market, second.CreateInvoice, request, seller, key)
        assert (again.reason, again.replayed) == ("INSUFFICIENT_STOCK", True)


class CommitCutter:
    """A proxy before PostgreSQL that, once armed, cuts the first connection that sends COMMIT: before the server sees
    it, or after the server did it and before its answer arrives."""

    def __init__(self, dsn: str, stack: AsyncExitStack, *, went_through: bool) -> None:
        self._dsn, self._stack, self._went_through = dsn, stack, went_through
        self.armed, self.cut, self.dsn = False, 0, ""
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> CommitCutter:
        from urllib.parse import parse_qs, urlsplit

        url = urlsplit(self._dsn)
        query = parse_qs(url.query)
        socket = query.get("host", [url.hostname])[0]
        port = int(query.get("port", [url.port or 5432])[0])
        self._path = f"{socket}/.s.PGSQL.{port}" if socket.startswith("/") else ""
        self._target = (socket, port)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._stack.callback(server.close)
        listening = server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://{url.username}:{url.password}@127.0.0.1:{listening}{url.path}?sslmode=disable"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._path:
            up_reader, up_writer = await asyncio.open_unix_connection(self._path)
        else:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        cutting = asyncio.Event()

        async def to_server() -> None:
            while data := await reader.read(65_536):
                if self.armed and b"; COMMIT" in data:
                    self.armed, self.cut = False, self.cut + 1
                    cutting.set()
                    if not self._went_through:
                        break
                up_writer.write(data)
                await up_writer.drain()
            if not cutting.is_set() or not self._went_through:
                up_writer.close()
                writer.close()

        async def to_client() -> None:
            while data := await up_reader.read(65_536):
                if cutting.is_set():
                    # The server has answered COMMIT: the client never learns it.
                    writer.transport.abort()
                    up_writer.close()
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(to_server(), to_client(), return_exceptions=True)
