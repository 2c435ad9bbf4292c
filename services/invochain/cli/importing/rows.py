"""From a file to invoices: JSON lines or CSV, each with the line it stands on and a key that is the same every time.

No number becomes a float on the way: JSON numbers with a point are refused, CSV decimals are scaled as text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.cli.importing.csv_rows import csv_rows
from invochain.cli.importing.row import KEY, CannotRead, Row, words


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
                for row in csv_rows(file) if self.csv else _json_rows(file):
                    if row.invoice is not None:
                        content = row.invoice.SerializeToString(deterministic=True)
                        row.digest = hashlib.sha256(content).hexdigest()
                        if not (row.key or row.invoice.number or self.source):
                            raise CannotRead(
                                f"line {row.line} has neither a number nor an {KEY}, so nothing tells it from an equal "
                                "sale of another day: give --source NAME, another one for each file of new sales"
                            )
                        row.key = row.key or self._key(content)
                    yield row
        except OSError as fault:
            raise CannotRead(f"{self.path}: {fault.strerror}") from None
        except UnicodeDecodeError as fault:
            raise CannotRead(f"{self.path} is not UTF-8 (byte {fault.start} of a block)") from None

    def _key(self, invoice: bytes) -> str:
        """The same for the same content, whatever stands before it; the second of two equal sales has another one."""
        content = hashlib.sha256(f"{self.source}\0".encode())
        content.update(invoice)
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
                key = str(document.pop(KEY, ""))
                # Half a surrogate pair is no text: it can be neither sent nor reported.
                key.encode()
                row.key = key
                inner = document.pop("invoice")
                if document:
                    raise ValueError(f"found {', '.join(document)} beside the invoice; only {KEY} may stand there")
                document = inner
            row.invoice = json_format.ParseDict(document, api.Invoice())
        except (ValueError, json_format.ParseError, RecursionError) as fault:
            row.faults.append(words(fault))
        yield row


def _no_float(text: str) -> None:
    raise ValueError(f"found {text}; amounts and quantities are integers (paise, thousandths), as in the API")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"found {next(name for name, n in Counter(n for n, _ in pairs).items() if n > 1)} twice")
    return found
