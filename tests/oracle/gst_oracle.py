"""RULES.md read a second time, in plain Python with `Decimal`: slow, straightforward, and written from the rules alone.

It shares nothing with the Rust engine but the CSV tables, which are law. `judge(document, mode, today)` answers
`(errors, computed)`: the set of (code, path) of the first phase that has any, or the figures. Comments name rules.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from functools import lru_cache
from pathlib import Path

DATA = Path(__file__).parents[2] / "core-rs" / "core" / "data"
decimal.getcontext().prec = 80  # exact for every product there is: 10^33 at most (section 7)

ZERO, PAISA, RUPEE, HUNDRED = Decimal("0.00"), Decimal("0.01"), Decimal(1), Decimal(100)
GST_BEGAN = "2017-07-01"  # ISO dates compare as text
CESS_NARROWED, CESS_ENDED = "2025-09-22", "2026-02-01"
CESS_GOODS = ("21069020", "2401", "2402", "2403", "2404")
RSP_GOODS = ("21069020", "2401", "2402", "2403", "24041100", "24041900")
RSP_NOT = ("24031921", "24031929")

ITEM_MAX, DOCUMENT_MAX = Decimal("999999999999.99"), Decimal("99999999999999.99")
QTY, PRICE, RATE = (3, Decimal("9999999999.999")), (3, Decimal("999999999999.999")), (3, Decimal("999.999"))
ITEM, DOCUMENT, ROUND_OFF = (2, ITEM_MAX), (2, DOCUMENT_MAX), (2, Decimal("99.99"))

ITEM_NUMBERS = {"qty": QTY, "unit_price": PRICE, "cess_per_unit": PRICE}
ITEM_NUMBERS |= dict.fromkeys(("gst_rate", "cess_rate", "state_cess_rate"), RATE)
ITEM_NUMBERS |= dict.fromkeys(("discount", "cess_nonadvol", "state_cess_nonadvol", "other_charges", "rsp"), ITEM)
ITEM_NUMBERS |= dict.fromkeys(("gross", "taxable", "igst", "cgst", "sgst", "cess", "state_cess", "total"), ITEM)
TOTAL_NUMBERS = dict.fromkeys(
    ("discount", "other_charges", "taxable", "igst", "cgst", "sgst", "cess", "state_cess", "total"), DOCUMENT
)

SUPPLY_TYPES = ("B2B", "B2C", "SEZWP", "SEZWOP", "EXPWP", "EXPWOP", "DEXP")
EXPORTS, SEZ, WITHOUT_PAYMENT = ("EXPWP", "EXPWOP"), ("SEZWP", "SEZWOP"), ("EXPWOP", "SEZWOP")
REGISTERED = ("B2B", "SEZWP", "SEZWOP", "DEXP")


def table(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


STATES = {row["code"]: row for row in table("state_codes")}
UNITS = {row["code"] for row in table("uqc_codes")}
RATES = [row | {"rate": Decimal(row["rate_milli"]) / 1000} for row in table("rate_slabs")]


# ---- G1 to G5: registration numbers -------------------------------------------------------------------------------

KINDS = [
    ("TDS", r"[0-9]{2}[A-Z]{4}[A-Z0-9][0-9]{4}[A-Z][1-9A-Z]D[0-9A-Z]"),
    ("TCS", r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z]C[0-9A-Z]"),
    ("OIDAR", r"99[0-9]{2}[A-Z]{3}[0-9]{5}OS[0-9A-Z]"),
    ("NRI", r"[0-9]{4}[A-Z]{3}[0-9]{5}NR[0-9A-Z]"),
    ("UIN", r"[0-9]{4}[A-Z]{3}[0-9]{5}[UO]N[0-9A-Z]"),
    ("REGULAR", r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][1-9A-Z][Z1-9ABD-J][0-9A-Z]"),
    ("GOVT", r"[0-9]{2}[A-Z]{4}[0-9]{5}[A-Z][0-9]Z[0-9]"),
]
KINDS = [(kind, re.compile(pattern)) for kind, pattern in KINDS]
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def check_character(first14: str) -> str:
    total = 0
    for place, character in enumerate(first14):
        product = ALPHABET.index(character) * (1 + place % 2)
        total += product // 36 + product % 36
    return ALPHABET[(36 - total % 36) % 36]


@lru_cache(maxsize=100_000)
def gstin(text: str | None) -> tuple[str | None, str | None]:
    """(kind, None) or (None, code of the first fault)."""
    if text == "URP":
        return "URP", None
    if not text:
        return None, "GSTIN_REQUIRED"
    if len(text) != 15:
        return None, "GSTIN_LENGTH_INVALID"
    kind = next((kind for kind, pattern in KINDS if pattern.fullmatch(text)), None)
    if kind is None:
        return None, "GSTIN_FORMAT_INVALID"
    if STATES.get(text[:2], {"in_gstin": "N"})["in_gstin"] != "Y":
        return None, "GSTIN_STATE_INVALID"
    if check_character(text[:14]) != text[14]:
        return None, "GSTIN_CHECKSUM_INVALID"
    return kind, None


# ---- small readers ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def is_date(text: str | None) -> bool:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


@lru_cache(maxsize=100_000)
def read_number(text: object, places: int, maximum: Decimal, is_round_off: bool) -> Decimal | str:
    """The number, or the code of its first fault (G36)."""
    if not isinstance(text, str) or not NUMBER.fullmatch(text):
        return "NUMBER_FORMAT_INVALID"
    value = Decimal(text)
    if value < 0 and not is_round_off:
        return "NEGATIVE_AMOUNT"
    if len(text.partition(".")[2].rstrip("0")) > places:
        return "PRECISION_EXCEEDED"
    if abs(value) > maximum:
        return "ROUND_OFF_OUT_OF_RANGE" if is_round_off else "AMOUNT_OUT_OF_RANGE"
    return value + 0  # -0 is 0


def half_up(value: Decimal) -> Decimal:
    return value.quantize(PAISA, rounding=ROUND_HALF_UP)


def hsn_matches(code: str, prefixes: tuple[str, ...] | list[str]) -> bool:
    return any(code.startswith(prefix) or prefix.startswith(code) for prefix in prefixes)


def place_is_live(code: str, date: str) -> bool:
    """A state of India on that day (G8): by the dates of the state table; 96 and 99 are none."""
    row = STATES.get(code)
    if row is None or row["type"] in ("FOREIGN", "CENTRE") or row["pos_valid_from"] == "NEVER":
        return False
    day = max(date, GST_BEGAN)
    return row["pos_valid_from"] <= day and (not row["pos_valid_to"] or day <= row["pos_valid_to"])


def november_after(date: str) -> str:
    """30 November after the financial year of this day (G19)."""
    year, month = int(date[:4]), int(date[5:7])
    return f"{year + (1 if month >= 4 else 0):04}-11-30"


# ---- the three phases ---------------------------------------------------------------------------------------------


class Judge:
    """One document under one mode. Numbers are Decimals or absent once phase 1 is through."""

    def __init__(self, document: dict, mode: str, today: str | None):
        self.doc, self.mode, self.today = document, mode, today
        self.errors: set[tuple[str, str]] = set()
        self.seller, self.buyer = document.get("seller") or {}, document.get("buyer") or {}
        self.items = document.get("items") or []
        self.given_totals = document.get("totals") or {}
        self.original = {k: v for k, v in (document.get("original") or {}).items() if v is not None}

    def error(self, code: str, path: str) -> None:
        self.errors.add((code, path))

    def number(self, holder: dict, key: str, path: str, limits: tuple[int, Decimal]) -> Decimal | None:
        text = holder.get(key)
        if text is None:
            return None
        value = read_number(text, *limits, limits is ROUND_OFF)
        if isinstance(value, str):
            self.error(value, f"{path}.{key}")
            return None
        return value

    # -- phase 1

    def structure(self) -> None:
        doc = self.doc
        if doc.get("doc_type") not in ("INV", "CRN", "DBN"):  # G11
            self.error("DOC_TYPE_INVALID", "doc_type")
        if doc.get("supply_type") not in SUPPLY_TYPES:  # G12
            self.error("SUPPLY_TYPE_INVALID", "supply_type")
        self.document_number()
        if not is_date(doc.get("date")):  # G16
            self.error("DATE_INVALID", "date")
        if doc.get("tax_point") and not is_date(doc["tax_point"]):
            self.error("DATE_INVALID", "tax_point")
        self.number(self.seller, "aato_crore", "seller", (9, Decimal("9223372036.854775807")))
        for key in ("creditable", "value"):
            self.original[key] = self.number(self.original, key, "original", DOCUMENT)
        self.totals = {key: self.number(self.given_totals, key, "totals", lim) for key, lim in TOTAL_NUMBERS.items()}
        self.totals["round_off"] = self.number(self.given_totals, "round_off", "totals", ROUND_OFF)
        if self.given_totals.get("round_off_mode") not in (None, "", "NONE", "NEAREST_RUPEE"):  # G47
            self.error("ROUND_OFF_MODE_INVALID", "totals.round_off_mode")
        if not self.items:  # G29
            self.error("ITEMS_EMPTY", "items")
        if len(self.items) > 1000:
            self.error("ITEMS_TOO_MANY", "items")
        self.lines, serials = [], set()
        for index, item in enumerate(self.items):
            self.lines.append(self.line_structure(item, f"items[{index}]", serials))

    def document_number(self) -> None:  # G13
        number = self.doc.get("number")
        if not number:
            self.error("DOC_NUMBER_REQUIRED", "number")
        elif len(number) > 16:
            self.error("DOC_NUMBER_TOO_LONG", "number")
        elif not re.fullmatch(r"[A-Za-z0-9/-]+", number):
            self.error("DOC_NUMBER_CHARSET", "number")
        elif number[0] in "0/-":
            self.error("DOC_NUMBER_LEADING_CHAR", "number")

    def line_structure(self, item: dict, path: str, serials: set[int]) -> dict[str, Decimal | None]:
        serial = item.get("sl")
        if not isinstance(serial, str) or not re.fullmatch(r"[0-9]{1,6}", serial):
            self.error("ITEM_SL_INVALID", f"{path}.sl")
        elif int(serial) in serials:
            self.error("ITEM_SL_DUPLICATE", f"{path}.sl")
        else:
            serials.add(int(serial))
        hsn = item.get("hsn")
        if not isinstance(hsn, str) or not re.fullmatch(r"([0-9]{4}|[0-9]{6}|[0-9]{8})", hsn) or not hsn.strip("0"):
            self.error("HSN_FORMAT_INVALID", f"{path}.hsn")  # G30
        if not item.get("is_service"):  # G32
            if item.get("qty") is None:
                self.error("QTY_REQUIRED", f"{path}.qty")
            if not item.get("unit"):
                self.error("UQC_REQUIRED", f"{path}.unit")
        if item.get("unit_price") is None:  # G37
            self.error("UNIT_PRICE_REQUIRED", f"{path}.unit_price")
        if item.get("gst_rate") is None:  # G33
            self.error("GST_RATE_REQUIRED", f"{path}.gst_rate")
        return {key: self.number(item, key, path, limits) for key, limits in ITEM_NUMBERS.items()}

    # -- phase 2

    def semantics(self) -> None:
        doc = self.doc
        self.supply, self.type, self.date = doc["supply_type"], doc["doc_type"], doc["date"]
        self.is_note = self.type != "INV"
        original_date = self.original.get("date") if is_date(self.original.get("date")) else None
        tax_date = doc.get("tax_point") or (original_date if self.is_note else None) or self.date  # G17
        self.tax_date = max(tax_date, GST_BEGAN)
        self.parties()
        if self.today and self.date > self.today:  # G16
            self.error("DATE_IN_FUTURE", "date")
        if self.date < GST_BEGAN:
            self.error("DATE_BEFORE_GST", "date")
        self.notes(original_date)
        self.place_of_supply()
        self.flags()
        for index, (item, line) in enumerate(zip(self.items, self.lines, strict=True)):
            self.line_semantics(item, line, f"items[{index}]")

    def parties(self) -> None:
        seller_kind, seller_fault = gstin(self.seller.get("gstin"))
        if seller_fault is None and seller_kind == "URP":  # G6
            seller_fault = "GSTIN_URP_NOT_ALLOWED"
        elif seller_fault is None and seller_kind not in ("REGULAR", "GOVT"):
            seller_fault = "GSTIN_KIND_NOT_ALLOWED"
        buyer_text = self.buyer.get("gstin")
        buyer_kind, buyer_fault = gstin(buyer_text)
        if self.supply in REGISTERED:
            if buyer_fault is None and buyer_kind == "URP":
                buyer_fault = "GSTIN_URP_NOT_ALLOWED"
            elif buyer_fault is None and buyer_kind in ("NRI", "OIDAR"):
                buyer_fault = "GSTIN_KIND_NOT_ALLOWED"
        elif buyer_text == "URP" or (self.supply == "B2C" and not buyer_text):
            buyer_fault = None
        else:
            buyer_fault = "BUYER_MUST_BE_URP"
        for fault, path in ((seller_fault, "seller.gstin"), (buyer_fault, "buyer.gstin")):
            if fault:
                self.error(fault, path)
        if seller_fault is None:
            self.party_state("seller", self.seller)
        if buyer_fault is None and self.supply in REGISTERED:
            self.party_state("buyer", self.buyer)
            if buyer_text == self.seller.get("gstin"):  # G9
                self.error("SELLER_BUYER_SAME", "buyer.gstin")
        operator = self.doc.get("ecommerce_gstin")
        if operator and gstin(operator) != ("TCS", None):  # G10
            self.error("ECOMMERCE_GSTIN_NOT_TCS", "ecommerce_gstin")

    def party_state(self, role: str, party: dict) -> None:
        state = party.get("state")
        if state != party["gstin"][:2]:  # G7
            self.error("STATE_GSTIN_MISMATCH", f"{role}.state")
        if state in STATES and not place_is_live(state, self.date):  # G8
            self.error("STATE_CODE_WITHDRAWN", f"{role}.state")

    def notes(self, original_date: str | None) -> None:  # G18, G19, G70
        if not self.is_note:
            if any(value is not None for value in self.original.values()) or self.has_original():
                self.error("ORIGINAL_NOT_ALLOWED", "original")
            return
        if not self.original.get("number"):
            self.error("ORIGINAL_REQUIRED", "original.number")
        elif original_date is None:
            self.error("DATE_INVALID", "original.date")
        elif original_date > self.date:
            self.error("ORIGINAL_AFTER_NOTE", "original.date")
        elif self.type == "CRN" and self.date > november_after(original_date):
            self.error("CREDIT_NOTE_TIME_BARRED", "date")

    def has_original(self) -> bool:
        return any(value is not None for value in (self.doc.get("original") or {}).values())

    def place_of_supply(self) -> None:
        pos = self.buyer.get("pos")
        if not pos:  # G21
            self.error("POS_REQUIRED", "buyer.pos")
        elif self.supply in EXPORTS:  # G22
            if pos != "96":
                self.error("POS_MUST_BE_96", "buyer.pos")
        elif pos == "96":
            self.error("POS_96_NOT_ALLOWED", "buyer.pos")
        elif not place_is_live(pos, self.date):  # G8
            self.error("STATE_CODE_WITHDRAWN" if pos in ("25", "28") else "POS_INVALID", "buyer.pos")
        if self.supply in EXPORTS and self.buyer.get("state") != "96":
            self.error("BUYER_STATE_MUST_BE_96", "buyer.state")

    def flags(self) -> None:
        doc, buyer_type = self.doc, self.buyer.get("taxpayer_type")
        if self.supply in SEZ and buyer_type != "SEZ":  # G23
            self.error("BUYER_NOT_SEZ", "supply_type")
        if self.supply in ("B2B", "DEXP") and buyer_type == "SEZ":
            self.error("BUYER_SEZ_NOT_ALLOWED", "supply_type")
        if doc.get("igst_on_intra"):  # G25
            if (self.seller.get("state") or "") != (self.buyer.get("pos") or ""):
                self.error("IGST_ON_INTRA_POS_MISMATCH", "igst_on_intra")
            if not doc.get("reverse_charge"):
                self.error("IGST_ON_INTRA_REQUIRES_RCM", "igst_on_intra")
        if doc.get("reverse_charge") and (self.supply not in ("B2B", *SEZ) or buyer_type == "ISD"):  # G26
            self.error("REVERSE_CHARGE_NOT_ALLOWED", "reverse_charge")
        if doc.get("exclude_tax_from_total") and self.supply != "EXPWP":  # G44
            self.error("EXCLUDE_TAX_NOT_ALLOWED", "exclude_tax_from_total")

    def is_rsp(self, item: dict, line: dict) -> bool:  # G35
        hsn = item["hsn"]
        named = hsn_matches(hsn, RSP_GOODS) and not hsn.startswith(RSP_NOT)
        return line["gst_rate"] == 40 and self.tax_date >= "2026-02-01" and named

    def line_semantics(self, item: dict, line: dict, path: str) -> None:
        hsn = item["hsn"]
        aato = Decimal(self.seller.get("aato_crore") or "0")
        if len(hsn) == 4 and aato > 5:  # G30
            self.error("HSN_TOO_SHORT", f"{path}.hsn")
        if bool(item.get("is_service")) != hsn.startswith("99"):  # G31
            self.error("HSN_SERVICE_MISMATCH", f"{path}.hsn")
        if line["qty"] == 0:  # G32
            if not self.is_note:
                self.error("QTY_NOT_POSITIVE", f"{path}.qty")
            elif line["gross"] is None:
                self.error("GROSS_REQUIRED", f"{path}.gross")
        if item.get("unit") and item["unit"] not in UNITS:
            self.error("UQC_INVALID", f"{path}.unit")
        rate_fault = self.rate_fault(line["gst_rate"], hsn)  # G33
        if rate_fault:
            self.error(rate_fault, f"{path}.gst_rate")
        for key in ("cess_rate", "cess_per_unit", "cess_nonadvol"):  # G34
            if line[key]:
                if self.tax_date >= CESS_ENDED:
                    self.error("CESS_NOT_IN_FORCE", f"{path}.{key}")
                elif self.tax_date >= CESS_NARROWED and not hsn_matches(hsn, CESS_GOODS):
                    self.error("CESS_HSN_NOT_LIABLE", f"{path}.{key}")
        if rate_fault is None:  # G35, G70
            if self.is_rsp(item, line) and line["rsp"] is None:
                self.error("RSP_REQUIRED", f"{path}.rsp")
            if not self.is_rsp(item, line) and line["rsp"] is not None:
                self.error("RSP_NOT_APPLICABLE", f"{path}.rsp")

    def rate_fault(self, rate: Decimal, hsn: str) -> str | None:
        rows = [row for row in RATES if row["rate"] == rate]
        if not rows:
            return "GST_RATE_UNKNOWN"
        day = self.tax_date
        rows = [row for row in rows if row["valid_from"] <= day and (not row["valid_to"] or day <= row["valid_to"])]
        if not rows:
            return "GST_RATE_NOT_IN_FORCE"
        if any(not row["hsn_prefixes"] or hsn_matches(hsn, row["hsn_prefixes"].split("|")) for row in rows):
            return None
        return "GST_RATE_HSN_MISMATCH"

    # -- phase 3

    def agrees(self, calculated: Decimal, claim: Decimal | None) -> bool:  # G51
        if claim is None or self.mode == "compute":
            return True
        if self.mode == "strict":
            return claim == calculated
        low = calculated.to_integral_value(rounding=ROUND_FLOOR) - RUPEE
        high = calculated.to_integral_value(rounding=ROUND_CEILING) + RUPEE
        return low <= claim <= high

    def used(self, calculated: Decimal, claim: Decimal | None) -> Decimal:
        return claim if self.mode == "nic" and claim is not None else calculated

    def arithmetic(self) -> dict:
        self.inter = (  # G24
            self.supply in SEZ + EXPORTS
            or self.seller.get("taxpayer_type") == "SEZ"
            or bool(self.doc.get("igst_on_intra"))
            or self.seller.get("state") != self.buyer.get("pos")
        )
        results = [
            self.line_arithmetic(item, line, f"items[{index}]")
            for index, (item, line) in enumerate(zip(self.items, self.lines, strict=True))
        ]
        if any(result is None for result in results):
            return {}
        totals = self.totals_arithmetic(results)
        return {"inter_state": self.inter, "lines": results, "totals": totals}

    def line_arithmetic(self, item: dict, line: dict, path: str) -> dict | None:
        """The line's figures; None if it was stopped. Overflow replaces the line's other errors (G49)."""
        errors: set[tuple[str, str]] = set()
        nic, strict = self.mode == "nic", self.mode == "strict"
        claims = line if self.mode != "compute" else dict.fromkeys(line)
        wop = self.supply in WITHOUT_PAYMENT
        rsp = self.is_rsp(item, line) and line["rsp"] is not None
        out: dict[str, Decimal] = {}

        def overflow(field: str) -> None:
            self.errors.add(("AMOUNT_OVERFLOW", f"{path}.{field}"))

        # G37, G32
        if self.is_note and line["qty"] == 0:
            gross = line["gross"]
        elif nic and claims["gross"] is not None:
            gross = claims["gross"]
        else:
            gross = half_up(line["unit_price"] * (line["qty"] if line["qty"] is not None else 1))
            if gross > ITEM_MAX:
                return overflow("gross")
            if strict and claims["gross"] is not None and claims["gross"] != gross:
                errors.add(("GROSS_MISMATCH", f"{path}.gross"))
        out["gross"] = gross

        # G38
        discount = line["discount"] or ZERO
        if discount > gross:
            errors.add(("DISCOUNT_EXCEEDS_GROSS", f"{path}.discount"))
            self.errors |= errors
            return None
        if not self.agrees(gross - discount, claims["taxable"]):
            errors.add(("TAXABLE_MISMATCH", f"{path}.taxable"))
        taxable = out["taxable"] = self.used(gross - discount, claims["taxable"])

        # G35, G39, G40, G41
        units = line["qty"] if line["qty"] is not None else Decimal(1)
        rate = line["gst_rate"]
        if rsp:
            whole, half = units * line["rsp"] * rate / (100 + rate), units * line["rsp"] * rate / 2 / (100 + rate)
        else:
            whole, half = taxable * rate / 100, taxable * rate / 200
        tax_unchecked = nic and (self.is_note or rsp)
        for head in ("igst", "cgst", "sgst"):
            claim = claims[head]
            if wop:
                if claim:
                    errors.add(("TAX_ON_WITHOUT_PAYMENT", f"{path}.{head}"))
                out[head] = ZERO
            elif (head == "igst") != self.inter:
                if claim:
                    code = "CGST_SGST_NOT_ALLOWED_INTER" if self.inter else "IGST_NOT_ALLOWED_INTRA"
                    errors.add((code, f"{path}.{head}"))
                out[head] = ZERO
            elif tax_unchecked and claim is not None:
                out[head] = claim
            else:
                calculated = half_up(whole if head == "igst" else half)
                if calculated > ITEM_MAX:
                    return overflow(head)
                if not self.agrees(calculated, claim):
                    errors.add(("TAX_AMOUNT_MISMATCH", f"{path}.{head}"))
                out[head] = self.used(calculated, claim)
        if claims["cgst"] is not None and claims["sgst"] is not None and claims["cgst"] != claims["sgst"]:
            errors.add(("CGST_SGST_UNEQUAL", f"{path}.sgst"))

        # G42, G43
        per_unit = line["cess_per_unit"]
        if wop and per_unit is None and line["cess_nonadvol"]:
            errors.add(("TAX_ON_WITHOUT_PAYMENT", f"{path}.cess_nonadvol"))
        formed = (
            ("cess", taxable * (line["cess_rate"] or 0) / 100, "CESS_AMOUNT_MISMATCH"),
            ("cess_nonadvol", units * (per_unit or 0), "CESS_AMOUNT_MISMATCH"),
            ("state_cess", taxable * (line["state_cess_rate"] or 0) / 100, "STATE_CESS_AMOUNT_MISMATCH"),
        )
        for field, exact, code in formed:
            claim = claims[field]
            if field == "cess_nonadvol" and per_unit is None:
                out[field] = ZERO if wop else line[field] or ZERO
            elif wop:
                if not (nic and self.is_note) and not self.agrees(ZERO, claim):
                    errors.add((code, f"{path}.{field}"))
                out[field] = ZERO
            elif nic and self.is_note and claim is not None:
                out[field] = claim
            else:
                calculated = half_up(exact)
                if calculated > ITEM_MAX:
                    return overflow(field)
                if not self.agrees(calculated, claim):
                    errors.add((code, f"{path}.{field}"))
                out[field] = self.used(calculated, claim)
        out["state_cess_nonadvol"] = ZERO if wop else line["state_cess_nonadvol"] or ZERO
        out["other_charges"] = line["other_charges"] or ZERO

        # G44
        without = taxable + out["other_charges"]
        taxes = sum(out[key] for key in ("igst", "cgst", "sgst", "cess", "cess_nonadvol"))
        taxes += out["state_cess"] + out["state_cess_nonadvol"]
        reverse = bool(self.doc.get("reverse_charge"))
        left_out = reverse or (self.supply == "EXPWP" and bool(self.doc.get("exclude_tax_from_total")))
        calculated = without if left_out else without + taxes
        claim = claims["total"]
        if nic and rsp and claim is not None:
            out["total"] = claim
        else:
            if calculated > ITEM_MAX:
                return overflow("total")
            either = nic and (reverse or self.supply == "EXPWP")
            fits = self.agrees(calculated, claim)
            fits = fits or (either and (self.agrees(without, claim) or self.agrees(without + taxes, claim)))
            if not fits:
                errors.add(("LINE_TOTAL_MISMATCH", f"{path}.total"))
            out["total"] = self.used(calculated, claim)
        self.errors |= errors
        return {key: f"{value:.2f}" for key, value in out.items()}

    def totals_arithmetic(self, lines: list[dict]) -> dict:
        claims = self.totals if self.mode != "compute" else dict.fromkeys(self.totals)
        column = {key: sum((Decimal(line[key]) for line in lines), ZERO) for key in lines[0]}
        column["cess"] += column["cess_nonadvol"]
        column["state_cess"] += column["state_cess_nonadvol"]
        out, errors = {}, set()
        codes = {"taxable": "TOTAL_TAXABLE_MISMATCH", "cess": "TOTAL_CESS_MISMATCH"}
        codes["state_cess"] = "TOTAL_STATE_CESS_MISMATCH"
        for key in ("taxable", "igst", "cgst", "sgst", "cess", "state_cess"):  # G45, G49
            if column[key] > DOCUMENT_MAX:
                self.error("AMOUNT_OVERFLOW", f"totals.{key}")
                return {}
            if not self.agrees(column[key], claims[key]):
                errors.add((codes.get(key, "TOTAL_TAX_MISMATCH"), f"totals.{key}"))
            out[key] = self.used(column[key], claims[key])
        out["discount"], out["other_charges"] = self.totals["discount"] or ZERO, self.totals["other_charges"] or ZERO
        before = column["total"] + out["other_charges"]
        if out["discount"] > 0 and out["discount"] >= before:  # G46
            self.errors |= errors | {("DISCOUNT_EXCEEDS_TOTAL", "totals.discount")}
            return {}
        before -= out["discount"]
        given = self.totals["round_off"]
        if self.given_totals.get("round_off_mode") == "NEAREST_RUPEE":  # G47
            nearest = before.quantize(RUPEE, rounding=ROUND_HALF_UP) - before
            if claims["round_off"] is not None and claims["round_off"] != nearest:
                errors.add(("ROUND_OFF_MISMATCH", "totals.round_off"))
            out["round_off"] = self.used(nearest, claims["round_off"])
        else:
            out["round_off"] = given or ZERO
        total = before + out["round_off"]  # G48
        if total > DOCUMENT_MAX:
            self.error("AMOUNT_OVERFLOW", "totals.total")
            return {}
        if total < 0:
            errors.add(("NEGATIVE_TOTAL", "totals.total"))
        elif not self.agrees(total, claims["total"]):
            errors.add(("DOCUMENT_TOTAL_MISMATCH", "totals.total"))
        out["total"] = self.used(total, claims["total"])
        creditable = self.original.get("creditable")
        if self.type == "CRN" and creditable is not None and out["total"] > creditable:  # G19
            errors.add(("CREDIT_EXCEEDS_ORIGINAL", "totals.total"))
        self.errors |= errors
        return {key: f"{value:.2f}" for key, value in out.items()}


def judge(document: dict, mode: str, today: str | None) -> tuple[set[tuple[str, str]], dict | None]:
    """The set of (code, path) of the first phase with any (G52), or an empty set and the figures."""
    one = Judge(document, mode, today)
    one.structure()
    if not one.errors:
        one.semantics()
    computed = None if one.errors else one.arithmetic()
    return one.errors, None if one.errors else computed
