"""Why each figure of an invoice is what it is: rate row, dates, rules. The core explains; this finds the invoice."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

from google.type import date_pb2

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis.call import Call
from invochain.errors import FieldViolation, invalid
from invochain.invoice.read_invoice import get_invoice
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.validate_invoice import validate_invoice


async def explain_invoice(room: InvoiceRoom, call: Call, request: api.ExplainInvoiceRequest) -> api.Explanation:
    """Explains a stored invoice, or a proposed one as it would be issued. Refuses: InvoiceNotFound, both or neither."""
    if bool(request.invoice_id) == request.HasField("invoice"):
        raise invalid("invoice_id", "ONE_OF_TWO", "found both or neither; invoice_id or invoice is wanted")
    if request.invoice_id:
        stored = await get_invoice(room, call, api.GetInvoiceRequest(invoice_id=request.invoice_id))
        return explain(stored)
    proposed = await validate_invoice(room, call, api.ValidateInvoiceRequest(invoice=request.invoice))
    if not proposed.HasField("invoice"):
        return api.Explanation(violations=proposed.violations)
    return explain(proposed.invoice.SerializeToString())


def explain(document: bytes) -> api.Explanation:
    """The explanation of an encoded Invoice."""
    text, violations = core.explain_document(document)
    if text is None:
        told = [FieldViolation(*violation) for violation in violations]
        return api.Explanation(
            violations=[api.Violation(field=v.field, code=v.code, description=v.description) for v in told]
        )
    found = json.loads(text)
    return api.Explanation(
        financial_year=found["financial_year"],
        tax_date=_date(found["tax_date"]),
        tax_date_why=found["tax_date_why"],
        inter_state=found["inter_state"],
        inter_state_why=found["inter_state_why"],
        heads=found["heads"],
        tables_as_of=_date(found["tables_as_of"]),
        lines=[
            api.ExplainedLine(
                index=line["index"],
                hsn=line["hsn"],
                rate=_rate(line["rate_row"]),
                figures=[_figure(figure) for figure in line["figures"]],
            )
            for line in found["lines"]
        ],
        totals=[_figure(figure) for figure in found["totals"]],
    )


def _figure(found: dict[str, Any]) -> api.ExplainedFigure:
    # Two decimals, so the digits are the paise.
    paise = int(found["amount"].replace(".", ""))
    return api.ExplainedFigure(field=found["path"], amount_paise=paise, rule=found["rule"], how=found["how"])


def _rate(found: dict[str, Any] | None) -> api.ExplainedRate | None:
    if found is None:
        return None
    whole, _, rest = found["rate"].partition(".")
    return api.ExplainedRate(
        gst_rate_milli=int(whole) * 1_000 + int(rest.ljust(3, "0") or 0),
        valid_from_date=_date(found["in_force_from"]),
        valid_to_date=_date(found["in_force_to"]),
        kind=found["kind"],
        hsn_prefixes=found["hsn_prefixes"],
        note=found["note"],
    )


def _date(text: str) -> date_pb2.Date | None:
    if not text:
        return None
    day = dt.date.fromisoformat(text)
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)
