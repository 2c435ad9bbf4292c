"""GetMerchant, LookupMerchants, GetJsonWebKeySet: who may read what, and that strangers learn nothing."""

from __future__ import annotations

import uuid

import grpc
import pytest

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.chassis import secrets, tokens
from invochain.chassis.call import Principal
from invochain.chassis.ids import new_id
from invochain.chassis.key_set import KeySet, MerchantKeys
from tests.integration.merchant.conftest import Account, Office, Refused


def operator(office: Office) -> str:
    who = Principal(user_id=new_id(), roles=frozenset({"OPERATOR"}))
    return tokens.access_token(office.secrets.token_keys[0], who)


class TestGetMerchant:
    @pytest.mark.parametrize("role", [pb.ISSUER, pb.APPROVER, pb.STOCK_KEEPER, pb.VIEWER])
    async def test_every_role_reads_its_own_merchant(self, office: Office, asha: Account, role: int):
        """By the token alone; naming it changes nothing."""
        colleague = await office.colleague(asha, role)
        for request in (pb.GetMerchantRequest(), pb.GetMerchantRequest(merchant_id=asha.merchant.merchant_id)):
            read, _ = await office.call("GetMerchant", request, token=colleague.access)
            assert read == asha.merchant

    async def test_another_merchant_looks_like_none(self, office: Office, asha: Account):
        """The answer for a merchant that exists is that for one that does not, to the letter."""
        other = await office.register()
        answers: list[Refused] = [
            await office.refused("GetMerchant", pb.GetMerchantRequest(merchant_id=name), token=asha.access)
            for name in (other.merchant.merchant_id, str(uuid.uuid4()))
        ]
        assert (answers[0].code, answers[0].reason) == (grpc.StatusCode.NOT_FOUND, "MERCHANT_NOT_FOUND")
        assert answers[0] == answers[1]

    async def test_an_operator_names_the_merchant(self, office: Office, asha: Account):
        """And is told when none was named, or there is none."""
        read, _ = await office.call(
            "GetMerchant", pb.GetMerchantRequest(merchant_id=asha.merchant.merchant_id), token=operator(office)
        )
        assert read == asha.merchant
        refused = await office.refused("GetMerchant", pb.GetMerchantRequest(), token=operator(office))
        assert refused.broken == [("merchant_id", "FIELD_REQUIRED")]
        unknown = pb.GetMerchantRequest(merchant_id=str(uuid.uuid4()))
        assert (await office.refused("GetMerchant", unknown, token=operator(office))).reason == "MERCHANT_NOT_FOUND"

    async def test_an_id_that_is_none_is_refused_by_name(self, office: Office):
        """Not with an error of the database."""
        refused = await office.refused(
            "GetMerchant", pb.GetMerchantRequest(merchant_id="' OR 1=1 --"), token=operator(office)
        )
        assert refused.broken == [("merchant_id", "ID_INVALID")]


class TestWhoMay:
    @pytest.mark.parametrize("method, request_", [
        ("GetMerchant", pb.GetMerchantRequest()),
        ("UpdateMerchant", pb.UpdateMerchantRequest(merchant=pb.Merchant(phone="0201234567"))),
        ("AddUser", pb.AddUserRequest(user=pb.NewUser(email="x@example.in"))),
    ])  # fmt: skip
    @pytest.mark.parametrize("token", ["", "not.a.token", "forged"])
    async def test_without_a_good_token_nothing_opens(self, office: Office, method: str, request_: object, token: str):
        """UNAUTHENTICATED before anything else is looked at."""
        if token == "forged":
            strange = secrets._new_token_key(office.secrets.token_keys[0].made_at, publish_s=0)
            token = tokens.access_token(strange, Principal(merchant_id=new_id(), roles=frozenset({"OWNER"})))
        refused = await office.refused(method, request_, token=token)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    @pytest.mark.parametrize("role", [pb.ISSUER, pb.APPROVER, pb.STOCK_KEEPER, pb.VIEWER])
    @pytest.mark.parametrize("method", ["UpdateMerchant", "AddUser"])
    async def test_only_the_owner_changes_merchant_and_users(
        self, office: Office, asha: Account, role: int, method: str
    ):
        """PERMISSION_DENIED, naming the roles that may; also for a key the owner has used."""
        colleague = await office.colleague(asha, role)
        request = {
            "UpdateMerchant": pb.UpdateMerchantRequest(merchant=pb.Merchant(phone="0201234567")),
            "AddUser": pb.AddUserRequest(
                user=pb.NewUser(email=f"{uuid.uuid4()}@example.in", name="N", password="x" * 12, roles=[pb.VIEWER])
            ),
        }[method]
        key = str(uuid.uuid4())
        await office.call(method, request, token=asha.access, key=key)

        refused = await office.refused(method, request, token=colleague.access, key=key)
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_MISSING")
        assert refused.facts == {"wanted": "OWNER"}

    @pytest.mark.parametrize("method", ["UpdateMerchant", "AddUser"])
    async def test_an_operator_does_not_act_for_a_merchant(self, office: Office, method: str):
        """Running the platform is another job."""
        request = getattr(pb, f"{method}Request")()
        assert (await office.refused(method, request, token=operator(office))).reason == "ROLE_MISSING"

    async def test_services_alone_look_merchants_up(self, office: Office, asha: Account):
        """Neither an owner nor an operator nor a service token in the wrong place opens it."""
        request = pb.LookupMerchantsRequest(gstins=[asha.merchant.gstin])
        service_token = tokens.ServiceIdentity("invoice", office.secrets).token()
        for token in (asha.access, operator(office), service_token, ""):
            refused = await office.refused("LookupMerchants", request, token=token)
            assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SERVICE_ONLY")
        forged = await office.refused("LookupMerchants", request, x_invochain_service_token=asha.access)
        assert forged.reason == "TOKEN_INVALID"

    async def test_a_service_is_nobodys_owner(self, office: Office):
        """A service token does not open what is a merchant's."""
        refused = await office.refused("UpdateMerchant", pb.UpdateMerchantRequest(), service="invoice")
        assert refused.reason == "TOKEN_INVALID"


class TestLookupMerchants:
    async def test_those_that_exist_are_found_by_id_and_by_gstin_each_once(self, office: Office, asha: Account):
        """Unknown names are simply not among the answers."""
        other = await office.register()
        request = pb.LookupMerchantsRequest(
            merchant_ids=[asha.merchant.merchant_id, str(uuid.uuid4())],
            gstins=[asha.merchant.gstin, other.merchant.gstin, "27AAPFU0939F1ZV", "", "x\0y"],
        )
        answer, _ = await office.call("LookupMerchants", request, service="invoice", key=None)
        assert sorted(m.merchant_id for m in answer.merchants) == sorted(
            [asha.merchant.merchant_id, other.merchant.merchant_id]
        )
        assert asha.merchant in answer.merchants

    async def test_too_many_names_and_broken_ids_are_refused(self, office: Office):
        """1,000 at most; every broken id is named."""
        many = pb.LookupMerchantsRequest(gstins=["27AAPFU0939F1ZV"] * 1_001)
        assert (await office.refused("LookupMerchants", many, service="invoice")).broken == [
            ("merchant_ids", "ITEMS_TOO_MANY")
        ]
        broken = pb.LookupMerchantsRequest(merchant_ids=["x", str(uuid.uuid4()), "y"])
        assert (await office.refused("LookupMerchants", broken, service="invoice")).broken == [
            ("merchant_ids[0]", "ID_INVALID"),
            ("merchant_ids[2]", "ID_INVALID"),
        ]


class TestGetJsonWebKeySet:
    async def test_the_keys_are_public_and_only_their_public_halves(self, office: Office, asha: Account):
        """Another service verifies our tokens by what it fetches here."""
        answer, _ = await office.call("GetJsonWebKeySet", pb.GetJsonWebKeySetRequest(), key=None)
        key = answer.keys[0]
        assert (key.kty, key.crv, key.use, key.alg) == ("EC", "P-256", "sig", "ES256")
        assert "d" not in {field.name for field in pb.JsonWebKey.DESCRIPTOR.fields}

        fetch = MerchantKeys(office.address)
        try:
            gate = tokens.Authenticator(office.secrets, KeySet(fetch))
            who = await gate.user(f"Bearer {asha.access}")
        finally:
            await fetch.close()
        assert who.merchant_id == uuid.UUID(asha.merchant.merchant_id).bytes
        assert (who.gstin, who.roles) == (asha.merchant.gstin, frozenset({"OWNER"}))

    async def test_a_rotation_needs_no_restart_and_refuses_nobody(self, office: Office, asha: Account):
        """The new key is published at once; both tokens are good, and once the old key is revoked only the new is."""
        folder = office.secrets.folder
        old = secrets.read_token_keys(folder)[-1]
        fresh = secrets.rotate(folder, at_once=True)

        published, _ = await office.call("GetJsonWebKeySet", pb.GetJsonWebKeySetRequest(), key=None)
        assert {old.kid, fresh.kid} <= {key.kid for key in published.keys}
        before = asha.access
        await office.sign_in(asha)
        assert asha.access.split(".")[0] != before.split(".")[0]
        await office.call("GetMerchant", pb.GetMerchantRequest(), token=before)

        secrets.revoke(folder, old.kid)
        published, _ = await office.call("GetJsonWebKeySet", pb.GetJsonWebKeySetRequest(), key=None)
        assert old.kid not in {key.kid for key in published.keys}
        await office.call("GetMerchant", pb.GetMerchantRequest(), token=asha.access)
