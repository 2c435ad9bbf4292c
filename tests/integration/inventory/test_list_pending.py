"""ListPendingReservations: the decider's to-do list by partition and age, and a merchant's own holds."""

from __future__ import annotations

from typing import Any

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.ids import from_text
from tests.integration.inventory.conftest import FINGERPRINT, Shop, fresh_key, wanted
from tests.integration.inventory.told import refused


async def pending(shop: Shop, size: int = 500, caller: Any = None, **fields: Any) -> list[pb.PendingReservation]:
    """All pages."""
    found: list[pb.PendingReservation] = []
    token = ""
    while True:
        request = pb.ListPendingReservationsRequest(page_size=size, page_token=token, **fields)
        answer = await shop.stub.ListPendingReservations(request, **(caller or shop.service()))
        found += answer.reservations
        token = answer.next_page_token
        if not token:
            return found


class TestForTheDecider:
    async def test_what_is_pending_is_told_with_all_a_decision_needs(self, shop: Shop) -> None:
        """rid, attempt, fingerprint, merchant and age; settled holds are not listed."""
        await shop.add("A", 10)
        request, settled = await shop.hold(A=1), await shop.hold(A=1)
        await shop.confirm(settled)

        (one,) = await pending(shop, resolver="INVOICE")

        assert (one.reservation_id, one.merchant_id, one.rid) == (
            request.reservation_id,
            request.merchant_id,
            request.rid,
        )
        assert (one.attempt, one.fingerprint, one.resolver) == (1, FINGERPRINT, pb.INVOICE)
        assert 0 <= one.age_ms < 60_000

    async def test_pages_come_oldest_first_and_only_of_the_age_asked_for(self, shop: Shop) -> None:
        """Ages are by the database's clock: rows made older there are older here."""
        await shop.add("A", 100)
        requests = [wanted({"A": 1}) for _ in range(7)]
        await shop.reserve(*requests)
        for age_s, request in enumerate(requests):
            await shop.sql(
                "UPDATE reservation SET create_time = now() - $1 * interval '10 s' WHERE reservation_id::text = $2",
                age_s,
                request.reservation_id,
            )
        oldest_first = [request.reservation_id for request in reversed(requests)]

        assert [r.reservation_id for r in await pending(shop, 2, resolver="INVOICE")] == oldest_first
        old = await pending(shop, 2, resolver="INVOICE", older_than_ms=29_000)
        assert [r.reservation_id for r in old] == oldest_first[:4]
        assert min(r.age_ms for r in old) >= 29_000

    async def test_every_hold_is_in_the_partition_the_core_says(self, shop: Shop) -> None:
        """The partitions divide the list, as core.partition divides the ids."""
        await shop.add("A", 100)
        await shop.reserve(*(wanted({"A": 1}) for _ in range(40)))
        seen = 0
        for partition in range(7):
            for one in await pending(shop, 3, resolver="INVOICE", partition=partition, partition_count=7):
                assert core.partition(from_text(one.reservation_id, ""), 7) == partition
                seen += 1
        assert seen == 40

    async def test_what_cannot_be_asked_is_refused(self, shop: Shop) -> None:
        """Every broken field at once; other services see nothing."""
        with refused("VALIDATION_FAILED") as told:
            await pending(shop, resolver=7, older_than_ms=-1, partition=4, partition_count=4)
        assert told.fields == {
            "older_than_ms": "AGE_OUT_OF_RANGE",
            "partition": "PARTITION_OUT_OF_RANGE",
            "resolver": "RESOLVER_UNKNOWN",
        }
        with refused("SERVICE_ONLY"):
            await pending(shop, caller=shop.service("gateway"))


class TestForMerchants:
    async def test_a_merchant_sees_its_own_open_holds_of_resolver_none(self, shop: Shop) -> None:
        """Neither those of invoices nor those of others; asking for INVOICE or a partition is for services."""
        await shop.add("A", 10)
        await shop.add("A", 10, "other")
        await shop.hold(A=1)
        item = pb.ReserveStockRequest(items=[pb.ReservationItem(sku="A", quantity_milli=1)])
        mine = [await shop.stub.ReserveStock(item, **shop.merchant(key=fresh_key())) for _ in range(3)]
        await shop.stub.ReserveStock(item, **shop.merchant("other", fresh_key()))

        listed = await pending(shop, 2, caller=shop.merchant())

        assert [r.reservation_id for r in listed] == [r.reservation_id for r in mine]
        for fields in ({"resolver": "INVOICE"}, {"partition_count": 2}):
            with refused("SERVICE_ONLY"):
                await pending(shop, caller=shop.merchant(), **fields)
