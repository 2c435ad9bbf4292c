"""A dry run of CreateInvoice, and the check of documents made elsewhere. Nothing is stored, no stock is asked for."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis.call import Call
from invochain.errors import FieldViolation, MalformedRequest, ValidationFailed, invalid
from invochain.invoice.check_invoices import check
from invochain.invoice.room import InvoiceRoom

MODES = {api.COMPUTE: "compute", api.STRICT: "strict", api.NIC: "nic"}
# Long enough for a key of any request; a dry run has none.
_NO_KEY = "-" * 16


async def validate_invoice(
    room: InvoiceRoom, call: Call, request: api.ValidateInvoiceRequest
) -> api.ValidateInvoiceResponse:
    """The document with its figures, or everything that is wrong with it (which is an answer, not a refusal)."""
    if request.mode != api.VALIDATION_MODE_UNSPECIFIED:
        return _elsewhere(request)
    for field in ("as_of_date", "document_json"):
        if request.HasField(field) if field == "as_of_date" else getattr(request, field):
            raise invalid(field, "FIELD_NOT_ALLOWED", "found a value; it goes with a mode only")
    raw = api.CreateInvoiceRequest(invoice=request.invoice).SerializeToString()
    trial = Call(call.method, call.principal, raw, call.deadline, _NO_KEY, call.trace)
    work, live = await check(room, [trial])
    if live:
        response = api.ValidateInvoiceResponse()
        response.invoice.MergeFromString(work.drafts.previews([0])[0])
        _tell(response, work.drafts.waived([0])[0])
        return response
    try:
        await trial.answer
    except ValidationFailed as refusal:
        return _violated([(v.field, v.code, v.description) for v in refusal.broken])
    raise AssertionError("unreachable: a trial that is not live was refused")


def _elsewhere(request: api.ValidateInvoiceRequest) -> api.ValidateInvoiceResponse:
    mode = MODES.get(request.mode)
    if mode is None:
        raise invalid("mode", "MODE_UNKNOWN", f"found {request.mode}; COMPUTE, STRICT or NIC is wanted")
    today = asked_day(request)
    if request.document_json and request.HasField("invoice"):
        raise invalid("document_json", "FIELD_NOT_ALLOWED", "found it beside `invoice`; one of the two is wanted")
    if request.document_json:
        return _neutral(request.document_json, mode, today)
    try:
        document, violations = core.validate_document(request.invoice.SerializeToString(), mode, today)
    except ValueError as fault:
        raise MalformedRequest(str(fault)) from None
    response = _violated(violations)
    if document is not None:
        response.invoice.MergeFromString(document)
    return response


def asked_day(request: api.ValidateInvoiceRequest | api.AskGstRequest) -> tuple[int, int, int] | None:
    """The `as_of_date` of a request, if it has one. Refuses what is no day of the calendar."""
    if not request.HasField("as_of_date"):
        return None
    day = (request.as_of_date.year, request.as_of_date.month, request.as_of_date.day)
    if not _is_day(*day):
        raise invalid("as_of_date", "DATE_INVALID", "found no day of the calendar; a date is wanted")
    return day


def _is_day(year: int, month: int, day: int) -> bool:
    try:
        dt.date(year, month, day)
    except (ValueError, OverflowError):
        return False
    return True


def _neutral(text: str, mode: str, today: tuple[int, int, int] | None) -> api.ValidateInvoiceResponse:
    """The neutral JSON form; paths are those of that form."""
    day = None if today is None else f"{today[0]:04}-{today[1]:02}-{today[2]:02}"
    try:
        answer = json.loads(core.gst_check(text, mode, day))
    except ValueError as fault:
        raise invalid("document_json", "DOCUMENT_MALFORMED", str(fault)) from None
    words = [(e["path"], e["code"], f"found {e['found'] or 'nothing'}; wanted {e['wanted']}") for e in answer["errors"]]
    return _violated(words)


def _violated(violations: Sequence[tuple[str, str, str]]) -> api.ValidateInvoiceResponse:
    response = api.ValidateInvoiceResponse()
    _tell(response, violations)
    return response


def _tell(response: api.ValidateInvoiceResponse, violations: Sequence[tuple[str, str, str]]) -> None:
    for violation in violations:
        told = FieldViolation(*violation)
        response.violations.add(field=told.field, code=told.code, description=told.description)
