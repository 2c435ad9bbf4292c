"""Every move of PROTOCOL 4.2 from every state, legal and illegal, with what it does to stock; tombstones; races."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.ids import from_text, to_text
from invochain.errors import Refusal, reason_of
from invochain.inventory.settle_reservation import CONFIRM, EXPIRE, RELEASE, REVERSE, SELL, Move, Ref, settle
from tests.integration.inventory.conftest import FINGERPRINT, SELLER, Shop, fresh_key, ref, wanted
from tests.integration.inventory.told import refused

MOVES = {
    ("INVOICE", "confirm"): CONFIRM["INVOICE"],
    ("INVOICE", "release"): RELEASE["INVOICE"],
    ("INVOICE", "sell"): SELL,
    ("INVOICE", "reverse"): REVERSE,
    ("NONE", "confirm"): CONFIRM["NONE"],
    ("NONE", "release"): RELEASE["NONE"],
    ("NONE", "expire"): EXPIRE,
}
# How a hold of 4 units of 10 comes to stand where it does: the moves from PENDING.
WAYS = {
    ("INVOICE", "PENDING"): (),
    ("INVOICE", "HELD"): ("confirm",),
    ("INVOICE", "COMMITTED"): ("sell",),
    ("INVOICE", "RELEASED"): ("release",),
    ("INVOICE", "REVERSED"): ("reverse",),
    ("NONE", "PENDING"): (),
    ("NONE", "COMMITTED"): ("confirm",),
    ("NONE", "RELEASED"): ("release",),
    ("NONE", "EXPIRED"): ("expire",),
}
# on hand and reserved once a hold stands there.
STOCK = {
    "PENDING": (10, 4),
    "HELD": (10, 4),
    "COMMITTED": (6, 0),
    "RELEASED": (10, 0),
    "REVERSED": (10, 0),
    "EXPIRED": (10, 0),
}
# The whole table: resolver, state, move -> state afterwards, or the reason it is refused.
TABLE = """
INVOICE PENDING   confirm HELD               release RELEASED           sell COMMITTED         reverse REVERSED
INVOICE HELD      confirm HELD               release RESERVATION_HELD   sell COMMITTED         reverse REVERSED
INVOICE COMMITTED confirm COMMITTED          release RESERVATION_HELD   sell COMMITTED         reverse RESERVATION_HELD
INVOICE REVERSED  confirm REVERSED           release RESERVATION_HELD   sell RESERVATION_HELD  reverse REVERSED
INVOICE RELEASED  confirm RESERVATION_GONE   release RELEASED           sell RESERVATION_GONE  reverse RESERVATION_GONE
NONE    PENDING   confirm COMMITTED          release RELEASED           expire EXPIRED
NONE    COMMITTED confirm COMMITTED          release RESERVATION_HELD   expire COMMITTED
NONE    RELEASED  confirm RESERVATION_GONE   release RELEASED           expire RELEASED
NONE    EXPIRED   confirm RESERVATION_GONE   release EXPIRED            expire EXPIRED
"""
CASES = [
    (words[0], words[1], words[i], words[i + 1])
    for words in (line.split() for line in TABLE.strip().splitlines())
    for i in range(2, len(words), 2)
]


async def a_hold(shop: Shop, resolver: str) -> Ref:
    """4 of 10 units, PENDING."""
    await shop.add("BOLT", 10)
    if resolver == "INVOICE":
        request = await shop.hold(BOLT=4)
        return Ref(SELLER, from_text(request.reservation_id, ""), FINGERPRINT, from_text(request.rid, ""))
    reservation = await shop.stub.ReserveStock(
        pb.ReserveStockRequest(items=[pb.ReservationItem(sku="BOLT", quantity_milli=4)]),
        **shop.merchant(key=fresh_key()),
    )
    return Ref(SELLER, from_text(reservation.reservation_id, ""))


async def told(shop: Shop, move: Move, name: Ref) -> str:
    (outcome,) = (await settle(shop.postgres, move, [name])).values()
    return outcome.reason if isinstance(outcome, Refusal) else outcome


def statements(*names: str) -> list[float]:
    """How often each was run so far."""
    return [REGISTRY.get_sample_value("pg_query_duration_seconds_count", {"statement": name}) or 0 for name in names]


class TestMoves:
    @pytest.mark.parametrize(("resolver", "state", "move", "expected"), CASES)
    async def test_a_move_from_a_state(self, shop: Shop, resolver: str, state: str, move: str, expected: str) -> None:
        """A legal move changes state and stock together; an illegal one says why and changes nothing."""
        name = await a_hold(shop, resolver)
        for step in WAYS[resolver, state]:
            await told(shop, MOVES[resolver, step], name)
        assert await shop.stock("BOLT") == STOCK[state]

        assert await told(shop, MOVES[resolver, move], name) == expected

        after = expected if expected in STOCK else state
        (row,) = await shop.sql("SELECT state FROM reservation")
        assert row["state"] == after
        assert await shop.stock("BOLT") == STOCK[after]

    @pytest.mark.parametrize("move", ["confirm", "release", "sell", "reverse"])
    async def test_a_hold_made_for_another_body_is_not_moved(self, shop: Shop, move: str) -> None:
        """KEY_REUSED for another fingerprint, whatever the move (mutants confirm_by_id_only, release_by_id_only)."""
        name = await a_hold(shop, "INVOICE")
        other = Ref(name.merchant_id, name.reservation_id, b"g" * 32, name.rid)

        assert await told(shop, MOVES["INVOICE", move], other) == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
        assert await shop.stock("BOLT") == (10, 4)

    @pytest.mark.parametrize(("resolver", "move", "kind"), [("INVOICE", "sell", "SALE"), ("NONE", "confirm", "ISSUE")])
    async def test_goods_that_leave_have_one_movement_a_sku(
        self, shop: Shop, resolver: str, move: str, kind: str
    ) -> None:
        """The movement's id derives from the hold, the SKU and the kind; a repeat writes no second one."""
        name = await a_hold(shop, resolver)
        await told(shop, MOVES[resolver, move], name)
        await told(shop, MOVES[resolver, move], name)

        rows = await shop.sql("SELECT movement_id, sku, delta_milli FROM movement WHERE kind = $1", kind)
        assert [(row["movement_id"].bytes, row["sku"], row["delta_milli"]) for row in rows] == [
            (core.movement_id(name.reservation_id, "BOLT", kind), "BOLT", -4)
        ]


class TestConfirmAndReleaseCalls:
    async def test_results_come_in_order_and_one_refusal_fails_no_neighbour(self, shop: Shop) -> None:
        """A batch of confirms with an unknown id and another body among them."""
        await shop.add("BOLT", 10)
        first, second = await shop.hold(BOLT=1), await shop.hold(BOLT=2)
        unknown = wanted({"BOLT": 1})
        other = pb.ReservationRef()
        other.CopyFrom(ref(await shop.hold(BOLT=3), b"g" * 32))
        request = pb.ConfirmReservationsRequest(reservations=[ref(first), ref(unknown), other, ref(second), ref(first)])

        response = await shop.stub.ConfirmReservations(request, **shop.service())

        told = [
            reason_of(r.error) if r.HasField("error") else pb.ReservationState.Name(r.state) for r in response.results
        ]
        assert told == ["HELD", "RESERVATION_GONE", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD", "HELD", "HELD"]
        assert [r.reservation_id for r in response.results] == [r.reservation_id for r in request.reservations]

    async def test_holds_that_wait_are_confirmed_by_one_statement(self, shop: Shop) -> None:
        """However many calls name them; a repeat is looked at hold by hold and says the same."""
        await shop.add("BOLT", 10)
        holds = [ref(await shop.hold(BOLT=1)) for _ in range(4)]
        request = pb.ConfirmReservationsRequest(reservations=holds)
        before = statements("reservation_confirm", "reservation_move", "reservation_lock")

        first = await shop.stub.ConfirmReservations(request, **shop.service())

        assert statements("reservation_confirm", "reservation_move", "reservation_lock") == [before[0] + 1, *before[1:]]
        assert [(one.reservation_id, one.state) for one in first.results] == [
            (one.reservation_id, pb.HELD) for one in holds
        ]
        assert await shop.stub.ConfirmReservations(request, **shop.service()) == first
        assert statements("reservation_lock") == [before[2] + 1]
        assert await shop.stock("BOLT") == (10, 4)

    async def test_a_confirm_tells_of_each_hold_how_it_stands(self, shop: Shop) -> None:
        """One that waits, among others that went on or were given back, or that another body holds."""
        await shop.add("BOLT", 20)
        requests = [await shop.hold(BOLT=1) for _ in range(5)]
        names = [Ref(SELLER, from_text(r.reservation_id, ""), FINGERPRINT, from_text(r.rid, "")) for r in requests]
        for move, name in zip((SELL, REVERSE, RELEASE["INVOICE"]), names, strict=False):
            await told(shop, move, name)
        asked = [ref(one) for one in requests[:4]] + [ref(requests[4], b"g" * 32)]

        response = await shop.stub.ConfirmReservations(
            pb.ConfirmReservationsRequest(reservations=asked), **shop.service()
        )

        assert [
            reason_of(r.error) if r.HasField("error") else pb.ReservationState.Name(r.state) for r in response.results
        ] == ["COMMITTED", "REVERSED", "RESERVATION_GONE", "HELD", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"]
        states = {row["reservation_id"].bytes: row["state"] for row in await shop.sql("SELECT * FROM reservation")}
        assert [states[name.reservation_id] for name in names] == [
            "COMMITTED",
            "REVERSED",
            "RELEASED",
            "HELD",
            "PENDING",
        ]

    async def test_a_release_of_an_unknown_id_leaves_a_tombstone_with_its_owner(self, shop: Shop) -> None:
        """The tombstone keeps rid, attempt and fingerprint, belongs to the invoice service and holds nothing."""
        request = wanted({"BOLT": 1})

        (result,) = await shop.release(request)
        (again,) = await shop.release(request)

        assert result.state == again.state == pb.RELEASED
        (row,) = await shop.sql("SELECT * FROM reservation")
        assert (row["resolver"], row["state"], row["skus"]) == ("INVOICE", "RELEASED", [])
        assert (str(row["rid"]), row["attempt"], row["fingerprint"]) == (request.rid, 1, FINGERPRINT)

    async def test_a_merchants_tombstone_does_not_stop_an_invoices_hold(self, shop: Shop) -> None:
        """A merchant can compute the ids of its invoices' holds; what it releases under them is its own, NONE."""
        await shop.add("BOLT", 10)
        request = wanted({"BOLT": 4})
        mine = [pb.ReservationRef(reservation_id=request.reservation_id)]

        await shop.stub.ReleaseReservations(pb.ReleaseReservationsRequest(reservations=mine), **shop.merchant())
        (result,) = await shop.reserve(request)
        await shop.stub.ReleaseReservations(pb.ReleaseReservationsRequest(reservations=mine), **shop.merchant())
        response = await shop.stub.ConfirmReservations(
            pb.ConfirmReservationsRequest(reservations=mine), **shop.merchant()
        )

        assert result.state == pb.PENDING
        assert reason_of(response.results[0].error) == "RESERVATION_GONE"
        assert await shop.stock("BOLT") == (10, 4)

    async def test_a_merchant_reserves_under_its_own_tombstone_in_vain(self, shop: Shop) -> None:
        """A release that overtakes its reserve fences it: RESERVATION_TOMBSTONED, retryable."""
        await shop.add("BOLT", 10)
        key = fresh_key()
        reservation_id = core.reservation_id(core.request_id(SELLER, "inventory.reserve", key), 1)
        mine = [pb.ReservationRef(reservation_id=to_text(reservation_id))]
        await shop.stub.ReleaseReservations(pb.ReleaseReservationsRequest(reservations=mine), **shop.merchant())

        with refused("RESERVATION_TOMBSTONED"):
            await shop.stub.ReserveStock(
                pb.ReserveStockRequest(items=[pb.ReservationItem(sku="BOLT", quantity_milli=4)]),
                **shop.merchant(key=key),
            )
        assert await shop.stock("BOLT") == (10, 0)

    async def test_every_broken_field_is_named(self, shop: Shop) -> None:
        """Counts, ids, fingerprints and attempts; a merchant may not name what services name."""
        refs = [
            pb.ReservationRef(reservation_id="x", merchant_id="y"),
            pb.ReservationRef(reservation_id=to_text(SELLER), merchant_id=to_text(SELLER), rid=to_text(SELLER)),
        ]
        with refused("VALIDATION_FAILED") as told:
            await shop.stub.ReleaseReservations(pb.ReleaseReservationsRequest(reservations=refs), **shop.service())
        assert told.fields == {
            "reservations[0].reservation_id": "ID_INVALID",
            "reservations[1].fingerprint": "FINGERPRINT_INVALID",
            "reservations[1].attempt": "ATTEMPT_OUT_OF_RANGE",
        }
        with refused("VALIDATION_FAILED"):
            await shop.stub.ConfirmReservations(pb.ConfirmReservationsRequest(), **shop.service())
        with refused("SERVICE_ONLY"):
            await shop.stub.ConfirmReservations(pb.ConfirmReservationsRequest(reservations=refs), **shop.merchant())
        with refused("SERVICE_ONLY"):
            await shop.stub.ConfirmReservations(
                pb.ConfirmReservationsRequest(reservations=refs), **shop.service("gateway")
            )

    async def test_one_hold_named_for_two_bodies_in_one_call_is_refused(self, shop: Shop) -> None:
        """Both cannot be right, and the results could not tell them apart."""
        request = wanted({"BOLT": 1})
        with refused("VALIDATION_FAILED") as told:
            await shop.stub.ConfirmReservations(
                pb.ConfirmReservationsRequest(reservations=[ref(request), ref(request, b"g" * 32)]), **shop.service()
            )
        assert told.fields == {"reservations[1]": "RESERVATION_NAMED_TWICE"}

    async def test_calls_for_two_bodies_of_one_hold_at_once_each_get_their_own_answer(self, shop: Shop) -> None:
        """They wait together but are settled one after the other."""
        await shop.add("BOLT", 10)
        request = await shop.hold(BOLT=1)

        async def confirm(fingerprint: bytes) -> pb.SettleResult:
            response = await shop.stub.ConfirmReservations(
                pb.ConfirmReservationsRequest(reservations=[ref(request, fingerprint)]), **shop.service()
            )
            return response.results[0]

        answers = await asyncio.gather(*(confirm(fingerprint) for fingerprint in (b"g" * 32, FINGERPRINT) * 10))

        assert {reason_of(answer.error) for answer in answers[::2]} == {"KEY_REUSED_WITH_DIFFERENT_PAYLOAD"}
        assert {answer.state for answer in answers[1::2]} == {pb.HELD}

    async def test_confirm_release_sale_and_reversal_race_and_one_of_them_wins(self, shop: Shop) -> None:
        """Whatever the order, each hold ends in one state and its units are counted once."""
        await shop.add("A", 1_000)
        await shop.add("B", 1_000)
        requests = [await shop.hold(A=3, B=2) for _ in range(15)]
        names = [Ref(SELLER, from_text(r.reservation_id, ""), FINGERPRINT, from_text(r.rid, "")) for r in requests]

        async with asyncio.timeout(20):
            await asyncio.gather(
                shop.confirm(*requests),
                shop.release(*reversed(requests)),
                settle(shop.postgres, SELL, names),
                settle(shop.postgres, REVERSE, names[::-1]),
            )

        states = [await shop.state(request) for request in requests]
        assert set(states) <= {"RELEASED", "COMMITTED", "REVERSED", "HELD"}
        sold = states.count("COMMITTED")
        held = states.count("HELD")
        assert await shop.stock("A") == (1_000 - 3 * sold, 3 * held)
        assert await shop.stock("B") == (1_000 - 2 * sold, 2 * held)
