"""AddUser: colleagues with roles of a merchant's own."""

from __future__ import annotations

import uuid

import grpc
import pytest

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from tests.integration.merchant.conftest import PASSWORD, Account, Office, fresh_email


def user(**changed: object) -> pb.AddUserRequest:
    usual = {"email": fresh_email(), "name": "Ravi", "password": PASSWORD, "roles": [pb.ISSUER]}
    return pb.AddUserRequest(user=pb.NewUser(**{**usual, **changed}))  # type: ignore[arg-type]


class TestAddUser:
    async def test_a_colleague_is_added_and_signs_in_with_the_roles_given(self, office: Office, asha: Account):
        """Each role once, in the merchant of the owner."""
        request = user(roles=[pb.STOCK_KEEPER, pb.ISSUER, pb.STOCK_KEEPER])
        added, _ = await office.call("AddUser", request, token=asha.access)

        assert (added.merchant_id, added.email) == (asha.merchant.merchant_id, request.user.email)
        assert list(added.roles) == [pb.ISSUER, pb.STOCK_KEEPER]
        ravi = await office.sign_in(Account(asha.merchant, added))
        read, _ = await office.call("GetMerchant", pb.GetMerchantRequest(), token=ravi.access)
        assert read == asha.merchant

    async def test_a_replay_returns_the_first_answer_and_another_password_is_another_body(
        self, office: Office, asha: Account
    ):
        """One user, however often the call is repeated."""
        request, key = user(), str(uuid.uuid4())
        first, _ = await office.call("AddUser", request, token=asha.access, key=key)
        assert await office.call("AddUser", request, token=asha.access, key=key) == (first, True)

        request.user.password += "!"
        refused = await office.refused("AddUser", request, token=asha.access, key=key)
        assert refused.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"

    async def test_the_same_key_of_another_merchant_is_another_key(self, office: Office, asha: Account):
        """Keys are the merchant's own."""
        other, key = await office.register(), str(uuid.uuid4())
        mine, _ = await office.call("AddUser", user(), token=asha.access, key=key)
        theirs, replayed = await office.call("AddUser", user(), token=other.access, key=key)
        assert not replayed
        assert theirs.merchant_id == other.merchant.merchant_id != mine.merchant_id

    async def test_an_email_is_unique_on_the_platform_in_any_case_of_letters(self, office: Office, asha: Account):
        """Final for the key: told again on a repeat."""
        other, key = await office.register(), str(uuid.uuid4())
        request = user(email=other.user.email.upper())
        for _ in range(2):
            refused = await office.refused("AddUser", request, token=asha.access, key=key)
            assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_ALREADY_REGISTERED")

    @pytest.mark.parametrize(
        "changed, broken",
        [
            ({"roles": []}, [("user.roles", "FIELD_REQUIRED")]),
            ({"roles": [pb.VIEWER, pb.OPERATOR]}, [("user.roles[1]", "ENUM_INVALID")]),
            ({"roles": [0, 99]}, [("user.roles[0]", "ENUM_INVALID"), ("user.roles[1]", "ENUM_INVALID")]),
            ({"email": "a b@example.in"}, [("user.email", "EMAIL_INVALID")]),
            ({"email": "ravi@localhost"}, [("user.email", "EMAIL_INVALID")]),
            ({"email": "r\N{CYRILLIC SMALL LETTER A}vi@example.in"}, [("user.email", "EMAIL_INVALID")]),
            ({"email": "a" * 250 + "@example.in"}, [("user.email", "TEXT_LENGTH_INVALID")]),
            ({"password": "x" * 11}, [("user.password", "TEXT_LENGTH_INVALID")]),
            ({"password": "x" * 129}, [("user.password", "TEXT_LENGTH_INVALID")]),
            ({"password": ""}, [("user.password", "FIELD_REQUIRED")]),
            ({"name": "x" * 101}, [("user.name", "TEXT_LENGTH_INVALID")]),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, office: Office, asha: Account, changed: dict[str, object], broken: list[tuple[str, str]]
    ):
        """No operator is made here, and no user without a role."""
        refused = await office.refused("AddUser", user(**changed), token=asha.access)
        assert refused.broken == broken
