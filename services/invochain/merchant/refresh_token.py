"""Refresh tokens: each good for one exchange; the second use of one ends all that came from the same sign-in.

    text      base64url of 48 bytes: the family's id (16, random) and this token's secret (32, random)
    stored    the family's id and the SHA-256 of the present secret

Who knows a family's id has held one of its tokens, so a wrong secret beside a right id is an exchanged token that came
again (or its thief): one of two holders stole it, and nobody can tell which. An answer lost on the way looks the same;
its client signs in again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from dataclasses import dataclass

import asyncpg

from invochain.api.merchant.v1.merchant_service_pb2 import RefreshTokenRequest, TokenPair
from invochain.chassis.call import NOBODY, Principal
from invochain.chassis.ids import Id
from invochain.chassis.postgres import CommitUnknown, Postgres, Sql, Tx
from invochain.chassis.telemetry import log
from invochain.chassis.tokens import ACCESS_LIFE_S, access_token
from invochain.errors import DependencyDown, TokenExpired, TokenInvalid, invalid
from invochain.merchant.token_keys import TokenKeys

REFRESH_LIFE_DAYS = 30
# However often it is exchanged, after half a year the password is asked for again.
FAMILY_LIFE_DAYS = 180
# Signed-in devices a user; the oldest are signed out.
FAMILIES_MAX = 100
_ID_BYTES, _SECRET_BYTES = 16, 32
_CHARS = (_ID_BYTES + _SECRET_BYTES) * 4 // 3


@dataclass(frozen=True)
class _Exchange:
    """What an exchange found: whom to give a pair and by which secret, or why not."""

    user: asyncpg.Record | None
    secret: bytes = b""
    expired: bool = False
    reused: bool = False


async def refresh_token(postgres: Postgres, keys: TokenKeys, request: RefreshTokenRequest) -> TokenPair:
    """A new pair for a refresh token, with the roles its user has now.

    Refuses: TokenInvalid (not one of ours), TokenExpired (its days are over, or it was exchanged before: then the
    family ends and its last token is refused too).
    """
    if not request.refresh_token:
        raise invalid("refresh_token", "FIELD_REQUIRED", "found nothing; the refresh token of the last pair is wanted")
    family_id, secret = _read(request.refresh_token)
    try:
        async with postgres.transaction() as tx:
            done = await _exchange(tx, family_id, secret)
    except CommitUnknown:
        raise DependencyDown("the merchant database, while COMMIT was under way") from None
    # After COMMIT: the end of a family must outlive the refusal that tells of it.
    if done.reused:
        log("merchant").warning("refresh_token_reused", family=family_id.hex()[:8])
    if done.reused or done.expired:
        raise TokenExpired()
    if done.user is None:
        raise TokenInvalid()
    return pair(keys, done.user, family_id, done.secret)


async def _exchange(tx: Tx, family_id: Id, secret: bytes) -> _Exchange:
    row = await tx.fetchrow(LOCK_FAMILY, family_id)
    if row is None:
        return _Exchange(None)
    if row["over"]:
        return _Exchange(None, expired=True)
    if not hmac.compare_digest(bytes(row["secret_hash"]), _hash(secret)):
        await tx.execute(END_FAMILY, family_id)
        return _Exchange(None, reused=True)
    fresh = os.urandom(_SECRET_BYTES)
    await tx.execute(EXCHANGE, family_id, _hash(fresh), REFRESH_LIFE_DAYS, FAMILY_LIFE_DAYS)
    return _Exchange(row, fresh)


async def start_family(tx: Tx, user_id: Id) -> tuple[Id, bytes]:
    """A sign-in's first refresh token; the user's oldest sign-ins beyond the bound, and those that are over, go."""
    family_id, secret = os.urandom(_ID_BYTES), os.urandom(_SECRET_BYTES)
    await tx.execute(FORGET_OLDEST, user_id, FAMILIES_MAX - 1)
    await tx.execute(START, family_id, user_id, _hash(secret), REFRESH_LIFE_DAYS)
    return family_id, secret


def pair(keys: TokenKeys, user: asyncpg.Record, family_id: Id, secret: bytes) -> TokenPair:
    """An access token for that user (a row of app_user with the merchant's gstin) and the refresh token beside it."""
    principal = Principal(
        merchant_id=user["merchant_id"] or NOBODY,
        gstin=user["gstin"] or "",
        user_id=user["user_id"],
        roles=frozenset(user["roles"]),
    )
    return TokenPair(
        access_token=access_token(keys.signing(), principal),
        refresh_token=base64.urlsafe_b64encode(family_id + secret).decode(),
        token_type="Bearer",
        expires_in=ACCESS_LIFE_S,
    )


def _read(token: str) -> tuple[Id, bytes]:
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True) if len(token) == _CHARS else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _ID_BYTES + _SECRET_BYTES:
        raise TokenInvalid()
    return raw[:_ID_BYTES], raw[_ID_BYTES:]


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


LOCK_FAMILY = Sql(
    "refresh_lock_family",
    """
SELECT
    family.secret_hash,
    family.end_time IS NOT NULL OR family.expire_time <= now() AS over,
    app_user.user_id,
    app_user.merchant_id,
    app_user.roles,
    merchant.gstin
FROM refresh_family AS family
JOIN app_user ON app_user.user_id = family.user_id
LEFT JOIN merchant ON merchant.merchant_id = app_user.merchant_id
WHERE family.family_id = $1
FOR UPDATE OF family
""",
)

EXCHANGE = Sql(
    "refresh_exchange",
    """
UPDATE refresh_family
SET secret_hash = $2,
    generation = generation + 1,
    expire_time = least(now() + make_interval(days => $3), create_time + make_interval(days => $4))
WHERE family_id = $1
""",
)

END_FAMILY = Sql("refresh_end_family", "UPDATE refresh_family SET end_time = now() WHERE family_id = $1")

START = Sql(
    "refresh_start_family",
    """
INSERT INTO refresh_family (family_id, user_id, secret_hash, expire_time)
VALUES ($1, $2, $3, now() + make_interval(days => $4))
""",
)

FORGET_OLDEST = Sql(
    "refresh_forget_oldest",
    """
DELETE FROM refresh_family
WHERE user_id = $1
  AND (
      expire_time < now()
      OR family_id IN (
          SELECT family_id FROM refresh_family WHERE user_id = $1 ORDER BY create_time DESC OFFSET $2
      )
  )
""",
)
