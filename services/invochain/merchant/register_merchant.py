"""Registers a merchant by its GSTIN, with its owner, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass

from invochain import core
from invochain.api.merchant.v1.merchant_events_pb2 import MerchantChanged
from invochain.api.merchant.v1.merchant_service_pb2 import (
    Merchant,
    RegisterMerchantRequest,
    RegisterMerchantResponse,
)
from invochain.chassis.call import NOBODY, Call
from invochain.chassis.ids import Id, from_text, new_id
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.chassis.trace import Trace
from invochain.durable import decisions, outbox
from invochain.errors import Code, Refusal, Retry, ValidationFailed
from invochain.merchant import add_user
from invochain.merchant.merchant import (
    CHANGEABLE,
    COLUMNS,
    Findings,
    changeable,
    check_merchant,
    check_user,
    merchant_of,
    today,
)
from invochain.merchant.passwords import Passwords

OPERATION = "merchant.register"
CHANGED = "invochain.merchant.changed.v1"


@dataclass(eq=False)
class GstinAlreadyRegistered(Refusal):
    """Another registration has this GSTIN; nothing was stored."""

    code, reason, retry = Code.ALREADY_EXISTS, "GSTIN_ALREADY_REGISTERED", Retry.WITH_NEW_KEY
    message = "this GSTIN is registered already; its owner can add users"


async def register_merchant(
    postgres: Postgres, passwords: Passwords, call: Call, request: RegisterMerchantRequest
) -> bytes:
    """Makes merchant, owner and the event that says so, or nothing; the same key and body return the first answer.

    Nobody is signed in yet, so the key belongs to the GSTIN. The password is compared on a repeat (passwords.py says
    how) and stored as argon2id only.
    Refuses: ValidationFailed (every broken rule), GstinAlreadyRegistered, EmailAlreadyRegistered, KeyReused,
    BulkheadFull.
    Source: PROTOCOL 2; RULES G1 to G8.
    """
    check(request)
    scope = scope_of(request.merchant.gstin)
    hidden = RegisterMerchantRequest()
    hidden.CopyFrom(request)
    hidden.owner.password = await passwords.fingerprint(request.owner.password, scope, call.key)
    stored = await passwords.hash(request.owner.password)

    async def work(tx: Tx) -> RegisterMerchantResponse:
        merchant = await insert(tx, request.merchant)
        merchant_id = from_text(merchant.merchant_id, "merchant_id")
        owner = await add_user.insert(tx, merchant_id, request.owner, ["OWNER"], stored)
        await say_changed(tx, merchant, call.trace)
        return RegisterMerchantResponse(merchant=merchant, owner=owner)

    return await decisions.once(postgres, call, OPERATION, scope, request, work, print_=decisions.fingerprint(hidden))


def check(request: RegisterMerchantRequest) -> None:
    """Refuses the request with everything that is wrong in it."""
    found = Findings()
    for name in ("merchant_id", "create_time", "update_time", "version", "etag"):
        if name in {field.name for field, _ in request.merchant.ListFields()}:
            found.at(
                f"merchant.{name}", "FIELD_OUTPUT_ONLY", getattr(request.merchant, name), "nothing, it is ours to set,"
            )
    check_merchant(request.merchant, today(), found)
    check_user(request.owner, "owner", found)
    if found:
        raise ValidationFailed(found)


def scope_of(gstin: str) -> Id:
    """Under which id the decision rows of a GSTIN's registrations lie (PROTOCOL 2)."""
    return core.request_id(NOBODY, "merchant.gstin", gstin)


async def insert(tx: Tx, merchant: Merchant) -> Merchant:
    """Writes a new merchant, its state taken from the GSTIN."""
    row = await tx.fetchrow(INSERT, new_id(), merchant.gstin, merchant.gstin[:2], *changeable(merchant))
    if row is None:
        raise GstinAlreadyRegistered()
    return merchant_of(row)


async def say_changed(tx: Tx, merchant: Merchant, trace: Trace | None) -> None:
    """Writes the event of a change while the merchant's row is locked."""
    merchant_id = from_text(merchant.merchant_id, "merchant_id")
    payload = MerchantChanged(merchant=merchant).SerializeToString()
    await outbox.append(tx, [outbox.Event(merchant_id, merchant_id, merchant.version, CHANGED, payload)], trace)


INSERT = Sql(
    "merchant_insert",
    f"""
INSERT INTO merchant (merchant_id, gstin, state, {CHANGEABLE})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT ON CONSTRAINT merchant_gstin_unique DO NOTHING
RETURNING {COLUMNS}
""",
)
