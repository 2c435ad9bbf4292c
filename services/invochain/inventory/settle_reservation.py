"""Settles holds: Confirm, Release, sale, reversal, expiry. A move has from-states, a to-state and an effect.

    Confirm  resolver INVOICE   PENDING        -> HELD       nothing: the units stay reserved, now for an issued invoice
             resolver NONE      PENDING        -> COMMITTED  on hand and reserved fall, movement ISSUE
    Release                     PENDING        -> RELEASED   reserved falls; an unknown id is tombstoned
    sell     resolver INVOICE   PENDING, HELD  -> COMMITTED  on hand and reserved fall, movement SALE
    reverse  resolver INVOICE   PENDING, HELD  -> REVERSED   reserved falls
    expire   resolver NONE      PENDING        -> EXPIRED    reserved falls

Repeating a move is harmless, and each carries the fingerprint of the request it is for, so that a hold made for another
body is never kept. Items of a hold never change, so they are read unlocked; then stock rows are locked, then the holds,
whose state is read again. Source: PROTOCOL sections 4.2 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from invochain import core
from invochain.chassis.ids import Id, to_text
from invochain.chassis.postgres import Postgres, Sql, Tx, column
from invochain.errors import DependencyDown, InvariantBroken, KeyReused, Refusal
from invochain.inventory import stock_rows
from invochain.inventory.reservation import (
    BATCH_WAIT_S,
    COMMITTED,
    EXPIRED,
    HELD,
    INVOICE,
    NONE,
    PENDING,
    RELEASED,
    REVERSED,
    ReservationGone,
    ReservationHeld,
)
from invochain.inventory.stock_rows import ASKED


@dataclass(frozen=True, slots=True)
class Move:
    """One row of the table above."""

    name: str
    resolver: str
    starts: frozenset[str]
    ends: str
    # States in which there is nothing left to do.
    done: frozenset[str]
    # Takes the units off the quantity on hand, with a movement of this kind.
    movement: str = ""
    # Gives the units free again (a movement takes them off what is reserved as well).
    frees: bool = False
    tombstones: bool = False

    @property
    def touches_stock(self) -> bool:
        return self.frees or bool(self.movement)


CONFIRM = {
    INVOICE: Move("confirm", INVOICE, frozenset({PENDING}), HELD, frozenset({HELD, COMMITTED, REVERSED})),
    NONE: Move("confirm", NONE, frozenset({PENDING}), COMMITTED, frozenset({COMMITTED}), movement="ISSUE"),
}
RELEASE = {
    resolver: Move(
        "release", resolver, frozenset({PENDING}), RELEASED, frozenset({RELEASED, EXPIRED}), frees=True, tombstones=True
    )
    for resolver in (INVOICE, NONE)
}
SELL = Move("sell", INVOICE, frozenset({PENDING, HELD}), COMMITTED, frozenset({COMMITTED}), movement="SALE")
REVERSE = Move("reverse", INVOICE, frozenset({PENDING, HELD}), REVERSED, frozenset({REVERSED}), frees=True)
EXPIRE = Move("expire", NONE, frozenset({PENDING}), EXPIRED, frozenset({EXPIRED, COMMITTED, RELEASED}), frees=True)

# A release waits for a hold that appears only after its first look; who is that lucky thrice is told to come back.
ROUNDS_MAX = 3


@dataclass(frozen=True, slots=True)
class Ref:
    """Names one hold. `fingerprint` None: whatever it was made for (a merchant's own)."""

    merchant_id: Id
    reservation_id: Id
    fingerprint: bytes | None = None
    # Kept in the tombstone of an unknown id.
    rid: Id = bytes(16)
    attempt: int = 1
    # Kept with the movements of a sale.
    invoice_id: Id | None = None


Name = tuple[Id, Id]
Outcome = str | Refusal


@dataclass(slots=True)
class Settled:
    """What a transaction did; it counts once that has committed."""

    outcomes: dict[Name, Outcome] = field(default_factory=dict)
    again: list[Ref] = field(default_factory=list)


async def settle(postgres: Postgres, move: Move, refs: Sequence[Ref]) -> dict[Name, Outcome]:
    """Settles holds in transactions of its own: the state each is in now, or why it was not moved.

    Refuses, per hold: ReservationGone, ReservationHeld, KeyReused. Whole: what PostgreSQL refuses.
    """
    outcomes: dict[Name, Outcome] = {}
    left: Sequence[Ref] = list({(ref.merchant_id, ref.reservation_id): ref for ref in refs}.values())
    for _ in range(ROUNDS_MAX):
        async with postgres.transaction(BATCH_WAIT_S) as tx:
            settled = await settle_in(tx, move, left)
        outcomes |= settled.outcomes
        left = settled.again
        if not left:
            return outcomes
    return outcomes | dict.fromkeys(
        ((ref.merchant_id, ref.reservation_id) for ref in left), DependencyDown("the reservation, which just appeared,")
    )


async def confirm_pending(postgres: Postgres, refs: Sequence[core.Refs]) -> int:
    """PENDING becomes HELD, for the invoice service's holds, each named once; how many were moved.

    The usual Confirm in one statement: what it leaves as it is, `settle` has something to say about.
    """
    async with postgres.transaction(BATCH_WAIT_S) as tx:
        return await tx.count(CONFIRM_PENDING, *core.confirm_columns(list(refs)), sum(map(len, refs)))


async def settle_in(tx: Tx, move: Move, refs: Sequence[Ref]) -> Settled:
    """Settles holds in the caller's transaction. Those that appeared only after the first look are in `again`."""
    ordered = sorted(refs, key=lambda ref: (ref.reservation_id, ref.merchant_id))
    names = [ref.merchant_id for ref in ordered], [ref.reservation_id for ref in ordered]
    seen: set[Name] = set()
    if move.touches_stock:
        known = await tx.fetch(READ, *names, move.resolver)
        seen = {_name(row) for row in known}
        if live := [row for row in known if row["state"] in move.starts]:
            await stock_rows.lock_of_holds(tx, *_columns(live), move.resolver)
    rows = {_name(row): row for row in await tx.fetch(LOCK, *names, move.resolver)}

    settled = Settled()
    moving: list[tuple[Ref, asyncpg.Record]] = []
    unknown: list[Ref] = []
    for ref in ordered:
        name = (ref.merchant_id, ref.reservation_id)
        row = rows.get(name)
        if row is None and move.tombstones:
            unknown.append(ref)
        elif row is not None and move.touches_stock and name not in seen and row["state"] in move.starts:
            settled.again.append(ref)
        elif (outcome := judge(move, ref, row["state"] if row else None, row["fingerprint"] if row else None)) is None:
            assert row is not None
            moving.append((ref, row))
            settled.outcomes[name] = move.ends
        else:
            settled.outcomes[name] = outcome
    if moving:
        await _move(tx, move, moving)
    if unknown:
        await _bury(tx, move, unknown, settled)
    return settled


def judge(move: Move, ref: Ref, state: str | None, fingerprint: bytes | None) -> Outcome | None:
    """What a hold in that state is told; None: it moves."""
    text = to_text(ref.reservation_id)
    if state is None:
        return ReservationGone(text, "not there")
    gone = state in (RELEASED, EXPIRED) and state not in move.done
    if gone:
        return ReservationGone(text, state)
    if state == RELEASED:
        return state
    if ref.fingerprint is not None and fingerprint != ref.fingerprint:
        return KeyReused()
    if state in move.starts:
        return None
    if state in move.done:
        return state
    return ReservationHeld(text, state)


async def _move(tx: Tx, move: Move, moving: Sequence[tuple[Ref, asyncpg.Record]]) -> None:
    names = [ref.merchant_id for ref, _ in moving], [ref.reservation_id for ref, _ in moving]
    if await tx.count(MOVE, *names, move.resolver, move.ends) != len(moving):
        raise InvariantBroken("locked reservations were to be moved, some were not")
    if not move.touches_stock:
        return
    skus = {(row["merchant_id"], sku) for _, row in moving for sku in row["skus"]}
    changed = await tx.count(LEAVE if move.movement else FREE, *names, move.resolver)
    if changed != len(skus):
        raise InvariantBroken(f"{len(skus)} stock rows were to be changed, {changed} were")
    if move.movement:
        await _write_movements(tx, move, moving)


async def _write_movements(tx: Tx, move: Move, moving: Sequence[tuple[Ref, asyncpg.Record]]) -> None:
    lines = [
        (ref, sku, quantity_milli)
        for ref, row in moving
        for sku, quantity_milli in zip(row["skus"], row["quantities_milli"], strict=True)
    ]
    await tx.execute(
        MOVEMENTS,
        [ref.merchant_id for ref, _, _ in lines],
        [core.movement_id(ref.reservation_id, sku, move.movement) for ref, sku, _ in lines],
        [sku for _, sku, _ in lines],
        [-quantity_milli for _, _, quantity_milli in lines],
        [ref.invoice_id for ref, _, _ in lines],
        [ref.reservation_id for ref, _, _ in lines],
        move.movement,
    )


async def _bury(tx: Tx, move: Move, unknown: Sequence[Ref], settled: Settled) -> None:
    """Writes tombstones. An id that appears only now waits for the next round (PROTOCOL 9)."""
    rows = await tx.fetch(
        TOMBSTONE,
        [ref.merchant_id for ref in unknown],
        [ref.reservation_id for ref in unknown],
        [ref.rid for ref in unknown],
        [ref.attempt for ref in unknown],
        [ref.fingerprint for ref in unknown],
        move.resolver,
    )
    buried = {_name(row) for row in rows}
    for ref in unknown:
        name = (ref.merchant_id, ref.reservation_id)
        if name in buried:
            settled.outcomes[name] = RELEASED
        else:
            settled.again.append(ref)


def _name(row: Mapping[str, Id]) -> Name:
    return row["merchant_id"], row["reservation_id"]


def _columns(rows: Sequence[asyncpg.Record]) -> tuple[list[Id], list[Id]]:
    return column(rows, "merchant_id"), column(rows, "reservation_id")


READ = Sql(
    "reservation_read",
    f"""
SELECT merchant_id, reservation_id, state
FROM {ASKED} AS asked (merchant_id, reservation_id, resolver)
JOIN reservation USING (merchant_id, reservation_id, resolver)
""",
)

LOCK = Sql(
    "reservation_lock",
    f"""
SELECT
    reservation.merchant_id, reservation.reservation_id, reservation.state, reservation.fingerprint,
    reservation.skus, reservation.quantities_milli
FROM {ASKED} AS asked (merchant_id, reservation_id, resolver)
JOIN reservation
    ON reservation.merchant_id = asked.merchant_id AND reservation.reservation_id = asked.reservation_id
    AND reservation.resolver = asked.resolver
ORDER BY reservation.reservation_id, reservation.merchant_id
FOR NO KEY UPDATE OF reservation
""",
)

MOVE = Sql(
    "reservation_move",
    f"""
UPDATE reservation SET state = $4, update_time = now()
FROM {ASKED} AS moved (merchant_id, reservation_id, resolver)
WHERE reservation.merchant_id = moved.merchant_id AND reservation.reservation_id = moved.reservation_id
    AND reservation.resolver = moved.resolver AND reservation.state IN ('PENDING', 'HELD')
""",
)

# Resolver and state are columns of what is asked, not constants, for the reason given with ASKED: the partial index of
# what is PENDING would be read from end to end.
CONFIRM_PENDING = Sql(
    "reservation_confirm",
    """
UPDATE reservation SET state = 'HELD', update_time = now()
FROM (
    SELECT reservation.merchant_id, reservation.reservation_id, reservation.resolver, reservation.state
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::bytea[], array_fill('INVOICE'::text, ARRAY[$4::int]),
        array_fill('PENDING'::text, ARRAY[$4::int])
    ) AS asked (merchant_id, reservation_id, fingerprint, resolver, state)
    JOIN reservation
        ON reservation.merchant_id = asked.merchant_id AND reservation.reservation_id = asked.reservation_id
        AND reservation.resolver = asked.resolver
    WHERE reservation.state = asked.state AND reservation.fingerprint = asked.fingerprint
    ORDER BY reservation.reservation_id, reservation.merchant_id
    FOR NO KEY UPDATE OF reservation
) AS pending
WHERE reservation.merchant_id = pending.merchant_id AND reservation.reservation_id = pending.reservation_id
    AND reservation.resolver = pending.resolver AND reservation.state = pending.state
""",
)

_ITEMS = f"""
FROM (
    SELECT reservation.merchant_id, item.sku, sum(item.quantity_milli)::bigint AS quantity_milli
    FROM {ASKED} AS moved (merchant_id, reservation_id, resolver)
    JOIN reservation USING (merchant_id, reservation_id, resolver)
    CROSS JOIN LATERAL unnest(reservation.skus, reservation.quantities_milli) AS item (sku, quantity_milli)
    GROUP BY reservation.merchant_id, item.sku
) AS given
WHERE stock.merchant_id = given.merchant_id AND stock.sku = given.sku
"""

FREE = Sql(
    "stock_free",
    f"UPDATE stock SET reserved_milli = stock.reserved_milli - given.quantity_milli {_ITEMS}",
)

LEAVE = Sql(
    "stock_leave",
    f"""
UPDATE stock SET
    on_hand_milli = stock.on_hand_milli - given.quantity_milli,
    reserved_milli = stock.reserved_milli - given.quantity_milli,
    version = stock.version + 1,
    update_time = now()
{_ITEMS}
""",
)

MOVEMENTS = Sql(
    "movement_insert",
    """
INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, invoice_id, reservation_id)
SELECT merchant_id, movement_id, sku, $7, delta_milli, invoice_id, reservation_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::uuid[], $6::uuid[])
    AS moved (merchant_id, movement_id, sku, delta_milli, invoice_id, reservation_id)
""",
)

TOMBSTONE = Sql(
    "reservation_tombstone",
    """
INSERT INTO reservation (
    merchant_id, reservation_id, resolver, state, rid, attempt, fingerprint, skus, quantities_milli
)
SELECT merchant_id, reservation_id, $6, 'RELEASED', rid, attempt, fingerprint, '{}', '{}'
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::bytea[])
    AS unknown (merchant_id, reservation_id, rid, attempt, fingerprint)
ON CONFLICT DO NOTHING
RETURNING merchant_id, reservation_id
""",
)
