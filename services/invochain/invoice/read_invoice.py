"""Reading invoices: one by its id, or pages of them. Nothing is decoded: the stored document and what changed since."""

from __future__ import annotations

import datetime as dt
from typing import Any

import asyncpg

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import clock
from invochain.chassis.call import Call
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.pages import page_size
from invochain.chassis.postgres import Sql
from invochain.chassis.replica import AS_OF, Rows
from invochain.errors import invalid
from invochain.invoice.invoice import InvoiceNotFound, allowed_actions, state_number
from invochain.invoice.list_filter import Conditions, read_filter
from invochain.invoice.list_sql import COLUMNS, LIST_NEWEST_FIRST, LIST_OLDEST_FIRST, WALKED_MAX
from invochain.invoice.room import InvoiceRoom

EARLIEST = dt.datetime.min.replace(tzinfo=dt.UTC)
LATEST = dt.datetime.max.replace(tzinfo=dt.UTC)


async def get_invoice(room: InvoiceRoom, call: Call, request: api.GetInvoiceRequest) -> bytes:
    """One invoice that the caller sold or bought. Refuses: InvoiceNotFound."""
    invoice_id = from_text(request.invoice_id, "invoice_id")
    caller = call.principal.merchant_id
    row = await room.reader.read(call, lambda rows: rows.fetchrow(GET, caller, invoice_id))
    if row is None and AS_OF in call.out:
        # Perhaps it was issued since.
        row = await room.reader.read(call, lambda rows: rows.fetchrow(GET, caller, invoice_id), from_primary=True)
    if row is None:
        raise InvoiceNotFound(request.invoice_id)
    return present(row, caller, with_lines=True)


def present(row: asyncpg.Record, caller: bytes, *, with_lines: bool) -> bytes:
    """The invoice of a row as the caller sees it, encoded."""
    seller, buyer = caller == row["merchant_id"], caller == row["buyer_merchant_id"]
    return core.present_invoice(
        row["document"],
        state_number(row["state"]),
        row["version"],
        clock.micros(row["update_time"]),
        row["reason"],
        row["buyer_merchant_id"],
        allowed_actions(row["state"], seller=seller, buyer=buyer),
        with_lines,
    )


async def list_invoices(room: InvoiceRoom, call: Call, request: api.ListInvoicesRequest) -> bytes:
    """A page of the caller's invoices, by creation time; it may be short, even empty, before the end (list_sql.py).

    Refuses: unknown filters and orders, PageTokenMismatch.
    """
    size = page_size(request.page_size)
    for name, known in (("side", api.InvoiceSide), ("view", api.InvoiceView)):
        if getattr(request, name) not in known.values():
            wanted = ", ".join(known.keys()[1:])
            raise invalid(name, "ENUM_UNKNOWN", f"found {getattr(request, name)}; {wanted} or none is wanted")
    conditions = read_filter(request.filter)
    newest_first = _newest_first(request.order_by)
    caller = call.principal.merchant_id
    scope = ("ListInvoices", caller, request.filter, request.order_by, int(request.side))
    cursor = room.pages.cursor(scope, request.page_token)
    statement = LIST_NEWEST_FIRST if newest_first else LIST_OLDEST_FIRST
    begin = _place(cursor, newest_first)
    arguments = walk(caller, call.principal.gstin, request.side, conditions, begin, size + 1)

    async def page(rows: Rows) -> tuple[list[asyncpg.Record], str]:
        found = await rows.fetch(statement, *arguments)
        return found, await rows.place() if _last(found, size) is not None else ""

    # The next page may come from another server; never from one that knows less than this one did.
    rows, place = await room.reader.read(call, page, after=str(cursor[2]) if cursor and len(cursor) > 2 else "")
    full = request.view == api.FULL
    token = ""
    if (last := _last(rows, size)) is not None:
        token = room.pages.token(
            scope, [clock.micros(last["create_time"]), to_text(last["invoice_id"]), *([place] if place else [])]
        )
    shown = [row for row in rows if row["wanted"]][:size]
    return core.join_page([present(row, caller, with_lines=full) for row in shown], token)


def _last(rows: list[asyncpg.Record], size: int) -> asyncpg.Record | None:
    """Behind which row the next page begins; None: there is none."""
    if len(rows) > size and rows[size]["wanted"]:
        return rows[size - 1]
    return rows[-1] if rows and rows[-1]["place"] == WALKED_MAX else None


def walk(
    caller: bytes, gstin: str, side: int, conditions: Conditions, begin: tuple[dt.datetime, bytes], rows_max: int
) -> tuple[Any, ...]:
    """The arguments of a list's statement: which index each side of the caller, who has this GSTIN, is walked by."""
    sold = bought = ""
    if side != api.BOUGHT and conditions.seller_gstin in (None, gstin):
        sold = "number" if conditions.number_key else "party" if conditions.buyer_gstin else "states"
    if side != api.SOLD and conditions.buyer_gstin in (None, gstin):
        bought = "number" if conditions.number_key else "party" if conditions.seller_gstin else "states"
    return (
        caller,
        *begin,
        WALKED_MAX,
        sold,
        bought,
        conditions.states,
        conditions.number_key,
        conditions.buyer_gstin,
        conditions.seller_gstin,
        conditions.supply_type,
        conditions.doc_type,
        conditions.financial_year,
        conditions.date_from,
        conditions.date_to,
        conditions.total_from,
        conditions.total_to,
        gstin,
        rows_max,
    )


def _newest_first(order_by: str) -> bool:
    match order_by.split():
        case [] | ["create_time", "desc"]:
            return True
        case ["create_time"] | ["create_time", "asc"]:
            return False
    raise invalid(
        "order_by", "ORDER_UNKNOWN", f"found {order_by[:40]!r}; `create_time desc` or `create_time asc` is wanted"
    )


def _place(cursor: list[str | int] | None, newest_first: bool) -> tuple[dt.datetime, bytes]:
    """Where the page begins: after this time and id."""
    if cursor is None:
        return (LATEST, b"\xff" * 16) if newest_first else (EARLIEST, b"\0" * 16)
    micros, invoice_id = int(cursor[0]), str(cursor[1])
    start = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return start + dt.timedelta(microseconds=micros), from_text(invoice_id, "page_token")


GET = Sql(
    "invoice_get",
    f"""
SELECT {COLUMNS} FROM invoice WHERE merchant_id = $1 AND invoice_id = $2
UNION ALL
SELECT {COLUMNS} FROM invoice WHERE buyer_merchant_id = $1 AND invoice_id = $2 AND merchant_id <> $1
""",
)
