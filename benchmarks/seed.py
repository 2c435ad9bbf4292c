"""Fills an invoice database by COPY: as many invoices as wanted, each a copy of a real one with its own id and number.

Rows are taken from the database as COPY's binary tuples and written back the same way, so every column, type and size
is what the service itself wrote; only ids, numbers and times differ. Audit MACs are those of the originals: it is a
benchmark's database, and `invochain check` would say so.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import os
import random
import shutil
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import asyncpg

# On disk, of one invoice of one line with its row, line, audit entry and their indexes; and twice its WAL at the worst.
BYTES_PER_INVOICE = 3_000
# Invoices a COPY, which is one transaction.
CHUNK = 50_000
MAGIC = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
END = struct.pack(">h", -1)
EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
DAY_US = 86_400_000_000
# Decision rows are purged after eight days; seeded invoices are older, so they have none.
YOUNGEST_DAYS, OLDEST_DAYS = 9, 360

Tuple = list[bytes | None]
Change = Callable[[int, bytes, bytes, int], bytes]


def refuse_without_room(folder: Path, invoices: int) -> None:
    """Stops with words when the disk of `folder` is too small."""
    needed, free = invoices * BYTES_PER_INVOICE, shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(f"{invoices:,} invoices need {needed / 1e9:.0f} GB on {folder}; {free / 1e9:.0f} GB are free")


async def seed(dsn: str, originals: Sequence[bytes], invoices: int, *, first: int = 0) -> None:
    """Adds `invoices` copies of the invoices with the ids `originals`, one after the other, spread over a year.

    `first`: the number of the first; numbers are given once in a database.
    """
    connection = await asyncpg.connect(dsn)
    began = time.monotonic()
    try:
        await connection.execute("SET synchronous_commit = off")
        templates = [await Template.of(connection, invoice_id) for invoice_id in originals]
        for start in range(first, first + invoices, CHUNK):
            stop = min(start + CHUNK, first + invoices)
            for table in Template.TABLES:
                # The same ids for each table of a chunk.
                ids = random.Random(start)
                source = _stream(table, templates, range(start, stop), ids, (first, invoices))
                await connection.copy_to_table(table, source=source, format="binary")
            print(f"\r{stop:>12,} invoices, {time.monotonic() - began:5.0f} s", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        for table in Template.TABLES:
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()


async def _stream(
    table: str, templates: Sequence[Template], numbers: range, ids: random.Random, run: tuple[int, int]
) -> AsyncIterator[bytes]:
    yield MAGIC
    newest = int((dt.datetime.now(dt.UTC) - EPOCH).total_seconds() * 1e6) - YOUNGEST_DAYS * DAY_US
    first, invoices = run
    step = (OLDEST_DAYS - YOUNGEST_DAYS) * DAY_US // max(invoices, 1)
    block: list[bytes] = []
    for number in numbers:
        invoice_id, rid = ids.randbytes(16), ids.randbytes(16)
        block += templates[number % len(templates)].rows(
            table, number, invoice_id, rid, newest - (number - first) * step
        )
        if len(block) >= 1_000:
            yield b"".join(block)
            block.clear()
    yield b"".join(block) + END


class Template:
    """A real invoice, ready to be written again under other names."""

    TABLES = ("invoice", "invoice_item", "audit_entry")

    def __init__(self) -> None:
        self._rows: dict[str, list[Tuple]] = {}
        self._changes: dict[str, dict[int, Change]] = {}

    @classmethod
    async def of(cls, connection: asyncpg.Connection, invoice_id: bytes) -> Template:
        template = cls()
        for table in cls.TABLES:
            query = f"SELECT * FROM {table} WHERE invoice_id = '{invoice_id.hex()}'"
            out = io.BytesIO()
            await connection.copy_from_query(query, output=out, format="binary")
            columns = await connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped "
                "ORDER BY attnum",
                table,
            )
            names = [column["attname"] for column in columns]
            template._rows[table] = list(_tuples(out.getvalue()))
            template._changes[table] = template._changed(table, names)
        return template

    def _changed(self, table: str, names: list[str]) -> dict[int, Change]:
        """The columns that differ from copy to copy."""
        changes: dict[str, Change] = {
            "invoice_id": lambda _n, invoice_id, _rid, _us: invoice_id,
            "create_time": lambda _n, _id, _rid, us: struct.pack(">q", us),
            "update_time": lambda _n, _id, _rid, us: struct.pack(">q", us),
        }
        if table == "invoice":
            (row,) = self._rows[table]
            number, document = row[names.index("number")], row[names.index("document")]
            original_id = row[names.index("invoice_id")]
            assert number is not None and document is not None and original_id is not None
            width = len(number) - len("SEED/")
            text = _uuid_text(original_id)
            # The id stands in the document once, and in the etag or nowhere else; the number once.
            parts = document.replace(text, b"\0ID\0").replace(number, b"\0NO\0")

            def renumbered(n: int) -> bytes:
                return b"SEED/%0*d" % (width, n)

            changes |= {
                "rid": lambda _n, _id, rid, _us: rid,
                "number": lambda n, _id, _rid, _us: renumbered(n),
                "number_key": lambda n, _id, _rid, _us: renumbered(n),
                "document": lambda n, invoice_id, _rid, _us: parts.replace(b"\0ID\0", _uuid_text(invoice_id)).replace(
                    b"\0NO\0", renumbered(n)
                ),
            }
        return {names.index(name): change for name, change in changes.items() if name in names}

    def rows(self, table: str, number: int, invoice_id: bytes, rid: bytes, us: int) -> Iterator[bytes]:
        """The tuples of one copy, encoded."""
        changes = self._changes[table]
        for row in self._rows[table]:
            fields = [struct.pack(">h", len(row))]
            for index, value in enumerate(row):
                if (change := changes.get(index)) is not None:
                    value = change(number, invoice_id, rid, us)
                fields.append(b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value)
            yield b"".join(fields)


def _uuid_text(value: bytes) -> bytes:
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}".encode()


def _tuples(copied: bytes) -> Iterator[Tuple]:
    """Reads COPY's binary format."""
    at = len(MAGIC)
    while (count := struct.unpack_from(">h", copied, at)[0]) != -1:
        at += 2
        row: Tuple = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", copied, at)
            at += 4
            row.append(None if length < 0 else copied[at : at + length])
            at += max(length, 0)
        yield row


async def _main(dsn: str, invoices: int) -> None:
    connection = await asyncpg.connect(dsn)
    originals = await connection.fetch("SELECT invoice_id FROM invoice ORDER BY create_time DESC LIMIT 100")
    await connection.close()
    if not originals:
        raise SystemExit("there is no invoice to copy: issue one first")
    await seed(dsn, [row["invoice_id"].bytes for row in originals], invoices)


if __name__ == "__main__":
    asyncio.run(_main(os.environ["INVOCHAIN_INVOICE_DATABASE_URL"], int(sys.argv[1].replace("_", ""))))
