"""The engine beside plain Python, in one run: ratios hold where absolute figures depend on the machine.

`python benchmarks/gst/compare.py` measures, per document of 1 and of 10 lines and on one core:
the engine through the binding (encoded requests in batches of 1,000: decode, every rule, every figure, ids, hash,
columns), the oracle of tests/oracle (plain Python, Decimal), and pydantic models with Decimal (parse only, and with the
sums a service would form).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from oracle.gst_oracle import judge

BATCH = 1_000
SELLER, BUYER = "27AAPFU0939F1ZV", "29AABCR1718E1ZL"


class Item(BaseModel):
    sl: str
    is_service: bool
    hsn: str
    qty: Decimal
    unit: str
    unit_price: Decimal
    gst_rate: Decimal


class Party(BaseModel):
    gstin: str
    state: str
    pos: str | None = None


class Invoice(BaseModel):
    supply_type: str
    doc_type: str
    number: str
    date: str
    seller: Party
    buyer: Party
    items: list[Item]
    totals: dict[str, Decimal]


def neutral(lines: int) -> dict:
    item = {"is_service": False, "hsn": "610910", "qty": "10", "unit": "NOS", "unit_price": "1000.00", "gst_rate": "18"}
    return {
        "supply_type": "B2B",
        "doc_type": "INV",
        "number": "INV/26-27/001",
        "date": "2026-10-10",
        "seller": {"gstin": SELLER, "state": "27"},
        "buyer": {"gstin": BUYER, "state": "29", "pos": "29"},
        "items": [{"sl": str(serial), **item} for serial in range(1, lines + 1)],
        "totals": {"total": f"{11800 * lines}.00"},
    }


def encoded(lines: int) -> bytes:
    line = {"hsn": "610910", "quantity_milli": 10_000, "unit": "NOS", "unit_price_milli": 1_000_000}
    line |= {"gst_rate_milli": 18_000, "sku": "WIDGET-7", "description": "Widget, blue, boxed"}
    invoice = {
        "supply_type": "B2B",
        "number": "INV/26-27/001",
        "invoice_date": {"year": 2026, "month": 10, "day": 10},
        "buyer": {"gstin": BUYER, "state": "29", "place_of_supply": "29", "legal_name": "Rangoli Retail"},
        "lines": [{"serial_number": str(serial), **line} for serial in range(1, lines + 1)],
        "totals": {"total_paise": 1_180_000 * lines},
    }
    return pb.CreateInvoiceRequest(invoice=invoice).SerializeToString()


def engine(raws: list[bytes]) -> Callable[[], None]:
    directory, merchant = core.Directory(), bytes(16)
    directory.learn(merchant, SELLER, "27", 1, 0, False, b"", 0)
    directory.learn_unknown(BUYER, 0)
    merchants, keys = [merchant] * len(raws), [f"key-{n:013}" for n in range(len(raws))]

    def run() -> None:
        drafts = core.check_invoices(raws, merchants, keys, (2026, 11, 22), directory, 0)
        if len(drafts.live) != len(raws):
            raise SystemExit(f"not lawful: {drafts.violations[:1]} {drafts.malformed[:1]}")

    return run


def columns(raws: list[bytes]) -> Callable[[], None]:
    """As `engine`, with the columns of invoices and items taken out for the database."""
    directory, merchant = core.Directory(), bytes(16)
    directory.learn(merchant, SELLER, "27", 1, 0, False, b"", 0)
    directory.learn_unknown(BUYER, 0)
    merchants, keys = [merchant] * len(raws), [f"key-{n:013}" for n in range(len(raws))]

    def run() -> None:
        drafts = core.check_invoices(raws, merchants, keys, (2026, 11, 22), directory, 0)
        drafts.invoice_columns(drafts.live)
        drafts.item_columns(drafts.live)

    return run


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
        document, raws = neutral(lines), [encoded(lines)] * BATCH
        text = json.dumps(document)
        ours = microseconds(engine(raws), BATCH)
        rows = [
            ("engine, batch of 1,000 through the binding", ours),
            ("the same with columns for the database", microseconds(columns(raws), BATCH)),
            (
                "oracle: plain Python, Decimal",
                microseconds(lambda d=document: judge(d, "strict", "2026-11-22"), 1, 300),
            ),
            ("pydantic with Decimal, parse only", microseconds(lambda t=text: Invoice.model_validate_json(t), 1, 300)),
            ("pydantic with Decimal, parse and sums", microseconds(lambda t=text: with_sums(t), 1, 300)),
        ]
        print(f"{lines} line{'s' if lines > 1 else ''}: {len(raws[0])} bytes encoded")
        for name, each in rows:
            print(f"  {name:45} {each:9.2f} µs  {1e6 / each:10,.0f} documents/s  x{each / ours:.1f}")


if __name__ == "__main__":
    main()
