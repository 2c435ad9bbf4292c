"""What merchants do to invoices: the local copy follows them, and waiting invoices find their buyer.

merchant.changed     party row, unless a newer one is there; invoices to that GSTIN get their buyer     invoice.parties
"""

from __future__ import annotations

from collections.abc import Sequence

from invochain.api.merchant.v1.merchant_events_pb2 import MerchantChanged
from invochain.chassis.ids import from_text
from invochain.chassis.postgres import Postgres, Sql
from invochain.durable import inbox
from invochain.durable.inbox import Received, Subscription
from invochain.errors import InvariantBroken
from invochain.invoice.name_locks import INVOICES_OF_GSTIN, bucket
from invochain.invoice.parties import keep

PARTIES = "invoice.parties"
CHANGED = "invochain.merchant.changed.v1"


def subscriptions(postgres: Postgres) -> list[Subscription]:
    """What the room listens to (workers/consumer.py)."""

    async def changed(events: Sequence[Received]) -> None:
        await follow(postgres, events)

    return [Subscription(PARTIES, "merchant.events", frozenset({CHANGED}), changed)]


async def follow(postgres: Postgres, events: Sequence[Received]) -> None:
    """Keeps the copy, then links the invoices that name these GSTINs, in one transaction.

    The exclusive lock on a GSTIN waits for every creation that took it for unknown; what begins after it sees the row.
    So no invoice is missed between the two.
    """
    async with postgres.transaction() as tx:
        fresh = await inbox.admit(tx, PARTIES, events)
        if not fresh:
            return
        merchants = [MerchantChanged.FromString(event.payload).merchant for event in fresh]
        buckets = sorted({bucket(merchant.gstin.encode()) for merchant in merchants})
        await tx.execute(LOCK_GSTINS, [INVOICES_OF_GSTIN] * len(buckets), buckets)
        gstin_of = {merchant.merchant_id: merchant.gstin for merchant in merchants}
        if len(await keep(tx, merchants)) < len(gstin_of):
            raise InvariantBroken("a GSTIN belongs to two merchants")
        await tx.execute(LINK, [from_text(id_, "merchant_id") for id_ in gstin_of], list(gstin_of.values()))


LOCK_GSTINS = Sql(
    "party_lock_gstins",
    """
SELECT count(pg_advisory_xact_lock(name.space, name.bucket))
FROM unnest($1::int[], $2::int[]) AS name (space, bucket)
""",
)

LINK = Sql(
    "invoice_link_buyer",
    """
WITH waiting AS MATERIALIZED (
    SELECT invoice.merchant_id, invoice.invoice_id, party.merchant_id AS buyer
    FROM unnest($1::uuid[], $2::text[]) AS party (merchant_id, gstin)
    JOIN invoice ON invoice.buyer_gstin = party.gstin
    WHERE invoice.buyer_merchant_id IS NULL AND length(invoice.buyer_gstin) = 15
    ORDER BY invoice.merchant_id, invoice.invoice_id
    FOR NO KEY UPDATE OF invoice
)
UPDATE invoice SET buyer_merchant_id = waiting.buyer
FROM waiting
WHERE invoice.merchant_id = waiting.merchant_id AND invoice.invoice_id = waiting.invoice_id
""",
)
