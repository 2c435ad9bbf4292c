"""`make bench-size`: what ten million invoices cost whoever reads and writes beside them.

One stack, measured nearly empty and again when it is full, so that both figures are of one run: GetInvoice and
ListInvoices (p50, p95), and CreateInvoice. `--invoices` sets the size; ten million want some 30 GB of disk.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import run
import seed

from invochain.chassis import secrets
from invochain.chassis.pages import Pages
from invochain.supervisor.state import StackState

SMALL = 10_000
SELLERS = 20
PAGE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--invoices", type=lambda text: int(text.replace("_", "")), default=10_000_000)
    parser.add_argument("--calls", type=int, default=4_000, help="of each method and round")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    ghz = run.find_ghz()
    run.describe()
    with run.Stack() as stack:
        seed.refuse_without_room(Path(stack.state.data_folder), chosen.invoices)
        shops = [run.Shop(stack.state), *(SmallShop(stack.state) for _ in range(SELLERS - 1))]
        dsn = stack.state.environment["INVOCHAIN_INVOICE_DATABASE_URL"]
        originals = [
            bytes.fromhex(
                shop.post("/v1/invoices", shop.invoice("SKU-0"), shop.seller_token)["invoice_id"].replace("-", "")
            )
            for shop in shops
        ]
        asyncio.run(seed.seed(dsn, originals, SMALL))
        small = measure(ghz, stack, shops, dsn, chosen)
        asyncio.run(seed.seed(dsn, originals, chosen.invoices - SMALL, first=SMALL))
        full = measure(ghz, stack, shops, dsn, chosen)
        size = asyncio.run(_bytes(dsn))
    run.report(
        {
            "invoices": {"small": SMALL, "full": chosen.invoices},
            "database, GB": round(size / 1e9, 1),
            "bytes an invoice": round(size / chosen.invoices),
            "small": small,
            "full": full,
            "ratios, full to small": {
                **{f"{name} p95": round(full[name]["p95 ms"] / small[name]["p95 ms"], 2) for name in READS},
                "CreateInvoice, calls/s": round(
                    full["CreateInvoice"]["calls/s"] / small["CreateInvoice"]["calls/s"], 2
                ),
            },
        },
        name="size",
    )


READS = ("GetInvoice", "ListInvoices, first page", "ListInvoices, a page in the middle")


def measure(
    ghz: str, stack: run.Stack, shops: list[run.Shop], dsn: str, chosen: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Medians over the rounds; a seller is asked for his own invoices."""
    address = stack.state.addresses["invoice"]
    shop = shops[0]
    issued = shop.post("/v1/invoices", shop.invoice("SKU-0"), shop.seller_token)
    merchant_id = uuid.UUID(issued["merchant_id"]).bytes
    ids = asyncio.run(some_invoices(dsn, merchant_id))
    middle = token_in_the_middle(stack.state, merchant_id)
    asked: dict[str, tuple[str, Any]] = {
        READS[0]: ("GetInvoice", [{"invoice_id": one} for one in ids]),
        READS[1]: ("ListInvoices", {"page_size": PAGE}),
        READS[2]: ("ListInvoices", {"page_size": PAGE, "page_token": middle}),
        "CreateInvoice": ("CreateInvoice", [{"invoice": shop.invoice(f"SKU-{n}")} for n in range(1_000)]),
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for _ in range(chosen.rounds):
        for name, (method, data) in asked.items():
            bounds = ("-n", str(chosen.calls), "-c", "20", "--connections", "4")
            rounds[name].append(run.latencies(run.run_ghz(ghz, address, method, data, shop.seller_token, *bounds)))
    return {
        name: {
            **{key: statistics.median(one[key] for one in several) for key in ("p50 ms", "p95 ms", "calls/s")},
            "codes": several[-1]["codes"],
        }
        for name, several in rounds.items()
    }


class SmallShop(run.Shop):
    """A seller of one thing."""

    SKUS = 1


async def some_invoices(dsn: str, merchant_id: bytes) -> list[str]:
    """A thousand of a seller's invoices, from all times."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT (SELECT invoice_id FROM invoice WHERE merchant_id = $1 AND invoice_id >= start"
            " ORDER BY invoice_id LIMIT 1)::text AS id FROM (SELECT gen_random_uuid() AS start"
            " FROM generate_series(1, 1000)) AS starts",
            uuid.UUID(bytes=merchant_id),
        )
        return [row["id"] for row in rows if row["id"]]
    finally:
        await connection.close()


def token_in_the_middle(state: StackState, merchant_id: bytes) -> str:
    """What the service would give for a page that begins half a year ago."""
    pages = Pages(secrets.load(Path(state.environment["INVOCHAIN_SECRETS_DIR"])).page_token_key)
    half_a_year_ago = (time.time_ns() // 1_000) - seed.OLDEST_DAYS // 2 * seed.DAY_US
    return pages.token(("ListInvoices", merchant_id, "", "", 0), [half_a_year_ago, str(uuid.UUID(int=0))])


async def _bytes(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT pg_database_size(current_database())"))
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
