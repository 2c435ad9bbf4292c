"""Reserve: every way a hold is granted, refused or repeated."""

from __future__ import annotations

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.errors import facts_of, reason_of

from tests.integration.inventory.conftest import FINGERPRINT, OTHER, Shop, wanted


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
