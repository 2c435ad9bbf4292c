"""Merchants and their users: AsyncClient.merchants and Client.merchants."""

from __future__ import annotations

from collections.abc import Sequence

from invochain_client.api.merchant.v1 import merchant_service_pb2 as pb
from invochain_client.blocking import blocking
from invochain_client.calling import Answer, Caller
from invochain_client.types import FieldMask, Merchant, NewUser, RegisterMerchantResponse, User
from invochain_client.wire import Method

REGISTER = Method("merchant", "RegisterMerchant", pb.RegisterMerchantResponse, public=True)
GET = Method("merchant", "GetMerchant", pb.Merchant)
UPDATE = Method("merchant", "UpdateMerchant", pb.Merchant)
ADD_USER = Method("merchant", "AddUser", pb.User)


class AsyncMerchants:
    """MerchantService."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def register(
        self, merchant: Merchant, owner: NewUser, *, idempotency_key: str | None = None, timeout_s: float | None = None
    ) -> Answer[RegisterMerchantResponse]:
        """Registers a merchant by its GSTIN, with its first user. Needs no sign-in.

        Raises ValidationFailed, GstinAlreadyRegistered, EmailAlreadyRegistered.
        """
        request = pb.RegisterMerchantRequest(merchant=merchant, owner=owner)
        return await self._caller.write(
            REGISTER, request, "merchant.register", key=idempotency_key, timeout_s=timeout_s
        )

    async def get(self, *, timeout_s: float | None = None) -> Merchant:
        """The merchant of the user."""
        return await self._caller.read(GET, pb.GetMerchantRequest(), timeout_s)

    async def update(
        self,
        merchant: Merchant,
        mask: Sequence[str] = (),
        *,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Merchant]:
        """Changes the fields named in `mask`; none named: those that are set. Raises VersionMismatch (stale etag)."""
        request = pb.UpdateMerchantRequest(merchant=merchant, update_mask=FieldMask(paths=mask))
        return await self._caller.write(UPDATE, request, "merchant.update", key=idempotency_key, timeout_s=timeout_s)

    async def add_user(
        self, user: NewUser, *, idempotency_key: str | None = None, timeout_s: float | None = None
    ) -> Answer[User]:
        """Adds a user. Raises EmailAlreadyRegistered."""
        request = pb.AddUserRequest(user=user)
        return await self._caller.write(
            ADD_USER, request, "merchant.add_user", key=idempotency_key, timeout_s=timeout_s
        )


class Merchants:
    """MerchantService, blocking."""

    def __init__(self, behind: AsyncMerchants) -> None:
        self._behind = behind

    register = blocking(AsyncMerchants.register)
    get = blocking(AsyncMerchants.get)
    update = blocking(AsyncMerchants.update)
    add_user = blocking(AsyncMerchants.add_user)
