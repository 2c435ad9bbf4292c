"""AdjustStock: what is on hand changes once per key, and never below what is promised."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from tests.integration.inventory.conftest import SELLER, Shop, fresh_key
from tests.integration.inventory.told import refused


async def adjust(shop: Shop, adjustment: str, quantity_milli: int, *, key: str = "", **more: object) -> pb.Stock:
    request = pb.AdjustStockRequest(
        **{"sku": "BOLT", "adjustment": adjustment, "quantity_milli": quantity_milli, **more}
    )
    return await shop.stub.AdjustStock(request, **shop.merchant(key=key or fresh_key()))


class TestAdjustStock:
    async def test_a_new_sku_is_made_with_its_description(self, shop: Shop) -> None:
        """ADD and SET make a SKU, in upper case, counted in NOS unless told otherwise."""
        made = await adjust(shop, "ADD", 5_000, sku="bolt-m8", description="Bolt M8", hsn="7318")
        assert (made.sku, made.description, made.hsn, made.unit) == ("BOLT-M8", "Bolt M8", "7318", "NOS")
        assert (made.on_hand_milli, made.reserved_milli, made.free_milli) == (5_000, 0, 5_000)
        assert (await adjust(shop, "SET", 0, unit="KGS")).unit == "KGS"

    async def test_add_remove_and_set_move_what_is_on_hand(self, shop: Shop) -> None:
        """Each change is one movement with its reason; SET to what is there already is none."""
        await adjust(shop, "ADD", 5_000, reason="delivery")
        await adjust(shop, "REMOVE", 1_500, reason="broken")
        assert (await adjust(shop, "SET", 9_000, reason="counted")).on_hand_milli == 9_000
        await adjust(shop, "SET", 9_000)

        listed = await shop.stub.ListMovements(pb.ListMovementsRequest(sku="bolt"), **shop.merchant())
        assert [(m.delta_milli, m.reason) for m in listed.movements] == [
            (5_500, "counted"),
            (-1_500, "broken"),
            (5_000, "delivery"),
        ]

    async def test_what_is_reserved_stays(self, shop: Shop) -> None:
        """REMOVE and SET below what is reserved are refused with the figures, and the refusal is final for the key."""
        await adjust(shop, "ADD", 5_000)
        await shop.hold(BOLT=4_000)
        key = fresh_key()
        for way, quantity, asked in (("REMOVE", 1_001, "1001"), ("SET", 3_999, "1001")):
            with refused("INSUFFICIENT_STOCK", sku="BOLT", asked_milli=asked, free_milli="1000"):
                await adjust(shop, way, quantity, key=key if way == "REMOVE" else "")
        await adjust(shop, "ADD", 5_000)
        with refused("INSUFFICIENT_STOCK", free_milli="1000", replayed=True):
            await adjust(shop, "REMOVE", 1_001, key=key)
        assert (await adjust(shop, "SET", 4_000)).free_milli == 0

    async def test_a_key_changes_stock_once(self, shop: Shop) -> None:
        """Repeats, also many at once, give the first answer; another body under the key is refused."""
        key = fresh_key()
        answers = await asyncio.gather(*(adjust(shop, "ADD", 1_000, key=key) for _ in range(8)))
        assert {answer.on_hand_milli for answer in answers} == {1_000}
        assert await shop.stock("BOLT") == (1_000, 0)
        with refused("KEY_REUSED_WITH_DIFFERENT_PAYLOAD"):
            await adjust(shop, "ADD", 1_001, key=key)
        with refused("IDEMPOTENCY_KEY_REQUIRED"):
            await shop.stub.AdjustStock(pb.AdjustStockRequest(), **shop.merchant())

    async def test_an_etag_refuses_a_lost_update(self, shop: Shop) -> None:
        """VERSION_MISMATCH with both etags, stored nowhere; holds do not change the etag."""
        first = await adjust(shop, "ADD", 5_000)
        await shop.hold(BOLT=1_000)
        second = await adjust(shop, "ADD", 1, etag=first.etag)
        with refused("VERSION_MISMATCH", found=first.etag, present=second.etag):
            await adjust(shop, "ADD", 1, etag=first.etag)
        with refused("VERSION_MISMATCH"):
            await adjust(shop, "ADD", 1, sku="NEW", etag=first.etag)

    async def test_the_unit_changes_only_while_nothing_is_counted_in_it(self, shop: Shop) -> None:
        """UNIT_MISMATCH while there is stock; an empty SKU takes another unit."""
        await adjust(shop, "ADD", 5_000, unit="NOS")
        with refused("UNIT_MISMATCH", sku="BOLT", asked="KGS", kept="NOS"):
            await adjust(shop, "ADD", 1, unit="KGS")
        await adjust(shop, "SET", 0)
        assert (await adjust(shop, "ADD", 1, unit="KGS")).unit == "KGS"

    async def test_a_sku_that_is_not_there_cannot_be_taken_from(self, shop: Shop) -> None:
        """SKU_NOT_FOUND; nothing is made."""
        with refused("SKU_NOT_FOUND", sku="BOLT"):
            await adjust(shop, "REMOVE", 1)
        with refused("SKU_NOT_FOUND"):
            await shop.stock("BOLT")

    async def test_every_broken_field_is_named(self, shop: Shop) -> None:
        """All at once; the key is not used up."""
        key = fresh_key()
        with refused("VALIDATION_FAILED") as told:
            await adjust(
                shop, "REMOVE", 0, key=key, sku="", reason="r" * 201, description="\0", hsn="123", unit="pieces"
            )
        assert told.fields == {
            "sku": "SKU_INVALID",
            "quantity_milli": "QUANTITY_OUT_OF_RANGE",
            "reason": "TEXT_TOO_LONG",
            "description": "TEXT_INVALID",
            "hsn": "HSN_FORMAT_INVALID",
            "unit": "UQC_INVALID",
        }
        with refused("VALIDATION_FAILED") as told:
            await adjust(shop, "STOCK_ADJUSTMENT_UNSPECIFIED", 10**13)
        assert told.fields == {"adjustment": "ADJUSTMENT_UNKNOWN"}
        with refused("VALIDATION_FAILED") as told:
            await adjust(shop, "ADD", 1, sku="BOLT@27AAPFU0939F1ZV", hsn="000000")
        assert told.fields == {"hsn": "HSN_FORMAT_INVALID"}
        assert (await adjust(shop, "ADD", 1, key=key)).on_hand_milli == 1

    @pytest.mark.parametrize("sku", ["ＢＯＬＴ", "BOLТ", "BO\u200bLT", "BOLT ", "Café", "x" * 65, "@A", ""])
    async def test_look_alikes_are_no_skus(self, shop: Shop, sku: str) -> None:
        """Full width, Cyrillic, zero width, blanks, accents, too long: refused by the grammar."""
        with refused("VALIDATION_FAILED") as told:
            await adjust(shop, "ADD", 1, sku=sku)
        assert told.fields == {"sku": "SKU_INVALID"}

    async def test_only_the_server_makes_skus_with_an_at(self, shop: Shop) -> None:
        """They say whose goods they were; those that are there are adjusted like any other."""
        sku = "BOLT@27AAPFU0939F1ZV"
        with refused("VALIDATION_FAILED") as told:
            await adjust(shop, "ADD", 1, sku=sku)
        assert told.fields == {"sku": "SKU_INVALID"}
        await shop.sql(
            "INSERT INTO stock (merchant_id, sku, unit) VALUES ($1, $2, 'NOS')", uuid.UUID(bytes=SELLER), sku
        )
        assert (await adjust(shop, "ADD", 1, sku=sku)).on_hand_milli == 1

    async def test_a_busy_row_is_told_as_unavailable(self, shop: Shop) -> None:
        """After lock_timeout: DEPENDENCY_DOWN, nothing done, and the key does it later."""
        await adjust(shop, "ADD", 1)
        key = fresh_key()
        async with shop.connection() as holder, holder.transaction():
            await holder.execute("SELECT 1 FROM stock FOR NO KEY UPDATE")
            with refused("DEPENDENCY_DOWN"):
                await adjust(shop, "ADD", 1, key=key)
        assert (await adjust(shop, "ADD", 1, key=key)).on_hand_milli == 2

    async def test_many_makers_of_one_sku_end_as_one(self, shop: Shop) -> None:
        """Two who make a SKU at once add up."""
        await asyncio.gather(*(adjust(shop, "ADD", 10) for _ in range(6)))
        assert await shop.stock("BOLT") == (60, 0)
