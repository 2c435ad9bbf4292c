"""Starts the invoice service: its database, Redis, its doors to the merchant and inventory services."""

from __future__ import annotations

import asyncio

from invochain.chassis import pools, secrets
from invochain.chassis.batch import TASK_LIFE_S
from invochain.chassis.channel import Channel
from invochain.chassis.key_set import KeySet, MerchantKeys
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.chassis.process import Running
from invochain.chassis.redis import Redis
from invochain.chassis.replica import Reader, split_urls
from invochain.chassis.settings import Settings
from invochain.chassis.tokens import Authenticator, ServiceIdentity
from invochain.durable.operator_servicer import OperatorServicer
from invochain.invoice import law_tables
from invochain.invoice.cache_epoch import CacheEpoch
from invochain.invoice.inventory_port import InventoryPort
from invochain.invoice.outcomes import Outcomes
from invochain.invoice.parties import Parties
from invochain.invoice.repairs import repairs
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.servicer import InvoiceServicer
from invochain.invoice.settle_holds import Settlers


async def start(settings: Settings) -> Running:
    """The room, ready to be served. Refuses to start without its database URL and secrets; runs without Redis."""
    law_tables.load(settings.gst_tables_dir)
    keys = secrets.load(settings.secrets_dir)
    identity = ServiceIdentity("invoice", keys)
    postgres = await Postgres.connect(settings.database_url("invoice"), name="invoice", size=settings.pool_size)
    await pools.insist(settings, "invoice", postgres, connections(settings.batch_slots))
    await postgres.fill()
    reader = await Reader.open(
        postgres,
        settings.database_url("invoice"),
        split_urls(settings.invoice_replica_urls),
        name="invoice",
        size=settings.pool_size,
    )
    redis = Redis(settings.redis_url) if settings.redis_url else None
    outcomes = Outcomes(redis, keys.cache_mac_key)
    cache_epoch = CacheEpoch(postgres, outcomes)
    await cache_epoch.start()
    merchant_service = Channel(settings.merchant_address, identity, "the merchant directory")
    open_s = settings.breaker_open_ms / 1_000
    inventory = InventoryPort(Channel(settings.inventory_address, identity, "the inventory"), open_s)
    merchant_keys = MerchantKeys(settings.merchant_address)
    room = InvoiceRoom(
        postgres=postgres,
        reader=reader,
        inventory=inventory,
        parties=Parties(postgres, merchant_service, open_s),
        outcomes=outcomes,
        settlers=Settlers(inventory, postgres),
        audit_key=keys.audit_mac_key,
        pages=Pages(keys.page_token_key),
        task_life_s=min(TASK_LIFE_S, settings.task_life_s),
        lane_turns=asyncio.Semaphore(lanes_at_once(settings)),
        broker_url=settings.broker_database_url,
    )
    servicer = InvoiceServicer(room, settings)
    operators = OperatorServicer("invoice", postgres, room.pages, repairs(postgres, inventory))
    closers = [
        servicer.drain,
        cache_epoch.close,
        inventory.close,
        merchant_service.close,
        merchant_keys.close,
        reader.close,
        postgres.close,
    ]
    if redis is not None:
        closers.append(redis.close)
    return Running([servicer, operators], Authenticator(keys, KeySet(merchant_keys)), closers)


def connections(batch_slots: int) -> dict[str, int]:
    """What may use a connection at once, and for long."""
    return {
        # One that decides beside one that has its refusals recorded.
        "creations": batch_slots + 1,
        # Beside the one that decides, whose turn it takes: one that reads its rows, or has its refusals recorded.
        "a batch of all or nothing": 1,
        "actions": batch_slots,
        "a lane": 1,
        "reads and what waits for another service": 2,
    }


def lanes_at_once(settings: Settings) -> int:
    """Connections that may wait for a busy series: what batches and reads leave, four at most."""
    others = sum(connections(settings.batch_slots).values()) - 1
    return min(4, settings.pool_size - others)
