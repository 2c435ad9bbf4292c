"""Goods received: the buyer's stock rises by what the seller's hold sold, under the seller's SKU.

If the buyer counts that SKU in another unit, or under another HSN, it is another thing: the goods go to the server-made
SKU `<SKU>@<seller GSTIN>`. If even that was made with another unit, to one that carries the unit as well: nothing that
was sold is ever lost, and no two units are ever added up. Source: PROTOCOL 4.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as invoice_pb
from invochain.chassis.ids import Id
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.durable import inbox
from invochain.durable.inbox import Received
from invochain.errors import DependencyDown
from invochain.inventory import stock_rows

# A rival may make a SKU between our look and our insert; nobody is that unlucky thrice.
ROUNDS_MAX = 3
SKU_CHARS_MAX = 80

Key = tuple[Id, str]


@dataclass(frozen=True, slots=True)
class Goods:
    """What one accepted invoice brings to its buyer."""

    event: Received
    buyer_id: Id
    # The cause of the movements (PROTOCOL 2).
    reservation_id: Id
    seller_gstin: str
    lines: Sequence[invoice_pb.InvoiceLine]


class Changed(Exception):
    """A SKU was made by another transaction while this one was choosing; nothing is kept."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How a SKU is kept, or would be."""

    unit: str
    hsn: str
    description: str = ""


async def receive_goods(postgres: Postgres, consumer: str, goods: Sequence[Goods]) -> None:
    """Books the goods of some invoices, each once. Refuses: DependencyDown when SKUs change too fast."""
    for _ in range(ROUNDS_MAX):
        try:
            async with postgres.transaction() as tx:
                await _receive(tx, consumer, goods)
            return
        except Changed:
            continue
    raise DependencyDown("the stock of a buyer, which changes too fast,")


async def _receive(tx: Tx, consumer: str, goods: Sequence[Goods]) -> None:
    by_event = {one.event.event_id: one for one in goods}
    fresh = await inbox.admit(tx, consumer, [one.event for one in goods], [one.buyer_id for one in goods])
    goods = [by_event[event.event_id] for event in fresh]
    if not goods:
        return
    known = await _lock(tx, sorted({(one.buyer_id, sku) for one in goods for sku in _all_names(one)}))
    totals: dict[Key, int] = defaultdict(int)
    moved: dict[tuple[Id, str, Id], tuple[Goods, int]] = {}
    for one in goods:
        for line in one.lines:
            key = choose(one, line, known)
            totals[key] += line.quantity_milli
            _, sofar = moved.get((*key, one.reservation_id), (one, 0))
            moved[*key, one.reservation_id] = (one, sofar + line.quantity_milli)
    await _add(tx, sorted(totals.items()), known)
    await _write_movements(tx, moved)


def names(sku: str, seller_gstin: str, unit: str) -> tuple[str, str, str]:
    """Under which SKUs goods may be kept, the first that fits."""
    sku = sku.upper()
    of_seller, of_seller_and_unit = f"@{seller_gstin}", f"@{seller_gstin}/{unit}"
    return (
        sku,
        sku[: SKU_CHARS_MAX - len(of_seller)] + of_seller,
        sku[: SKU_CHARS_MAX - len(of_seller_and_unit)] + of_seller_and_unit,
    )


def _all_names(one: Goods) -> Iterator[str]:
    for line in one.lines:
        yield from names(line.sku, one.seller_gstin, line.unit)


def choose(one: Goods, line: invoice_pb.InvoiceLine, known: dict[Key, Kept]) -> Key:
    """Where a line's goods go; a SKU that will be made for them is added to `known`."""
    wanted = Kept(line.unit, line.hsn, line.description)
    for place, sku in enumerate(names(line.sku, one.seller_gstin, line.unit)):
        key = (one.buyer_id, sku)
        kept = known.setdefault(key, wanted)
        if kept.unit == wanted.unit and (place > 0 or kept.hsn == wanted.hsn):
            return key
    raise AssertionError("unreachable: the last name has the unit in it")


async def _lock(tx: Tx, keys: Sequence[Key]) -> dict[Key, Kept]:
    rows = await stock_rows.lock_kinds(tx, [merchant_id for merchant_id, _ in keys], [sku for _, sku in keys])
    return {(row["merchant_id"], row["sku"]): Kept(row["unit"], row["hsn"]) for row in rows}


async def _add(tx: Tx, totals: Sequence[tuple[Key, int]], known: dict[Key, Kept]) -> None:
    added = await tx.fetch(
        ADD,
        [merchant_id for (merchant_id, _), _ in totals],
        [sku for (_, sku), _ in totals],
        [known[key].description for key, _ in totals],
        [known[key].hsn for key, _ in totals],
        [known[key].unit for key, _ in totals],
        [quantity_milli for _, quantity_milli in totals],
    )
    if len(added) < len(totals):
        raise Changed


async def _write_movements(tx: Tx, moved: dict[tuple[Id, str, Id], tuple[Goods, int]]) -> None:
    await tx.execute(
        MOVEMENTS,
        [merchant_id for merchant_id, _, _ in moved],
        [core.movement_id(reservation_id, sku, "PURCHASE") for _, sku, reservation_id in moved],
        [sku for _, sku, _ in moved],
        [quantity_milli for _, quantity_milli in moved.values()],
        [one.event.aggregate_id for one, _ in moved.values()],
        [one.reservation_id for one, _ in moved.values()],
    )


# A row that a rival made meanwhile is added to only if it is the same thing.
ADD = Sql(
    "stock_receive",
    """
INSERT INTO stock (merchant_id, sku, description, hsn, unit, on_hand_milli)
SELECT merchant_id, sku, description, hsn, unit, quantity_milli
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
    AS received (merchant_id, sku, description, hsn, unit, quantity_milli)
ON CONFLICT (merchant_id, sku) DO UPDATE SET
    on_hand_milli = stock.on_hand_milli + EXCLUDED.on_hand_milli,
    version = stock.version + 1,
    update_time = now()
WHERE stock.unit = EXCLUDED.unit AND stock.hsn = EXCLUDED.hsn
RETURNING merchant_id, sku
""",
)

MOVEMENTS = Sql(
    "movement_receive",
    """
INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, invoice_id, reservation_id)
SELECT merchant_id, movement_id, sku, 'PURCHASE', delta_milli, invoice_id, reservation_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::uuid[], $6::uuid[])
    AS received (merchant_id, movement_id, sku, delta_milli, invoice_id, reservation_id)
""",
)
