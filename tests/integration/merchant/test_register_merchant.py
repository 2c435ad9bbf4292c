"""RegisterMerchant: one merchant for a GSTIN, with its owner, or nothing and every reason why."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest

from invochain.api.merchant.v1 import merchant_events_pb2
from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.durable import decisions
from invochain.merchant import register_merchant
from tests.integration.merchant.conftest import PASSWORD, Office, as_text, fresh_email, fresh_gstin, registration


async def stored(office: Office, gstin: str) -> int:
    return len(await office.rows("SELECT 1 FROM merchant WHERE gstin = $1", gstin))


class TestRegisterMerchant:
    async def test_a_merchant_is_registered_with_its_owner(self, office: Office):
        """Ids, state, version and times are the server's; the owner gets OWNER whatever was asked for."""
        request = registration(trade_name="Deccan", email="accounts@example.in", phone="02012345678")
        request.owner.roles.append(pb.VIEWER)
        request.owner.email = request.owner.email.upper()

        answer, replayed = await office.call("RegisterMerchant", request)

        merchant = answer.merchant
        assert not replayed
        assert (merchant.gstin, merchant.state, merchant.version, merchant.etag) == (
            request.merchant.gstin,
            "27",
            1,
            "1",
        )
        assert (merchant.legal_name, merchant.trade_name) == ("Deccan Bolts Private Limited", "Deccan")
        assert merchant.address == request.merchant.address
        assert merchant.create_time == merchant.update_time
        assert merchant.create_time.seconds > 0
        assert (answer.owner.merchant_id, list(answer.owner.roles)) == (merchant.merchant_id, [pb.OWNER])
        assert answer.owner.email == request.owner.email.lower()

    async def test_the_other_services_are_told_in_the_same_transaction(self, office: Office):
        """One outbox row with the whole merchant, version 1, under the merchant's own id, in the caller's trace."""
        trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
        answer, _ = await office.call("RegisterMerchant", registration(), traceparent=trace)

        merchant_id = uuid.UUID(answer.merchant.merchant_id).bytes
        rows = await office.rows("SELECT * FROM outbox WHERE aggregate_id = $1", merchant_id)
        assert [("invochain.merchant.changed.v1", 1, merchant_id)] == [
            (row["type"], row["version"], bytes(row["merchant_id"])) for row in rows
        ]
        assert merchant_events_pb2.MerchantChanged.FromString(rows[0]["payload"]).merchant == answer.merchant
        assert "ab" * 16 in rows[0]["traceparent"]

    async def test_a_replay_returns_the_first_answer_and_makes_nothing(self, office: Office):
        """The same key and body again: the same ids, the replayed mark, still one merchant and one event."""
        request, key = registration(), str(uuid.uuid4())
        first, _ = await office.call("RegisterMerchant", request, key=key)
        second, replayed = await office.call("RegisterMerchant", request, key=key)

        assert (first, True) == (second, replayed)
        assert await stored(office, request.merchant.gstin) == 1
        rows = await office.rows(
            "SELECT 1 FROM outbox WHERE aggregate_id = $1", uuid.UUID(first.merchant.merchant_id).bytes
        )
        assert len(rows) == 1

    async def test_the_same_call_twenty_times_at_once_makes_one_merchant(self, office: Office):
        """All get the same answer; exactly one of them made it."""
        request, key = registration(), str(uuid.uuid4())
        answers = await asyncio.gather(*(office.call("RegisterMerchant", request, key=key) for _ in range(20)))

        assert len({answer.SerializeToString() for answer, _ in answers}) == 1
        assert sum(not replayed for _, replayed in answers) == 1
        assert await stored(office, request.merchant.gstin) == 1

    @pytest.mark.parametrize("what", ["legal name", "password"])
    async def test_the_key_with_another_body_is_refused(self, office: Office, what: str):
        """Also when only the password differs, of which nothing is stored but hashes."""
        request, key = registration(), str(uuid.uuid4())
        await office.call("RegisterMerchant", request, key=key)
        if what == "password":
            request.owner.password += "!"
        else:
            request.merchant.legal_name = "Somebody Else Limited"

        refused = await office.refused("RegisterMerchant", request, key=key)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "KEY_REUSED_WITH_DIFFERENT_PAYLOAD",
        )

    async def test_the_key_of_one_gstin_is_free_for_another(self, office: Office):
        """The key's scope is the GSTIN, for there is no merchant yet."""
        key = str(uuid.uuid4())
        _, first = await office.call("RegisterMerchant", registration(), key=key)
        _, second = await office.call("RegisterMerchant", registration(), key=key)
        assert (first, second) == (False, False)

    async def test_a_gstin_is_registered_once_and_the_refusal_is_final_for_its_key(self, office: Office):
        """ALREADY_EXISTS, again and replayed for the same key, and no second owner."""
        first = registration()
        await office.call("RegisterMerchant", first)
        second, key = registration(gstin=first.merchant.gstin), str(uuid.uuid4())

        for _ in range(2):
            refused = await office.refused("RegisterMerchant", second, key=key)
            assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "GSTIN_ALREADY_REGISTERED")
            assert first.merchant.gstin not in refused.raw
        assert not await office.rows("SELECT 1 FROM app_user WHERE email = $1", second.owner.email)

    async def test_two_registrations_of_one_gstin_at_once_make_one(self, office: Office):
        """The unique key picks one; the other is told so."""
        gstin = fresh_gstin()
        requests = [registration(gstin=gstin) for _ in range(6)]
        answers = await asyncio.gather(
            *(office.call("RegisterMerchant", request) for request in requests), return_exceptions=True
        )
        assert sum(isinstance(answer, tuple) for answer in answers) == 1
        assert await stored(office, gstin) == 1

    async def test_an_email_that_signs_in_somebody_else_is_refused_whole(self, office: Office):
        """In any case of letters; the merchant is not made either, so the GSTIN stays free."""
        first = registration()
        await office.call("RegisterMerchant", first)
        second = registration()
        second.owner.email = first.owner.email.upper()

        refused = await office.refused("RegisterMerchant", second)
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EMAIL_ALREADY_REGISTERED")
        assert await stored(office, second.merchant.gstin) == 0

        second.owner.email = fresh_email()
        await office.call("RegisterMerchant", second)

    async def test_no_table_holds_the_password(self, office: Office):
        """Not in the user, the decision, the outbox; and a hash that is argon2id."""
        request = registration()
        await office.call("RegisterMerchant", request)
        for table in ("app_user", "decision", "outbox", "merchant"):
            text = as_text(await office.rows(f"SELECT * FROM {table}"))
            assert PASSWORD not in text
            assert PASSWORD.encode().hex() not in text
        rows = await office.rows("SELECT password_hash FROM app_user WHERE email = $1", request.owner.email)
        assert rows[0]["password_hash"].startswith("$argon2id$")

    async def test_the_stored_fingerprint_is_no_quick_way_to_search_for_the_password(self, office: Office):
        """A plain hash of the request would be one: its other fields are known to whoever reads the tables."""
        request = registration()
        await office.call("RegisterMerchant", request)
        scope = register_merchant.scope_of(request.merchant.gstin)
        rows = await office.rows("SELECT fingerprint FROM decision WHERE merchant_id = $1", scope)

        assert len(rows) == 1
        assert bytes(rows[0]["fingerprint"]) != decisions.fingerprint(request)


class TestRefusals:
    async def test_everything_that_is_wrong_is_said_at_once_and_nothing_is_stored(self, office: Office):
        """One violation per broken rule, each with its proto path; the key is not used up."""
        wrong = pb.RegisterMerchantRequest(
            merchant=pb.Merchant(
                merchant_id=str(uuid.uuid4()),
                gstin="27AAPFU0939F1ZA",
                legal_name="AB",
                trade_name=" Deccan",
                address=pb.Address(line1="", line2="x", location="P\0une", pin_code="011001"),
                taxpayer_type=17,
                annual_turnover_paise=-1,
                compliance_policy=9,
                email="accounts@nowhere",
                phone="+91 20 1234",
            ),
            owner=pb.NewUser(email="asha", name="", password="short"),
        )
        key = str(uuid.uuid4())
        refused = await office.refused("RegisterMerchant", wrong, key=key)

        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
        assert sorted(refused.broken) == [
            ("merchant.address.line1", "FIELD_REQUIRED"),
            ("merchant.address.line2", "TEXT_LENGTH_INVALID"),
            ("merchant.address.location", "TEXT_INVALID"),
            ("merchant.address.pin_code", "PIN_CODE_INVALID"),
            ("merchant.annual_turnover_paise", "AMOUNT_OUT_OF_RANGE"),
            ("merchant.compliance_policy", "ENUM_INVALID"),
            ("merchant.email", "EMAIL_INVALID"),
            ("merchant.gstin", "GSTIN_CHECKSUM_INVALID"),
            ("merchant.legal_name", "TEXT_LENGTH_INVALID"),
            ("merchant.merchant_id", "FIELD_OUTPUT_ONLY"),
            ("merchant.phone", "PHONE_INVALID"),
            ("merchant.taxpayer_type", "ENUM_INVALID"),
            ("merchant.trade_name", "TEXT_INVALID"),
            ("owner.email", "TEXT_LENGTH_INVALID"),
            ("owner.name", "FIELD_REQUIRED"),
            ("owner.password", "TEXT_LENGTH_INVALID"),
        ]
        assert "check character V" in refused.raw
        assert "short" not in refused.raw
        assert not await office.rows("SELECT 1 FROM merchant WHERE gstin = '27AAPFU0939F1ZA'")

    @pytest.mark.parametrize(
        "gstin, state, path, code",
        [
            ("", "", "merchant.gstin", "GSTIN_REQUIRED"),
            ("27AAPFU0939F1Z", "", "merchant.gstin", "GSTIN_LENGTH_INVALID"),
            ("27aapfu0939f1zv", "", "merchant.gstin", "GSTIN_FORMAT_INVALID"),
            ("27AAPFU0939F1Z\N{FULLWIDTH LATIN CAPITAL LETTER V}", "", "merchant.gstin", "GSTIN_FORMAT_INVALID"),
            ("27\N{CYRILLIC CAPITAL LETTER A}APFU0939F1ZV", "", "merchant.gstin", "GSTIN_FORMAT_INVALID"),
            ("39AAACI1681G1ZK", "", "merchant.gstin", "GSTIN_STATE_INVALID"),
            ("27AABCU9603R1ZM", "", "merchant.gstin", "GSTIN_CHECKSUM_INVALID"),
            ("URP", "", "merchant.gstin", "GSTIN_URP_NOT_ALLOWED"),
            ("29AABCF8078M1C8", "", "merchant.gstin", "GSTIN_KIND_NOT_ALLOWED"),
            ("0717USA00012UN8", "", "merchant.gstin", "GSTIN_KIND_NOT_ALLOWED"),
            ("27AAPFU0939F1ZV", "29", "merchant.state", "STATE_GSTIN_MISMATCH"),
            ("25AAACI1681G1ZT", "", "merchant.gstin", "STATE_CODE_WITHDRAWN"),
            ("25AAACI1681G1ZT", "25", "merchant.state", "STATE_CODE_WITHDRAWN"),
        ],
    )
    async def test_a_registration_number_that_is_no_sellers_is_refused(
        self, office: Office, gstin: str, state: str, path: str, code: str
    ):
        """RULES G1 to G8, one by one."""
        refused = await office.refused("RegisterMerchant", registration(gstin=gstin, state=state))
        assert refused.broken == [(path, code)]

    @pytest.mark.parametrize("key, reason", [(None, "IDEMPOTENCY_KEY_REQUIRED"), ("short", "IDEMPOTENCY_KEY_INVALID")])
    async def test_a_key_is_needed(self, office: Office, key: str | None, reason: str):
        """Without one nothing could be repeated safely."""
        refused = await office.refused("RegisterMerchant", registration(), key=key)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)

    @pytest.mark.parametrize(
        "text",
        ["Robert'); DROP TABLE merchant;--", "{{7*7}} %n %s", "विक्रम एंड संस", "க்‍ஷ Traders", "a\u0301bc" * 20],
    )
    async def test_a_strange_but_lawful_name_comes_back_as_it_went_in(self, office: Office, text: str):
        """Nothing interprets a name."""
        answer, _ = await office.call("RegisterMerchant", registration(legal_name=text))
        assert answer.merchant.legal_name == text

    @pytest.mark.parametrize(
        "text", ["Deccan\nBolts", "Deccan\x1b[31m", "Deccan\0Bolts", "Deccan \u202egnp.exe", "Bolts "]
    )
    async def test_control_characters_and_reversed_writing_are_no_name(self, office: Office, text: str):
        """They would deceive a reader or break a log line."""
        refused = await office.refused("RegisterMerchant", registration(legal_name=text))
        assert refused.broken == [("merchant.legal_name", "TEXT_INVALID")]

    async def test_a_field_the_message_does_not_have_is_refused(self, office: Office):
        """A typo is not overlooked."""
        request = registration()
        request.merchant.MergeFromString(b"\xf8\x07\x01")
        refused = await office.refused("RegisterMerchant", request)
        assert refused.reason == "MALFORMED_REQUEST"
