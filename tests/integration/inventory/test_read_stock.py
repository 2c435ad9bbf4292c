"""Reads and lists: keyset pages that neither skip nor repeat, and a merchant's own rows only."""

from __future__ import annotations

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from tests.integration.inventory.conftest import Shop
from tests.integration.inventory.told import refused


async def all_skus(shop: Shop, size: int, name: str = "seller") -> list[list[str]]:
    pages, token = [], ""
    while True:
        answer = await shop.stub.ListStock(pb.ListStockRequest(page_size=size, page_token=token), **shop.merchant(name))
        pages.append([stock.sku for stock in answer.stock])
        token = answer.next_page_token
        if not token:
            return pages


class TestListStock:
    async def test_pages_follow_each_other_in_the_order_of_skus(self, shop: Shop) -> None:
        """Bytes decide the order; the last page has no token, also when it is full."""
        for sku in ("b", "A/1", "a-2", "C_3", "A.9", "Z"):
            await shop.add(sku, 1)
        assert await all_skus(shop, 2) == [["A-2", "A.9"], ["A/1", "B"], ["C_3", "Z"]]
        assert await all_skus(shop, 0) == [["A-2", "A.9", "A/1", "B", "C_3", "Z"]]
        assert await all_skus(shop, 2, "other") == [[]]

    async def test_a_token_of_another_caller_or_list_is_refused(self, shop: Shop) -> None:
        """PAGE_TOKEN_MISMATCH for a foreign token, one of another filter, and one that was tampered with."""
        for sku in ("A", "B"):
            await shop.add(sku, 1)
            await shop.add(sku, 1, "other")
        token = (await shop.stub.ListStock(pb.ListStockRequest(page_size=1), **shop.merchant())).next_page_token
        movements = pb.ListMovementsRequest(page_size=1, sku="A", page_token=token)
        request = pb.ListStockRequest(page_size=1, page_token=token)
        with refused("PAGE_TOKEN_MISMATCH"):
            await shop.stub.ListStock(request, **shop.merchant("other"))
        with refused("PAGE_TOKEN_MISMATCH"):
            await shop.stub.ListMovements(movements, **shop.merchant())
        for wrong in (token[:-1], token[:20] + ("A" if token[20] != "A" else "B") + token[21:], "x", "\u0900"):
            with refused("PAGE_TOKEN_MISMATCH"):
                await shop.stub.ListStock(pb.ListStockRequest(page_token=wrong), **shop.merchant())
        with refused("VALIDATION_FAILED") as told:
            await shop.stub.ListStock(pb.ListStockRequest(page_size=-1), **shop.merchant())
        assert told.fields == {"page_size": "PAGE_SIZE_NEGATIVE"}


class TestListMovements:
    async def test_newest_come_first_and_pages_neither_skip_nor_repeat(self, shop: Shop) -> None:
        """Over all SKUs or one of them."""
        for n in range(7):
            await shop.add("A" if n % 2 else "B", n + 1)
        await shop.add("A", 99, "other")
        found: list[int] = []
        token = ""
        while True:
            answer = await shop.stub.ListMovements(
                pb.ListMovementsRequest(page_size=3, page_token=token), **shop.merchant()
            )
            found += [movement.delta_milli for movement in answer.movements]
            token = answer.next_page_token
            if not token:
                break
        assert found == [7, 6, 5, 4, 3, 2, 1]
        only = await shop.stub.ListMovements(pb.ListMovementsRequest(sku="a"), **shop.merchant())
        assert [(m.delta_milli, m.kind, m.sku) for m in only.movements] == [
            (6, pb.ADJUSTMENT, "A"),
            (4, pb.ADJUSTMENT, "A"),
            (2, pb.ADJUSTMENT, "A"),
        ]


class TestGetReservation:
    async def test_a_hold_of_an_invoice_is_not_shown_to_merchants(self, shop: Shop) -> None:
        """Merchants see resolver NONE only; what is no id is not found either."""
        await shop.add("A", 10)
        request = await shop.hold(A=1)
        for text in (request.reservation_id, "nonsense", ""):
            with refused("RESERVATION_NOT_FOUND"):
                await shop.stub.GetReservation(pb.GetReservationRequest(reservation_id=text), **shop.merchant())
