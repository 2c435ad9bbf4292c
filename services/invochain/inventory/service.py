"""Starts the inventory service: pool, collectors, servicer, sampled metrics."""

from __future__ import annotations

import asyncio

import asyncpg

from invochain.chassis import pools, secrets
from invochain.chassis.key_set import KeySet, MerchantKeys
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres, Sql
from invochain.chassis.process import Running
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import STOCK_LEVEL, log
from invochain.chassis.tokens import Authenticator
from invochain.durable.operator_servicer import OperatorServicer
from invochain.errors import Refusal
from invochain.inventory.repairs import repairs
from invochain.inventory.reserve_stock import Reserving
from invochain.inventory.servicer import InventoryServicer
from invochain.inventory.settling import Settling

# The sum reads every row; once a minute is what a gauge needs.
SAMPLE_EVERY_S = 60.0


async def start(settings: Settings) -> Running:
    """The room, ready to be served. Refuses to start without its database URL and secrets."""
    keys = secrets.load(settings.secrets_dir)
    postgres = await Postgres.connect(settings.database_url("inventory"), name="inventory", size=settings.pool_size)
    await pools.insist(settings, "inventory", postgres, connections(settings.batch_slots))
    await postgres.fill()
    reserving, settling = Reserving(postgres, settings), Settling(postgres, settings)
    merchant_keys = MerchantKeys(settings.merchant_address)
    sampling = asyncio.create_task(sample_stock_level(postgres), name="inventory:sample")

    async def stop_sampling() -> None:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)

    pages = Pages(keys.page_token_key)
    operators = OperatorServicer("inventory", postgres, pages, repairs(postgres))
    return Running(
        servicers=[InventoryServicer(postgres, pages, reserving, settling), operators],
        authenticator=Authenticator(keys, KeySet(merchant_keys)),
        closers=[stop_sampling, reserving.drain, settling.drain, merchant_keys.close, postgres.close],
    )


def connections(batch_slots: int) -> dict[str, int]:
    """What may use a connection at once, and for long."""
    return {"reservations": batch_slots + 1, "confirms and releases": 2, "a lane": 1, "reads and commands": 1}


async def sample_stock_level(postgres: Postgres) -> None:
    """Sets the gauge `inventory_stock_level` from the table, for ever."""
    while True:
        try:
            async with postgres.reading() as tx:
                row = await tx.fetchrow(LEVEL)
            if row is not None:
                STOCK_LEVEL.labels(kind="on_hand").set(float(row["on_hand_milli"]))
                STOCK_LEVEL.labels(kind="reserved").set(float(row["reserved_milli"]))
        except (Refusal, asyncpg.PostgresError) as missed:
            log("inventory").warning("stock_level_not_sampled", why=type(missed).__name__)
        await asyncio.sleep(SAMPLE_EVERY_S)


LEVEL = Sql(
    "stock_level",
    """
SELECT coalesce(sum(on_hand_milli), 0) AS on_hand_milli, coalesce(sum(reserved_milli), 0) AS reserved_milli
FROM stock
""",
)
