"""What a list and a look at one invoice read of 100,000: bounded by the page, not by the table, whatever the filter."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.postgres import Postgres, Sql
from invochain.invoice.list_filter import read_filter
from invochain.invoice.list_sql import LIST_NEWEST_FIRST, LIST_OLDEST_FIRST, WALKED_MAX
from invochain.invoice.move_invoice import FIND
from invochain.invoice.operations import SELLER
from invochain.invoice.read_invoice import EARLIEST, GET, LATEST, walk
from tests.kit.servers import PostgresServer

INVOICES = 100_000
PAGE = 50
# Merchants 1 to 4 sell to each other in turn; 5 is a stranger.
ME, SUPPLIER, CUSTOMER, STRANGER = 1, 4, 2, 5

# One in a hundred is rejected and one in a thousand for a zone, as rare things are in the world.
SEED = """
INSERT INTO invoice (
    merchant_id, invoice_id, rid, attempt, fingerprint, fp_version, number, number_key, doc_type, seller_gstin,
    financial_year, supply_type, invoice_date, buyer_gstin, buyer_merchant_id, inter_state, taxable_paise, igst_paise,
    cgst_paise, sgst_paise, cess_paise, state_cess_paise, discount_paise, other_charges_paise, round_off_paise,
    total_paise, state, takes_stock, compliance_status, document, audit_head, create_time, update_time
)
SELECT
    lpad((1 + n % 4)::text, 32, '0')::uuid, gen_random_uuid(), gen_random_uuid(), 1, zeros, 1, 'N/' || n, 'N/' || n,
    'INV', 'GSTIN-' || 1 + n % 4, '2026-27', CASE n / 4 % 1000 WHEN 0 THEN 'SEZWP' ELSE 'B2B' END,
    DATE '2026-04-01' + n / 1000, 'GSTIN-' || 1 + (n + 1) % 4, lpad((1 + (n + 1) % 4)::text, 32, '0')::uuid, false,
    100, 0, 9, 9, 0, 0, 0, 0, 0, 118 + n,
    CASE WHEN n / 4 % 100 = 0 THEN 'REJECTED' WHEN n / 4 % 10 < 8 THEN 'ACCEPTED' ELSE 'ISSUED' END,
    true, 'COMPLIANT', '\\x00', zeros, TIMESTAMPTZ '2026-04-01' + n * INTERVAL '1 minute', now()
FROM generate_series(1, $1::int) AS n, (SELECT decode(repeat('00', 32), 'hex')) AS hash (zeros)
"""


def merchant(number: int) -> bytes:
    return uuid.UUID(f"{number:032d}").bytes


@pytest.fixture(scope="module")
async def hundred_thousand(templates: PostgresServer) -> AsyncIterator[str]:
    """A database with so many invoices; with the planner's own numbers, as autovacuum keeps them."""
    superuser = await asyncpg.connect(templates.dsn())
    await superuser.execute("CREATE DATABASE invoice_plans TEMPLATE invoice OWNER invoice")
    dsn = templates.dsn("invoice", "invoice_plans")
    owner = await asyncpg.connect(dsn)
    await owner.execute("SET synchronous_commit = off")
    await owner.execute(SEED, INVOICES)
    await owner.execute("ANALYZE invoice")
    await owner.close()
    yield dsn
    await superuser.execute("DROP DATABASE invoice_plans WITH (FORCE)")
    await superuser.close()


@pytest.fixture
async def invoices(hundred_thousand: str) -> AsyncIterator[Postgres]:
    """As the service connects: its settings decide the plans."""
    postgres = await Postgres.connect(hundred_thousand, name="plans", size=1)
    yield postgres
    await postgres.close()


class Plan:
    """How a statement was executed."""

    def __init__(self, root: dict[str, Any]) -> None:
        # Of what was not begun, nothing counts.
        self._nodes = [node for node in self._walk(root) if node["Actual Loops"]]
        self.kinds = {node["Node Type"] for node in self._nodes}
        self.indexes = {node["Index Name"] for node in self._nodes if "Index Name" in node}
        self.rows = sum(_read(node) for node in self._nodes if "Scan" in node["Node Type"] and "Relation Name" in node)
        self.sorted_rows = sum(_told(node) for node in self._nodes if "Sort" in node["Node Type"])

    def _walk(self, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", ()):
            yield from self._walk(child)


def _told(node: dict[str, Any]) -> float:
    return float(node["Actual Rows"] * node["Actual Loops"])


def _read(node: dict[str, Any]) -> float:
    """Rows of a table that a node looked at, those that its filter threw away too."""
    return _told(node) + node.get("Rows Removed by Filter", 0) * node["Actual Loops"]


async def explain(postgres: Postgres, sql: Sql, *args: Any) -> Plan:
    asked = Sql(f"explain_{sql.name}", f"EXPLAIN (ANALYZE, FORMAT JSON) {sql.text}")
    async with postgres.reading() as tx:
        return Plan(json.loads(await tx.fetchval(asked, *args))[0]["Plan"])


async def list_plan(postgres: Postgres, asked: str, side: str = "", who: int = ME, oldest_first: bool = False) -> Plan:
    begin = (EARLIEST, bytes(16)) if oldest_first else (LATEST, b"\xff" * 16)
    number = pb.InvoiceSide.Value(side) if side else pb.INVOICE_SIDE_UNSPECIFIED
    arguments = walk(merchant(who), f"GSTIN-{who}", number, read_filter(asked), begin, PAGE + 1)
    return await explain(postgres, LIST_OLDEST_FIRST if oldest_first else LIST_NEWEST_FIRST, *arguments)


# A filter, and the indexes by which both sides of it are walked.
STATES = {"invoice_sold_by_state", "invoice_bought_by_state"}
WALKED = [
    ("", STATES),
    ("state = ISSUED", STATES),
    ("state = REJECTED", STATES),
    ("state = PAID", STATES),
    (f"buyer_gstin = GSTIN-{CUSTOMER}", {"invoice_between"}),
    (f"seller_gstin = GSTIN-{SUPPLIER}", {"invoice_between"}),
    (f"seller_gstin = GSTIN-{STRANGER}", set()),
    ("number = N/4444", {"invoice_number_once", "invoice_bought_by_number"}),
    ("number = N/4444 AND financial_year = 2026-27 AND state = ISSUED", {"invoice_number_once"}),
    ("doc_type = INV", STATES),
    ("supply_type = B2B", STATES),
    ("financial_year = 2026-27", STATES),
    ("invoice_date <= 2026-12-31", STATES),
    ("total_paise >= 0", STATES),
    ("state = ACCEPTED AND supply_type = B2B AND doc_type = INV AND total_paise > 0", STATES),
]
# Conditions that hardly a row satisfies, and without an index: the walk is cut off.
RARE = [
    "supply_type = SEZWP",
    "doc_type = CRN",
    "total_paise = 122",
    "invoice_date = 2026-04-02",
    "invoice_date < 2026-04-03",
]


class TestAList:
    @pytest.mark.parametrize("oldest_first", [False, True], ids=["newest first", "oldest first"])
    @pytest.mark.parametrize(("asked", "indexes"), WALKED, ids=[asked for asked, _ in WALKED])
    async def test_reads_a_page_and_a_row_of_each_walk(self, invoices, asked, indexes, oldest_first):
        """Rows read are those shown, one more, and one of each of fourteen walks that are merged. Nothing is sorted
        but what a number has, and no table is read whole."""
        plan = await list_plan(invoices, asked, oldest_first=oldest_first)
        assert plan.kinds & {"Seq Scan", "Bitmap Heap Scan", "Gather", "Gather Merge"} == set()
        assert plan.sorted_rows <= 2
        # One supply in a thousand is another: it may be met.
        assert plan.rows <= PAGE + 1 + 14 + 1
        assert plan.indexes >= indexes

    @pytest.mark.parametrize("side", ["SOLD", "BOUGHT"])
    @pytest.mark.parametrize("asked", [asked for asked, _ in WALKED])
    async def test_of_one_side_leaves_the_other_alone(self, invoices, asked, side):
        """What is not asked for is not in the plan."""
        plan = await list_plan(invoices, asked, side)
        other = {"SOLD": ("bought", "by_buyer"), "BOUGHT": ("sold", "number_once")}[side]
        assert plan.rows <= PAGE + 1 + 7 + 1
        assert not [index for index in plan.indexes if any(word in index for word in other)]

    @pytest.mark.parametrize("oldest_first", [False, True], ids=["newest first", "oldest first"])
    @pytest.mark.parametrize("asked", RARE)
    async def test_that_hardly_anything_satisfies_is_cut_off(self, invoices, asked, oldest_first):
        """A page looks at so many rows and no more; its token goes on from there."""
        plan = await list_plan(invoices, asked, oldest_first=oldest_first)
        assert plan.kinds & {"Seq Scan", "Bitmap Heap Scan", "Gather", "Gather Merge"} == set()
        assert plan.sorted_rows == 0
        assert plan.rows <= WALKED_MAX + 14

    async def test_of_a_stranger_reads_nothing(self, invoices):
        """Whoever has nothing costs nothing."""
        assert (await list_plan(invoices, "supply_type = SEZWP", who=STRANGER)).rows == 0


class TestOneInvoice:
    @pytest.mark.parametrize("mine", ["merchant_id", "buyer_merchant_id"])
    async def test_is_found_by_a_key_from_either_side(self, invoices, mine):
        """To read it, to accept it, to ask for its operation: one row of the table, however much a merchant trades."""
        async with invoices.reading() as tx:
            pick = Sql(f"pick_{mine}", f"SELECT invoice_id FROM invoice WHERE {mine} = $1 OFFSET 5000 LIMIT 1")
            invoice_id = await tx.fetchval(pick, merchant(ME))
        for sql, args in (
            (GET, (merchant(ME), invoice_id)),
            (SELLER, (merchant(ME), invoice_id)),
            (FIND, ([merchant(ME)], [invoice_id])),
            (FIND, ([merchant(ME)] * 50, [invoice_id] * 50)),
        ):
            plan = await explain(invoices, sql, *args)
            assert plan.rows <= len(args[0]) if isinstance(args[0], list) else plan.rows == 1
            assert plan.indexes <= {"invoice_pkey", "invoice_by_buyer"}
