"""The floor of batches: COPY of the very rows that were written, into tables of the same shape, as durably.

The rows of a batch are read as binary COPY data beforehand, so nothing is encoded while it is measured: what is left is
PostgreSQL's own work for those rows, indexes and constraints included, and two commits a batch.
"""

from __future__ import annotations

import asyncio
import io
import time
import uuid

import asyncpg

from invochain.supervisor.state import StackState

# Table: its rows of the invoices $1 (ids) and requests $2 (rids). The outbox is empty by then: its rows are made again,
# as large as they were.
OF_INVOICE = {
    "decision": "SELECT * FROM decision WHERE rid = ANY($2)",
    "invoice": "SELECT * FROM invoice WHERE invoice_id = ANY($1)",
    "invoice_item": "SELECT * FROM invoice_item WHERE invoice_id = ANY($1)",
    "audit_entry": "SELECT * FROM audit_entry WHERE invoice_id = ANY($1)",
    "outbox": """SELECT row_number() OVER (), merchant_id, gen_random_uuid(), invoice_id, 1::bigint, 7::smallint,
        'invochain.invoice.issued.v1', document || '\\x00'::bytea || fingerprint || fingerprint || fingerprint,
        '', now() FROM invoice WHERE invoice_id = ANY($1)""",
}
OF_INVENTORY = {"reservation": "SELECT * FROM reservation WHERE rid = ANY($2)"}


class Copies:
    """Batches of rows, ready to be copied."""

    def __init__(self, state: StackState) -> None:
        self._dsns = [state.environment[f"INVOCHAIN_{room}_DATABASE_URL"] for room in ("INVOICE", "INVENTORY")]
        self._batches: list[list[dict[str, bytes]]] = []

    async def take(self, invoice_ids: list[str], size: int) -> None:
        """Reads the rows of these invoices, so many to a batch, and makes the tables they are to be copied into."""
        invoices, inventory = [await asyncpg.connect(dsn) for dsn in self._dsns]
        self._batches = []
        for start in range(0, len(invoice_ids), size):
            names = [uuid.UUID(one) for one in invoice_ids[start : start + size]]
            rids = [row[0] for row in await invoices.fetch("SELECT rid FROM invoice WHERE invoice_id = ANY($1)", names)]
            batch = []
            for connection, tables in ((invoices, OF_INVOICE), (inventory, OF_INVENTORY)):
                parts = {}
                for table, rows in tables.items():
                    out = io.BytesIO()
                    query = rows.replace("$1", _array(names)).replace("$2", _array(rids))
                    await connection.copy_from_query(query, output=out, format="binary")
                    parts[table] = out.getvalue()
                batch.append(parts)
            self._batches.append(batch)
        for connection, tables in ((invoices, OF_INVOICE), (inventory, OF_INVENTORY)):
            for table in tables:
                await connection.execute(f"CREATE TABLE IF NOT EXISTS floor_{table} (LIKE {table} INCLUDING ALL)")
                await connection.execute(f"TRUNCATE floor_{table}")
            await connection.close()

    async def per_second(self, size: int, in_flight: int) -> float:
        """Invoices a second, by COPY."""
        todo = list(self._batches)
        pairs = [[await asyncpg.connect(dsn) for dsn in self._dsns] for _ in range(in_flight)]

        async def one_by_one(pair: list[asyncpg.Connection]) -> None:
            while todo:
                for connection, tables in zip(reversed(pair), reversed(todo.pop()), strict=True):
                    async with connection.transaction():
                        for table, rows in tables.items():
                            await connection.copy_to_table(f"floor_{table}", source=io.BytesIO(rows), format="binary")

        started = time.monotonic()
        await asyncio.gather(*(one_by_one(pair) for pair in pairs))
        seconds = time.monotonic() - started
        for pair in pairs:
            for connection in pair:
                await connection.close()
        return len(self._batches) * size / seconds


def _array(ids: list[uuid.UUID]) -> str:
    return "'{" + ",".join(map(str, ids)) + "}'::uuid[]"
