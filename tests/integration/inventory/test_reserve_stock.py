"""Reserve: every way a hold is granted, refused or repeated."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid

import grpc
import pytest

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.durable import decisions
from invochain.errors import facts_of, reason_of
from invochain.inventory import reserve_stock
from invochain.inventory.reservation import SkuNotFound
from tests.integration.inventory.conftest import OTHER, SELLER, Shop, fresh_key, wanted
from tests.integration.inventory.told import refused

BACKENDS_IN_COMMIT = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory' AND query LIKE '%COMMIT'
"""


class TestBatchReserveStock:
    async def test_a_hold_is_granted_wholly_and_takes_what_is_free(self, shop: Shop) -> None:
        """A PENDING hold reserves its units of each SKU, summed over its items and in any case of letters."""
        await shop.add("bolt", 10_000)
        await shop.add("nut", 5_000)

        request = wanted({"BOLT": 4_000, "Nut": 5_000})
        request.items.add(sku="bolt", quantity_milli=1_000)
        (result,) = await shop.reserve(request)

        assert result.state == pb.PENDING
        assert result.reservation_id == request.reservation_id
        assert await shop.stock("BOLT") == (10_000, 5_000)
        assert await shop.stock("nut") == (5_000, 5_000)
        (row,) = await shop.sql("SELECT skus, quantities_milli, expire_time FROM reservation")
        assert (row["skus"], row["quantities_milli"], row["expire_time"]) == (["BOLT", "NUT"], [5_000, 5_000], None)

    async def test_too_little_of_one_sku_refuses_the_whole_hold_with_the_figures(self, shop: Shop) -> None:
        """INSUFFICIENT_STOCK names the SKU, what was asked over all items, and what is free; nothing is written."""
        await shop.add("BOLT", 10_000)
        await shop.add("NUT", 1_000)

        request = wanted({"BOLT": 1_000, "NUT": 600})
        request.items.add(sku="nut", quantity_milli=600)
        (result,) = await shop.reserve(request)

        assert reason_of(result.error) == "INSUFFICIENT_STOCK"
        assert facts_of(result.error) == {"sku": "NUT", "asked_milli": "1200", "free_milli": "1000"}
        assert await shop.stock("BOLT") == (10_000, 0)
        assert await shop.state(request) is None

    async def test_no_item_can_fail_its_neighbours(self, shop: Shop) -> None:
        """Each item of a batch has its own result, in the order of the request."""
        await shop.add("BOLT", 3_000, unit="NOS")
        good, unknown, foreign = wanted({"BOLT": 1_000}), wanted({"NONE": 1}), wanted({"BOLT": 1}, merchant=OTHER)
        unit, greedy, last = wanted({"BOLT": 1}, unit="KGS"), wanted({"BOLT": 2_001}), wanted({"BOLT": 2_000})
        broken = wanted({"BOLT": 0})
        broken.fingerprint = b"short"

        results = await shop.reserve(good, unknown, foreign, unit, greedy, broken, last)

        told = [reason_of(r.error) if r.HasField("error") else pb.ReservationState.Name(r.state) for r in results]
        assert told == [
            "PENDING",
            "SKU_NOT_FOUND",
            "SKU_NOT_FOUND",
            "UNIT_MISMATCH",
            "INSUFFICIENT_STOCK",
            "VALIDATION_FAILED",
            "PENDING",
        ]
        assert facts_of(results[3].error) == {"sku": "BOLT", "asked": "KGS", "kept": "NOS"}
        assert await shop.stock("BOLT") == (3_000, 3_000)

    async def test_a_repeat_is_answered_with_the_present_state_and_takes_nothing_more(self, shop: Shop) -> None:
        """The same id with the same fingerprint is OK whatever became of it, also twice in one batch."""
        await shop.add("BOLT", 3_000)
        request = wanted({"BOLT": 2_000})

        assert [r.state for r in await shop.reserve(request, request)] == [pb.PENDING, pb.PENDING]
        assert [r.state for r in await shop.reserve(request)] == [pb.PENDING]
        await shop.confirm(request)
        assert [r.state for r in await shop.reserve(request)] == [pb.HELD]
        assert await shop.stock("BOLT") == (3_000, 2_000)

    async def test_another_body_under_an_id_is_told_apart(self, shop: Shop) -> None:
        """KEY_REUSED, whether the first one is stored or in the same batch; the first one is untouched."""
        await shop.add("BOLT", 9_000)
        first = wanted({"BOLT": 1_000})
        second = wanted({"BOLT": 2_000}, fingerprint=b"g" * 32)
        second.reservation_id, second.rid = first.reservation_id, first.rid

        one, other = await shop.reserve(first, second)
        (later,) = await shop.reserve(second)

        assert one.state == pb.PENDING
        assert reason_of(other.error) == reason_of(later.error) == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
        assert await shop.stock("BOLT") == (9_000, 1_000)

    async def test_another_body_beside_a_first_that_is_refused_is_no_reuse(self, shop: Shop) -> None:
        """CONCURRENT_REQUEST, retryable: the id is not used by a hold that was not granted (PROTOCOL R5)."""
        await shop.add("BOLT", 9_000)
        greedy = wanted({"BOLT": 9_001})
        modest = wanted({"BOLT": 2_000}, fingerprint=b"g" * 32)
        modest.reservation_id, modest.rid = greedy.reservation_id, greedy.rid

        one, other = await shop.reserve(greedy, modest)
        (later,) = await shop.reserve(modest)

        assert [reason_of(one.error), reason_of(other.error)] == ["INSUFFICIENT_STOCK", "CONCURRENT_REQUEST"]
        assert later.state == pb.PENDING
        assert await shop.stock("BOLT") == (9_000, 2_000)

    async def test_a_reserve_that_comes_after_its_release_is_refused(self, shop: Shop) -> None:
        """A tombstone answers RESERVATION_TOMBSTONED: retryable, for the maker's next attempt."""
        await shop.add("BOLT", 9_000)
        request = wanted({"BOLT": 1_000})
        await shop.release(request)

        (result,) = await shop.reserve(request)

        assert reason_of(result.error) == "RESERVATION_TOMBSTONED"
        assert result.error.code == grpc.StatusCode.ABORTED.value[0]
        assert await shop.stock("BOLT") == (9_000, 0)

    async def test_bytes_that_are_no_request_refuse_the_call_alone(self, shop: Shop) -> None:
        """MALFORMED_REQUEST for what does not parse, has an unknown field, or names too many."""
        await shop.add("BOLT", 2_000_000)
        channel = shop.channel
        call = channel.unary_unary("/invochain.api.inventory.v1.InventoryService/BatchReserveStock")
        too_many = pb.BatchReserveStockRequest(requests=[wanted({"BOLT": 1})] * 1_001).SerializeToString()

        for raw in (b"\xff\xff", b"\x0a\x02\x78\x01", too_many):
            with refused("MALFORMED_REQUEST"):
                await call(raw, metadata=shop.service()["metadata"])

    async def test_a_merchant_may_not_reserve_for_invoices(self, shop: Shop) -> None:
        """Ids derive from values a merchant knows, so only the invoice service sets resolver INVOICE."""
        await shop.add("BOLT", 1_000)
        request = wanted({"BOLT": 1})

        with refused("SERVICE_ONLY"):
            await shop.stub.BatchReserveStock(pb.BatchReserveStockRequest(requests=[request]), **shop.merchant())
        with refused("SERVICE_ONLY"):
            await shop.stub.ReserveStock(request, **shop.merchant(key=fresh_key()))
        with refused("SERVICE_ONLY"):
            await shop.stub.ReserveStock(request, **shop.service("gateway"))
        request.resolver = pb.NONE
        (result,) = await shop.reserve(request)
        assert reason_of(result.error) == "VALIDATION_FAILED"


class TestConcurrentReserves:
    async def test_two_hundred_reserves_of_one_sku_neither_oversell_nor_hang(self, shop: Shop) -> None:
        """A hot SKU with fewer units than askers gives each unit once, and every asker an answer, within seconds."""
        await shop.add("HOT", 120_000)
        requests = [wanted({"HOT": 1_000}) for _ in range(200)]

        async with asyncio.timeout(20):
            results = [r for (r,) in await asyncio.gather(*(shop.reserve_surely(request) for request in requests))]

        granted = sum(result.state == pb.PENDING for result in results)
        short = [result for result in results if result.HasField("error")]
        assert granted == 120
        assert {reason_of(result.error) for result in short} == {"INSUFFICIENT_STOCK"}
        assert await shop.stock("HOT") == (120_000, 120_000)

    async def test_batches_with_crossing_skus_do_not_deadlock(self, shop: Shop) -> None:
        """Batches that name the same SKUs in every order, with releases between, all end, and no unit is lost."""
        skus = [f"SKU-{n}" for n in range(6)]
        for sku in skus:
            await shop.add(sku, 1_000_000)
        shuffle = random.Random(7)

        async def one_round() -> None:
            batch = []
            for _ in range(10):
                chosen = shuffle.sample(skus, 3)
                batch.append(wanted(dict.fromkeys(chosen, 1_000)))
            results = await shop.reserve_surely(*batch)
            assert {result.state for result in results} == {pb.PENDING}
            await asyncio.gather(shop.release(*batch[:5]), shop.confirm(*batch[5:]))

        async with asyncio.timeout(30):
            await asyncio.gather(*(one_round() for _ in range(20)))

        reserved = [await shop.stock(sku) for sku in skus]
        assert sum(held for _, held in reserved) == 20 * 5 * 3 * 1_000
        (deadlocks,) = await shop.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert deadlocks["deadlocks"] == 0

    async def test_a_busy_sku_delays_only_those_who_want_it(self, shop: Shop, monkeypatch) -> None:
        """While another transaction holds a SKU, its askers wait in its lane and the others of the call are decided."""
        monkeypatch.setattr(reserve_stock, "LANE_PATIENCE_S", 30.0)
        await shop.add("BUSY", 5_000)
        await shop.add("FREE", 5_000)
        both = wanted({"BUSY": 1_000, "FREE": 1_000})
        async with shop.connection() as holder:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute("SELECT 1 FROM stock WHERE sku = 'BUSY' FOR NO KEY UPDATE")

            waiting = asyncio.create_task(shop.reserve(both, wanted({"FREE": 2_000})))
            for _ in range(5):
                (result,) = await shop.reserve(wanted({"FREE": 100}))
                assert result.state == pb.PENDING
            assert not waiting.done()
            assert await shop.stock("FREE") == (5_000, 2_500)
            await transaction.rollback()

        assert [result.state for result in await waiting] == [pb.PENDING, pb.PENDING]
        assert await shop.stock("BUSY") == (5_000, 1_000)

    async def test_a_call_does_not_wait_for_a_busy_row_until_it_is_overdue(self, shop: Shop) -> None:
        """Its other items are answered after 0.4 s, before a breaker counts the call, and what it counts of the busy
        one is nothing: ABORTED, to be asked for again. By then the lane may have granted it, once."""
        await shop.add("BUSY", 5_000)
        await shop.add("FREE", 5_000)
        busy, free = wanted({"BUSY": 1_000}), wanted({"FREE": 1_000})
        async with shop.connection() as holder, holder.transaction():
            await holder.execute("SELECT 1 FROM stock WHERE sku = 'BUSY' FOR NO KEY UPDATE")
            told = await shop.reserve(busy, free, busy)
            # The lane would have waited for longer than that: the row is still locked.
            assert await holder.fetchval("SELECT 1")

        assert [one.error.code for one in told] == [10, 0, 10]
        assert {reason_of(one.error) for one in (told[0], told[2])} == {"CONCURRENT_REQUEST"}
        assert told[1].state == pb.PENDING
        (again,) = await shop.reserve(busy)
        assert again.state == pb.PENDING
        assert await shop.stock("BUSY") == (5_000, 1_000)

    async def test_a_row_that_stays_busy_makes_its_items_unavailable_and_no_others(
        self, shop: Shop, monkeypatch
    ) -> None:
        """After lock_timeout the outcome of the items that wait is DEPENDENCY_DOWN; nothing is re-run or written."""
        monkeypatch.setattr(reserve_stock, "LANE_PATIENCE_S", 30.0)
        await shop.add("BUSY", 5_000)
        await shop.add("FREE", 5_000)
        async with shop.connection() as holder, holder.transaction():
            await holder.execute("SELECT 1 FROM stock WHERE sku = 'BUSY' FOR NO KEY UPDATE")
            busy, free = await shop.reserve(wanted({"BUSY": 1}), wanted({"FREE": 1}))

        assert reason_of(busy.error) == "DEPENDENCY_DOWN"
        assert free.state == pb.PENDING
        assert await shop.stock("BUSY") == (5_000, 0)

    async def test_the_same_id_sent_many_times_at_once_is_one_hold(self, shop: Shop) -> None:
        """Duplicates in flight, with neighbours that want the last units, end as one hold and true refusals."""
        await shop.add("BOLT", 10_000)
        request = wanted({"BOLT": 6_000})
        neighbours = [wanted({"BOLT": 4_000}) for _ in range(3)]

        async with asyncio.timeout(10):
            answers = await asyncio.gather(
                *(shop.reserve_surely(request, neighbours[n % 3]) for n in range(30)),
            )

        assert {pair[0].state for pair in answers} == {pb.PENDING}
        granted = {pair[1].reservation_id for pair in answers if pair[1].state == pb.PENDING}
        assert len(granted) == 1
        assert await shop.stock("BOLT") == (10_000, 10_000)

    async def test_a_hold_that_loses_its_id_at_the_last_moment_takes_nothing_from_its_neighbours(
        self, shop: Shop
    ) -> None:
        """A tombstone commits between the look and the insert: its units are not counted, and a neighbour that was
        short only because of them is looked at again."""
        await shop.add("BOLT", 10_000)
        late, neighbour = wanted({"BOLT": 6_000}), wanted({"BOLT": 5_000})
        async with shop.connection() as rival:
            transaction = rival.transaction()
            await transaction.start()
            await rival.execute(
                """
                INSERT INTO reservation
                    (merchant_id, reservation_id, resolver, state, rid, attempt, skus, quantities_milli)
                VALUES ($1, $2, 'INVOICE', 'RELEASED', $2, 1, '{}', '{}')
                """,
                late.merchant_id,
                late.reservation_id,
            )
            waiting = asyncio.create_task(shop.reserve(late, neighbour))
            async with asyncio.timeout(5), shop.connection() as watcher:
                while not await watcher.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid'"):
                    await asyncio.sleep(0.01)
            await transaction.commit()

        first, second = await waiting
        assert reason_of(first.error) == "RESERVATION_TOMBSTONED"
        assert second.state == pb.PENDING
        assert await shop.stock("BOLT") == (10_000, 5_000)

    async def test_reserves_race_with_releases_of_the_same_ids(self, shop: Shop) -> None:
        """Whichever comes first, an id ends released or tombstoned and its units are free."""
        await shop.add("BOLT", 1_000_000)
        requests = [wanted({"BOLT": 1_000}) for _ in range(60)]

        async with asyncio.timeout(20):
            await asyncio.gather(
                *itertools.chain.from_iterable((shop.reserve(r), shop.release(r), shop.release(r)) for r in requests)
            )

        assert {await shop.state(request) for request in requests} == {"RELEASED"}
        assert await shop.stock("BOLT") == (1_000_000, 0)


class TestFailures:
    async def test_an_item_that_postgresql_refuses_fails_alone(self, shop: Shop) -> None:
        """An SQL error that nobody expects rolls the batch back; it is taken apart, and only the poison is refused."""
        await shop.add("BOLT", 1_000)
        requests = [wanted({"BOLT": 1}) for _ in range(40)]
        await shop.sql(
            f"ALTER TABLE reservation ADD CONSTRAINT poison CHECK (reservation_id <> '{requests[17].reservation_id}')"
        )

        results = await shop.reserve(*requests)

        told = [reason_of(r.error) if r.HasField("error") else "" for r in results]
        assert [index for index, reason in enumerate(told) if reason] == [17]
        assert told[17] == "INTERNAL"
        assert await shop.stock("BOLT") == (1_000, 39)

    async def test_an_unknown_commit_is_an_unknown_outcome_and_a_repeat_finds_it(self, shop: Shop) -> None:
        """The connection is cut while COMMIT waits: UNAVAILABLE for every item; the same ids tell what was done."""
        await shop.add("BOLT", 1_000)
        requests = [wanted({"BOLT": 1}) for _ in range(3)]
        # A deferred trigger holds COMMIT itself until the lock is free.
        await shop.sql(
            """
            CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$
            """
        )
        await shop.sql(
            """
            CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON reservation DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION wait_at_commit()
            """
        )
        async with shop.connection() as holder:
            await holder.execute("SELECT pg_advisory_lock(42)")
            waiting = asyncio.create_task(shop.reserve(*requests))
            async with asyncio.timeout(5):
                while not await holder.fetch(BACKENDS_IN_COMMIT):
                    await asyncio.sleep(0.01)
            await holder.fetch(f"SELECT pg_terminate_backend(pid) FROM ({BACKENDS_IN_COMMIT}) AS waiting")
            results = await waiting

        assert {reason_of(result.error) for result in results} == {"DEPENDENCY_DOWN"}
        assert [r.state for r in await shop.reserve(*requests)] == [pb.PENDING] * 3
        assert await shop.stock("BOLT") == (1_000, 3)

    async def test_more_than_can_wait_is_refused_and_not_queued(self, shop: Shop) -> None:
        """After the drain has begun nothing new is taken: SHUTTING_DOWN, retryable elsewhere."""
        await shop.add("BOLT", 1_000)
        await shop.reserving.drain()
        with refused("SHUTTING_DOWN"):
            await shop.reserve(wanted({"BOLT": 1}))


class TestReserveStock:
    """The partner's own reservations: resolver NONE, by key."""

    async def reserve(self, shop: Shop, key: str, name: str = "seller", **fields: object) -> pb.Reservation:
        items = [pb.ReservationItem(sku="BOLT", quantity_milli=2_000)]
        request = pb.ReserveStockRequest(**{"items": items, "ttl_seconds": 60, **fields})
        return await shop.stub.ReserveStock(request, **shop.merchant(name, key))

    async def test_a_hold_has_its_items_its_end_and_no_fingerprint_of_others(self, shop: Shop) -> None:
        """The answer is the whole reservation: items with their unit, PENDING, when it expires."""
        await shop.add("BOLT", 5_000, unit="KGS")

        reservation = await self.reserve(shop, fresh_key())

        assert reservation.state == pb.PENDING
        assert reservation.resolver == pb.NONE
        assert [(i.sku, i.quantity_milli, i.unit) for i in reservation.items] == [("BOLT", 2_000, "KGS")]
        assert reservation.expire_time.ToNanoseconds() - reservation.create_time.ToNanoseconds() == 60 * 10**9
        read = await shop.stub.GetReservation(
            pb.GetReservationRequest(reservation_id=reservation.reservation_id), **shop.merchant()
        )
        assert read == reservation

    async def test_a_key_is_one_hold_and_a_repeat_says_so(self, shop: Shop) -> None:
        """The same key and body replays with the present state; another body is KEY_REUSED; many at once are one."""
        await shop.add("BOLT", 5_000)
        key = fresh_key()

        answers = await asyncio.gather(*(self.reserve(shop, key) for _ in range(20)))
        call = shop.stub.ReserveStock(
            pb.ReserveStockRequest(items=[pb.ReservationItem(sku="BOLT", quantity_milli=2_000)], ttl_seconds=60),
            **shop.merchant(key=key),
        )

        assert len({answer.reservation_id for answer in answers}) == 1
        assert ("x-idempotent-replayed", "true") in list(await call.initial_metadata())
        assert (await call).state == pb.PENDING
        assert await shop.stock("BOLT") == (5_000, 2_000)
        with refused("KEY_REUSED_WITH_DIFFERENT_PAYLOAD"):
            await self.reserve(shop, key, ttl_seconds=61)

    async def test_a_refusal_is_final_for_its_key(self, shop: Shop) -> None:
        """What was refused for want of stock is told again after stock came; a new key gets the stock."""
        await shop.add("BOLT", 1_000)
        key, other_sku = fresh_key(), fresh_key()
        with refused("INSUFFICIENT_STOCK", asked_milli="2000", free_milli="1000"):
            await self.reserve(shop, key)
        with refused("SKU_NOT_FOUND"):
            await self.reserve(shop, other_sku, items=[pb.ReservationItem(sku="NEW", quantity_milli=1)])
        await shop.add("BOLT", 9_000)
        await shop.add("NEW", 9_000)

        with refused("INSUFFICIENT_STOCK", asked_milli="2000", free_milli="1000", replayed=True):
            await self.reserve(shop, key)
        with refused("SKU_NOT_FOUND", replayed=True):
            await self.reserve(shop, other_sku, items=[pb.ReservationItem(sku="NEW", quantity_milli=1)])
        with refused("KEY_REUSED_WITH_DIFFERENT_PAYLOAD"):
            await self.reserve(shop, key, ttl_seconds=61)
        assert (await self.reserve(shop, fresh_key())).state == pb.PENDING

    async def test_a_key_that_a_rival_refused_at_the_last_moment_stays_refused(self, shop: Shop) -> None:
        """The rival found no such SKU; ours finds it, but the key is decided: one answer for ever, no stock taken."""
        key = fresh_key()
        request = pb.ReserveStockRequest(items=[pb.ReservationItem(sku="BOLT", quantity_milli=2_000)], ttl_seconds=60)
        await shop.add("BOLT", 5_000)
        async with shop.connection() as rival:
            transaction = rival.transaction()
            await transaction.start()
            await rival.execute(
                """
                INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version, answer)
                VALUES ($1, $2, 'inventory.reserve', 'FAILED', 1, $3, 1, $4)
                """,
                uuid.UUID(bytes=SELLER),
                uuid.UUID(bytes=core.request_id(SELLER, "inventory.reserve", key)),
                decisions.fingerprint(request),
                SkuNotFound("BOLT").to_status().SerializeToString(),
            )
            waiting = asyncio.ensure_future(shop.stub.ReserveStock(request, **shop.merchant(key=key)))
            async with asyncio.timeout(5), shop.connection() as watcher:
                while not await watcher.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'transactionid'"):
                    await asyncio.sleep(0.01)
            await transaction.commit()

        with refused("SKU_NOT_FOUND", replayed=True):
            await waiting
        assert await shop.stock("BOLT") == (5_000, 0)

    async def test_keys_that_race_with_the_last_units_each_get_one_answer_for_ever(self, shop: Shop) -> None:
        """Under a race for too little stock, what a key was told first is what it is told again."""
        await shop.add("BOLT", 20_000)
        keys = [fresh_key() for _ in range(40)]

        async def told(key: str) -> str:
            try:
                return pb.ReservationState.Name((await self.reserve(shop, key)).state)
            except grpc.aio.AioRpcError as error:
                return str(error.details())

        async with asyncio.timeout(20):
            first = await asyncio.gather(*map(told, keys))
            again = await asyncio.gather(*map(told, keys))

        assert first == again
        assert first.count("PENDING") == 10
        assert await shop.stock("BOLT") == (20_000, 20_000)

    async def test_a_validation_error_names_every_field_and_uses_up_no_key(self, shop: Shop) -> None:
        """All broken rules come at once, with what was found and wanted; the key is free afterwards."""
        await shop.add("BOLT", 5_000)
        key = fresh_key()
        items = [pb.ReservationItem(sku="no blanks", quantity_milli=-1), pb.ReservationItem(sku="Ａ", quantity_milli=1)]

        with refused("VALIDATION_FAILED") as told:
            await self.reserve(shop, key, items=items, ttl_seconds=86_401)

        assert told.fields == {
            "ttl_seconds": "TTL_OUT_OF_RANGE",
            "items[0].sku": "SKU_INVALID",
            "items[0].quantity_milli": "QUANTITY_OUT_OF_RANGE",
            "items[1].sku": "SKU_INVALID",
        }
        assert (await self.reserve(shop, key)).state == pb.PENDING
        with refused("VALIDATION_FAILED"):
            await shop.stub.ReserveStock(pb.ReserveStockRequest(), **shop.merchant(key=fresh_key()))

    async def test_another_merchant_sees_and_settles_nothing_of_it(self, shop: Shop) -> None:
        """NOT_FOUND to read, no trace in the list, and RESERVATION_GONE to confirm; the hold is untouched."""
        await shop.add("BOLT", 5_000)
        reservation = await self.reserve(shop, fresh_key())
        name = pb.GetReservationRequest(reservation_id=reservation.reservation_id)
        ref = [pb.ReservationRef(reservation_id=reservation.reservation_id)]

        with refused("RESERVATION_NOT_FOUND"):
            await shop.stub.GetReservation(name, **shop.merchant("other"))
        with refused("SKU_NOT_FOUND"):
            await shop.stock("BOLT", "other")
        listed = await shop.stub.ListPendingReservations(pb.ListPendingReservationsRequest(), **shop.merchant("other"))
        confirmed = await shop.stub.ConfirmReservations(
            pb.ConfirmReservationsRequest(reservations=ref), **shop.merchant("other")
        )
        await shop.stub.ReleaseReservations(pb.ReleaseReservationsRequest(reservations=ref), **shop.merchant("other"))

        assert not listed.reservations
        assert reason_of(confirmed.results[0].error) == "RESERVATION_GONE"
        assert await shop.stock("BOLT") == (5_000, 2_000)

    @pytest.mark.parametrize("role", ["ISSUER", "VIEWER"])
    async def test_only_the_owner_and_stock_keepers_hold_stock(self, shop: Shop, role: str) -> None:
        """ROLE_MISSING for the others."""
        await shop.add("BOLT", 5_000)
        with refused("ROLE_MISSING"):
            await self.reserve(shop, fresh_key(), f"seller:{role}")
        assert (await self.reserve(shop, fresh_key(), "seller:STOCK_KEEPER")).state == pb.PENDING
