"""What a careful user of pydantic would write: models that parse the document and check what this document can break.

Decimals with the limits of RULES G36, GSTIN shape and check character, state and place, HSN, unit, the rate in force on
the day, dates, serials, and every figure computed with `quantize` and held against the claims. It leaves out what these
documents never reach (notes, exports, zones, cess, retail price, `nic`), which the engine and the oracle do look at:
where it is quicker for that, the comparison is in its favour.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

DATA = Path(__file__).parents[2] / "core-rs" / "core" / "data"
PAISA, ZERO = Decimal("0.01"), Decimal("0.00")
GST_BEGAN, TODAY = datetime.date(2017, 7, 1), datetime.date(2026, 11, 22)
VALUE = {char: at for at, char in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def table(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


STATES = {row["code"] for row in table("state_codes") if row["in_gstin"] == "Y"}
UNITS = {row["code"] for row in table("uqc_codes")}
# Rate -> (first day, last day, HSN prefixes), as a service would prepare it once.
RATES: dict[Decimal, list[tuple[datetime.date, datetime.date, tuple[str, ...]]]] = {}
for _row in table("rate_slabs"):
    _last = datetime.date.fromisoformat(_row["valid_to"]) if _row["valid_to"] else datetime.date.max
    _prefixes = tuple(filter(None, _row["hsn_prefixes"].split("|")))
    _span = (datetime.date.fromisoformat(_row["valid_from"]), _last, _prefixes)
    RATES.setdefault(Decimal(_row["rate_milli"]) / 1000, []).append(_span)


def check_character(gstin: str) -> str:
    total = 0
    for at, char in enumerate(gstin[:14]):
        product = VALUE[char] * (1 + at % 2)
        total += product // 36 + product % 36
    if VALUE[gstin[14]] != -total % 36:
        raise ValueError("the check character is wrong")
    if gstin[:2] not in STATES:
        raise ValueError("no state has this code")
    return gstin


def in_list(known: set[str], what: str):
    def check(text: str) -> str:
        if text not in known:
            raise ValueError(f"no such {what}")
        return text

    return AfterValidator(check)


def amount(places: int, digits: int) -> object:
    return Annotated[Decimal, Field(ge=0, max_digits=digits, decimal_places=places)]


Quantity, Price, Rate = amount(3, 13), amount(3, 15), amount(3, 6)
ItemAmount, DocumentAmount = amount(2, 14), amount(2, 16)
Gstin = Annotated[
    str,
    Field(pattern=r"^[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z][Z1-9ABD-J][0-9A-Z]$"),
    AfterValidator(check_character),
]
State = Annotated[str, in_list(STATES, "state")]


class Item(BaseModel):
    sl: Annotated[str, Field(pattern=r"^[0-9]{1,6}$")]
    is_service: bool
    hsn: Annotated[str, Field(pattern=r"^([0-9]{4}|[0-9]{6}|[0-9]{8})$")]
    qty: Quantity
    unit: Annotated[str, in_list(UNITS, "unit")]
    unit_price: Price
    gst_rate: Rate
    discount: ItemAmount = ZERO
    other_charges: ItemAmount = ZERO
    gross: ItemAmount | None = None
    taxable: ItemAmount | None = None
    igst: ItemAmount | None = None
    cgst: ItemAmount | None = None
    sgst: ItemAmount | None = None
    total: ItemAmount | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.qty == 0:
            raise ValueError("nothing is sold")
        if (self.hsn[:2] == "99") != self.is_service:
            raise ValueError("services are chapter 99, and only they")
        return self


class Party(BaseModel):
    gstin: Gstin
    state: State
    pos: State | None = None

    @model_validator(mode="after")
    def _of_its_state(self) -> Self:
        if self.gstin[:2] != self.state:
            raise ValueError("the GSTIN is of another state")
        return self


class Totals(BaseModel):
    taxable: DocumentAmount | None = None
    igst: DocumentAmount | None = None
    cgst: DocumentAmount | None = None
    sgst: DocumentAmount | None = None
    total: DocumentAmount | None = None


def same(field: str, claim: Decimal | None, ours: Decimal) -> None:
    if claim is not None and claim != ours:
        raise ValueError(f"{field}: found {claim}, wanted {ours}")


class Invoice(BaseModel):
    supply_type: Literal["B2B", "B2C", "SEZWP", "SEZWOP", "EXPWP", "EXPWOP", "DEXP"]
    doc_type: Literal["INV", "CRN", "DBN"]
    number: Annotated[str, Field(pattern=r"^[A-Za-z1-9][A-Za-z0-9/-]{0,15}$")]
    date: datetime.date
    seller: Party
    buyer: Party
    items: Annotated[list[Item], Field(min_length=1, max_length=1000)]
    totals: Totals

    @model_validator(mode="after")
    def _lawful(self) -> Self:
        if not GST_BEGAN <= self.date <= TODAY:
            raise ValueError("the date is before GST or in the future")
        if self.seller.gstin == self.buyer.gstin:
            raise ValueError("a supply to oneself")
        if self.buyer.pos is None:
            raise ValueError("a place of supply is wanted")
        if len({int(item.sl) for item in self.items}) != len(self.items):
            raise ValueError("a serial number comes twice")
        for item in self.items:
            self._rate_is_lawful(item)
        return self

    def _rate_is_lawful(self, item: Item) -> None:
        for first, last, prefixes in RATES.get(item.gst_rate, ()):
            of_goods = not prefixes or any(item.hsn.startswith(p) or p.startswith(item.hsn) for p in prefixes)
            if first <= self.date <= last and of_goods:
                return
        raise ValueError(f"no rate of {item.gst_rate} % on {self.date} for {item.hsn}")

    def figures(self) -> dict[str, Decimal]:
        """Computes line by line, compares each claim, and sums up."""
        inter_state = self.seller.state != self.buyer.pos
        sums = dict.fromkeys(("taxable", "igst", "cgst", "sgst", "total"), ZERO)
        for item in self.items:
            gross = (item.qty * item.unit_price).quantize(PAISA, ROUND_HALF_UP)
            if item.discount > gross:
                raise ValueError("the discount is more than the gross")
            taxable = gross - item.discount
            igst = half = ZERO
            if inter_state:
                igst = (taxable * item.gst_rate / 100).quantize(PAISA, ROUND_HALF_UP)
            else:
                half = (taxable * item.gst_rate / 200).quantize(PAISA, ROUND_HALF_UP)
            total = taxable + igst + half + half + item.other_charges
            same("gross", item.gross, gross)
            for name, ours in (("taxable", taxable), ("igst", igst), ("cgst", half), ("sgst", half), ("total", total)):
                same(name, getattr(item, name), ours)
                sums[name] += ours
        for name, ours in sums.items():
            same(name, getattr(self.totals, name), ours)
        return sums


def parse(text: str) -> Invoice:
    """Fields, codes, dates, rates: what validation alone is."""
    return Invoice.model_validate_json(text)


def whole(text: str) -> tuple[dict[str, Decimal], bytes]:
    """Parse, check, compute, hash: the same job as the engine's."""
    invoice = Invoice.model_validate_json(text)
    return invoice.figures(), hashlib.sha256(invoice.model_dump_json(exclude_defaults=True).encode()).digest()
