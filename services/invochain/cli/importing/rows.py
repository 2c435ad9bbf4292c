"""From a file to invoices: JSON lines or CSV, each with the line it stands on and a key that is the same every time.

No number becomes a float on the way: JSON numbers with a point are refused, CSV decimals are scaled as text.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from invochain.api.invoice.v1 import invoice_service_pb2 as api

# Columns of a CSV that are no field of the invoice: what holds lines together, and a key of the caller's own.
GROUP, KEY = "invoice", "idempotency_key"
# What a friendly column is called, and how many digits behind the point its field has.
SCALES = {"_milli": 3, "_paise": 2}
INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
DECIMAL = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,6})?", re.ASCII)
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}


class CannotRead(Exception):
    """The file as a whole is not what it should be; says where and why."""


@dataclass(slots=True)
class Row:
    """One invoice of the file, or what is wrong with its text."""

    # Of the line it begins on, from 1. It is the offset too.
    line: int
    key: str = ""
    invoice: api.Invoice | None = None
    fault: str = ""


@dataclass
class Reader:
    """Reads a file from its beginning.

    `source` names it in the keys: the same data under another name are other sales. Empty: every invoice has a number
    or a key of its own.
    """

    path: Path
    source: str
    csv: bool
    _seen: Counter[bytes] = field(default_factory=Counter)

    def rows(self) -> Iterator[Row]:
        """The invoices in order. Raises CannotRead for a file or header that is no invoice file."""
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                for row in _csv_rows(file) if self.csv else _json_rows(file):
                    if row.invoice is not None and not row.key:
                        if not self.source and not row.invoice.number:
                            raise CannotRead(
                                f"line {row.line} has neither a number nor an {KEY}, so nothing tells it from an equal "
                                "sale of another day: give --source NAME, another one for each file of new sales"
                            )
                        row.key = self._key(row.invoice)
                    yield row
        except OSError as fault:
            raise CannotRead(f"{self.path}: {fault.strerror}") from None
        except UnicodeDecodeError as fault:
            raise CannotRead(f"{self.path} is not UTF-8 (byte {fault.start} of a block)") from None

    def _key(self, invoice: api.Invoice) -> str:
        """The same for the same content, whatever stands before it; the second of two equal sales has another one."""
        content = hashlib.sha256(f"{self.source}\0".encode())
        content.update(invoice.SerializeToString(deterministic=True))
        digest = content.digest()
        self._seen[digest] += 1
        return f"import-{hashlib.sha256(digest + str(self._seen[digest]).encode()).hexdigest()[:40]}"


def _json_rows(file: Any) -> Iterator[Row]:
    """`{"idempotency_key": "...", "invoice": {...}}` or the invoice alone, in the JSON form of the API."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        row = Row(number)
        try:
            document = json.loads(line, parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_once)
            if not isinstance(document, dict):
                raise ValueError("found no object; wanted {...}")
            if isinstance(document.get("invoice"), dict):
                row.key = str(document.pop(KEY, ""))
                inner = document.pop("invoice")
                if document:
                    raise ValueError(f"found {', '.join(document)} beside the invoice; only {KEY} may stand there")
                document = inner
            row.invoice = json_format.ParseDict(document, api.Invoice())
        except (ValueError, json_format.ParseError, RecursionError) as fault:
            row.fault = _words(fault)
        yield row


def _words(fault: Exception) -> str:
    """What a parser says, in one line and without the list of all fields."""
    return " ".join(str(fault).split("Available Fields")[0].split())


def _no_float(text: str) -> None:
    raise ValueError(f"found {text}; amounts and quantities are integers (paise, thousandths), as in the API")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"found {next(name for name, n in Counter(n for n, _ in pairs).items() if n > 1)} twice")
    return found


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the header: the path of its field, and how its text becomes the field's JSON form."""

    name: str
    path: tuple[str, ...]
    of_line: bool
    kind: FieldDescriptor
    scale: int

    def value(self, text: str) -> Any:
        if self.scale:
            return _scaled(text, self.scale)
        if self.kind.message_type is not None:
            if not (date := DATE.fullmatch(text)):
                raise ValueError(f"found {text!r}; wanted a date such as 2026-11-22")
            return {"year": int(date[1]), "month": int(date[2]), "day": int(date[3])}
        if self.kind.cpp_type in INTEGERS and not INTEGER.fullmatch(text):
            raise ValueError(f"found {text!r}; wanted an integer")
        if self.kind.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if text.lower() not in ("true", "false"):
                raise ValueError(f"found {text!r}; wanted true or false")
            return text.lower() == "true"
        return text


def _scaled(text: str, digits: int) -> str:
    try:
        if not DECIMAL.fullmatch(text):
            raise InvalidOperation
        scaled = Decimal(text).scaleb(digits)
    except InvalidOperation:
        raise ValueError(f"found {text!r}; wanted a plain decimal") from None
    if scaled != scaled.to_integral_value():
        raise ValueError(f"found {text!r}; wanted {digits} digits behind the point at most")
    return str(int(scaled))


def _csv_rows(file: Any) -> Iterator[Row]:
    """A line of the file is a line of an invoice; rows below one another with the same `invoice` are one invoice."""
    table = csv.reader(file, strict=True)
    try:
        header = [name.strip() for name in next(table, [])]
        columns = _columns(header)
        row: Row | None = None
        group = ""
        document: dict[str, Any] = {}
        seen: set[str] = set()
        begins = table.line_num + 1
        for cells in table:
            at, begins = begins, table.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            fault = ""
            if len(cells) != len(header):
                fault = f"found {len(cells)} cells; wanted {len(header)} as the header has"
            name = cells[header.index(GROUP)].strip() if GROUP in header and not fault else ""
            if row is None or not name or name != group:
                if row is not None:
                    yield _finished(row, document)
                row, group, document = Row(at), name, {"lines": []}
                if name and name in seen:
                    fault = f"invoice {name} stands further up already; its lines belong below one another"
                seen.add(name)
            if not fault:
                fault = _take(row, document, header, columns, cells)
            if fault and not row.fault:
                row.fault = fault if at == row.line else f"line {at}: {fault}"
        if row is not None:
            yield _finished(row, document)
    except csv.Error as fault:
        raise CannotRead(f"line {table.line_num}: {fault}") from None


def _finished(row: Row, document: dict[str, Any]) -> Row:
    if not row.fault:
        try:
            row.invoice = json_format.ParseDict(document, api.Invoice())
        except json_format.ParseError as fault:
            row.fault = _words(fault)
    return row


def _take(
    row: Row, document: dict[str, Any], header: list[str], columns: list[_Column | None], cells: list[str]
) -> str:
    """Puts a line's cells where they belong; returns what is wrong with them."""
    line: dict[str, Any] = {}
    faults = []
    for name, column, cell in zip(header, columns, cells, strict=True):
        text = cell.strip()
        if not text:
            continue
        if column is None:
            if name == KEY and row.key not in ("", text):
                faults.append(f"{KEY}: found {text!r} beside {row.key!r} for one invoice")
            elif name == KEY:
                row.key = text
            continue
        try:
            value = column.value(text)
        except ValueError as fault:
            faults.append(f"{column.name}: {fault}")
            continue
        at = line if column.of_line else document
        for step in column.path[:-1]:
            at = at.setdefault(step, {})
        if at.setdefault(column.path[-1], value) != value:
            faults.append(f"{column.name}: found {text!r}; another line of this invoice says otherwise")
    if line:
        document["lines"].append(line)
    return "; ".join(faults)


def _columns(header: list[str]) -> list[_Column | None]:
    """What each column is. Raises CannotRead that names every column which is nothing."""
    columns: list[_Column | None] = []
    faults = [f"{name!r} stands there twice" for name, times in Counter(header).items() if times > 1]
    for name in header:
        if name in (GROUP, KEY):
            columns.append(None)
            continue
        of_line = name.startswith("line.")
        path = tuple(name.removeprefix("line.").split("."))
        descriptor: Any = api.InvoiceLine.DESCRIPTOR if of_line else api.Invoice.DESCRIPTOR
        if found := _field(descriptor, path):
            columns.append(_Column(name, (*path[:-1], found[0].name), of_line, *found))
        else:
            faults.append(f"{name!r} is no field of {'a line' if of_line else 'an invoice'}")
    if not header:
        faults.append("there is no header")
    if faults:
        raise CannotRead(
            f"line 1: {'; '.join(faults)}. Columns are fields of the API: number, invoice_date, buyer.gstin, line.sku, "
            f"line.quantity, line.unit_price, line.gst_rate; and {GROUP}, {KEY}"
        )
    return columns


def _field(descriptor: Descriptor, path: tuple[str, ...]) -> tuple[FieldDescriptor, int] | None:
    for step in path[:-1]:
        inner = descriptor.fields_by_name.get(step)
        if inner is None or inner.message_type is None or inner.is_repeated:
            return None
        descriptor = inner.message_type
    if (plain := descriptor.fields_by_name.get(path[-1])) is not None:
        is_date = plain.message_type is not None and plain.message_type.full_name == "google.type.Date"
        return None if plain.is_repeated or (plain.message_type is not None and not is_date) else (plain, 0)
    for suffix, scale in SCALES.items():
        if (scaled := descriptor.fields_by_name.get(path[-1] + suffix)) is not None:
            return scaled, scale
    return None
