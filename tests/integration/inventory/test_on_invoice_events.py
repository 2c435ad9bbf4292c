"""What invoices do to stock: each event once, in any order, however often and in whatever company it comes."""

from __future__ import annotations

import asyncio
import random

import pytest

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.api.invoice.v1 import invoice_events_pb2 as events_pb
from invochain.api.invoice.v1 import invoice_service_pb2 as invoice_pb
from invochain.chassis.ids import new_id, to_text
from invochain.durable.inbox import Received
from invochain.inventory import on_invoice_events
from invochain.inventory.on_invoice_events import ACCEPTED, CANCELLED, REJECTED, receive, settle
from invochain.inventory.receive_goods import names
from tests.integration.inventory.conftest import OTHER, SELLER, Shop, wanted

GSTIN = "27AAPFU0939F1ZV"
MESSAGES = {
    ACCEPTED: events_pb.InvoiceAccepted,
    REJECTED: events_pb.InvoiceRejected,
    CANCELLED: events_pb.InvoiceCancelled,
}


def event(
    kind: str,
    hold: pb.ReserveStockRequest | None,
    *,
    buyer: bytes | None = OTHER,
    unit: str = "NOS",
    hsn: str = "7318",
    seller: bytes = SELLER,
) -> Received:
    """An event about an invoice that holds that stock."""
    message = MESSAGES[kind]()
    invoice_id = new_id()
    message.invoice.invoice_id = to_text(invoice_id)
    message.invoice.seller.gstin = GSTIN
    message.invoice.buyer_merchant_id = to_text(buyer) if buyer else ""
    message.invoice.lines.add(description="Delivery", is_service=True)
    if hold is not None:
        for item in hold.items:
            line = invoice_pb.InvoiceLine(
                sku=item.sku, quantity_milli=item.quantity_milli, unit=unit, hsn=hsn, description=f"A {item.sku}"
            )
            message.invoice.lines.append(line)
        message.hold.CopyFrom(
            events_pb.StockHold(
                reservation_id=hold.reservation_id, fingerprint=hold.fingerprint, rid=hold.rid, attempt=hold.attempt
            )
        )
    return Received(core.event_id(invoice_id, 2, kind), kind, seller, invoice_id, 2, message.SerializeToString())


class TestSettle:
    @pytest.mark.parametrize("confirmed", [False, True])
    @pytest.mark.parametrize(
        ("kind", "state", "stock"),
        [(ACCEPTED, "COMMITTED", (6, 0)), (REJECTED, "REVERSED", (10, 0)), (CANCELLED, "REVERSED", (10, 0))],
    )
    async def test_an_event_settles_its_hold_also_when_it_overtakes_the_confirm(
        self, shop: Shop, kind: str, state: str, stock: tuple[int, int], confirmed: bool
    ) -> None:
        """PENDING or HELD, sold or given back; a Confirm that comes later does nothing and is OK."""
        await shop.add("BOLT", 10)
        hold = await shop.hold(BOLT=4)
        if confirmed:
            await shop.confirm(hold)

        await settle(shop.postgres, [event(kind, hold)])
        (late,) = await shop.confirm(hold)

        assert pb.ReservationState.Name(late.state) == await shop.state(hold) == state
        assert await shop.stock("BOLT") == stock

    async def test_an_event_that_comes_many_times_at_once_has_one_effect(self, shop: Shop) -> None:
        """Also twice in one batch, and in batches of different company."""
        await shop.add("BOLT", 100)
        holds = [await shop.hold(BOLT=3) for _ in range(6)]
        events = [event(kind, hold) for kind, hold in zip([ACCEPTED, REJECTED] * 3, holds, strict=True)]
        shuffle = random.Random(3)

        async with asyncio.timeout(20):
            await asyncio.gather(
                *(settle(shop.postgres, shuffle.sample(events, 4) + events[:1]) for _ in range(6)),
            )
            await settle(shop.postgres, events)

        assert await shop.stock("BOLT") == (100 - 9, 0)
        assert len(await shop.sql("SELECT 1 FROM movement WHERE kind = 'SALE'")) == 3
        (inbox,) = await shop.sql("SELECT count(*), array_agg(DISTINCT consumer) AS names FROM inbox")
        assert (inbox["count"], inbox["names"]) == (6, ["inventory.settle"])

    async def test_the_movement_names_the_invoice_and_the_hold(self, shop: Shop) -> None:
        """So that a merchant sees what a sale was for."""
        await shop.add("BOLT", 10)
        hold = await shop.hold(BOLT=4)
        sold = event(ACCEPTED, hold)
        await settle(shop.postgres, [sold])
        listed = await shop.stub.ListMovements(pb.ListMovementsRequest(page_size=1), **shop.merchant())
        (movement,) = listed.movements
        assert (movement.kind, movement.delta_milli) == (pb.SALE, -4)
        assert movement.invoice_id == to_text(sold.aggregate_id)
        assert movement.reservation_id == hold.reservation_id

    async def test_an_invoice_without_stock_or_of_another_body_moves_nothing(self, shop: Shop) -> None:
        """No hold: nothing to do. Another fingerprint, or no such hold: paged, and the events behind it go on."""
        await shop.add("BOLT", 10)
        hold, gone = await shop.hold(BOLT=4), wanted({"BOLT": 1})
        other = pb.ReserveStockRequest()
        other.CopyFrom(hold)
        other.fingerprint = b"g" * 32
        good = await shop.hold(BOLT=1)

        await settle(shop.postgres, [event(ACCEPTED, None), event(ACCEPTED, other), event(REJECTED, gone)])
        await settle(shop.postgres, [event(ACCEPTED, gone), event(ACCEPTED, good)])

        assert await shop.stock("BOLT") == (9, 4)

    async def test_the_subscriptions_name_consumer_topic_and_types(self, shop: Shop) -> None:
        """Names that last for ever: they are the groups at the broker and the names in the inbox."""
        found = on_invoice_events.subscriptions(shop.postgres)
        assert [(s.consumer, s.topic, s.types) for s in found] == [
            ("inventory.settle", "invoice.events", frozenset({ACCEPTED, REJECTED, CANCELLED})),
            ("inventory.receive", "invoice.events", frozenset({ACCEPTED})),
        ]
        await shop.add("BOLT", 10)
        accepted = event(ACCEPTED, await shop.hold(BOLT=4))
        for subscription in found:
            await subscription.handle([accepted])
        assert await shop.stock("BOLT") == (6, 0)
        assert await shop.stock("BOLT", "other") == (4, 0)


class TestReceive:
    async def test_the_buyer_gets_what_was_sold_under_the_sellers_sku(self, shop: Shop) -> None:
        """A new SKU with the line's unit, HSN and description; a second receipt adds to it; a repeat does not."""
        first, second = event(ACCEPTED, wanted({"BOLT": 4, "NUT": 2})), event(ACCEPTED, wanted({"BOLT": 3}))
        await receive(shop.postgres, [first, second, first])
        await asyncio.gather(*(receive(shop.postgres, [second, first]) for _ in range(4)))

        assert await shop.stock("BOLT", "other") == (7, 0)
        assert await shop.stock("NUT", "other") == (2, 0)
        stock = await shop.stub.GetStock(pb.GetStockRequest(sku="bolt"), **shop.merchant("other"))
        assert (stock.unit, stock.hsn, stock.description) == ("NOS", "7318", "A BOLT")
        rows = await shop.sql("SELECT merchant_id, consumer FROM inbox")
        assert {(row["merchant_id"].bytes, row["consumer"]) for row in rows} == {(OTHER, "inventory.receive")}

    async def test_goods_that_are_kept_otherwise_go_to_the_server_made_sku(self, shop: Shop) -> None:
        """Another unit or HSN under the same SKU is another thing; nothing is added up that is not the same."""
        await shop.add("BOLT", 50, "other", unit="KGS", hsn="7318")
        await shop.add("NUT", 60, "other", unit="NOS", hsn="7316")

        await receive(shop.postgres, [event(ACCEPTED, wanted({"BOLT": 4, "NUT": 2}))])
        await receive(
            shop.postgres, [event(ACCEPTED, wanted({"BOLT": 1}), unit="BOX"), event(ACCEPTED, wanted({"BOLT": 5}))]
        )

        assert await shop.stock("BOLT", "other") == (50, 0)
        assert await shop.stock("NUT", "other") == (60, 0)
        assert await shop.stock(f"BOLT@{GSTIN}", "other") == (9, 0)
        assert await shop.stock(f"nut@{GSTIN}", "other") == (2, 0)
        assert await shop.stock(f"BOLT@{GSTIN}/BOX", "other") == (1, 0)

    async def test_two_units_of_one_new_sku_in_one_batch_are_kept_apart(self, shop: Shop) -> None:
        """The first one makes the SKU, the second one clashes with it."""
        await receive(
            shop.postgres, [event(ACCEPTED, wanted({"BOLT": 4})), event(ACCEPTED, wanted({"BOLT": 1}), unit="KGS")]
        )
        assert await shop.stock("BOLT", "other") == (4, 0)
        assert await shop.stock(f"BOLT@{GSTIN}", "other") == (1, 0)

    async def test_receipts_that_make_one_sku_at_once_all_arrive(self, shop: Shop) -> None:
        """Rivals in every order, with units that clash: the sum is what was sold, by unit."""
        events = [event(ACCEPTED, wanted({"A": 1, "B": 1}), unit=("NOS", "KGS")[n % 2]) for n in range(12)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(receive(shop.postgres, events[n : n + 3][::-1]) for n in range(0, 12, 3)))

        rows = await shop.sql("SELECT unit, sum(on_hand_milli) FROM stock GROUP BY unit")
        assert {row["unit"]: row["sum"] for row in rows} == {"NOS": 12, "KGS": 12}

    async def test_a_buyer_who_is_not_registered_gets_nothing(self, shop: Shop) -> None:
        """Nor does an invoice without stock lines."""
        await receive(shop.postgres, [event(ACCEPTED, wanted({"BOLT": 4}), buyer=None), event(ACCEPTED, None)])
        assert not await shop.sql("SELECT 1 FROM stock")

    async def test_who_buys_from_itself_sells_and_receives(self, shop: Shop) -> None:
        """The two effects have movements of their own."""
        await shop.add("BOLT", 10, unit="NOS", hsn="7318")
        accepted = event(ACCEPTED, await shop.hold(BOLT=4), buyer=SELLER)
        await settle(shop.postgres, [accepted])
        await receive(shop.postgres, [accepted])
        assert await shop.stock("BOLT") == (10, 0)

    def test_server_made_names_fit_into_eighty_characters(self) -> None:
        """Whatever the length of the seller's SKU."""
        for sku in ("x" * 64, f"{'x' * 64}@{GSTIN}"):
            made = names(sku, GSTIN, "NOS")
            assert [len(name) for name in made] == [len(sku), 80, 80]
            assert all(core.normal_sku(name) == name for name in made)
