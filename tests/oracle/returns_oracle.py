"""RULES G62 to G67 read a second time: GSTR-1 sections, GSTR-3B and the HSN summary of lawful documents."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from .gst_oracle import REGISTERED, gstin, judge

WITH_NIL_TABLE = ("B2B", "B2C", "DEXP")
SUMS = {
    "txval": ("taxable",),
    "iamt": ("igst",),
    "camt": ("cgst",),
    "samt": ("sgst",),
    "csamt": ("cess", "cess_nonadvol"),
}
INV_TYP = {"B2B": "R", "SEZWP": "SEWP", "SEZWOP": "SEWOP", "DEXP": "DE"}


def rate_text(rate: str) -> str:
    text = f"{Decimal(rate) + 0:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_nil(document: dict, item: dict) -> bool:
    return document["supply_type"] in WITH_NIL_TABLE and Decimal(item["gst_rate"]) == 0


def nil_type(document: dict, inter: bool) -> str:
    return ("INTR" if inter else "INTRA") + ("B2C" if document["supply_type"] == "B2C" else "B2B")


def taxed_section(document: dict, computed: dict) -> tuple[str, str, str | None]:
    """(section, table, type) of a document with taxed lines (G62, G63)."""
    supply, note = document["supply_type"], document["doc_type"] != "INV"
    if supply in REGISTERED:
        table = {"B2B": "4B" if document.get("reverse_charge") else "4A", "DEXP": "6C"}.get(supply, "6B")
        return ("cdnr", "9B", INV_TYP[supply]) if note else ("b2b", table, INV_TYP[supply])
    if supply in ("EXPWP", "EXPWOP"):
        return ("cdnur", "9B", supply) if note else ("exp", "6A", "WPAY" if supply == "EXPWP" else "WOPAY")
    original = document.get("original") or {}
    date = original.get("date") if note else document["date"]
    value = Decimal(original["value"]) if note and original.get("value") else Decimal(computed["totals"]["total"])
    limit = Decimal(100_000) if date >= "2024-08-01" else Decimal(250_000)
    if computed["inter_state"] and value > limit:
        return ("cdnur", "9B", "B2CL") if note else ("b2cl", "5", None)
    return "b2cs", "7", "OE"


def classify(document: dict) -> dict:
    _, computed = judge(document, "compute", None)
    if all(is_nil(document, item) for item in document["items"]):
        section, table, typ = "nil", "8", nil_type(document, computed["inter_state"])
    else:
        section, table, typ = taxed_section(document, computed)
    return {"section": section, "table": table, "typ": typ, "total": computed["totals"]["total"]}


def summarise(documents: list[dict]) -> dict:
    """What a seller reports for these lawful documents, as the vectors write it."""
    sections: dict = defaultdict(lambda: [0, defaultdict(Decimal)])
    parts: dict = defaultdict(lambda: defaultdict(Decimal))
    details: dict = {name: defaultdict(lambda: defaultdict(Decimal)) for name in ("unreg", "comp", "uin")}
    hsn: dict = defaultdict(lambda: defaultdict(Decimal))
    for document in documents:
        _, computed = judge(document, "compute", None)
        sign = -1 if document["doc_type"] == "CRN" else 1
        supply, inter, reached = document["supply_type"], computed["inter_state"], set()
        section, _, typ = taxed_section(document, computed)
        for item, figures in zip(document["items"], computed["lines"], strict=True):
            line = {name: sign * sum(Decimal(figures[key]) for key in keys) for name, keys in SUMS.items()}
            key = (
                f"nil:{nil_type(document, inter)}" if is_nil(document, item) else f"{section}:{typ}" if typ else section
            )
            reached.add(key)
            add(sections[key][1], line)
            side = "b2b" if supply in REGISTERED else "b2c"
            service = bool(item.get("is_service"))
            row = hsn[(side, item["hsn"], "NA" if service else item["unit"], rate_text(item["gst_rate"]))]
            add(row, line | {"qty": sign * Decimal(0 if service else item["qty"])})
            if supply not in WITH_NIL_TABLE:
                add(parts["zero"], line)
            elif is_nil(document, item):
                add(parts["nil"], line)
            elif not document.get("reverse_charge"):
                add(parts["det"], line)
                who = buyer_class(document)
                if inter and who:
                    add(details[who][document["buyer"]["pos"]], line)
        for key in reached:
            sections[key][0] += 1
    inter_sup = {
        f"{who}_details": [{"pos": pos} | texts(row, ("txval", "iamt")) for pos, row in sorted(details[who].items())]
        for who in details
    }
    return {
        "gstr1_sections": {key: {"count": count} | texts(row, SUMS) for key, (count, row) in sections.items()},
        "gstr3b": {
            "osup_det": texts(parts["det"], SUMS),
            "osup_zero": texts(parts["zero"], ("txval", "iamt", "csamt")),
            "osup_nil_exmp": texts(parts["nil"], ("txval",)),
            "inter_sup": inter_sup,
        },
        "hsn": [
            {"side": side, "hsn_sc": code, "uqc": uqc, "rt": rate, "qty": f"{row['qty']:.3f}"} | texts(row, SUMS)
            for (side, code, uqc, rate), row in sorted(hsn.items())
        ],
    }


def buyer_class(document: dict) -> str | None:
    """Whom table 3.2 asks for (G67)."""
    if document["supply_type"] == "B2C":
        return "unreg"
    if document["buyer"].get("taxpayer_type") == "COMP":
        return "comp"
    return "uin" if gstin(document["buyer"].get("gstin"))[0] == "UIN" else None


def add(row: dict, line: dict) -> None:
    for name, value in line.items():
        row[name] += value


def texts(row: dict, names) -> dict[str, str]:
    return {name: f"{row[name] + 0:.2f}" for name in names}
