"""What invoices do to stock once they are settled: accepted goods are sold, rejected and cancelled ones come free.

    invoice.accepted               seller   PENDING, HELD -> COMMITTED, movement SALE        inventory.settle
    invoice.rejected, .cancelled   seller   PENDING, HELD -> REVERSED                        inventory.settle
    invoice.accepted               buyer    on hand rises, movement PURCHASE                 inventory.receive

The buyer's receipt is a second effect with an inbox row of its own, in its own transaction: none spans two merchants.
Events may come any number of times, late and in any order: the states of the holds decide. Source: PROTOCOL 4.2, 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from invochain.api.invoice.v1 import invoice_events_pb2 as events_pb
from invochain.chassis.ids import from_text
from invochain.chassis.postgres import Postgres
from invochain.chassis.telemetry import RESERVATION_FAILURES, log
from invochain.chassis.trace import trace_id_of
from invochain.durable import dead_letters, inbox
from invochain.durable.inbox import Received, Subscription
from invochain.errors import DependencyDown, Refusal
from invochain.inventory import repairs
from invochain.inventory.receive_goods import Goods, receive_goods
from invochain.inventory.settle_reservation import REVERSE, SELL, Move, Ref, settle_in

TOPIC = "invoice.events"
ACCEPTED = "invochain.invoice.accepted.v1"
REJECTED = "invochain.invoice.rejected.v1"
CANCELLED = "invochain.invoice.cancelled.v1"

SETTLE, RECEIVE = "inventory.settle", "inventory.receive"
MOVES: dict[str, tuple[Move, type[Message]]] = {
    ACCEPTED: (SELL, events_pb.InvoiceAccepted),
    REJECTED: (REVERSE, events_pb.InvoiceRejected),
    CANCELLED: (REVERSE, events_pb.InvoiceCancelled),
}


def subscriptions(postgres: Postgres) -> list[Subscription]:
    """What the room listens to (workers/consumer.py)."""

    async def settle_events(events: Sequence[Received]) -> None:
        await settle(postgres, events)

    async def receive_events(events: Sequence[Received]) -> None:
        await receive(postgres, events)

    return [
        Subscription(SETTLE, TOPIC, frozenset(MOVES), settle_events),
        Subscription(RECEIVE, TOPIC, frozenset({ACCEPTED}), receive_events),
    ]


async def settle(postgres: Postgres, events: Sequence[Received]) -> None:
    """Sells and reverses the holds of settled invoices, each kind in one transaction."""
    for move in (SELL, REVERSE):
        chosen = [event for event in events if MOVES[event.type][0] is move]
        if refs := {event.event_id: ref for event in chosen if (ref := _ref(event))}:
            await _settle(postgres, move, [event for event in chosen if event.event_id in refs], refs)


async def _settle(postgres: Postgres, move: Move, events: Sequence[Received], refs: dict[bytes, Ref]) -> None:
    async with postgres.transaction() as tx:
        fresh = await inbox.admit(tx, SETTLE, events)
        if not fresh:
            return
        unique = {refs[event.event_id].reservation_id: refs[event.event_id] for event in fresh}
        traces = {refs[event.event_id].reservation_id: trace_id_of(event.traceparent) for event in fresh}
        settled = await settle_in(tx, move, list(unique.values()))
        if settled.again:
            # A hold that appeared after its invoice was settled: nothing is kept of this round, it comes again.
            raise DependencyDown("the hold of an invoice, which just appeared,")
        refused = {name: outcome for name, outcome in settled.outcomes.items() if isinstance(outcome, Refusal)}
        await dead_letters.open_letters(
            tx,
            [
                repairs.failed(move, unique[reservation_id], outcome, traces[reservation_id])
                for (_, reservation_id), outcome in refused.items()
            ],
        )
    for (_, reservation_id), outcome in refused.items():
        # Impossible by design (PROTOCOL 4.2): the invoice was decided for this hold. Paged; it blocks nobody.
        RESERVATION_FAILURES.labels(reason=outcome.reason).inc()
        log("inventory").error(
            "hold_not_settled", move=move.name, reservation=reservation_id.hex(), reason=outcome.reason
        )


def _ref(event: Received) -> Ref | None:
    """The hold of an invoice; None for one without stock lines."""
    message = MOVES[event.type][1].FromString(event.payload)
    if not message.HasField("hold"):
        return None
    hold = message.hold  # type: ignore[attr-defined]
    return Ref(
        event.merchant_id,
        from_text(hold.reservation_id, "hold.reservation_id"),
        bytes(hold.fingerprint),
        from_text(hold.rid, "hold.rid"),
        hold.attempt,
        event.aggregate_id,
    )


async def receive(postgres: Postgres, events: Sequence[Received]) -> None:
    """Gives accepted goods to buyers who are registered here."""
    if goods := [one for event in events if (one := _goods(event))]:
        await receive_goods(postgres, RECEIVE, goods)


def _goods(event: Received) -> Goods | None:
    accepted = events_pb.InvoiceAccepted.FromString(event.payload)
    invoice = accepted.invoice
    if not accepted.HasField("hold") or not invoice.buyer_merchant_id:
        return None
    return Goods(
        event,
        from_text(invoice.buyer_merchant_id, "invoice.buyer_merchant_id"),
        from_text(accepted.hold.reservation_id, "hold.reservation_id"),
        invoice.seller.gstin,
        [line for line in invoice.lines if line.sku],
    )
