"""Questions about GST that need no invoice: GSTINs, rates, IRNs, windows, returns. The core knows; nothing is kept."""

from __future__ import annotations

import asyncio
import json

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.errors import BulkheadFull, FieldViolation, invalid
from invochain.invoice.validate_invoice import MODES, asked_day

_DOCUMENT = "document"
# A month's return of some thousand documents; what is more is asked in parts.
QUESTION_CHARS_MAX = 1_000_000
# Questions may not take the time of those who issue.
_asking = asyncio.Semaphore(2)


async def ask_gst(request: api.AskGstRequest) -> api.AskGstResponse:
    """The answer to one question of the format of tests/vectors/gst/README.md.

    Refuses: InvalidArgument for an unknown kind or mode, a mode or day beside anything but a document, and a question
    that is no JSON object of its kind; BulkheadFull while two others are being answered.
    """
    mode, day = _how(request)
    if len(request.input_json) > QUESTION_CHARS_MAX:
        raise invalid(
            "input_json",
            "TEXT_LENGTH",
            f"found {len(request.input_json)} characters; {QUESTION_CHARS_MAX} are allowed",
        )
    if _asking.locked():
        raise BulkheadFull("questions about GST")
    async with _asking:
        # A return of thousands of documents takes longer than other calls should wait; the core needs no GIL.
        return await asyncio.to_thread(_answer, request.kind, request.input_json, mode, day)


def _answer(kind: str, question: str, mode: str, day: str | None) -> api.AskGstResponse:
    try:
        answer = json.loads(core.gst_answer(kind, question, mode, day))
    except ValueError as fault:
        raise invalid("input_json", "QUESTION_MALFORMED", str(fault)) from None
    response = api.AskGstResponse()
    for error in answer["errors"]:
        words = f"found {error['found'] or 'nothing'}; wanted {error['wanted']}"
        violation = FieldViolation(error["path"], error["code"], words)
        response.violations.add(field=violation.field, code=violation.code, description=violation.description)
    if answer["computed"] is not None:
        response.computed_json = json.dumps(answer["computed"], ensure_ascii=False, separators=(",", ":"))
    return response


def _how(request: api.AskGstRequest) -> tuple[str, str | None]:
    """Mode and day of a document; neither goes with another kind."""
    if request.kind not in core.GST_KINDS:
        raise invalid("kind", "KIND_UNKNOWN", f"found {request.kind!r}; one of {', '.join(core.GST_KINDS)} is wanted")
    if request.kind != _DOCUMENT:
        if request.mode != api.VALIDATION_MODE_UNSPECIFIED:
            raise invalid("mode", "FIELD_NOT_ALLOWED", "found a value; it goes with a document only")
        if request.HasField("as_of_date"):
            raise invalid("as_of_date", "FIELD_NOT_ALLOWED", "found a value; it goes with a document only")
    mode = MODES.get(request.mode or api.STRICT)
    if mode is None:
        raise invalid("mode", "MODE_UNKNOWN", f"found {request.mode}; COMPUTE, STRICT or NIC is wanted")
    day = asked_day(request)
    return mode, None if day is None else f"{day[0]:04}-{day[1]:02}-{day[2]:02}"
