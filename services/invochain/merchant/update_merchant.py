"""Changes what an owner may change; each change grows the version by one and is told to the other services."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from invochain.api.merchant.v1.merchant_service_pb2 import Address, Merchant, UpdateMerchantRequest
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, to_text
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.durable import decisions
from invochain.errors import ValidationFailed, VersionMismatch
from invochain.merchant.merchant import (
    COLUMNS,
    Findings,
    MerchantNotFound,
    changeable,
    check_changeable,
    merchant_of,
)
from invochain.merchant.register_merchant import say_changed

OPERATION = "merchant.update"

# What the mask may name. `address` stands for all of its parts.
FIELDS = (
    "legal_name",
    "trade_name",
    "address",
    "taxpayer_type",
    "annual_turnover_paise",
    "compliance_policy",
    "email",
    "phone",
)
PARTS = tuple(f"address.{field.name}" for field in Address.DESCRIPTOR.fields)


async def update_merchant(postgres: Postgres, call: Call, request: UpdateMerchantRequest) -> bytes:
    """Changes the fields in the mask (empty: those that are set); an etag, or `If-Match`, refuses a lost update.

    A change to what is there already is none: no new version, no event.
    Refuses: ValidationFailed, VersionMismatch, MerchantNotFound, KeyReused. Source: AIP-134, API section 5.
    """
    merchant_id = call.principal.merchant_id
    paths = changed_paths(request.merchant, request.update_mask, merchant_id)
    etag = opaque(request.merchant.etag or call.if_match)

    async def work(tx: Tx) -> Merchant:
        row = await tx.fetchrow(LOCK, merchant_id)
        if row is None:
            raise MerchantNotFound()
        before = merchant_of(row)
        if etag and etag != before.etag:
            raise VersionMismatch(found=etag[:40], present=before.etag)
        after = merge(before, request.merchant, paths)
        check_after(before, after, request.merchant)
        if changeable(after) == changeable(before):
            return before
        changed = await tx.fetchrow(CHANGE, merchant_id, before.version, *changeable(after))
        assert changed is not None, "the row is locked"
        after = merchant_of(changed)
        await say_changed(tx, after, call.trace)
        return after

    return await decisions.once(postgres, call, OPERATION, merchant_id, request, work)


def changed_paths(wanted: Merchant, mask: FieldMask, merchant_id: Id) -> list[str]:
    """The fields to change. Refuses a mask that names others, and a body that names another merchant."""
    found = Findings()
    if wanted.merchant_id and wanted.merchant_id.lower() != to_text(merchant_id):
        found.at("merchant.merchant_id", "FIELD_OUTPUT_ONLY", wanted.merchant_id, "the caller's own, or nothing,")
    if list(mask.paths) == ["*"]:
        paths = list(FIELDS)
    elif mask.paths:
        paths = list(dict.fromkeys(mask.paths))
        for path in paths:
            if path not in FIELDS and path not in PARTS:
                known = path in Merchant.DESCRIPTOR.fields_by_name
                code = "FIELD_OUTPUT_ONLY" if known else "FIELD_UNKNOWN"
                found.at("update_mask", code, path, f"one of {', '.join(FIELDS)} is")
    else:
        paths = [field.name for field, _ in wanted.ListFields() if field.name in FIELDS]
        if not paths:
            found.at("update_mask", "FIELD_REQUIRED", "", "at least one field to change is")
    if found:
        raise ValidationFailed(found)
    return paths


def merge(before: Merchant, wanted: Merchant, paths: list[str]) -> Merchant:
    """The merchant after the change; a path whose field is not set clears it."""
    after = Merchant()
    after.CopyFrom(before)
    for path in paths:
        if path == "address":
            after.address.CopyFrom(wanted.address)
        elif path in PARTS:
            name = path.removeprefix("address.")
            setattr(after.address, name, getattr(wanted.address, name))
        else:
            setattr(after, path, getattr(wanted, path))
    return after


def check_after(before: Merchant, after: Merchant, wanted: Merchant) -> None:
    """Refuses a change that leaves the merchant unlawful, or would give it another registration."""
    found = Findings()
    for name in ("gstin", "state"):
        sent, there = getattr(wanted, name), getattr(before, name)
        if sent and sent != there:
            found.at(f"merchant.{name}", "FIELD_IMMUTABLE", sent, f"{there}, which never changes,")
    check_changeable(after, found)
    if found:
        raise ValidationFailed(found)


def opaque(etag: str) -> str:
    """The etag without the quotes HTTP puts around it (RFC 9110, 8.8.3); `*` matches any version."""
    etag = etag.strip().removeprefix("W/").strip('"')
    return "" if etag == "*" else etag


LOCK = Sql("merchant_lock", f"SELECT {COLUMNS} FROM merchant WHERE merchant_id = $1 FOR NO KEY UPDATE")

CHANGE = Sql(
    "merchant_change",
    f"""
UPDATE merchant
SET legal_name = $3, trade_name = $4, address_line1 = $5, address_line2 = $6, address_location = $7,
    address_pin_code = $8, taxpayer_type = $9, annual_turnover_paise = $10, compliance_policy = $11, email = $12,
    phone = $13, version = version + 1, update_time = now()
WHERE merchant_id = $1 AND version = $2
RETURNING {COLUMNS}
""",
)
