"""Holds of resolver NONE end at their time to live; what an invoice settles never does. And what is deleted, when."""

from __future__ import annotations

import asyncio

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.errors import reason_of
from invochain.inventory.expire_reservations import expire_due
from invochain.inventory.retention import purge
from invochain.workers.expirer import Expirer
from tests.integration.inventory.conftest import Shop, fresh_key, wanted


async def partners_hold(shop: Shop, quantity_milli: int = 4, ttl_seconds: int = 60) -> pb.Reservation:
    return await shop.stub.ReserveStock(
        pb.ReserveStockRequest(
            items=[pb.ReservationItem(sku="BOLT", quantity_milli=quantity_milli)], ttl_seconds=ttl_seconds
        ),
        **shop.merchant(key=fresh_key()),
    )


async def make_due(shop: Shop) -> None:
    """Lets a minute and a bit pass, as far as the rows can tell."""
    await shop.sql("UPDATE reservation SET expire_time = expire_time - interval '61 s'")


class TestExpiry:
    async def test_what_is_due_comes_free_and_what_is_not_stays(self, shop: Shop) -> None:
        """EXPIRED, once; PENDING holds of invoices have no end by time."""
        await shop.add("BOLT", 100)
        due = await partners_hold(shop)
        await make_due(shop)
        await partners_hold(shop, 5)
        invoice = await shop.hold(BOLT=6)

        worker = Expirer(shop.postgres)
        assert [await worker.run_once(), await worker.run_once()] == [1, 0]

        assert await shop.stock("BOLT") == (100, 11)
        read = await shop.stub.GetReservation(
            pb.GetReservationRequest(reservation_id=due.reservation_id), **shop.merchant()
        )
        assert read.state == pb.EXPIRED
        assert await shop.state(invoice) == "PENDING"
        confirmed = await shop.stub.ConfirmReservations(
            pb.ConfirmReservationsRequest(reservations=[pb.ReservationRef(reservation_id=due.reservation_id)]),
            **shop.merchant(),
        )
        assert reason_of(confirmed.results[0].error) == "RESERVATION_GONE"

    async def test_a_confirm_that_races_with_the_expiry_is_one_or_the_other(self, shop: Shop) -> None:
        """Never both: sold units left, expired units are free."""
        await shop.add("BOLT", 1_000)
        holds = [await partners_hold(shop) for _ in range(20)]
        await make_due(shop)
        refs = [pb.ReservationRef(reservation_id=hold.reservation_id) for hold in holds]

        async with asyncio.timeout(20):
            *_, response = await asyncio.gather(
                expire_due(shop.postgres),
                expire_due(shop.postgres, 7),
                shop.stub.ConfirmReservations(pb.ConfirmReservationsRequest(reservations=refs), **shop.merchant()),
            )

        issued = sum(result.state == pb.COMMITTED for result in response.results)
        gone = sum(
            reason_of(result.error) == "RESERVATION_GONE" for result in response.results if result.HasField("error")
        )
        assert issued + gone == 20
        assert await shop.stock("BOLT") == (1_000 - 4 * issued, 0)


class TestRetention:
    async def test_only_what_ended_eight_days_ago_is_deleted_and_only_so_much_at_a_time(self, shop: Shop) -> None:
        """Tombstones and released or expired holds; living ones and sales stay as long as their invoice."""
        await shop.add("BOLT", 100)
        living, released = await shop.hold(BOLT=1), await shop.hold(BOLT=1)
        held = await shop.hold(BOLT=1)
        await shop.confirm(held)
        await shop.release(released, wanted({"BOLT": 1}), wanted({"BOLT": 1}))
        await shop.sql("UPDATE reservation SET update_time = now() - interval '8 days 1 s'")
        fresh = wanted({"BOLT": 1})
        await shop.release(fresh)

        gone = []
        for _ in range(3):
            async with shop.postgres.transaction() as tx:
                gone.append(await purge(tx, 2))

        assert gone == [2, 1, 0]
        left = {await shop.state(request) for request in (living, held, fresh)}
        assert left == {"PENDING", "HELD", "RELEASED"}
        assert await shop.stock("BOLT") == (100, 2)
