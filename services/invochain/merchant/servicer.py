"""The doors of the merchant service: who may, which use case. The stories are in the files named like the methods."""

from __future__ import annotations

from dataclasses import dataclass

from invochain.api.merchant.v1.merchant_service_pb2 import (
    AddUserRequest,
    GetJsonWebKeySetRequest,
    GetMerchantRequest,
    JsonWebKey,
    JsonWebKeySet,
    LookupMerchantsRequest,
    LookupMerchantsResponse,
    Merchant,
    RefreshTokenRequest,
    RegisterMerchantRequest,
    SignInRequest,
    TokenPair,
    UpdateMerchantRequest,
)
from invochain.chassis.call import Call
from invochain.chassis.postgres import Postgres
from invochain.chassis.rpc import rpc
from invochain.merchant import add_user, read_merchant, refresh_token, register_merchant, sign_in, update_merchant
from invochain.merchant.passwords import Passwords
from invochain.merchant.slow_down import SlowDown
from invochain.merchant.token_keys import TokenKeys


@dataclass
class MerchantServicer:
    """invochain.api.merchant.v1.MerchantService."""

    postgres: Postgres
    passwords: Passwords
    slow_down: SlowDown
    keys: TokenKeys

    service = "invochain.api.merchant.v1.MerchantService"

    @rpc(public=True, key=True)
    async def RegisterMerchant(self, call: Call, request: RegisterMerchantRequest) -> bytes:
        return await register_merchant.register_merchant(self.postgres, self.passwords, call, request)

    @rpc()
    async def GetMerchant(self, call: Call, request: GetMerchantRequest) -> Merchant:
        return await read_merchant.get_merchant(self.postgres, call, request)

    @rpc(roles=("OWNER",), key=True)
    async def UpdateMerchant(self, call: Call, request: UpdateMerchantRequest) -> bytes:
        return await update_merchant.update_merchant(self.postgres, call, request)

    @rpc(roles=("OWNER",), key=True)
    async def AddUser(self, call: Call, request: AddUserRequest) -> bytes:
        return await add_user.add_user(self.postgres, self.passwords, call, request)

    @rpc(public=True)
    async def SignIn(self, call: Call, request: SignInRequest) -> TokenPair:
        return await sign_in.sign_in(self.postgres, self.passwords, self.slow_down, self.keys, call, request)

    @rpc(public=True)
    async def RefreshToken(self, call: Call, request: RefreshTokenRequest) -> TokenPair:
        return await refresh_token.refresh_token(self.postgres, self.keys, request)

    @rpc(public=True)
    async def GetJsonWebKeySet(self, call: Call, request: GetJsonWebKeySetRequest) -> JsonWebKeySet:
        return JsonWebKeySet(keys=[JsonWebKey(**key) for key in self.keys.public()])

    @rpc(services=("*",))
    async def LookupMerchants(self, call: Call, request: LookupMerchantsRequest) -> LookupMerchantsResponse:
        return await read_merchant.lookup_merchants(self.postgres, request)
