"""Rows of the invoice database are edited by hand, as whoever has access to it could: `invochain audit verify` tells.

Bytes flipped, figures raised, rows deleted, chains cut short: every edit is found, and named by its invoice.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.check.check_all import Found, check_rule, chosen
from invochain.check.rules import RECORD
from invochain.check.snapshot import Databases
from invochain.supervisor.rooms import command as invochain
from tests.chaos.figures import Figures
from tests.kit.market import Market

SEED = 20260722
TABLES = ("invoice", "invoice_item", "audit_entry")
# Not part of what was agreed or done: when the row was touched, and to whom else it is shown (I15 looks at that).
NOT_RECORDED = {("invoice", "update_time"), ("invoice", "buyer_merchant_id")}
CHANGES = {
    "bytea": "coalesce(set_byte({c}, {n} % nullif(octet_length({c}), 0), "
    "get_byte({c}, {n} % nullif(octet_length({c}), 0)) # (1 << ({n} % 8))), '\\x00')",
    "uuid": "gen_random_uuid()",
    "text": "CASE WHEN coalesce({c}, '') = '' THEN 'X' ELSE overlay({c} placing CASE WHEN left({c}, 1) = 'Q' THEN 'Z' "
    "ELSE 'Q' END from 1 for 1) END",
    "boolean": "NOT {c}",
    "date": "{c} + 1",
    "timestamp with time zone": "{c} + interval '1 second'",
    **dict.fromkeys(("bigint", "integer", "smallint"), "coalesce({c}, 0) + 1"),
}


@dataclass
class Ledger:
    """A database at rest, with a copy of what is edited."""

    market: Market
    connection: asyncpg.Connection
    columns: list[tuple[str, str, str]]

    async def edit(self, chance: random.Random) -> tuple[str, str]:
        """One edit; what it was, and how the verifier must name it: by the invoice, and the entry where it is one's."""
        table = chance.choice(TABLES)
        rows = await self.connection.fetch(
            f"SELECT ctid::text, invoice_id, version FROM {self._rows(table)} ORDER BY 2, 3, 1"
        )
        row = chance.choice(rows)
        if chance.random() < 0.15:
            await self.connection.execute(f"DELETE FROM {table} WHERE ctid = $1::text::tid", row["ctid"])
            return f"{table} row deleted", str(row["invoice_id"])
        _, column, kind = chance.choice([c for c in self.columns if c[0] == table])
        value = CHANGES[kind].format(c=f'"{column}"', n=chance.randrange(1 << 16))
        try:
            done = await self.connection.execute(
                f'UPDATE {table} SET "{column}" = {value} WHERE ctid = $1::text::tid', row["ctid"]
            )
        except asyncpg.UniqueViolationError:
            # The primary key refuses it; another one.
            return await self.edit(chance)
        assert done == "UPDATE 1", f"void: {table}.{column} did not change"
        entry = table == "audit_entry" and column not in ("merchant_id", "invoice_id", "version")
        return f"{table}.{column}", f"{row['invoice_id']}: entry {row['version']}" if entry else str(row["invoice_id"])

    @staticmethod
    def _rows(table: str) -> str:
        return (
            table if table != "invoice_item" else "(SELECT ctid, invoice_id, line AS version FROM invoice_item) AS item"
        )

    async def undo(self) -> None:
        for table in TABLES:
            await self.connection.execute(f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM kept_{table}")


@pytest.fixture
async def ledger(market: Market) -> AsyncIterator[Ledger]:
    """Some invoices in every state, traded and then left at rest."""
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller, units=1_000)
    calls = market.invoices
    for number in range(3):
        request = market.invoice(buyer, market.line(1 + number), market.line(2, sku="", gst_rate_milli=5_000))
        issued = [(await market.issue(seller, request)).invoice_id for _ in range(4)]
        await market.call(calls.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=issued[0]), buyer)
        await market.call(calls.RejectInvoice, pb.RejectInvoiceRequest(invoice_id=issued[1], reason="price"), buyer)
        await market.call(calls.CancelInvoice, pb.CancelInvoiceRequest(invoice_id=issued[2]), seller)
    connection = await asyncpg.connect(market.databases["invoice"])
    # No constraint may do the verifier's work.
    for row in await connection.fetch(
        "SELECT conrelid::regclass::text AS name, conname FROM pg_constraint "
        "WHERE conrelid = ANY($1::text[]::regclass[]) AND contype IN ('c', 'u', 'f')",
        list(TABLES),
    ):
        await connection.execute(f'ALTER TABLE {row["name"]} DROP CONSTRAINT "{row["conname"]}"')
    for table in TABLES:
        await connection.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    columns = await connection.fetch(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_name = ANY($1::text[])",
        list(TABLES),
    )
    told = [tuple(row.values()) for row in columns]
    yield Ledger(market, connection, [column for column in told if column[:2] not in NOT_RECORDED])
    await connection.close()


async def verify(databases: Databases) -> list[Found]:
    """As the command does."""
    return [await check_rule(databases, rule, 0) for rule in chosen(RECORD)]


def named(found: list[Found], words: str) -> bool:
    return any(words in example for one in found for example in one.examples)


async def command(market: Market) -> tuple[int | None, str]:
    """`invochain audit verify` as an operator runs it: its exit code and what it prints."""
    urls = {f"INVOCHAIN_{room.upper()}_DATABASE_URL": dsn for room, dsn in market.databases.items()}
    told = {**os.environ, **urls, "INVOCHAIN_SECRETS_DIR": str(market.settings.secrets_dir)}
    process = await asyncio.create_subprocess_exec(
        *invochain("audit", "verify"), env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("edits", [pytest.param(100, id="100"), pytest.param(1_000, id="1000", marks=pytest.mark.long)])
async def test_every_edit_of_a_row_is_found_and_named(ledger: Ledger, report: list, figures: Figures, edits: int):
    chance, databases = random.Random(SEED), Databases(ledger.market.settings)
    ledger.market.stack.push_async_callback(databases.close)
    unharmed = [one for one in await verify(databases) if one.violations]
    assert not unharmed, "void: it does not verify unharmed"
    missed = []
    for _ in range(edits):
        what, words = await ledger.edit(chance)
        if not named(await verify(databases), words):
            missed.append(what)
        await ledger.undo()
    told = f"{edits} edits, {edits - len(missed)} found and named"
    report.append(f"corruption: {told}")
    figures.headlines["corruption"] = told
    assert not missed

    what, words = await ledger.edit(chance)
    code, output = await command(ledger.market)
    assert (code, words in output) == (1, True), f"{what}: {output}"
