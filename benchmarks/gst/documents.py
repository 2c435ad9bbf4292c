"""The same documents in each contender's form: a request of this API, and the neutral JSON of the vectors.

No two are alike in buyer, number and prices, so that nobody's cache answers for the work. Each claims its total, as
most real ones do, so that everybody has a claim to compare.
"""

from __future__ import annotations

import struct
from decimal import ROUND_HALF_UP, Decimal

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb

SELLER, TODAY = "27AAPFU0939F1ZV", "2026-11-22"
PAISA = Decimal("0.01")


def buyer(number: int) -> str:
    """A registration in state 29, another for every document."""
    first14 = f"29AABCR{number % 10_000:04}E1Z"
    return first14 + (core.gstin_check_char(first14) or "")


def price_milli(number: int, serial: int) -> int:
    """Another price for every line of every document, in thousandths of a rupee."""
    return 1_000_000 + 1_370 * number + 10 * serial


def total(number: int, lines: int) -> Decimal:
    """Ten pieces a line at 18 %."""
    taxable = [Decimal(price_milli(number, serial)) / 100 for serial in range(1, lines + 1)]
    return sum(each + (each * 18 / 100).quantize(PAISA, ROUND_HALF_UP) for each in taxable)


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
        "totals": {"total": str(total(number, lines).quantize(PAISA))},
    }


def encoded(number: int, lines: int) -> bytes:
    """The same with what a real request also carries: SKU, description, the buyer's name."""
    line = {"hsn": "610910", "quantity_milli": 10_000, "unit": "NOS", "gst_rate_milli": 18_000}
    line |= {"sku": "WIDGET-7", "description": "Widget, blue, boxed"}
    serials = range(1, lines + 1)
    invoice = {
        "supply_type": "B2B",
        "number": f"INV/{number}",
        "invoice_date": {"year": 2026, "month": 10, "day": 10},
        "seller": {"gstin": SELLER, "state": "27"},
        "buyer": {"gstin": buyer(number), "state": "29", "place_of_supply": "29", "legal_name": "Rangoli Retail"},
        "lines": [{"serial_number": str(at), "unit_price_milli": price_milli(number, at), **line} for at in serials],
        "totals": {"total_paise": int(total(number, lines) * 100)},
    }
    return pb.CreateInvoiceRequest(invoice=invoice).SerializeToString()


def framed(requests: list[bytes]) -> bytes:
    """What the bench reads: each request behind its length in four bytes, little endian."""
    return b"".join(struct.pack("<I", len(request)) + request for request in requests)
