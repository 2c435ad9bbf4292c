"""`make bench-size`: what ten million invoices cost whoever reads and writes beside them.

One stack, measured nearly empty, at a million and when it is full, so that all figures are of one run: reads by either
side, lists with and without filters (p50, p95), and CreateInvoice. `--invoices` sets the size; ten million become some
18 GB, and the log needs room beside them. `--keep FOLDER` leaves the seeded databases there, and measures those that it
finds there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import seed
from ghz import describe, find_ghz, latencies, run_ghz
from run import report
from stack import Shop, Stack, check

from invochain.chassis import secrets
from invochain.chassis.pages import Pages
from invochain.supervisor.state import StackState

SMALL, MIDDLE = 10_000, 1_000_000
SELLERS = 20
PAGE = 50
# Of the folder that is kept: who the sellers are, and how many invoices are there.
KEPT = "seeded.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--invoices", type=lambda text: int(text.replace("_", "")), default=10_000_000)
    parser.add_argument("--calls", type=int, default=2_000, help="of each method and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of the databases; found there: used again")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the services")
    chosen = parser.parse_args()
    ghz = find_ghz()
    describe()
    settings = dict(one.split("=", 1) for one in chosen.set)
    with Stack(settings, chosen.keep) as stack:
        seeded = Seeded(stack.state, chosen.keep)
        seed.refuse_without_room(Path(stack.state.data_folder), chosen.invoices - seeded.count)
        levels: dict[str, dict[str, Any]] = {}
        checked: dict[str, Any] = {"holds": None, "said": "not looked at"}
        for size in sorted({min(SMALL, chosen.invoices), min(MIDDLE, chosen.invoices), chosen.invoices}):
            if size < seeded.count:
                print(f"{seeded.count:,} invoices are there already: nothing is measured at {size:,}", flush=True)
                continue
            seconds = seeded.fill(size)
            rows = measure(ghz, stack.state, seeded.shops[0], seeded.dsn, chosen)
            gigabytes = round(asyncio.run(_value(seeded.dsn, "SELECT pg_database_size(current_database())")) / 1e9, 2)
            levels[f"{size:,}"] = {"seeded in, s": round(seconds), "database, GB": gigabytes, **rows}
            if size <= SMALL:
                # A sample: the rest is made the same way, and every rule over ten million invoices takes hours.
                checked = check(stack.state)
    if not levels:
        raise SystemExit(f"{chosen.keep} holds {seeded.count:,} invoices, more than --invoices; nothing was measured")
    first, last = next(iter(levels.values())), list(levels.values())[-1]
    report(
        {
            "settings": settings,
            "levels": levels,
            f"invochain check at {SMALL:,}": checked,
            "ratios, last level to first": {
                **{f"{name}, p95": round(last[name]["p95 ms"] / first[name]["p95 ms"], 2) for name in READS},
                **{f"{name}, p50": round(last[name]["p50 ms"] / first[name]["p50 ms"], 2) for name in READS},
                "CreateInvoice, calls/s": round(
                    last["CreateInvoice"]["calls/s"] / first["CreateInvoice"]["calls/s"], 2
                ),
            },
        },
        name="size",
    )


class SmallShop(Shop):
    """A seller whose lines take no stock."""

    SKUS = 0


class Seeded:
    """The sellers and their invoices; remembered where the folder is kept."""

    def __init__(self, state: StackState, folder: Path | None) -> None:
        self._file = folder / KEPT if folder else None
        kept = json.loads(self._file.read_text()) if self._file and self._file.exists() else {}
        self.dsn = state.environment["INVOCHAIN_INVOICE_DATABASE_URL"]
        self._audit_key = secrets.load(Path(state.environment["INVOCHAIN_SECRETS_DIR"])).audit_mac_key
        self.count = int(kept.get("count", 0))
        self._issued: list[str] = kept.get("issued", [])
        if kept:
            self.shops = [Shop(state, kept["shops"][0]), *(SmallShop(state, one) for one in kept["shops"][1:])]
        else:
            self.shops = [Shop(state), *(SmallShop(state) for _ in range(SELLERS - 1))]
            for shop in self.shops:
                issued = shop.post("/v1/invoices", seeded_invoice(shop), shop.seller_token)
                self._issued.append(issued["invoice_id"])
            self._remember()

    def fill(self, count: int) -> float:
        """Seeds until there are `count`; the seconds it took."""
        if count == self.count:
            return 0.0
        seconds = asyncio.run(self._fill(count))
        self.count = count
        self._remember()
        return seconds

    async def _fill(self, count: int) -> float:
        connection = await asyncpg.connect(self.dsn)
        templates = [
            await seed.Template.of(connection, seeded_invoice(shop), invoice_id)
            for shop, invoice_id in zip(self.shops, self._issued, strict=True)
        ]
        await connection.close()
        # Numbers begin behind the template's.
        return await seed.seed(self.dsn, templates, self.count + 1, count - self.count, self._audit_key)

    def _remember(self) -> None:
        if self._file:
            shops = [shop.kept() for shop in self.shops]
            self._file.write_text(json.dumps({"count": self.count, "issued": self._issued, "shops": shops}))
            self._file.chmod(0o600)


def seeded_invoice(shop: Shop) -> dict[str, Any]:
    """One line, no stock, a number of the seller's."""
    invoice = shop.invoice("")
    del invoice["lines"][0]["sku"]
    return {**invoice, "number": seed.FIRST_NUMBER}


READS = (
    "GetInvoice by its seller",
    "GetInvoice by its buyer",
    "ListInvoices, first page",
    "ListInvoices, a page in the middle",
    "ListInvoices, state = REJECTED (none)",
    "ListInvoices, one customer",
    "ListInvoices, one number",
    "ListInvoices, a total that none has",
)


def measure(ghz: str, state: StackState, shop: Shop, dsn: str, chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Medians over the rounds; a seller is asked for his own invoices, a buyer for what he bought."""
    address = state.addresses["invoice"]
    merchant_id = asyncio.run(_value(dsn, "SELECT merchant_id FROM party WHERE gstin = $1", shop.seller)).bytes
    ids = [{"invoice_id": one} for one in asyncio.run(some_invoices(dsn, merchant_id))]
    number = asyncio.run(
        _value(dsn, "SELECT number FROM invoice WHERE merchant_id = $1 LIMIT 1", uuid.UUID(bytes=merchant_id))
    )
    middle = asyncio.run(token_in_the_middle(state, dsn, merchant_id))
    seller, buyer = shop.seller_token, shop.buyer_token
    asked: dict[str, tuple[str, Any, str]] = {
        READS[0]: ("GetInvoice", ids, seller),
        READS[1]: ("GetInvoice", ids, buyer),
        READS[2]: ("ListInvoices", {"page_size": PAGE}, seller),
        READS[3]: ("ListInvoices", {"page_size": PAGE, "page_token": middle}, seller),
        READS[4]: ("ListInvoices", {"page_size": PAGE, "filter": "state = REJECTED"}, seller),
        READS[5]: ("ListInvoices", {"page_size": PAGE, "filter": f"buyer_gstin = {shop.buyer}"}, seller),
        READS[6]: ("ListInvoices", {"page_size": PAGE, "filter": f"number = {number}"}, seller),
        READS[7]: ("ListInvoices", {"page_size": PAGE, "filter": "total_paise = 1"}, seller),
        "CreateInvoice": ("CreateInvoice", [{"invoice": shop.invoice(f"SKU-{n}")} for n in range(1_000)], seller),
    }
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for _ in range(chosen.rounds):
        for name, (method, data, token) in asked.items():
            # A page that looks at 2,000 rows takes its time; a thousand creations are over in a second.
            part = {READS[7]: 0.1, "CreateInvoice": 5}.get(name, 1)
            calls = max(20, round(chosen.calls * part))
            bounds = ("-n", str(calls), "-c", "20", "--connections", "4")
            rounds[name].append(latencies(run_ghz(ghz, address, method, data, token, *bounds)))
            print(f"{name}: {rounds[name][-1]}", flush=True)
    return {
        name: {
            **{key: statistics.median(one[key] for one in several) for key in ("p50 ms", "p95 ms", "calls/s")},
            "codes": several[-1]["codes"],
        }
        for name, several in rounds.items()
    }


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


async def token_in_the_middle(state: StackState, dsn: str, merchant_id: bytes) -> str:
    """What the service would give for a page that begins where half of a seller's invoices are older."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow(
            "SELECT (extract(epoch FROM create_time) * 1000000)::bigint AS micros, invoice_id::text AS id FROM invoice"
            " WHERE merchant_id = $1 ORDER BY create_time, invoice_id"
            " OFFSET (SELECT count(*) / 2 FROM invoice WHERE merchant_id = $1) LIMIT 1",
            uuid.UUID(bytes=merchant_id),
        )
    finally:
        await connection.close()
    pages = Pages(secrets.load(Path(state.environment["INVOCHAIN_SECRETS_DIR"])).page_token_key)
    return pages.token(("ListInvoices", merchant_id, "", "", 0), [row["micros"], row["id"]])


async def _value(dsn: str, query: str, *args: Any) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
