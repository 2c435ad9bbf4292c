"""UpdateMerchant: what an owner may change, told to the others, never lost and never another's."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from invochain.api.merchant.v1 import merchant_events_pb2
from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from tests.integration.merchant.conftest import Account, Office


def update(*paths: str, **fields: object) -> pb.UpdateMerchantRequest:
    return pb.UpdateMerchantRequest(merchant=pb.Merchant(**fields), update_mask=FieldMask(paths=paths))  # type: ignore[arg-type]


async def events(office: Office, account: Account) -> list[pb.Merchant]:
    rows = await office.rows(
        "SELECT payload FROM outbox WHERE aggregate_id = $1 ORDER BY seq", uuid.UUID(account.merchant.merchant_id).bytes
    )
    return [merchant_events_pb2.MerchantChanged.FromString(row["payload"]).merchant for row in rows]


class TestUpdateMerchant:
    async def test_the_fields_in_the_mask_change_and_no_others(self, office: Office, asha: Account):
        """Version and etag grow by one, the time moves, an event tells the whole merchant."""
        wanted = update(
            "trade_name", "taxpayer_type", "address.line2", "phone",
            trade_name="Deccan", taxpayer_type=pb.SEZ, address=pb.Address(line1="ignored", line2="Second floor"),
            legal_name="Ignored Limited",
        )  # fmt: skip
        after, replayed = await office.call("UpdateMerchant", wanted, token=asha.access)

        assert not replayed
        assert (after.trade_name, after.taxpayer_type, after.address.line2) == ("Deccan", pb.SEZ, "Second floor")
        assert (after.legal_name, after.address.line1) == (asha.merchant.legal_name, asha.merchant.address.line1)
        assert (after.version, after.etag) == (2, "2")
        assert after.create_time == asha.merchant.create_time
        assert after.update_time.ToNanoseconds() > asha.merchant.update_time.ToNanoseconds()
        assert await events(office, asha) == [asha.merchant, after]
        read, _ = await office.call("GetMerchant", pb.GetMerchantRequest(), token=asha.access)
        assert read == after

    async def test_an_empty_mask_means_the_fields_that_are_set(self, office: Office, asha: Account):
        """What was read, changed in one field and sent back whole, changes that field."""
        sent = pb.Merchant()
        sent.CopyFrom(asha.merchant)
        sent.compliance_policy = pb.REVIEW
        after, _ = await office.call("UpdateMerchant", pb.UpdateMerchantRequest(merchant=sent), token=asha.access)
        assert (after.compliance_policy, after.legal_name, after.version) == (pb.REVIEW, asha.merchant.legal_name, 2)

    async def test_a_field_in_the_mask_that_is_not_set_is_cleared(self, office: Office, asha: Account):
        """Absent is a value for what may be absent, and a refusal for what may not."""
        await office.call("UpdateMerchant", update(phone="0201234567"), token=asha.access)
        after, _ = await office.call("UpdateMerchant", update("phone"), token=asha.access)
        assert after.phone == ""
        refused = await office.refused("UpdateMerchant", update("legal_name"), token=asha.access)
        assert refused.broken == [("merchant.legal_name", "FIELD_REQUIRED")]

    async def test_no_change_is_no_version_and_no_event(self, office: Office, asha: Account):
        """The same values again leave everything as it is."""
        wanted = update("legal_name", legal_name=asha.merchant.legal_name)
        after, _ = await office.call("UpdateMerchant", wanted, token=asha.access)
        assert after == asha.merchant
        assert len(await events(office, asha)) == 1

    async def test_a_replay_returns_the_first_answer_and_changes_nothing(self, office: Office, asha: Account):
        """Even when the merchant has changed since."""
        key = str(uuid.uuid4())
        first, _ = await office.call("UpdateMerchant", update(trade_name="One"), token=asha.access, key=key)
        await office.call("UpdateMerchant", update(trade_name="Two"), token=asha.access)
        again, replayed = await office.call("UpdateMerchant", update(trade_name="One"), token=asha.access, key=key)

        assert (again, replayed) == (first, True)
        assert [event.trade_name for event in await events(office, asha)] == ["", "One", "Two"]
        refused = await office.refused("UpdateMerchant", update(trade_name="Three"), token=asha.access, key=key)
        assert refused.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"

    @pytest.mark.parametrize("by", ["etag", "if-match", "if-match of http", "weak"])
    async def test_a_stale_etag_refuses_a_lost_update(self, office: Office, asha: Account, by: str):
        """ABORTED, with both versions, and nothing stored: the same key may be used after reading again."""
        first = update(trade_name="First", etag="1") if by == "etag" else update(trade_name="First")
        second = update(trade_name="Second", etag="1") if by == "etag" else update(trade_name="Second")
        match = {"etag": {}, "if-match": {"if_match": "1"}, "if-match of http": {"if_match": '"1"'}}
        how = match.get(by, {"if_match": 'W/"1"'})

        await office.call("UpdateMerchant", first, token=asha.access, **how)
        refused = await office.refused("UpdateMerchant", second, token=asha.access, **how)

        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
        assert refused.facts == {"found": "1", "present": "2"}

    async def test_changes_at_once_all_happen_and_every_version_is_told(self, office: Office, asha: Account):
        """Twelve writers without an etag: twelve versions, twelve events, in order."""
        await asyncio.gather(
            *(office.call("UpdateMerchant", update(trade_name=f"Name {n}"), token=asha.access) for n in range(12))
        )
        told = await events(office, asha)
        assert [merchant.version for merchant in told] == list(range(1, 14))
        read, _ = await office.call("GetMerchant", pb.GetMerchantRequest(), token=asha.access)
        assert read == told[-1]

    async def test_of_two_with_the_same_etag_one_wins(self, office: Office, asha: Account):
        """The row's lock picks; the loser changes nothing."""
        answers = await asyncio.gather(
            *(
                office.call("UpdateMerchant", update(trade_name=f"Name {n}", etag="1"), token=asha.access)
                for n in range(5)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(answer, tuple) for answer in answers) == 1
        assert len(await events(office, asha)) == 2


class TestRefusals:
    @pytest.mark.parametrize("path", ["merchant_id", "gstin", "state", "create_time", "update_time", "version", "etag"])
    async def test_what_is_not_the_owners_to_change_is_refused_in_the_mask(
        self, office: Office, asha: Account, path: str
    ):
        """Output-only, or fixed by the registration."""
        refused = await office.refused("UpdateMerchant", update(path, "phone"), token=asha.access)
        assert refused.broken == [("update_mask", "FIELD_OUTPUT_ONLY")]

    @pytest.mark.parametrize("path", ["nothing", "address.street", "legal_name.x", "*.phone", ""])
    async def test_an_unknown_path_is_refused(self, office: Office, asha: Account, path: str):
        """A typo in the mask is not overlooked."""
        refused = await office.refused("UpdateMerchant", update(path), token=asha.access)
        assert refused.broken == [("update_mask", "FIELD_UNKNOWN")]

    async def test_nothing_to_change_is_said(self, office: Office, asha: Account):
        """No mask and no field."""
        refused = await office.refused("UpdateMerchant", update(), token=asha.access)
        assert refused.broken == [("update_mask", "FIELD_REQUIRED")]

    async def test_another_gstin_is_refused_without_a_mask_too(self, office: Office, asha: Account):
        """A registration never becomes another one."""
        refused = await office.refused(
            "UpdateMerchant", update(gstin="27AAPFU0939F1ZV", state="29", phone="0201234567"), token=asha.access
        )
        assert refused.broken == [("merchant.gstin", "FIELD_IMMUTABLE"), ("merchant.state", "FIELD_IMMUTABLE")]

    async def test_a_body_that_names_another_merchant_is_refused(self, office: Office, asha: Account):
        """The merchant is the token's, whatever the body says."""
        other = await office.register()
        wanted = update(merchant_id=other.merchant.merchant_id, trade_name="Taken over")
        refused = await office.refused("UpdateMerchant", wanted, token=asha.access)
        assert refused.broken == [("merchant.merchant_id", "FIELD_OUTPUT_ONLY")]
        assert len(await events(office, other)) == 1

    async def test_a_refused_change_leaves_no_trace(self, office: Office, asha: Account):
        """All violations at once; no version, no event, no decision row."""
        wanted = update("legal_name", "annual_turnover_paise", legal_name="X", annual_turnover_paise=10**17 + 1)
        refused = await office.refused("UpdateMerchant", wanted, token=asha.access)
        assert sorted(refused.broken) == [
            ("merchant.annual_turnover_paise", "AMOUNT_OUT_OF_RANGE"),
            ("merchant.legal_name", "TEXT_LENGTH_INVALID"),
        ]
        assert len(await events(office, asha)) == 1
        assert not await office.rows(
            "SELECT 1 FROM decision WHERE merchant_id = $1", uuid.UUID(asha.merchant.merchant_id).bytes
        )
