"""Exchanges e-mail and password for tokens, telling a stranger nothing but yes or no."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

from invochain.api.merchant.v1.merchant_service_pb2 import SignInRequest, TokenPair
from invochain.chassis.call import Call
from invochain.chassis.postgres import CommitUnknown, Postgres, Sql
from invochain.errors import BulkheadFull, Code, DependencyDown, Refusal, Retry, ValidationFailed
from invochain.merchant.merchant import Findings
from invochain.merchant.passwords import CHARS_MAX, Passwords, composed
from invochain.merchant.refresh_token import pair, start_family
from invochain.merchant.slow_down import SlowDown, Try
from invochain.merchant.token_keys import TokenKeys

EMAIL_CHARS_MAX = 254
# What was too busy a moment ago still is: a try is taken back once there is room, not at once or never.
TAKE_BACK_WAIT_S = 2.0


@dataclass(eq=False)
class CredentialsInvalid(Refusal):
    """E-mail or password is wrong; which of the two is not said, nor told by the time it takes."""

    code, reason, retry = Code.UNAUTHENTICATED, "CREDENTIALS_INVALID", Retry.AFTER_CORRECTION
    message = "e-mail or password is wrong"


async def sign_in(
    postgres: Postgres, passwords: Passwords, slow_down: SlowDown, keys: TokenKeys, call: Call, request: SignInRequest
) -> TokenPair:
    """An access token (15 minutes) and the first refresh token (30 days) of a new family.

    Refuses: CredentialsInvalid, TooManyTries (per account and address), ValidationFailed (a field is missing),
    BulkheadFull (too many passwords are being hashed).
    """
    check(request)
    task = asyncio.create_task(_try(postgres, passwords, slow_down, keys, call.client_ip, request))
    # A client that hangs up cancels nothing: a try that was counted and right must be taken back.
    _under_way.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


async def _try(
    postgres: Postgres,
    passwords: Passwords,
    slow_down: SlowDown,
    keys: TokenKeys,
    address: str,
    request: SignInRequest,
) -> TokenPair:
    email = request.email.lower()
    this = await slow_down.take(postgres, email, address)
    try:
        async with postgres.reading() as tx:
            user = await tx.fetchrow(READ_USER, email)
        # An unknown e-mail costs one hash too.
        stored = user["password_hash"] if user else passwords.of_nobody
        right = await passwords.verify(stored, request.password)
        if user is None or not right:
            raise CredentialsInvalid()
        fresh = await passwords.hash(request.password) if passwords.outdated(stored) else None
        return await let_in(postgres, slow_down, keys, user, this, fresh)
    except BulkheadFull:
        # Too much was going on here: nothing was tried, or it was right; neither counts as a guess.
        async with postgres.transaction(TAKE_BACK_WAIT_S) as tx:
            await slow_down.take_back(tx, this)
        raise


async def let_in(
    postgres: Postgres, slow_down: SlowDown, keys: TokenKeys, user: asyncpg.Record, this: Try, fresh_hash: str | None
) -> TokenPair:
    """Starts the family, keeps a hash of today's strength, and forgets the tries that failed."""
    try:
        async with postgres.transaction() as tx:
            family_id, secret = await start_family(tx, user["user_id"])
            if fresh_hash:
                await tx.execute(KEEP_HASH, user["user_id"], user["password_hash"], fresh_hash)
            await slow_down.succeeded(tx, this)
    except CommitUnknown:
        raise DependencyDown("the merchant database, while COMMIT was under way") from None
    return pair(keys, user, family_id, secret)


_under_way: set[asyncio.Task[TokenPair]] = set()


def _ended(task: asyncio.Task[TokenPair]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()


def check(request: SignInRequest) -> None:
    """Refuses what cannot be somebody's, before anything is counted or hashed."""
    found = Findings()
    for name in ("email", "password"):
        if not getattr(request, name):
            found.at(name, "FIELD_REQUIRED", "", "the one of the account is")
    if found:
        raise ValidationFailed(found)
    long = len(request.email) > EMAIL_CHARS_MAX or len(request.password) > 4 * CHARS_MAX
    if long or len(composed(request.password)) > CHARS_MAX or "\0" in request.email:
        raise CredentialsInvalid()


READ_USER = Sql(
    "app_user_read",
    """
SELECT app_user.user_id, app_user.merchant_id, app_user.roles, app_user.password_hash, merchant.gstin
FROM app_user
LEFT JOIN merchant ON merchant.merchant_id = app_user.merchant_id
WHERE app_user.email = $1
""",
)

# Only over the hash that was verified: a password changed meanwhile stays changed.
KEEP_HASH = Sql(
    "app_user_keep_hash", "UPDATE app_user SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"
)
