"""The local copy of merchants: written by an event and by a look-up at the same moment."""

from __future__ import annotations

import asyncio
import uuid

from invochain.api.merchant.v1 import merchant_service_pb2 as merchants
from invochain.chassis.postgres import Postgres
from invochain.invoice.parties import Parties
from tests.kit.market import fresh_gstin


async def test_a_party_written_from_two_sides_at_once_is_no_error(market):
    """Given its event and the first invoice that names it at the same moment, both find it: the row has two unique keys
    and ON CONFLICT arbitrates by one. Seen once in some thousand registrations as an INTERNAL."""
    postgres = await Postgres.connect(market.settings.database_url("invoice"), name="test", size=4)
    try:
        one, other = (Parties(postgres, market.running["invoice"][1].servicers[0]._room.parties._channel) for _ in "ab")
        for _ in range(300):
            found = [
                merchants.Merchant(
                    merchant_id=str(uuid.uuid4()), gstin=fresh_gstin(), state="27", taxpayer_type=1, version=1
                )
            ]
            rows = await asyncio.gather(one._keep(found), other._keep(found), one._keep(found), other._keep(found))
            assert [row[0]["gstin"] for row in rows] == [found[0].gstin] * 4
    finally:
        await postgres.close()
