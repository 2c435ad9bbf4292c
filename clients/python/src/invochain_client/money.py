"""Decimal text to the contract's integers and back.

Exact or refused: a float is a TypeError, a digit too many a ValueError.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TypeAlias

from invochain_client.types import InvoiceLine

# "1000.00", 1000 or Decimal("1000.00").
Exact: TypeAlias = str | int | Decimal

_DECIMAL = re.compile(r"(-?)(\d+)(?:\.(\d+))?", re.ASCII)
INT64_MAX = 2**63 - 1


def rupees(amount: Exact) -> int:
    """Paise: rupees("1000.00") is 100000."""
    return _scaled(amount, 2, "rupees")


def rupees_milli(price: Exact) -> int:
    """Thousandths of a rupee, for unit prices: rupees_milli("0.125") is 125."""
    return _scaled(price, 3, "rupees of a unit price")


def quantity_milli(quantity: Exact) -> int:
    """Thousandths of the unit: quantity_milli("2.5") is 2500."""
    return _scaled(quantity, 3, "a quantity")


def percent_milli(rate: Exact) -> int:
    """Thousandths of a percent: percent_milli("18") is 18000."""
    return _scaled(rate, 3, "percent")


def rupees_text(paise: int) -> str:
    """Decimal text of paise: rupees_text(1180000) is "11800.00"."""
    return _text(paise, 2)


def quantity_text(milli: int) -> str:
    """Decimal text of thousandths: quantity_text(2500) is "2.5"."""
    return _text(milli, 3).rstrip("0").rstrip(".")


def line(
    description: str,
    *,
    hsn: str,
    quantity: Exact,
    price: Exact,
    gst_rate: Exact,
    unit: str = "NOS",
    sku: str = "",
    discount: Exact = 0,
    is_service: bool = False,
) -> InvoiceLine:
    """A line of an invoice from decimal text: `price` in rupees of one unit, `gst_rate` the full rate in percent.

    With a `sku` the line takes stock. The server computes gross, tax and total. Fields beyond these are set on the
    message: line(...).cess_rate_milli = percent_milli("12").
    """
    made = InvoiceLine(
        description=description,
        sku=sku,
        hsn=hsn,
        quantity_milli=quantity_milli(quantity),
        unit=unit,
        unit_price_milli=rupees_milli(price),
        gst_rate_milli=percent_milli(gst_rate),
        is_service=is_service,
    )
    if discount_paise := rupees(discount):
        made.discount_paise = discount_paise
    return made


def _scaled(value: Exact, places: int, what: str) -> int:
    # bool is an int to Python, and no amount to anybody.
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(
            f"{what}: found {value!r} ({type(value).__name__}); text, int or Decimal is wanted, for it is exact"
        )
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{what}: found {text!r}; digits with at most one point are wanted, like 1000.00")
    sign, whole, fraction = match[1], match[2], (match[3] or "")
    if len(fraction.rstrip("0")) > places:
        raise ValueError(f"{what}: found {text!r}; at most {places} decimals are wanted")
    if len(whole.lstrip("0")) > 18:
        raise ValueError(f"{what}: found {text[:40]!r}, which is more than an amount can be")
    scaled: int = int(whole) * 10**places + int(fraction[:places].ljust(places, "0"))
    if scaled > INT64_MAX:
        raise ValueError(f"{what}: found {text[:40]!r}, which is more than an amount can be")
    return -scaled if sign else scaled


def _text(value: int, places: int) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"found {value!r} ({type(value).__name__}); whole numbers are wanted")
    whole, rest = divmod(abs(value), 10**places)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{places}d}"
