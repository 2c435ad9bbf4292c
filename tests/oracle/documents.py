"""Makes documents that reach the boundaries: half paise, limits, days of change, wrong heads, bands, broken texts.

`Documents(seed)` gives the same documents for the same seed. Most start lawful; then some are bent, and lawful ones get
claims that are right, off by a paisa, or at the edge of the band.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from decimal import Decimal

from .gst_oracle import ALPHABET, EXPORTS, PAISA, SEZ, SUPPLY_TYPES, check_character, judge

TODAY = "2026-11-22"
# The days around which the law changes, and ordinary ones.
DATES = (
    ["2017-06-30", "2017-07-01", "2017-10-22", "2017-10-23", "2019-03-31", "2019-04-01", "2019-10-30", "2019-10-31"]
    + ["2020-07-31", "2020-08-01", "2022-03-31", "2022-04-01", "2024-02-29", "2025-03-31", "2025-11-30", "2025-12-01"]
    + ["2025-09-21", "2025-09-22", "2026-01-31", "2026-02-01", "2026-11-22", "2026-11-23"]
    + ["2025-10-10", "2025-12-15", "2026-04-01", "2026-06-30"] * 5
)
STATES = ["27", "29", "24", "07", "33", "04", "97", "38", "25", "26", "28", "01", "37"]
PLACES = [*STATES, "96", "99", "39", "", "9"]
GOODS = ["610910", "6109", "61091000", "3004", "220210", "870322", "84713010", "71131910", "270112", "0713", "69041000"]
TOBACCO = ["24022090", "2402", "24039910", "24031921", "24031929", "240319", "2403", "24041100", "2404", "24041900"]
TOBACCO += ["21069020", "2106", "210690", "24012090", "6815", "6901"]
SERVICES = ["998314", "9983", "99831400", "999900", "995411"]
RATES = ["0", "0.1", "0.25", "1", "1.5", "3", "5", "6", "7.5", "12", "18", "28", "40"]
ODD_RATES = ["0.5", "9", "17", "18.001", "999.999", "2.5"]
UNITS = ["NOS", "KGS", "BOX", "PAC", "MTR", "GMS", "LTR"]
BROKEN_NUMBERS = ["", "+5", "05", "5.", ".5", "1e3", "1,000", " 1", "-1", "-0.001", "0.0001", "1000000000000.00", "abc"]
BROKEN_NUMBERS += ["-0", "-0.00", "1.000000", "99999999999999999999", "１", "1.2.3", "--1", "1_000"]
ITEM_CLAIMS = ["gross", "taxable", "igst", "cgst", "sgst", "cess", "state_cess", "total"]
TOTAL_CLAIMS = ["taxable", "igst", "cgst", "sgst", "cess", "state_cess", "total"]

Case = tuple[dict, str, str | None]


class Documents:
    """An endless, repeatable stream of (document, mode, today)."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __iter__(self) -> Iterator[Case]:
        while True:
            yield from self.cases()

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def one_of(self, values):
        return values[int(self.random.random() * len(values))]

    def cases(self) -> Iterator[Case]:
        """One document to be computed; if it is lawful, the same with claims in strict and nic."""
        document = self.lawful()
        if self.chance(0.35):
            for _ in range(self.one_of((1, 1, 1, 2, 4))):
                self.bend(document)
        today = self.one_of((TODAY, TODAY, None))
        errors, computed = judge(document, "compute", today)
        yield document, "compute", today
        if errors:
            if self.chance(0.3):
                yield document, self.one_of(("strict", "nic")), today
            return
        for mode in ("strict", "nic"):
            claimed = copy.deepcopy(document)
            self.claim(claimed, computed)
            if self.chance(0.6):
                for _ in range(self.one_of((1, 1, 2, 3))):
                    self.misstate(claimed, computed)
            yield claimed, mode, today

    # ---- lawful documents

    def gstin(self, state: str, kind: str = "REGULAR") -> str:
        letters = "".join(self.one_of(ALPHABET[10:]) for _ in range(5))
        digits = f"{self.random.randrange(10_000):04}"
        if kind == "TCS":
            first14 = f"{state}{letters}{digits}{letters[0]}1C"
        elif kind == "TDS":
            first14 = f"{state}{letters}{digits}{letters[0]}2D"
        elif kind in ("NRI", "UIN", "OIDAR"):
            tail = {"NRI": "NR", "UIN": self.one_of(("UN", "ON")), "OIDAR": "OS"}[kind]
            state = "99" if kind == "OIDAR" else state
            first14 = f"{state}17{letters[:3]}{digits}7{tail}"
        else:
            last = self.one_of("ZZZZZ1ABDJ")
            first14 = f"{state}{letters}{digits}{letters[0]}{self.one_of('123AZ')}{last}"
        return first14 + check_character(first14)

    def lawful(self) -> dict:
        supply = self.one_of((*SUPPLY_TYPES, "B2B", "B2B", "B2C"))
        kind = self.one_of(("INV", "INV", "INV", "CRN", "DBN"))
        date = self.one_of(DATES)
        seller_state = self.one_of(STATES[:8])
        buyer_state = seller_state if self.chance(0.5) else self.one_of(STATES[:8])
        document: dict = {
            "supply_type": supply,
            "doc_type": kind,
            "number": self.one_of(("A1", "INV/25-26/001", "ABCDEFGHIJ/12345", "a-1/")),
            "date": date,
            "seller": {"gstin": self.gstin(seller_state), "state": seller_state},
            "buyer": self.buyer(supply, buyer_state),
        }
        if self.chance(0.08):
            document["seller"]["aato_crore"] = self.one_of(("5", "5.00", "4.99", "0"))
        if self.chance(0.05):
            document["seller"]["taxpayer_type"] = "SEZ"
        if supply in ("B2B", *SEZ) and self.chance(0.15):
            document["reverse_charge"] = True
            document["igst_on_intra"] = document["buyer"]["pos"] == seller_state and self.chance(0.5)
        if supply == "EXPWP" and self.chance(0.4):
            document["exclude_tax_from_total"] = True
        if self.chance(0.05):
            document["ecommerce_gstin"] = self.gstin("29", "TCS")
        if self.chance(0.1):
            document["tax_point"] = self.one_of(DATES)
        if kind != "INV":
            document["original"] = {"number": "A0", "date": date if self.chance(0.7) else self.one_of(DATES)}
            if self.chance(0.2):
                document["original"]["creditable"] = self.one_of(("118.00", "117.99", "0", "99999999999999.99"))
        tax_date = document.get("tax_point") or document.get("original", {}).get("date") or date
        count = self.one_of((1, 1, 1, 2, 2, 3, 5))
        if self.chance(0.002):
            count = self.one_of((40, 120))
        document["items"] = [self.item(serial, kind, tax_date) for serial in range(1, count + 1)]
        if self.chance(0.5):
            document["totals"] = self.totals()
        return document

    def buyer(self, supply: str, state: str) -> dict:
        if supply in EXPORTS:
            return {"gstin": "URP", "state": "96", "pos": "96"}
        pos = state if self.chance(0.8) else self.one_of(STATES[:8])
        if supply == "B2C":
            return {"gstin": self.one_of(("URP", "", None)), "state": state, "pos": pos}
        kind = self.one_of(("REGULAR",) * 12 + ("UIN", "TDS", "TCS"))
        buyer = {"gstin": self.gstin(state, kind), "state": state, "pos": pos}
        if supply in SEZ:
            buyer["taxpayer_type"] = "SEZ"
        elif self.chance(0.05):
            buyer["taxpayer_type"] = self.one_of(("COMP", "REGULAR"))
        return buyer

    def item(self, serial: int, kind: str, tax_date: str) -> dict:
        is_service = self.chance(0.2)
        hsn = self.one_of(SERVICES if is_service else TOBACCO if self.chance(0.3) else GOODS)
        item = {
            "sl": str(serial),
            "is_service": is_service,
            "hsn": hsn,
            "unit_price": self.price(),
            "gst_rate": self.rate(hsn, tax_date),
        }
        if not is_service or self.chance(0.3):
            item |= {"qty": self.quantity(), "unit": self.one_of(UNITS)}
        if kind != "INV" and "qty" in item and self.chance(0.1):
            item |= {"qty": "0", "gross": self.amount()}
        if self.chance(0.25):
            item["discount"] = self.one_of(("0", "0.01", "0.50", "1.00", self.amount()))
        if self.chance(0.12):
            item["other_charges"] = self.amount()
        if self.chance(0.1):
            item["state_cess_rate"] = self.one_of(("1", "0.125", "0", "2.5"))
        if self.chance(0.06):
            item["state_cess_nonadvol"] = self.amount()
        may_cess = tax_date < "2025-09-22" or (tax_date < "2026-02-01" and hsn.startswith(("24", "2106")))
        if (may_cess and self.chance(0.35)) or self.chance(0.01):
            item |= self.one_of(
                (
                    {"cess_rate": self.one_of(("5", "12", "0.5", "290", "0"))},
                    {"cess_per_unit": self.one_of(("2.076", "400", "0.005", "0"))},
                    {"cess_rate": "5", "cess_per_unit": "2.076"},
                    {"cess_nonadvol": self.amount()},
                )
            )
        is_rsp = tax_date >= "2026-02-01" and item["gst_rate"] == "40" and hsn.startswith(("24", "2106"))
        if is_rsp and self.chance(0.9):
            item["rsp"] = self.one_of(("100.00", "12", "0.01", "7.35", "999999999999.99"))
        return item

    def rate(self, hsn: str, tax_date: str) -> str:
        if self.chance(0.03):
            return self.one_of(RATES + ODD_RATES)
        if hsn.startswith(("24", "2106")):
            return "40" if tax_date >= "2026-02-01" else "28"
        if tax_date < "2025-09-22":
            return self.one_of(("0", "5", "12", "18", "28", "3", "0.25"))
        return self.one_of(("0", "0.1", "0.25", "1.5", "3", "5", "18", "40"))

    def quantity(self) -> str:
        shape = self.random.random()
        if shape < 0.4:
            return self.one_of(("1", "2", "3", "10", "1000", "0.5", "0.001", "1.000", "0.333", "12.500"))
        if shape < 0.98:
            places = self.one_of((0, 1, 3))
            return f"{Decimal(self.random.randrange(1, 10**6)).scaleb(-places):f}"
        return self.one_of(("9999999999.999", "9999999999", "1000000.001"))

    def price(self) -> str:
        shape = self.random.random()
        if shape < 0.35:  # where taxes land on half a paisa
            return self.one_of(("0.10", "0.09", "0.50", "0.30", "7.60", "100", "1302.800", "0.005", "62.51", "0.001"))
        if shape < 0.97:
            places = self.one_of((0, 2, 3))
            return f"{Decimal(self.random.randrange(0, 10**7)).scaleb(-places):f}"
        return self.one_of(("999999999999.999", "999999999999.99", "0", "847457627118.64", "99999999999.99"))

    def amount(self) -> str:
        return f"{Decimal(self.random.randrange(0, 10_000)).scaleb(-2):f}"

    def totals(self) -> dict:
        totals: dict = {}
        if self.chance(0.2):
            totals["discount"] = self.one_of(("0", "0.01", "30.00", "118.00", self.amount(), "99999999999999.99"))
        if self.chance(0.25):
            totals["other_charges"] = self.one_of((self.amount(), "100", "99999999999999.99"))
        shape = self.random.random()
        if shape < 0.4:
            totals["round_off_mode"] = "NEAREST_RUPEE"
        elif shape < 0.6:
            totals["round_off"] = self.one_of(("0.50", "-0.50", "-99.99", "99.99", "-2.00", "-0", "0.01"))
            totals["round_off_mode"] = self.one_of(("NONE", None, None))
        return totals

    # ---- claims

    def claim(self, document: dict, computed: dict) -> None:
        """Right figures, all or some of them."""
        all_of_them = self.chance(0.4)
        for item, figures in zip(document["items"], computed["lines"], strict=True):
            for key in ITEM_CLAIMS:
                if all_of_them or self.chance(0.5):
                    item[key] = figures[key]
            if "cess_per_unit" in item and self.chance(0.7):
                item["cess_nonadvol"] = figures["cess_nonadvol"]
        totals = document.setdefault("totals", {})
        for key in TOTAL_CLAIMS:
            if all_of_them or self.chance(0.5):
                totals[key] = computed["totals"][key]
        if totals.get("round_off_mode") == "NEAREST_RUPEE" and self.chance(0.6):
            totals["round_off"] = computed["totals"]["round_off"]

    def misstate(self, document: dict, computed: dict) -> None:
        """Moves one claim: by a paisa, by a rupee, to the edge of the band, to another head, to nothing."""
        if self.chance(0.3):
            holder, keys, figures = document["totals"], [*TOTAL_CLAIMS, "round_off"], computed["totals"]
        else:
            at = self.random.randrange(len(document["items"]))
            holder, keys, figures = document["items"][at], [*ITEM_CLAIMS, "cess_nonadvol"], computed["lines"][at]
        key = self.one_of(keys)
        right = Decimal(figures[key])
        whole = right.to_integral_value(rounding="ROUND_FLOOR")
        ceiling = right.to_integral_value(rounding="ROUND_CEILING")
        wrong = self.one_of(
            (
                *(right + PAISA, right - PAISA, right + 1, right - 1, Decimal(0), right * 2, Decimal(18)),
                *(whole - 1, whole - 1 - PAISA, ceiling + 1, ceiling + 1 + PAISA),
            )
        )
        holder[key] = f"{abs(wrong):.2f}" if key != "round_off" else f"{wrong:.2f}"
        if self.chance(0.1) and "igst" in holder:
            holder["igst"], holder["cgst"] = holder.get("cgst"), holder["igst"]

    # ---- unlawful documents

    def bend(self, document: dict) -> None:
        """Breaks something, somewhere."""
        getattr(self, self.one_of(BENDS))(document)

    def bend_header(self, document: dict) -> None:
        key, values = self.one_of(
            (
                ("supply_type", [*SUPPLY_TYPES, "SEZ", None, "b2b", ""]),
                ("doc_type", ["INV", "CRN", "DBN", "BIL", None, "inv"]),
                ("number", [None, "", "ABCDEFGHIJKLMNOPQ", "0A", "/A", "-A", "A B", "É1", "A" * 16, "A_1", "A1\n"]),
                ("date", [None, "2025-02-29", "10/10/2025", "2027-01-01", "2016-01-01", *DATES]),
                ("tax_point", ["2025-13-01", "", *DATES]),
                ("reverse_charge", [True, False]),
                ("igst_on_intra", [True, False]),
                ("exclude_tax_from_total", [True]),
                ("ecommerce_gstin", ["29AABCR1718E1ZL", "URP", "29AABCF8078M1C8", ""]),
                ("items", [[], None]),
            )
        )
        document[key] = self.one_of(values)

    def bend_party(self, document: dict) -> None:
        if self.chance(0.03):
            document["buyer"] |= {key: document["seller"][key] for key in ("gstin", "state")}
            return
        party = document[self.one_of(("seller", "buyer"))]
        key = self.one_of(("gstin", "gstin", "state", "pos", "taxpayer_type", "aato_crore"))
        if key == "gstin":
            party["gstin"] = self.broken_gstin(party.get("gstin") or "27AAPFU0939F1ZV")
        elif key == "taxpayer_type":
            party[key] = self.one_of(("SEZ", "ISD", "COMP", None, "ALIEN"))
        elif key == "aato_crore":
            party[key] = self.one_of(("5.01", "5.000000001", "500", "-1", "x", "5.0000000001"))
        else:
            party[key] = self.one_of(PLACES)

    def broken_gstin(self, text: str) -> str | None:
        shape = self.random.randrange(6)
        if shape == 0:
            return self.one_of((None, "", "URP", "urp", "96AAACI1681G1ZK", "02AMBPG7773M002", "00AABCE2207R1Z5"))
        if shape == 1:
            kind = self.one_of(("TDS", "TCS", "NRI", "UIN", "OIDAR", "REGULAR"))
            return self.gstin(self.one_of(STATES), kind)
        if shape == 2:
            return text + "V" if self.chance(0.5) else text[:-1]
        if shape == 3:
            return text.lower()
        at = self.random.randrange(len(text))
        return text[:at] + self.one_of(ALPHABET + "éa ") + text[at + 1 :]

    def bend_original(self, document: dict) -> None:
        document["original"] = self.one_of(
            (
                None,
                {},
                {"number": "A0"},
                {"date": "2025-10-10"},
                {"number": "A0", "date": "2025-02-30"},
                {"number": "A0", "date": self.one_of(DATES)},
                {"number": "", "date": self.one_of(DATES), "value": "-5"},
                {"number": "A0", "date": self.one_of(DATES), "creditable": self.one_of(("1.005", "100.00", "x"))},
            )
        )

    def bend_item(self, document: dict) -> None:
        if not document.get("items"):
            return
        if self.chance(0.01):
            document["items"] = [
                document["items"][0] | {"sl": str(serial)} for serial in range(1, self.one_of((1001, 1002)))
            ]
            return
        item = self.one_of(document["items"])
        key, values = self.one_of(
            (
                ("sl", ["", None, "1", "01", "1A", "1234567", "000001", "１"]),
                ("hsn", ["", None, "0000", "61091", "00000000", "6109100", "x", *GOODS, *TOBACCO, *SERVICES]),
                ("unit", ["", None, "EA", "nos", "NOSX", "NOS "]),
                ("is_service", [True, False, None]),
                ("qty", [None, "0", "0.000"]),
                ("unit_price", [None, "0"]),
                ("gst_rate", [None, *RATES, *ODD_RATES]),
                ("rsp", [None, "100.00", "0"]),
                ("cess_rate", ["5", "0", "999.999"]),
                ("cess_per_unit", ["2.076", "0", "999999999999.999"]),
                ("cess_nonadvol", ["5.00", "0", "0.00"]),
                ("state_cess_rate", ["999.999", "0"]),
                ("other_charges", ["999999999999.99"]),
            )
        )
        item[key] = self.one_of(values)

    def bend_number(self, document: dict) -> None:
        if self.chance(0.3) or not document.get("items"):
            holder, keys = document.setdefault("totals", {}), ["discount", "other_charges", "round_off", *TOTAL_CLAIMS]
            if self.chance(0.1):
                holder["round_off_mode"] = self.one_of(("UP", "", "NONE", "nearest_rupee"))
        else:
            holder = self.one_of(document["items"])
            keys = ["qty", "unit_price", "gst_rate", "discount", "rsp", "cess_nonadvol", *ITEM_CLAIMS]
        holder[self.one_of(keys)] = self.one_of([*BROKEN_NUMBERS, 5, 1.5, True, "100.00", "-99.995"])


BENDS = ("bend_header", "bend_party", "bend_party", "bend_original", "bend_item", "bend_item", "bend_number")


def lawful_documents(seed: int) -> Iterator[dict]:
    """Lawful documents of a stream, some notes with the original's value around the B2CL limits."""
    stream = Documents(seed)
    for document, mode, _ in stream:
        if mode != "compute" or judge(document, mode, None)[0] or len(document["items"]) > 20:
            continue
        if document["doc_type"] != "INV" and stream.chance(0.5):
            values = ("100000.00", "100000.01", "250000.00", "250000.01")
            document["original"] |= {"value": stream.one_of(values)}
        yield document
