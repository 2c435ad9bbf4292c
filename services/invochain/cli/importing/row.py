"""What a reader makes of a piece of a file: an invoice with its line and key, or what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from invochain.api.invoice.v1 import invoice_service_pb2 as api

# Beside the invoice, in JSON and CSV: a key of the caller's own.
KEY = "idempotency_key"


class CannotRead(Exception):
    """The file as a whole is not what it should be; says where and why."""


@dataclass(slots=True)
class Row:
    """One invoice of the file, or all that is wrong with it: then there is no invoice, and nothing of it is sent."""

    # Of the line it begins on, from 1. It is the offset too.
    line: int
    key: str = ""
    # SHA-256 of the invoice, in hexadecimal: what tells that it reads otherwise than it did.
    digest: str = ""
    invoice: api.Invoice | None = None
    faults: list[str] = field(default_factory=list)
    # What they are together, as a refusal's reason.
    reason: str = "UNREADABLE"


def words(fault: Exception) -> str:
    """What a parser says, in one line and without the list of all fields; what is no text in it, as an escape."""
    said = " ".join(str(fault).split("Available Fields")[0].split())
    return said.encode(errors="backslashreplace").decode()
