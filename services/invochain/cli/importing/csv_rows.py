"""From a CSV to invoices: a line of the file is a line of an invoice, and rows below one another with the same name in
the column `invoice` are one invoice.

An invoice is handed out whole or not at all. The file is read twice: first for its names alone, so that an invoice
whose rows stand in two places is known before its first part is handed out. A row of which nobody can say whose it is
may belong to the invoice above it or to the one below, so both are refused.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.cli.importing.row import KEY, CannotRead, Row, words

# The column that holds the rows of an invoice together. Without it, rows that have one number or key can be nothing but
# one invoice; where there is none of these columns, every row is one.
GROUP = "invoice"
GROUPS = (GROUP, "number", KEY)
# What a friendly column is called, and how many digits behind the point its field has.
SCALES = {"_milli": 3, "_paise": 2}
INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
DECIMAL = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,6})?", re.ASCII)
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}


def csv_rows(file: Any) -> Iterator[Row]:
    """The invoices of a seekable text file, in the order of their first rows.

    Raises CannotRead, before it yields any: for a header with a column that is nothing, and for text that is no CSV.
    """
    columns = _columns(_Table(file).header)
    file.seek(0)
    apart = _names_apart(_Table(file))
    file.seek(0)
    table = _Table(file)
    row: Row | None = None
    name = ""
    document: dict[str, Any] = {}
    # What is wrong with the rows of nobody since the last row of somebody.
    strays: list[str] = []
    for record in table:
        if row is None or (record.name and record.name != name):
            if row is not None:
                yield _finished(row, document)
            row, name, document = Row(record.line, faults=[*strays]), record.name, {"lines": []}
            if name and _digest(name) in apart:
                row.faults.append(f"invoice {name} stands in more than one place; its rows belong below one another")
        if record.name:
            strays = []
        if record.fault:
            row.faults.append(f"line {record.line}: {record.fault}")
        else:
            faults = _take(row, document, table.header, columns, record.cells)
            row.faults += [f"line {record.line}: {fault}" for fault in faults]
        if not record.name:
            strays.append(f"line {record.line} above may be a row of this invoice: {record.fault}")
    if row is not None:
        yield _finished(row, document)


@dataclass(frozen=True, slots=True)
class _Record:
    """A row of the file."""

    line: int
    cells: list[str]
    # Of its invoice. Empty: nobody can say whose row it is; `fault` has the reason.
    name: str
    fault: str


class _Table:
    """A CSV file from its beginning: its header, and then its records."""

    def __init__(self, file: Any) -> None:
        self._reader = csv.reader(file, strict=True)
        self.header = [name.strip() for name in self._next() or ()]
        # Which column it is that holds rows together.
        self.group = next((self.header.index(name) for name in GROUPS if name in self.header), None)

    def __iter__(self) -> Iterator[_Record]:
        line = self._reader.line_num + 1
        while (cells := self._next()) is not None:
            at, line = line, self._reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            # An invoice of one row: no name of another, for what a cell says is stripped.
            name, fault = f"\n{at}", ""
            if len(cells) != len(self.header):
                fault = f"found {len(cells)} cells; wanted {len(self.header)} as the header has"
                # A comma too many may have moved every cell, the name too.
                name = name if self.group is None else ""
            elif self.group is not None:
                said = cells[self.group].strip()
                if not said and self.header[self.group] == GROUP:
                    name, fault = "", f"{GROUP}: found nothing; wanted a name, the same in every row of an invoice"
                name = said or name
            yield _Record(at, cells, name, fault)

    def _next(self) -> list[str] | None:
        try:
            return next(self._reader, None)
        except csv.Error as fault:
            raise CannotRead(f"line {self._reader.line_num}: {fault}") from None


def _names_apart(table: _Table) -> set[bytes]:
    """The digests of the names that come again after another name. Raises CannotRead for text that is no CSV."""
    seen: set[bytes] = set()
    apart: set[bytes] = set()
    last = ""
    for record in table:
        if table.group is None or record.name in ("", last):
            continue
        last, digest = record.name, _digest(record.name)
        if digest in seen:
            apart.add(digest)
        seen.add(digest)
    return apart


def _digest(name: str) -> bytes:
    """16 bytes, however long the name is: every name of the file is kept at once."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _finished(row: Row, document: dict[str, Any]) -> Row:
    if not row.faults:
        try:
            row.invoice = json_format.ParseDict(document, api.Invoice())
        except json_format.ParseError as fault:
            row.faults.append(words(fault))
    return row


def _take(
    row: Row, document: dict[str, Any], header: list[str], columns: list[_Column | None], cells: list[str]
) -> list[str]:
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
    return faults


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
