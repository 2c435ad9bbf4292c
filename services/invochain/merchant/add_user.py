"""Adds a user: to the caller's merchant, to a new one, or to nobody (an operator)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invochain.api.merchant.v1.merchant_service_pb2 import AddUserRequest, NewUser, User
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, new_id
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.durable import decisions
from invochain.errors import ValidationFailed
from invochain.merchant.merchant import (
    EmailAlreadyRegistered,
    Findings,
    check_roles,
    check_user,
    role_names,
    user_of,
)

if TYPE_CHECKING:
    from invochain.merchant.passwords import Passwords

OPERATION = "merchant.add_user"


async def add_user(postgres: Postgres, passwords: Passwords, call: Call, request: AddUserRequest) -> bytes:
    """Adds a user with at least one role to the caller's merchant; the same key and body return the first answer.

    Refuses: ValidationFailed (every broken rule), EmailAlreadyRegistered, KeyReused, BulkheadFull.
    """
    found = Findings()
    check_user(request.user, "user", found)
    check_roles(request.user.roles, "user.roles", found)
    if found:
        raise ValidationFailed(found)
    merchant_id = call.principal.merchant_id
    hidden = AddUserRequest()
    hidden.CopyFrom(request)
    hidden.user.password = await passwords.fingerprint(request.user.password, merchant_id, call.key)
    stored = await passwords.hash(request.user.password)

    async def work(tx: Tx) -> User:
        return await insert(tx, merchant_id, request.user, role_names(request.user.roles), stored)

    return await decisions.once(
        postgres, call, OPERATION, merchant_id, request, work, print_=decisions.fingerprint(hidden)
    )


async def insert(tx: Tx, merchant_id: Id | None, user: NewUser, roles: list[str], password_hash: str) -> User:
    """Writes a user; `merchant_id` None makes an operator. Refuses: EmailAlreadyRegistered."""
    row = await tx.fetchrow(INSERT, new_id(), merchant_id, user.email.lower(), user.name, roles, password_hash)
    if row is None:
        raise EmailAlreadyRegistered()
    return user_of(row)


INSERT = Sql(
    "app_user_insert",
    """
INSERT INTO app_user (user_id, merchant_id, email, name, roles, password_hash)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT ON CONSTRAINT app_user_email_unique DO NOTHING
RETURNING user_id, merchant_id, email, name, roles, create_time
""",
)
