"""The engine beside plain Python, in one run: ratios hold where absolute figures depend on the machine.

`python benchmarks/gst/compare.py` measures, per document of 1 and of 10 lines and on one core:
the engine through the binding (encoded requests in batches of 1,000: decode, every rule, every figure, ids, hash,
columns), the oracle of tests/oracle (plain Python, Decimal), and the same document through pydantic models with Decimal
whose fields have the limits of RULES G36: parsed, and parsed, taxed and summed as a Python service would.
No two documents of a round are alike, so that nobody's cache answers for the work.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from oracle.gst_oracle import gstin, is_date, judge, read_number

BATCH = 1_000
SELLER, BUYER = "27AAPFU0939F1ZV", "29AABCR1718E1ZL"


def amount(places: int, digits: int) -> object:
    return Annotated[Decimal, Field(ge=0, max_digits=digits, decimal_places=places)]


Quantity, Price, Rate = amount(3, 13), amount(3, 15), amount(3, 6)
ItemAmount, DocumentAmount = amount(2, 14), amount(2, 16)
Gstin = Annotated[str, Field(pattern=r"^[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z][Z1-9ABD-J][0-9A-Z]$")]
StateCode = Annotated[str, Field(pattern=r"^[0-9]{2}$")]


class Item(BaseModel):
    sl: Annotated[str, Field(pattern=r"^[0-9]{1,6}$")]
    is_service: bool
    hsn: Annotated[str, Field(pattern=r"^([0-9]{4}|[0-9]{6}|[0-9]{8})$")]
    qty: Quantity
    unit: Annotated[str, Field(min_length=3, max_length=8)]
    unit_price: Price
    gst_rate: Rate
    discount: ItemAmount = Decimal(0)
    other_charges: ItemAmount = Decimal(0)
    gross: ItemAmount | None = None
    taxable: ItemAmount | None = None
    igst: ItemAmount | None = None
    cgst: ItemAmount | None = None
    sgst: ItemAmount | None = None
    total: ItemAmount | None = None


class Party(BaseModel):
    gstin: Gstin
    state: StateCode
    pos: StateCode | None = None


class Totals(BaseModel):
    taxable: DocumentAmount | None = None
    igst: DocumentAmount | None = None
    total: DocumentAmount | None = None


class Invoice(BaseModel):
    supply_type: Literal["B2B", "B2C", "SEZWP", "SEZWOP", "EXPWP", "EXPWOP", "DEXP"]
    doc_type: Literal["INV", "CRN", "DBN"]
    number: Annotated[str, Field(pattern=r"^[A-Za-z1-9][A-Za-z0-9/-]{0,15}$")]
    date: datetime.date
    seller: Party
    buyer: Party
    items: Annotated[list[Item], Field(min_length=1, max_length=1000)]
    totals: Totals


def price_milli(number: int, serial: int) -> int:
    """Another price for every line of every document."""
    return 1_000_000 + 1_370 * number + 10 * serial


def neutral(number: int, lines: int) -> dict:
    item = {"is_service": False, "hsn": "610910", "qty": "10", "unit": "NOS", "gst_rate": "18"}
    prices = [f"{price_milli(number, serial) / 1000:.3f}" for serial in range(1, lines + 1)]
    return {
        "supply_type": "B2B",
        "doc_type": "INV",
        "number": f"INV/{number}",
        "date": "2026-10-10",
        "seller": {"gstin": SELLER, "state": "27"},
        "buyer": {"gstin": buyer(number), "state": "29", "pos": "29"},
        "items": [{"sl": str(at), "unit_price": price, **item} for at, price in enumerate(prices, start=1)],
        "totals": {},
    }


def buyer(number: int) -> str:
    first14 = f"29AABCR{number % 10_000:04}E1Z"
    return first14 + (core.gstin_check_char(first14) or "")


def encoded(number: int, lines: int) -> bytes:
    line = {"hsn": "610910", "quantity_milli": 10_000, "unit": "NOS", "gst_rate_milli": 18_000}
    line |= {"sku": "WIDGET-7", "description": "Widget, blue, boxed"}
    serials = range(1, lines + 1)
    invoice = {
        "supply_type": "B2B",
        "number": f"INV/{number}",
        "invoice_date": {"year": 2026, "month": 10, "day": 10},
        "buyer": {"gstin": buyer(number), "state": "29", "place_of_supply": "29", "legal_name": "Rangoli Retail"},
        "lines": [{"serial_number": str(at), "unit_price_milli": price_milli(number, at), **line} for at in serials],
    }
    return pb.CreateInvoiceRequest(invoice=invoice).SerializeToString()


def engine(raws: list[bytes], with_columns: bool) -> Callable[[], None]:
    """One crossing for the batch; with columns, those of invoices and items are taken out for the database."""
    directory, merchant = core.Directory(), bytes(16)
    directory.learn(merchant, SELLER, "27", 1, 0, False, b"", 0)
    for number in range(len(raws)):
        directory.learn_unknown(buyer(number), 0)
    merchants, keys = [merchant] * len(raws), [f"key-{n:013}" for n in range(len(raws))]

    def run() -> None:
        drafts = core.check_invoices(raws, merchants, keys, (2026, 11, 22), directory, 0)
        if len(drafts.live) != len(raws):
            raise SystemExit(f"not lawful: {drafts.violations[:1]} {drafts.malformed[:1]}")
        if with_columns:
            drafts.invoice_columns(drafts.live)
            drafts.item_columns(drafts.live)

    return run


def judge_all(documents: list[dict]) -> None:
    """The oracle remembers numbers and GSTINs it has read; between rounds it must not."""
    for remembering in (read_number, gstin, is_date):
        remembering.cache_clear()
    for document in documents:
        judge(document, "strict", "2026-11-22")


def with_sums(text: str) -> Decimal:
    invoice = Invoice.model_validate_json(text)
    total = Decimal(0)
    for item in invoice.items:
        taxable = (item.qty * item.unit_price).quantize(Decimal("0.01"), ROUND_HALF_UP)
        total += taxable + (taxable * item.gst_rate / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return total


def microseconds(work: Callable[[], object], documents: int, rounds: int = 15) -> float:
    """The fastest of some rounds, per document."""
    fastest = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest / documents * 1e6


def main() -> None:
    for lines in (1, 10):
        documents = [neutral(number, lines) for number in range(BATCH)]
        raws = [encoded(number, lines) for number in range(BATCH)]
        texts = [json.dumps(document) for document in documents[:200]]
        ours = microseconds(engine(raws, with_columns=False), BATCH)
        rows = [
            ("engine, batch of 1,000 through the binding", ours),
            ("the same with columns for the database", microseconds(engine(raws, with_columns=True), BATCH)),
            ("oracle: plain Python, Decimal", microseconds(lambda d=documents[:200]: judge_all(d), 200)),
            (
                "pydantic with Decimal: parsed",
                microseconds(lambda t=texts: [*map(Invoice.model_validate_json, t)], 200),
            ),
            ("pydantic with Decimal: parsed, taxed, summed", microseconds(lambda t=texts: [*map(with_sums, t)], 200)),
        ]
        print(f"{lines} line{'s' if lines > 1 else ''}: {len(raws[0])} bytes encoded")
        for name, each in rows:
            print(f"  {name:45} {each:9.2f} µs  {1e6 / each:10,.0f} documents/s  x{each / ours:.1f}")


if __name__ == "__main__":
    main()
