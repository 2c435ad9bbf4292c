"""Reading invoices: one by its id, or pages of them. Nothing is decoded: the stored document and what changed since."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

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
from invochain.invoice.room import InvoiceRoom

FILTER_CHARS_MAX = 500


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
    """A page of the caller's invoices, by creation time. Refuses: unknown filters and orders, PageTokenMismatch."""
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
    after_time, after_id = _place(cursor, newest_first)
    sold = request.side != api.BOUGHT
    bought = request.side != api.SOLD
    statement = LIST_NEWEST_FIRST if newest_first else LIST_OLDEST_FIRST
    arguments = (
        caller,
        after_time,
        after_id,
        size + 1,
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
    )

    async def page(rows: Rows) -> tuple[list[asyncpg.Record], str]:
        found = await rows.fetch(statement, *arguments)
        return found, await rows.place() if len(found) > size else ""

    # The next page may come from another server; never from one that knows less than this one did.
    rows, place = await room.reader.read(call, page, after=str(cursor[2]) if cursor and len(cursor) > 2 else "")
    full = request.view == api.FULL
    token = ""
    if len(rows) > size:
        last = rows[size - 1]
        token = room.pages.token(
            scope, [clock.micros(last["create_time"]), to_text(last["invoice_id"]), *([place] if place else [])]
        )
    return core.join_page([present(row, caller, with_lines=full) for row in rows[:size]], token)


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
        edge = dt.datetime.max if newest_first else dt.datetime.min
        return edge.replace(year=9999 if newest_first else 1, tzinfo=dt.UTC), (b"\xff" if newest_first else b"\0") * 16
    micros, invoice_id = int(cursor[0]), str(cursor[1])
    start = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return start + dt.timedelta(microseconds=micros), from_text(invoice_id, "page_token")


@dataclass(slots=True)
class Conditions:
    """A filter, read. None: any."""

    states: str | None = None
    number_key: str | None = None
    buyer_gstin: str | None = None
    seller_gstin: str | None = None
    supply_type: str | None = None
    doc_type: str | None = None
    financial_year: str | None = None
    date_from: dt.date | None = None
    date_to: dt.date | None = None
    total_from: int | None = None
    total_to: int | None = None


_TERM = re.compile(r"""\s*([a-z_]+)\s*(<=|>=|=|<|>)\s*("([^"]*)"|[^\s"]+)\s*""")
_TEXTS = {
    "state": "states",
    "number": "number_key",
    "buyer_gstin": "buyer_gstin",
    "seller_gstin": "seller_gstin",
    "supply_type": "supply_type",
    "doc_type": "doc_type",
    "financial_year": "financial_year",
}
_RANGES = {"invoice_date": "date", "total_paise": "total"}
_ENUMS = {
    "state": [name for name, number in api.InvoiceState.items() if number],
    "supply_type": [name for name, number in api.SupplyType.items() if number],
    "doc_type": [name for name, number in api.DocumentType.items() if number],
}
# More than any document comes to (RULES G36), and inside a bigint.
PAISE_MAX = 10**17
_PAISE = re.compile(r"-?[0-9]{1,20}", re.ASCII)


def read_filter(text: str) -> Conditions:
    """Reads `field op literal AND ...` (a subset of AIP-160). Refuses what it does not know, by name."""
    conditions = Conditions()
    if not text.strip():
        return conditions
    if len(text) > FILTER_CHARS_MAX:
        raise invalid("filter", "TEXT_LENGTH", f"found {len(text)} characters; {FILTER_CHARS_MAX} are allowed")
    for term in re.split(r"\s+AND\s+", text.strip()):
        match = _TERM.fullmatch(term)
        if not match:
            raise _unknown(term)
        name, op = match[1], match[2]
        literal = match[4] if match[4] is not None else match[3]
        if name in _TEXTS and op == "=":
            _equal(conditions, name, literal)
        elif name in _RANGES:
            _narrow(conditions, _RANGES[name], op, _literal(name, literal))
        else:
            raise _unknown(term)
    return conditions


def _equal(conditions: Conditions, name: str, literal: str) -> None:
    """A text that must be equal. Refuses a value the field never has, and a field named twice: none has two values."""
    if getattr(conditions, _TEXTS[name]) is not None:
        raise invalid("filter", "FILTER_INVALID", f"found {name} twice; once is wanted")
    if name in _ENUMS and literal not in _ENUMS[name]:
        raise invalid(
            "filter", "FILTER_INVALID", f"found {name} {literal[:40]!r}; one of {', '.join(_ENUMS[name])} is wanted"
        )
    if not literal.isprintable():
        raise invalid("filter", "FILTER_INVALID", f"found a control character in {name}; printable text is wanted")
    setattr(conditions, _TEXTS[name], literal.upper() if name == "number" else literal)


def _literal(name: str, literal: str) -> dt.date | int:
    """A day or whole paise, with room for one step to either side."""
    wanted = "YYYY-MM-DD" if name == "invoice_date" else f"whole paise, {PAISE_MAX} at most,"
    try:
        if name == "invoice_date":
            day = dt.date.fromisoformat(literal)
            if dt.date.min < day < dt.date.max:
                return day
        elif _PAISE.fullmatch(literal) and abs(int(literal)) <= PAISE_MAX:
            return int(literal)
    except ValueError:
        pass
    raise invalid("filter", "FILTER_INVALID", f"found {name} {literal[:40]!r}; {wanted} is wanted")


def _narrow(conditions: Conditions, name: str, op: str, value: dt.date | int) -> None:
    """Terms on one field hold together: the narrower one counts."""
    step = dt.timedelta(days=1) if isinstance(value, dt.date) else 1
    if op in ("=", ">=", ">"):
        low = value + step if op == ">" else value  # type: ignore[operator]
        before = getattr(conditions, f"{name}_from")
        setattr(conditions, f"{name}_from", low if before is None else max(before, low))
    if op in ("=", "<=", "<"):
        high = value - step if op == "<" else value  # type: ignore[operator]
        before = getattr(conditions, f"{name}_to")
        setattr(conditions, f"{name}_to", high if before is None else min(before, high))


def _unknown(term: str):  # type: ignore[no-untyped-def]
    fields = ", ".join([*_TEXTS, *_RANGES])
    return invalid("filter", "FILTER_INVALID", f"found {term[:60]!r}; `field op literal` of {fields} is wanted")


_COLUMNS = """invoice.merchant_id, invoice.invoice_id, invoice.buyer_merchant_id, invoice.state, invoice.version,
    invoice.reason, invoice.document, invoice.create_time, invoice.update_time"""

GET = Sql(
    "invoice_get",
    f"""
SELECT {_COLUMNS} FROM invoice WHERE merchant_id = $1 AND invoice_id = $2
UNION ALL
SELECT {_COLUMNS} FROM invoice WHERE buyer_merchant_id = $1 AND invoice_id = $2 AND merchant_id <> $1
""",
)

_CONDITIONS = """
    AND ($7::text IS NULL OR invoice.state = $7)
    AND ($8::text IS NULL OR invoice.number_key = $8)
    AND ($9::text IS NULL OR invoice.buyer_gstin = $9)
    AND ($10::text IS NULL OR invoice.seller_gstin = $10)
    AND ($11::text IS NULL OR invoice.supply_type = $11)
    AND ($12::text IS NULL OR invoice.doc_type = $12)
    AND ($13::text IS NULL OR invoice.financial_year = $13)
    AND ($14::date IS NULL OR invoice.invoice_date >= $14)
    AND ($15::date IS NULL OR invoice.invoice_date <= $15)
    AND ($16::bigint IS NULL OR invoice.total_paise >= $16)
    AND ($17::bigint IS NULL OR invoice.total_paise <= $17)
"""


def _list(name: str, than: str, order: str) -> Sql:
    """Each side by its own index, then the two merged."""
    side = """
(SELECT {columns} FROM invoice
WHERE {mine} AND {wanted} AND (invoice.create_time, invoice.invoice_id) {than} ($2, $3) {conditions}
ORDER BY invoice.create_time {order}, invoice.invoice_id {order} LIMIT $4)
"""
    sold = side.format(
        columns=_COLUMNS, mine="invoice.merchant_id = $1", wanted="$5", than=than, conditions=_CONDITIONS, order=order
    )
    bought = side.format(
        columns=_COLUMNS,
        mine="invoice.buyer_merchant_id = $1",
        wanted="$6",
        than=than,
        conditions=_CONDITIONS + " AND (invoice.merchant_id <> $1 OR NOT $5)",
        order=order,
    )
    return Sql(
        name,
        f"SELECT * FROM ({sold} UNION ALL {bought}) AS page ORDER BY create_time {order}, invoice_id {order} LIMIT $4",
    )


LIST_NEWEST_FIRST = _list("invoice_list_newest_first", "<", "DESC")
LIST_OLDEST_FIRST = _list("invoice_list_oldest_first", ">", "ASC")
