"""What a list is asked for: `field op literal` joined by AND (a subset of AIP-160), read into conditions."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.errors import invalid

FILTER_CHARS_MAX = 500


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
_YEAR = re.compile(r"([0-9]{4})-([0-9]{2})", re.ASCII)
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
    if name == "financial_year" and not _is_year(literal):
        raise invalid("filter", "FILTER_INVALID", f"found {name} {literal[:40]!r}; a year such as 2026-27 is wanted")
    if not literal.isprintable():
        raise invalid("filter", "FILTER_INVALID", f"found a control character in {name}; printable text is wanted")
    setattr(conditions, _TEXTS[name], literal.upper() if name == "number" else literal)


def _is_year(text: str) -> bool:
    match = _YEAR.fullmatch(text)
    return match is not None and (int(match[1]) + 1) % 100 == int(match[2])


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
