"""The local copy of merchants: written by an event and by a look-up at the same moment."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import nullcontext

import pytest

from invochain.api.merchant.v1 import merchant_service_pb2 as merchants
from invochain.api.merchant.v1.merchant_events_pb2 import MerchantChanged
from invochain.chassis.ids import new_id
from invochain.chassis.postgres import Postgres
from invochain.durable.inbox import Received
from invochain.errors import InvariantBroken
from invochain.invoice.on_merchant_events import CHANGED, follow
from invochain.invoice.parties import keep
from tests.kit.market import fresh_gstin


async def test_a_party_written_from_two_sides_at_once_is_no_error(market):
    """Given its event and the first invoice that names it at the same moment, each writes it without a second try: the
    row has two unique keys, and the rival's may be met in either. The newer version stays, whoever came first."""
    postgres = await Postgres.connect(market.settings.database_url("invoice"), name="test", size=4)

    async def write(merchant: merchants.Merchant) -> str:
        async with postgres.transaction(5) as tx:
            (row,) = await keep(tx, [merchant])
        return row["gstin"]

    try:
        for _ in range(300):
            id_, gstin = str(uuid.uuid4()), fresh_gstin()
            versions = [
                merchants.Merchant(merchant_id=id_, gstin=gstin, state="27", taxpayer_type=1, version=version)
                for version in (1, 2, 2, 1)
            ]
            assert [gstin] * 4 == await asyncio.gather(*map(write, versions))
            (row,) = await market.sql("invoice", "SELECT version FROM party WHERE gstin = $1", gstin)
            assert row["version"] == 2
    finally:
        await postgres.close()


async def test_a_gstin_of_two_merchants_is_not_taken_for_one(market):
    """Impossible by design: the event is refused for good, and neither merchant's row is written or changed."""
    postgres = await Postgres.connect(market.settings.database_url("invoice"), name="test", size=4)
    first, second = (
        merchants.Merchant(merchant_id=str(uuid.uuid4()), gstin="27AAACT0001A1Z5", state="27", version=1) for _ in "ab"
    )
    try:
        for one, refused in ((first, None), (second, InvariantBroken), (first, None)):
            payload = MerchantChanged(merchant=one).SerializeToString()
            merchant_id = uuid.UUID(one.merchant_id).bytes
            event = Received(new_id(), CHANGED, merchant_id, merchant_id, 1, payload)
            with pytest.raises(refused) if refused else nullcontext():
                await follow(postgres, [event])
    finally:
        await postgres.close()
    rows = await market.sql("invoice", "SELECT merchant_id::text FROM party WHERE gstin = '27AAACT0001A1Z5'")
    assert [row["merchant_id"] for row in rows] == [first.merchant_id]
