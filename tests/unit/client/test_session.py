"""Tokens: signed in once, renewed before their end, a refresh token never sent twice."""

from __future__ import annotations

import pytest

from invochain_client import OutcomeUnknown, Timing, errors
from invochain_client.api.invoice.v1 import invoice_service_pb2 as pb
from invochain_client.api.merchant.v1 import merchant_service_pb2 as merchant_pb
from invochain_client.blocking import run_now
from invochain_client.calling import Caller
from invochain_client.invoices import AsyncInvoices, Invoices
from invochain_client.session import Session, User
from invochain_client.types import Invoice
from invochain_client.wire import Failed
from tests.unit.client.scripted_wire import LATE, LOST, ScriptedWire, refused, taking

EXPIRED = refused("UNAUTHENTICATED", "TOKEN_EXPIRED")
WRONG = refused("UNAUTHENTICATED", "CREDENTIALS_INVALID")


def signed(wire: ScriptedWire) -> Invoices:
    session = Session(wire, User("owner@example.in", "correct horse battery staple"), Timing())
    return Invoices(AsyncInvoices(Caller(wire, Timing(), session, draw=lambda: 0.0)))


def methods(wire: ScriptedWire) -> list[str]:
    return [one.method for one in wire.sent]


class TestAToken:
    def test_is_fetched_once_and_used_by_every_call(self):
        """The first call signs in; the next ones carry the same token."""
        wire = ScriptedWire()
        calls = signed(wire)
        for _ in range(3):
            calls.get("an-invoice")

        assert methods(wire) == ["SignIn", "GetInvoice", "GetInvoice", "GetInvoice"]
        assert {one.metadata["authorization"] for one in wire.of("GetInvoice")} == {"Bearer access-1"}
        assert "authorization" not in wire.of("SignIn")[0].metadata

    def test_is_renewed_a_minute_before_its_end(self):
        """With 15 minutes of life it is used for 14; then the refresh token is exchanged, no password sent."""
        wire = ScriptedWire()
        calls = signed(wire)
        calls.get("an-invoice")
        wire.now_s += 839
        calls.get("an-invoice")
        wire.now_s += 2
        calls.get("an-invoice")

        assert methods(wire) == ["SignIn", "GetInvoice", "GetInvoice", "RefreshToken", "GetInvoice"]
        assert wire.sent[-1].metadata["authorization"] == "Bearer access-2"
        sent = merchant_pb.RefreshTokenRequest.FromString(wire.of("RefreshToken")[0].request)
        assert sent.refresh_token == "refresh-1"

    def test_is_fetched_within_an_attempts_time_and_the_calls(self):
        """5 s for a sign-in, less if the call has less left."""
        wire = ScriptedWire()
        signed(wire).get("an-invoice")
        signed(wire).get("an-invoice", timeout_s=3)

        assert [one.within_s for one in wire.of("SignIn")] == [5.0, 3.0]

    def test_counts_from_before_it_was_asked_for(self):
        """A slow sign-in shortens the token's use, never lengthens it."""
        pair = merchant_pb.TokenPair(access_token="slow", refresh_token="r", expires_in=900)
        wire = ScriptedWire({"SignIn": [taking(4.0, pair)]})
        calls = signed(wire)
        calls.get("an-invoice")
        wire.now_s += 837
        calls.get("an-invoice")

        assert methods(wire)[-2:] == ["RefreshToken", "GetInvoice"]

    @pytest.mark.parametrize("failure", [LOST, LATE, EXPIRED], ids=lambda failure: failure.code)
    def test_that_cannot_be_refreshed_is_fetched_by_password(self, failure):
        """A refresh whose answer was lost is not repeated: a second use would sign every device out."""
        wire = ScriptedWire({"RefreshToken": [failure]})
        calls = signed(wire)
        calls.get("an-invoice")
        wire.now_s += 1_000
        calls.get("an-invoice")

        assert methods(wire) == ["SignIn", "GetInvoice", "RefreshToken", "SignIn", "GetInvoice"]

    def test_that_is_still_good_is_used_while_the_merchant_service_is_down(self):
        """In its last minute a token that cannot be renewed carries on; the used refresh token is not sent again."""
        wire = ScriptedWire()
        calls = signed(wire)
        calls.get("an-invoice")
        wire.now_s += 850
        wire.script.update({"RefreshToken": [LOST], "SignIn": [LOST, LOST]})
        calls.get("an-invoice")
        calls.get("an-invoice")
        wire.now_s += 20
        calls.get("an-invoice")

        assert methods(wire)[2:] == ["RefreshToken", "SignIn", "GetInvoice", "GetInvoice", "SignIn", "GetInvoice"]
        assert {one.metadata["authorization"] for one in wire.of("GetInvoice")} == {"Bearer access-1"}

    def test_that_a_service_refuses_is_renewed_once_and_the_call_repeated(self):
        """Keys rotate and clocks jump: one more try with a fresh token, with the same idempotency key, no pause."""
        wire = ScriptedWire({"CreateInvoice": [EXPIRED, pb.Invoice(number="A1")]})

        answer = signed(wire).create(Invoice())

        assert methods(wire) == ["SignIn", "CreateInvoice", "RefreshToken", "CreateInvoice"]
        first, second = wire.of("CreateInvoice")
        assert first.metadata["idempotency-key"] == second.metadata["idempotency-key"]
        assert (answer.message.number, wire.slept) == ("A1", [])

    def test_that_is_refused_again_is_told(self):
        """Two refusals are one too many to be about the token's age."""
        wire = ScriptedWire({"CreateInvoice": [EXPIRED, EXPIRED]})

        with pytest.raises(errors.TokenExpired):
            signed(wire).create(Invoice())

        assert len(wire.of("CreateInvoice")) == 2

    def test_that_cannot_be_had_leaves_nothing_unknown(self):
        """Nothing was sent to the invoice service, so nothing can have been done."""
        wire = ScriptedWire({"SignIn": [LOST] * 9})

        with pytest.raises(errors.Unavailable) as caught:
            signed(wire).create(Invoice())

        assert not isinstance(caught.value, OutcomeUnknown)
        assert wire.of("CreateInvoice") == []

    def test_that_cannot_be_had_any_more_keeps_what_is_unknown(self):
        """The first attempt was sent and lost; that the second could not sign in does not make it a no."""
        wire = ScriptedWire({"CreateInvoice": [LOST, EXPIRED], "RefreshToken": [EXPIRED]})
        calls = signed(wire)
        calls.get("an-invoice")
        wire.script["SignIn"] = [WRONG]

        with pytest.raises(OutcomeUnknown) as caught:
            calls.create(Invoice())

        assert isinstance(caught.value.cause, errors.CredentialsInvalid)


class TestAWrongPassword:
    def test_is_tried_once_for_all_who_wait(self):
        """A thousand callers with a wrong password are one failed sign-in, not a locked account."""
        wire = ScriptedWire({"SignIn": [WRONG] * 9})
        session = Session(wire, User("owner@example.in", "wrong"), Timing())

        class Crowded:
            """A lock whose holder, before us, has failed meanwhile."""

            async def acquire(self, within_s: float) -> bool:
                if not wire.sent:
                    session._lock = wire.lock()
                    with pytest.raises(Failed):
                        await session.bearer("first", 5.0)
                return True

            def release(self) -> None:
                return

        session._lock = Crowded()
        with pytest.raises(Failed) as caught:
            run_now(session.bearer("second", 5.0))

        assert caught.value.refusal.reason == "CREDENTIALS_INVALID"
        assert len(wire.sent) == 1

    def test_is_told_at_once(self):
        """It is final: no repeat, no second guess."""
        wire = ScriptedWire({"SignIn": [WRONG] * 9})

        with pytest.raises(errors.CredentialsInvalid):
            signed(wire).get("an-invoice")

        assert methods(wire) == ["SignIn"]

    def test_is_never_shown(self):
        """The password is in no repr, where a log would find it."""
        assert "wrong" not in repr(User("owner@example.in", "wrong"))
