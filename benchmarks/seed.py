"""Fills an invoice database by COPY: as many invoices as wanted, made by the engine and written as the service would.

Every seeded invoice is a true one: its request is checked, summed, named and hashed by the core, its audit entry is
linked and sealed, so that `invochain check` finds nothing. It is like an invoice that the service issued (the
template), with a number, a day and an id of its own; what does not differ from copy to copy is taken from the
template's rows as COPY's binary fields. Its line takes no stock, so there is nothing in the inventory; its events are
long published and its decision row purged, for it is older than eight days.

One transaction, without indexes: they are made again at its end.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import shutil
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from google.protobuf import json_format

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api

# On disk, of one invoice of one line with its row, line, audit entry and their indexes; and the log meanwhile.
BYTES_PER_INVOICE = 3_000
# Invoices of one batch of the engine: they share a moment.
BATCH = 1_000
# Batches a COPY.
COPIED = 50
MAGIC = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
END = struct.pack(">h", -1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
IST = dt.timezone(dt.timedelta(hours=5, minutes=30))
# PostgreSQL counts days and microseconds from 2000.
DAYS_TO_2000 = 10_957
US_TO_2000 = DAYS_TO_2000 * 86_400_000_000
# Decision rows are purged after eight days; seeded invoices are older, so they have none.
YOUNGEST_DAYS, OLDEST_DAYS = 9, 360
TABLES = ("invoice", "invoice_item", "audit_entry")
FIRST_NUMBER = "S/00000000"

Row = list[bytes | None]


def refuse_without_room(folder: Path, invoices: int) -> None:
    """Stops with words when the disk of `folder` is too small."""
    needed, free = invoices * BYTES_PER_INVOICE, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{invoices:,} invoices need {needed / 1e9:.0f} GB on {folder}; {free / 1e9:.0f} GB are free")


@dataclass
class Template:
    """A request like those of the seeded invoices, and the rows of the invoice it became."""

    merchant_id: bytes
    request: bytes
    rows: dict[str, Row]
    names: dict[str, list[str]]

    @classmethod
    async def of(cls, connection: asyncpg.Connection, invoice: dict[str, object], invoice_id: str) -> Template:
        """Of an issued invoice of one line whose request bore FIRST_NUMBER."""
        request = api.CreateInvoiceRequest(invoice=json_format.ParseDict(invoice, api.Invoice())).SerializeToString()
        rows, names = {}, {}
        for table in TABLES:
            out = io.BytesIO()
            query = f"SELECT * FROM {table} WHERE invoice_id = '{invoice_id}'"
            await connection.copy_from_query(query, output=out, format="binary")
            (rows[table],) = _rows(out.getvalue())
            columns = await connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped "
                "ORDER BY attnum",
                table,
            )
            names[table] = [column["attname"] for column in columns]
        merchant_id = rows["invoice"][names["invoice"].index("merchant_id")]
        assert merchant_id is not None
        return cls(merchant_id, request, rows, names)

    def encoded(self, table: str, changed: dict[str, list[bytes]], count: int) -> bytes:
        """So many rows, with these columns changed, as COPY reads them."""
        # What lies between the changed columns is the same in every row, so it is joined once.
        parts: list[bytes | list[bytes]] = [struct.pack(">h", len(self.rows[table]))]
        for name, value in zip(self.names[table], self.rows[table], strict=True):
            if name in changed:
                parts += [[len(one).to_bytes(4, "big") + one for one in changed[name]], b""]
            else:
                last = parts[-1]
                assert isinstance(last, bytes)
                parts[-1] = last + (b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value)
        columns = [[part] * count if isinstance(part, bytes) else part for part in parts]
        return b"".join(map(b"".join, zip(*columns, strict=True)))


async def seed(dsn: str, templates: Sequence[Template], first: int, invoices: int, audit_key: bytes) -> float:
    """Adds invoices like the templates', in turn, over a year, numbered from `first`. Returns the seconds it took."""
    connection = await asyncpg.connect(dsn)
    began = time.monotonic()
    try:
        engine = Engine(templates, await _directory(connection), audit_key, first, invoices)
        async with connection.transaction():
            # Nobody looks at the tables meanwhile, the checker neither.
            await connection.execute(f"LOCK TABLE {', '.join(TABLES)} IN ACCESS EXCLUSIVE MODE")
            await connection.execute("SET LOCAL maintenance_work_mem = '1GB'")
            undone, redone = await _indexes(connection)
            for statement in undone:
                await connection.execute(statement)
            for start in range(first, first + invoices, BATCH * COPIED):
                made = [
                    engine.batch(range(at, min(at + BATCH, first + invoices)))
                    for at in range(start, min(start + BATCH * COPIED, first + invoices), BATCH)
                ]
                for table in TABLES:
                    await connection.copy_to_table(table, source=_stream(made, table), format="binary")
                _say(f"{min(start + BATCH * COPIED, first + invoices):>12,} invoices", began)
            for statement in redone:
                await connection.execute(statement)
        _say("\nindexed", began)
        for table in TABLES:
            await connection.execute(f"VACUUM (ANALYZE, FREEZE) {table}")
        _say("\nvacuumed", began)
        print(file=sys.stderr)
        return time.monotonic() - began
    finally:
        await connection.close()


def _say(what: str, began: float) -> None:
    print(f"\r{what}, {time.monotonic() - began:5.0f} s", end="", file=sys.stderr, flush=True)


async def _stream(made: list[dict[str, bytes]], table: str) -> AsyncIterator[bytes]:
    yield MAGIC
    for batch in made:
        yield batch[table]
    yield END


class Engine:
    """Makes the rows of invoices as the invoice service does: by the core."""

    def __init__(
        self, templates: Sequence[Template], directory: core.Directory, audit_key: bytes, first: int, invoices: int
    ) -> None:
        self._templates, self._directory, self._audit_key = templates, directory, audit_key
        self._first = first
        self._newest_us = time.time_ns() // 1_000 - YOUNGEST_DAYS * 86_400_000_000
        self._step_us = (OLDEST_DAYS - YOUNGEST_DAYS) * 86_400_000_000 // max(invoices, 1)

    def batch(self, numbers: range) -> dict[str, bytes]:
        """The rows of one batch by table, encoded: invoices of one seller, issued at one moment."""
        count = len(numbers)
        template = self._templates[numbers.start // BATCH % len(self._templates)]
        time_us = self._newest_us - (numbers.start - self._first) * self._step_us
        day = (EPOCH + dt.timedelta(microseconds=time_us)).astimezone(IST).date()
        texts = [f"{FIRST_NUMBER[:2]}{number:08d}" for number in numbers]
        drafts = core.check_invoices(
            [template.request.replace(FIRST_NUMBER.encode(), text.encode()) for text in texts],
            [template.merchant_id] * count,
            [f"seeded-invoice-{number:012d}" for number in numbers],
            (day.year, day.month, day.day),
            self._directory,
            0,
        )
        at = drafts.live
        if len(at) != count:
            raise SystemExit(f"a seeded invoice is refused: {(drafts.violations or drafts.malformed)[:1]}")
        salts = os.urandom(16 * count)
        salt = [salts[16 * i : 16 * i + 16] for i in range(count)]
        actor = template.rows["audit_entry"][template.names["audit_entry"].index("actor_id")]
        assert actor is not None
        documents, _, hashes, macs = drafts.finish(
            at, texts, drafts.buyer_merchant_ids(at), [1] * count, [actor] * count, salt, time_us, self._audit_key
        )
        ids, encoded_texts = drafts.invoice_ids(at), [text.encode() for text in texts]
        moment = [struct.pack(">q", time_us - US_TO_2000)] * count
        return {
            "invoice": template.encoded(
                "invoice",
                {
                    "invoice_id": ids,
                    "rid": drafts.rids(at),
                    "fingerprint": drafts.fingerprints(at),
                    "number": encoded_texts,
                    "number_key": encoded_texts,
                    "financial_year": [year.encode() for year in drafts.financial_years(at)],
                    "invoice_date": [struct.pack(">i", one - DAYS_TO_2000) for one in drafts.days(at)],
                    "document": documents,
                    "audit_head": hashes,
                    "create_time": moment,
                    "update_time": moment,
                },
                count,
            ),
            "invoice_item": template.encoded("invoice_item", {"invoice_id": ids}, count),
            "audit_entry": template.encoded(
                "audit_entry",
                {
                    "invoice_id": ids,
                    "time_micros": [struct.pack(">q", time_us)] * count,
                    "salt": salt,
                    "hash": hashes,
                    "mac": macs,
                },
                count,
            ),
        }


async def _directory(connection: asyncpg.Connection) -> core.Directory:
    """All parties that the service knows."""
    directory = core.Directory()
    for row in await connection.fetch("SELECT * FROM party"):
        directory.learn(
            row["merchant_id"].bytes,
            row["gstin"],
            row["state"],
            row["taxpayer_type"],
            row["annual_turnover_paise"],
            row["review"],
            row["party"],
            1,
        )
    return directory


async def _indexes(connection: asyncpg.Connection) -> tuple[list[str], list[str]]:
    """Statements that drop the tables' indexes and unique constraints, and statements that make them again."""
    constraints = await connection.fetch(
        "SELECT conrelid::regclass::text AS of, conname AS name, pg_get_constraintdef(oid) AS made FROM pg_constraint"
        " WHERE conrelid = ANY($1::text[]::regclass[]) AND contype IN ('p', 'u')",
        list(TABLES),
    )
    indexes = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS made FROM pg_index"
        " WHERE indrelid = ANY($1::text[]::regclass[])"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)",
        list(TABLES),
    )
    undone = [f"ALTER TABLE {one['of']} DROP CONSTRAINT {one['name']}" for one in constraints]
    undone += [f"DROP INDEX {one['name']}" for one in indexes]
    redone = [f"ALTER TABLE {one['of']} ADD CONSTRAINT {one['name']} {one['made']}" for one in constraints]
    return undone, redone + [one["made"] for one in indexes]


def _rows(copied: bytes) -> Iterator[Row]:
    """Reads COPY's binary format."""
    at = len(MAGIC)
    while (count := struct.unpack_from(">h", copied, at)[0]) != -1:
        at += 2
        row: Row = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", copied, at)
            at += 4
            row.append(None if length < 0 else copied[at : at + length])
            at += max(length, 0)
        yield row
