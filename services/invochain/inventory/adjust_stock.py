"""AdjustStock: adds to, removes from or sets what is on hand, and makes the SKU if it is new; once per key.

What is reserved is never taken away: a SKU whose units are promised keeps them. Source: PROTOCOL 4.2, 13.
"""

from __future__ import annotations

import re
from typing import Any

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.call import Call
from invochain.chassis.ids import Id
from invochain.chassis.isolate import run_alone
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.durable import decisions
from invochain.errors import FieldViolation, ValidationFailed, VersionMismatch, invalid
from invochain.inventory import stock_rows
from invochain.inventory.read_stock import etag_of, stock_message
from invochain.inventory.reservation import (
    ON_HAND_MILLI_MAX,
    QUANTITY_MILLI_MAX,
    InsufficientStock,
    SkuNotFound,
    UnitMismatch,
)
from invochain.inventory.stock_rows import WHOLE_ROW

OPERATION = "inventory.adjust"
UNIT_DEFAULT = "NOS"
REASON_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 300
_HSN = re.compile(r"\d{4}(\d{2}){0,2}", re.ASCII)


async def adjust_stock(postgres: Postgres, call: Call, request: pb.AdjustStockRequest) -> bytes:
    """The stock after the change.

    Refuses: ValidationFailed, SkuNotFound (REMOVE of what is not there), InsufficientStock (what is left would be less
    than what is reserved), UnitMismatch, VersionMismatch, KeyReused.
    """
    sku = _check(request)
    merchant_id = call.principal.merchant_id
    expected = request.etag or call.if_match
    movement_id = core.movement_id(core.request_id(merchant_id, OPERATION, call.key), sku, "ADJUSTMENT")

    async def work(tx: Tx) -> pb.Stock:
        row = await _locked_row(tx, merchant_id, sku, request, expected)
        delta_milli = _delta(request, row)
        _check_describes(request, row)
        if delta_milli:
            await tx.execute(MOVEMENT, merchant_id, movement_id, sku, delta_milli, request.reason)
        changed = await tx.fetchrow(
            CHANGE, merchant_id, sku, delta_milli, request.description, request.hsn, request.unit
        )
        assert changed is not None
        return stock_message(changed)

    return await run_alone(lambda: decisions.once(postgres, call, OPERATION, merchant_id, request, work))


def _check(request: pb.AdjustStockRequest) -> str:
    """Every broken rule of the request at once; returns the SKU as it is kept."""
    broken: list[FieldViolation] = []

    def wrong(field: str, code: str, found: object, wanted: str) -> None:
        broken.append(FieldViolation(field, code, f"found {found!r}; {wanted} is wanted"))

    sku = core.normal_sku(request.sku)
    if sku is None:
        wrong("sku", "SKU_INVALID", request.sku[:40], "1 to 64 of [A-Za-z0-9._/-]")
    known = request.adjustment in (pb.ADD, pb.REMOVE, pb.SET)
    if not known:
        wrong("adjustment", "ADJUSTMENT_UNKNOWN", request.adjustment, "ADD, REMOVE or SET")
    low = 0 if request.adjustment == pb.SET else 1
    if known and not low <= request.quantity_milli <= QUANTITY_MILLI_MAX:
        wrong("quantity_milli", "QUANTITY_OUT_OF_RANGE", request.quantity_milli, f"{low} to {QUANTITY_MILLI_MAX}")
    if len(request.reason) > REASON_CHARS_MAX:
        wrong("reason", "TEXT_TOO_LONG", len(request.reason), f"up to {REASON_CHARS_MAX} characters")
    if len(request.description) > DESCRIPTION_CHARS_MAX:
        wrong("description", "TEXT_TOO_LONG", len(request.description), f"up to {DESCRIPTION_CHARS_MAX} characters")
    if request.hsn and (not _HSN.fullmatch(request.hsn) or not request.hsn.strip("0")):
        wrong("hsn", "HSN_FORMAT_INVALID", request.hsn[:20], "4, 6 or 8 digits, not all zeros,")
    if request.unit and not core.known_unit(request.unit):
        wrong("unit", "UQC_INVALID", request.unit[:20], "a unit quantity code such as NOS or KGS")
    for field in ("reason", "description"):
        if "\0" in getattr(request, field):
            wrong(field, "TEXT_INVALID", "a zero character", "text without one")
    if broken:
        raise ValidationFailed(broken)
    assert sku is not None
    return sku


async def _locked_row(tx: Tx, merchant_id: Id, sku: str, request: pb.AdjustStockRequest, expected: str) -> Any:
    """The row, locked; made if it is not there and the adjustment makes SKUs."""
    row = await stock_rows.lock_one(tx, merchant_id, sku)
    if row is None:
        if expected:
            raise VersionMismatch(expected, "none: there is no such SKU")
        if request.adjustment == pb.REMOVE:
            raise SkuNotFound(sku)
        if "@" in sku:
            raise invalid(
                "sku", "SKU_INVALID", f"found {sku!r}; SKUs with `@` are made by the server for goods received"
            )
        await tx.execute(MAKE, merchant_id, sku, request.unit or UNIT_DEFAULT)
        # Two who make it at once: the second one waited for the first, and finds its row in a new statement.
        row = await stock_rows.lock_one(tx, merchant_id, sku)
        assert row is not None
    elif expected and expected != etag_of(row["version"]):
        raise VersionMismatch(expected, etag_of(row["version"]))
    return row


def _delta(request: pb.AdjustStockRequest, row: Any) -> int:
    on_hand, reserved, asked = row["on_hand_milli"], row["reserved_milli"], request.quantity_milli
    delta = {pb.ADD: asked, pb.REMOVE: -asked, pb.SET: asked - on_hand}[request.adjustment]
    if delta < 0 and on_hand + delta < reserved:
        raise InsufficientStock(row["sku"], -delta, max(0, on_hand - reserved))
    if on_hand + delta > ON_HAND_MILLI_MAX:
        raise invalid("quantity_milli", "QUANTITY_OUT_OF_RANGE", f"{on_hand} are on hand, {ON_HAND_MILLI_MAX} fit")
    return int(delta)


def _check_describes(request: pb.AdjustStockRequest, row: Any) -> None:
    """The unit changes only while there is nothing that was counted in the old one."""
    if request.unit and request.unit != row["unit"] and (row["on_hand_milli"] or row["reserved_milli"]):
        raise UnitMismatch(row["sku"], request.unit, row["unit"])


MAKE = Sql(
    "stock_make",
    "INSERT INTO stock (merchant_id, sku, unit, version) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING",
)

CHANGE = Sql(
    "stock_change",
    f"""
UPDATE stock SET
    on_hand_milli = on_hand_milli + $3,
    description = CASE WHEN $4::text = '' THEN description ELSE $4 END,
    hsn = CASE WHEN $5::text = '' THEN hsn ELSE $5 END,
    unit = CASE WHEN $6::text = '' THEN unit ELSE $6 END,
    version = version + 1,
    update_time = now()
WHERE merchant_id = $1 AND sku = $2
RETURNING {WHOLE_ROW}
""",
)

MOVEMENT = Sql(
    "movement_adjust",
    """
INSERT INTO movement (merchant_id, movement_id, sku, kind, delta_milli, reason)
VALUES ($1, $2, $3, 'ADJUSTMENT', $4, $5)
""",
)
