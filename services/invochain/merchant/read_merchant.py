"""Reads merchants: the caller's own, any for an operator, many for the other services."""

from __future__ import annotations

from invochain.api.merchant.v1.merchant_service_pb2 import (
    GetMerchantRequest,
    LookupMerchantsRequest,
    LookupMerchantsResponse,
    Merchant,
)
from invochain.chassis.call import Call
from invochain.chassis.ids import from_text
from invochain.chassis.postgres import Postgres, Sql
from invochain.errors import ValidationFailed, invalid
from invochain.merchant.merchant import COLUMNS, OPERATOR, Findings, MerchantNotFound, merchant_of

# Ids and GSTINs a look-up: one batch of the hot path names at most two merchants an invoice, 500 invoices a batch.
NAMES_MAX = 1_000


async def get_merchant(postgres: Postgres, call: Call, request: GetMerchantRequest) -> Merchant:
    """The caller's merchant; an operator names one. Refuses: MerchantNotFound, also for somebody else's."""
    caller = call.principal
    if OPERATOR in caller.roles:
        if not request.merchant_id:
            raise invalid("merchant_id", "FIELD_REQUIRED", "an operator belongs to no merchant; name one")
        merchant_id = from_text(request.merchant_id, "merchant_id")
    else:
        merchant_id = caller.merchant_id
        if request.merchant_id and from_text(request.merchant_id, "merchant_id") != merchant_id:
            raise MerchantNotFound()
    async with postgres.reading() as tx:
        row = await tx.fetchrow(READ, merchant_id)
    if row is None:
        raise MerchantNotFound()
    return merchant_of(row)


async def lookup_merchants(postgres: Postgres, request: LookupMerchantsRequest) -> LookupMerchantsResponse:
    """Those of the named merchants that exist, each once. Refuses: ValidationFailed (over 1,000 names, a broken id)."""
    if (names := len(request.merchant_ids) + len(request.gstins)) > NAMES_MAX:
        raise invalid("merchant_ids", "ITEMS_TOO_MANY", f"{names} names; {NAMES_MAX} at most are wanted")
    found, ids = Findings(), []
    for index, text in enumerate(request.merchant_ids):
        try:
            ids.append(from_text(text, f"merchant_ids[{index}]"))
        except ValidationFailed as refused:
            found.extend(refused.broken)
    if found:
        raise ValidationFailed(found)
    async with postgres.reading() as tx:
        rows = await tx.fetch(LOOKUP, ids, [gstin for gstin in request.gstins if "\0" not in gstin])
    return LookupMerchantsResponse(merchants=[merchant_of(row) for row in rows])


READ = Sql("merchant_read", f"SELECT {COLUMNS} FROM merchant WHERE merchant_id = $1")

LOOKUP = Sql(
    "merchant_lookup",
    f"""
SELECT {COLUMNS} FROM merchant WHERE merchant_id = ANY ($1::uuid[])
UNION
SELECT {COLUMNS} FROM merchant WHERE gstin = ANY ($2::text[])
""",
)
