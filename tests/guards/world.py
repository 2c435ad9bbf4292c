"""A database in which every row has neighbours that differ from it in one thing only, and what a statement does to it.

Ids are made from words, so that rows can be named: `id_("A")` is merchant A. Everything happens in a transaction that
is rolled back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg

PRINT = bytes(range(32))
NOT_LOOKED_AT = {"create_time", "update_time", "seq"}
KEYS = {
    "decision": ("merchant_id", "rid"),
    "invoice": ("merchant_id", "invoice_id"),
    "number_series": ("merchant_id", "seller_gstin", "doc_type", "financial_year", "prefix"),
    "stock": ("merchant_id", "sku"),
    "reservation": ("merchant_id", "reservation_id", "resolver"),
    "inbox": ("merchant_id", "consumer", "event_id"),
    "party": ("merchant_id",),
}
AMOUNTS = [f"{part}_paise" for part in ("taxable", "igst", "cgst", "sgst", "cess", "state_cess", "discount")]
AMOUNTS += ["other_charges_paise", "round_off_paise", "total_paise"]
DEFAULTS: dict[str, dict[str, Any]] = {
    "decision": {"operation": "invoice.create", "state": "OPEN", "attempt": 1, "fingerprint": PRINT, "fp_version": 1},
    "invoice": {
        "attempt": 1,
        "fingerprint": PRINT,
        "fp_version": 1,
        "doc_type": "INV",
        "seller_gstin": "G1",
        "financial_year": "2026-27",
        "supply_type": "B2B",
        "buyer_gstin": "",
        "inter_state": False,
        "takes_stock": True,
        "compliance_status": "COMPLIANT",
        "document": b"",
        "audit_head": bytes(32),
        **dict.fromkeys(AMOUNTS, 0),
    },
    "number_series": {"seller_gstin": "G1", "doc_type": "INV", "financial_year": "2026-27", "last_given": 7},
    "stock": {"unit": "NOS", "hsn": "7318", "on_hand_milli": 100, "reserved_milli": 50},
    "reservation": {"resolver": "INVOICE", "state": "PENDING", "attempt": 1, "fingerprint": PRINT},
    "inbox": {},
    "party": {
        "state": "27",
        "taxpayer_type": 1,
        "annual_turnover_paise": 0,
        "review": False,
        "party": b"",
        "version": 1,
    },
}
_words: dict[bytes, str] = {}


def id_(word: str) -> bytes:
    """The id that a word stands for."""
    made = hashlib.sha256(word.encode()).digest()[:16]
    _words[made] = word
    return made


def ids(words: Iterable[str]) -> list[bytes]:
    return [id_(word) for word in words]


def word(value: Any) -> Any:
    """The word of an id; anything else as it is."""
    return _words.get(value, value) if isinstance(value, bytes) else value


class World:
    """One connection inside a transaction, and the statements under test by name."""

    def __init__(self, connection: asyncpg.Connection, texts: dict[str, str]) -> None:
        self.connection, self._texts = connection, texts

    async def has(self, table: str, **columns: Any) -> None:
        """Inserts a row; words become ids in uuid columns, and what is not given is a default."""
        row = {**DEFAULTS[table], **columns}
        if table == "invoice":
            row.setdefault("rid", row["invoice_id"])
            row.setdefault("number", row["invoice_id"][-16:])
            row["number_key"] = row["number"].upper()
        if table == "reservation":
            row.setdefault("rid", row["reservation_id"])
            held = row["state"] != "RELEASED"
            row.setdefault("skus", ["S1"] if held else [])
            row.setdefault("quantities_milli", [5] if held else [])
        ages = {name: row.pop(name) for name in ("create_time", "update_time") if name in row}
        if table == "invoice":
            ages = {"create_time": 0, "update_time": 0, **ages}
        uuids = {"merchant_id", "rid", "invoice_id", "reservation_id", "event_id", "buyer_merchant_id"}
        values = [id_(v) if name in uuids and isinstance(v, str) else v for name, v in row.items()]
        marks = [f"${place}" for place in range(1, len(values) + 1)]
        marks += [f"now() - interval '{age} seconds'" for age in ages.values()]
        if table == "invoice":
            row["invoice_date"] = None
            marks.insert(len(values), "current_date")
        text = f"INSERT INTO {table} ({', '.join((*row, *ages))}) VALUES ({', '.join(marks)})"
        await self.connection.execute(text, *values)

    async def run(self, name: str, *args: Any) -> list[asyncpg.Record]:
        """Runs a statement and returns its rows."""
        return await self.connection.fetch(self._texts[name], *args)

    async def returned(self, name: str, *args: Any, of: str | Sequence[str]) -> list[Any]:
        """What a statement returns, sorted: one column, or tuples of several, ids as words."""
        columns = [of] if isinstance(of, str) else of
        rows = [tuple(word(row[column]) for column in columns) for row in await self.run(name, *args)]
        return sorted(row[0] if isinstance(of, str) else row for row in rows)

    async def changed(self, table: str, name: str, *args: Any) -> dict[tuple[Any, ...], dict[str, Any] | str]:
        """What a statement does to a table: key -> columns that changed, "new" or "gone"."""
        before = await self._dump(table)
        await self.run(name, *args)
        after = await self._dump(table)
        found: dict[tuple[Any, ...], dict[str, Any] | str] = dict.fromkeys(before.keys() - after.keys(), "gone")
        for key, row in after.items():
            if key not in before:
                found[key] = "new"
            elif changes := {column: v for column, v in row.items() if before[key][column] != v}:
                found[key] = changes
        return found

    async def _dump(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        rows = await self.connection.fetch(f"SELECT * FROM {table}")
        shown = [{k: word(v) for k, v in row.items() if k not in NOT_LOOKED_AT} for row in rows]
        return {tuple(row[column] for column in KEYS[table]): row for row in shown}
