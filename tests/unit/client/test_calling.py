"""What the client repeats, with what, how long, and what it says when it does not know."""

from __future__ import annotations

import pickle

import pytest

from invochain_client import InvochainError, OutcomeUnknown, Timing, errors, traceparent
from invochain_client.api.invoice.v1 import invoice_service_pb2 as pb
from invochain_client.calling import Caller
from invochain_client.invoices import AsyncInvoices, Invoices
from invochain_client.merchants import AsyncMerchants, Merchants
from invochain_client.refusal import Refusal
from invochain_client.stock import AsyncStock, Inventory
from invochain_client.types import Invoice, Merchant, NewUser
from tests.unit.client.scripted_wire import LATE, LOST, SHORT, ScriptedWire, aborted, refused, taking

INVOICE = Invoice(supply_type="B2B")


def invoices(wire: ScriptedWire, draw: float = 1.0, **timing: float) -> Invoices:
    """The blocking resource over a scripted wire; jitter always draws its `draw`-th part."""
    return Invoices(AsyncInvoices(Caller(wire, Timing(**timing), draw=lambda: draw)))


class TestARepeat:
    @pytest.mark.parametrize(
        "refusal",
        [
            LOST,
            LATE,
            aborted("CONCURRENT_REQUEST", 0.2),
            aborted("SAGA_ABORTED", 0.2),
            refused("RESOURCE_EXHAUSTED", "RATE_LIMITED", 1.0),
            refused("RESOURCE_EXHAUSTED", "BULKHEAD_FULL", 1.0),
        ],
        ids=lambda refusal: refusal.reason or refusal.code,
    )
    def test_carries_the_same_key_and_the_same_bytes(self, refusal):
        """What is safe is repeated; the attempts differ in nothing."""
        wire = ScriptedWire({"CreateInvoice": [refusal, pb.Invoice(number="A1")]})

        answer = invoices(wire).create(INVOICE)

        first, second = wire.sent
        assert (answer.message.number, answer.attempts) == ("A1", 2)
        assert first.metadata["idempotency-key"] == second.metadata["idempotency-key"] == answer.key
        assert first.metadata["x-request-id"] == second.metadata["x-request-id"] == answer.request_id
        assert first.request == second.request == pb.CreateInvoiceRequest(invoice=INVOICE).SerializeToString()

    @pytest.mark.parametrize(
        ("refusal", "kind"),
        [
            (aborted("VERSION_MISMATCH", 0.2), errors.VersionMismatch),
            (aborted("CONCURRENT_REQUEST", None), errors.ConcurrentRequest),
            (refused("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE"), errors.MessageTooLarge),
            (refused("INVALID_ARGUMENT", "VALIDATION_FAILED"), errors.ValidationFailed),
            (refused("INVALID_ARGUMENT", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"), errors.KeyReused),
            (refused("NOT_FOUND", "SKU_NOT_FOUND"), errors.SkuNotFound),
            (refused("ALREADY_EXISTS", "DOC_NUMBER_DUPLICATE"), errors.NumberTaken),
            (refused("PERMISSION_DENIED", "ROLE_MISSING"), errors.RoleMissing),
            (refused("DATA_LOSS", "INVARIANT_BROKEN"), errors.InvariantBroken),
            (SHORT, errors.InsufficientStock),
        ],
        ids=lambda value: getattr(value, "reason", ""),
    )
    def test_is_not_made_of_what_cannot_do_better(self, refusal, kind):
        """A refusal by rule, by state or by version is told after one attempt, also where RetryInfo came with it."""
        wire = ScriptedWire({"CreateInvoice": [refusal]})

        with pytest.raises(kind):
            invoices(wire).create(INVOICE)

        assert (len(wire.sent), wire.slept) == (1, [])

    def test_waits_as_long_as_the_server_asks_and_a_jitter_more(self):
        """RetryInfo is honoured; on top comes what full jitter draws from a doubling ceiling."""
        busy = aborted("CONCURRENT_REQUEST", 0.25)
        wire = ScriptedWire({"CreateInvoice": [busy, busy, busy]})

        invoices(wire, draw=0.5).create(INVOICE)

        assert wire.slept == pytest.approx([0.25 + 0.05, 0.25 + 0.1, 0.25 + 0.2])

    def test_may_come_at_once_after_a_lost_answer(self):
        """Full jitter: the pause is drawn from zero."""
        wire = ScriptedWire({"CreateInvoice": [LOST]})

        invoices(wire, draw=0.0).create(INVOICE)

        assert wire.slept == [0.0]

    def test_is_not_waited_for_when_the_time_would_be_over(self):
        """A wait past the deadline is not begun: the caller is told at once."""
        wire = ScriptedWire({"CreateInvoice": [refused("RESOURCE_EXHAUSTED", "RATE_LIMITED", 60.0)]})

        with pytest.raises(errors.RateLimited) as caught:
            invoices(wire).create(INVOICE)

        assert (wire.slept, caught.value.retry_after_s) == ([], 60.0)

    def test_stops_while_a_service_is_in_trouble(self):
        """The budget of 10 gives out after five attempts without an answer, for all calls to that service together."""
        wire = ScriptedWire({"GetInvoice": [LOST] * 20})
        reading = invoices(wire)

        for _ in range(3):
            with pytest.raises(errors.Unavailable):
                reading.get("an-invoice")

        assert len(wire.sent) == 5 + 1 + 1

    def test_is_earned_again_by_answers(self):
        """From half empty, ten answers do not pay for a repeat yet, eleven do."""
        wire = ScriptedWire({"GetInvoice": [LOST] * 5})
        reading = invoices(wire)
        with pytest.raises(errors.Unavailable):
            reading.get("an-invoice")

        wire.script["GetInvoice"] = [pb.Invoice()] * 10 + [LOST]
        for _ in range(10):
            reading.get("an-invoice")
        with pytest.raises(errors.Unavailable):
            reading.get("an-invoice")
        wire.script["GetInvoice"] = [pb.Invoice()] * 11 + [LOST]
        for _ in range(12):
            reading.get("an-invoice")

        assert len(wire.sent) == 5 + 11 + 13

    def test_of_a_busy_key_does_not_spend_the_budget(self):
        """CONCURRENT_REQUEST is an orderly answer: ten threads with one key are no sign of trouble."""
        busy = aborted("CONCURRENT_REQUEST", 0.1)
        wire = ScriptedWire({"CreateInvoice": [busy] * 5})
        writing = invoices(wire)
        for _ in range(4):
            wire.script["CreateInvoice"] = [busy] * 5
            assert writing.create(INVOICE).attempts == 6


class TestADeadline:
    def test_is_on_every_attempt_and_on_the_whole(self):
        """An attempt has 5 s, the call 20 s: the last attempt gets what remains."""
        wire = ScriptedWire({"CreateInvoice": [taking(5.0, LATE)] * 9})

        with pytest.raises(OutcomeUnknown):
            invoices(wire, draw=1.0).create(INVOICE)

        assert [one.within_s for one in wire.sent][:3] == [5.0, 5.0, 5.0]
        assert wire.sent[3].within_s == pytest.approx(20 - 15 - 0.1 - 0.2 - 0.4)
        assert len(wire.sent) == 4

    def test_is_the_callers_where_one_is_given(self):
        """timeout_s bounds the call with all its attempts."""
        wire = ScriptedWire({"CreateInvoice": [taking(1.0, LATE), taking(1.0, LATE)]})

        with pytest.raises(OutcomeUnknown):
            invoices(wire).create(INVOICE, timeout_s=1.0)

        assert [one.within_s for one in wire.sent] == [1.0]

    def test_that_is_over_before_anything_was_sent_leaves_nothing_unknown(self):
        """No attempt, no doubt."""
        wire = ScriptedWire()

        with pytest.raises(errors.DeadlineExceeded):
            invoices(wire).create(INVOICE, timeout_s=0)

        assert wire.sent == []


class TestAnUnknownOutcome:
    def test_carries_the_key_and_the_operation(self):
        """What is needed to find out later is on the exception; it survives a queue between processes."""
        wire = ScriptedWire({"AcceptInvoice": [LOST] * 9})

        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).accept("an-invoice", idempotency_key="k" * 16)

        for unknown in (caught.value, pickle.loads(pickle.dumps(caught.value))):
            assert (unknown.operation, unknown.key, unknown.code) == ("invoice.accept", "k" * 16, "UNAVAILABLE")
            assert isinstance(unknown.cause, errors.Unavailable)

    @pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "CANCELLED"])
    def test_comes_at_once_where_a_repeat_is_not_safe_to_judge(self, code):
        """Codes that say nothing of the outcome are not repeated and not taken for a no."""
        wire = ScriptedWire({"CreateInvoice": [refused(code)]})

        with pytest.raises(OutcomeUnknown):
            invoices(wire).create(INVOICE)

        assert len(wire.sent) == 1

    @pytest.mark.parametrize(
        "later",
        [
            aborted("VERSION_MISMATCH", None),
            refused("INVALID_ARGUMENT", "VALIDATION_FAILED"),
            refused("PERMISSION_DENIED", "ROLE_MISSING"),
            refused("RESOURCE_EXHAUSTED", "RATE_LIMITED", 60.0),
            refused("DATA_LOSS", "INVARIANT_BROKEN"),
        ],
        ids=lambda refusal: refusal.reason,
    )
    def test_is_not_ended_by_a_refusal_that_is_not_kept_for_the_key(self, later):
        """The first attempt may have done it: a later one that was turned away proves nothing."""
        wire = ScriptedWire({"CreateInvoice": [LOST, later]})

        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).create(INVOICE)

        assert caught.value.cause.reason == later.reason

    def test_is_ended_by_a_refusal_that_is_kept_for_the_key(self):
        """A final refusal is the fate of the key, whatever became of the attempts before."""
        wire = ScriptedWire({"CreateInvoice": [LOST, SHORT]})

        with pytest.raises(errors.InsufficientStock):
            invoices(wire).create(INVOICE)

    def test_is_not_said_of_reads(self):
        """A read that had no answer is told by its code."""
        wire = ScriptedWire({"GetInvoice": [LOST] * 9})

        with pytest.raises(errors.Unavailable) as caught:
            invoices(wire).get("an-invoice")

        assert not isinstance(caught.value, OutcomeUnknown)

    def test_resolves_to_the_answer_if_it_was_done(self):
        """resolve() asks GetOperation by operation, key and invoice, and does nothing."""
        done = pb.Operation(state="SUCCEEDED", invoice=pb.Invoice(number="A1"))
        wire = ScriptedWire({"AcceptInvoice": [LOST] * 9, "GetOperation": [done]})
        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).accept("an-invoice")

        answer = caught.value.resolve()

        asked = pb.GetOperationRequest.FromString(wire.of("GetOperation")[0].request)
        assert (asked.operation, asked.key, asked.invoice_id) == ("invoice.accept", caught.value.key, "an-invoice")
        assert (answer.message.number, answer.replayed, answer.key) == ("A1", True, caught.value.key)
        assert len(wire.of("AcceptInvoice")) == 5

    def test_stays_unknown_while_nothing_is_decided(self):
        """UNDECIDED and ABORTED are no answer: the same exception again, with the cause it began with."""
        states = [pb.Operation(state="UNDECIDED"), pb.Operation(state="ABORTED")]
        wire = ScriptedWire({"CreateInvoice": [refused("INTERNAL")], "GetOperation": states})
        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).create(INVOICE)

        for _ in range(2):
            with pytest.raises(OutcomeUnknown) as again:
                caught.value.resolve()
            assert again.value is caught.value
            assert again.value.__cause__ is caught.value.cause

    def test_can_be_ended_for_good(self):
        """resolve(cancel=True) asks CancelOperation: after CANCELLED_BY_CLIENT it never will be done."""
        failed = pb.Operation(state="FAILED")
        failed.error.code = 9
        detail = failed.error.details.add()
        from google.rpc import error_details_pb2

        detail.Pack(error_details_pb2.ErrorInfo(reason="CANCELLED_BY_CLIENT", domain="invochain"))
        wire = ScriptedWire({"CreateInvoice": [refused("INTERNAL")], "CancelOperation": [failed]})
        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).create(INVOICE)

        with pytest.raises(errors.CancelledByClient):
            caught.value.resolve(cancel=True)

    def test_of_what_nobody_can_be_asked_about_is_found_out_by_repeating(self):
        """Stock has no GetOperation: resolve() repeats the call with its key, and cancelling is refused in words."""
        wire = ScriptedWire({"AdjustStock": [refused("INTERNAL")]})
        stock = Inventory(AsyncStock(Caller(wire, Timing())))
        with pytest.raises(OutcomeUnknown) as caught:
            stock.adjust("BOLT-M8", "ADD", 1)

        with pytest.raises(ValueError, match="cannot be cancelled"):
            caught.value.resolve(cancel=True)
        answer = caught.value.resolve()

        first, second = wire.sent
        assert first.request == second.request
        assert first.metadata["idempotency-key"] == second.metadata["idempotency-key"] == answer.key

    async def test_is_resolved_the_way_it_was_raised(self):
        """The async way on a blocking client's exception is an error in words, not a hang."""
        wire = ScriptedWire({"CreateInvoice": [refused("INTERNAL")]})
        with pytest.raises(OutcomeUnknown) as caught:
            invoices(wire).create(INVOICE)

        with pytest.raises(TypeError, match=r"call resolve\(\)"):
            await caught.value.resolve_async()


class TestWhatGoesAlong:
    def test_is_the_callers_trace_if_it_has_one(self):
        """A W3C traceparent is passed on; what does not read as one is not."""
        wire = ScriptedWire()
        reading = invoices(wire)
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        for value in (trace, "not a trace\r\n", None):
            before = traceparent.set(value)
            reading.get("an-invoice")
            traceparent.reset(before)

        assert [one.metadata.get("traceparent") for one in wire.sent] == [trace, None, None]

    def test_is_no_key_for_reads_and_the_callers_own_where_given(self):
        """Reads carry none; a key of the caller's is used as it is."""
        wire = ScriptedWire()
        calls = invoices(wire)
        calls.get("an-invoice")
        calls.create(INVOICE, idempotency_key="order-2026-000017")
        calls.create(INVOICE)
        calls.create(INVOICE)

        keys = [one.metadata.get("idempotency-key") for one in wire.sent]
        assert keys[:2] == [None, "order-2026-000017"]
        assert keys[2] and keys[3] and keys[2] != keys[3]

    def test_is_what_the_answer_says_of_a_replay(self):
        """The header x-idempotent-replayed is `replayed`, also for registering, which needs no user."""
        wire = ScriptedWire(replayed=True)
        merchants = Merchants(AsyncMerchants(Caller(wire, Timing())))

        assert merchants.register(Merchant(), NewUser()).replayed
        assert invoices(wire).create(INVOICE).replayed

    def test_is_a_key_for_every_item_of_a_batch(self):
        """Items without a key get one; each result names its own."""
        result = pb.BatchCreateInvoicesResponse(
            results=[{"invoice": {"number": "A1"}}, {"error": {"code": 9}, "replayed": True}]
        )
        wire = ScriptedWire({"BatchCreateInvoices": [LOST, result]})

        first, second = invoices(wire).create_many([INVOICE, ("own-key-of-the-caller", INVOICE)])

        assert wire.sent[0].request == wire.sent[1].request
        sent = pb.BatchCreateInvoicesRequest.FromString(wire.sent[0].request)
        assert [item.idempotency_key for item in sent.items] == [first.key, "own-key-of-the-caller"] != ["", ""]
        assert first.invoice is not None and first.invoice.number == "A1" and first.error is None
        assert isinstance(second.error, errors.FailedPrecondition) and second.invoice is None and second.replayed


class TestPages:
    def test_are_fetched_as_they_are_needed(self):
        """The second page is asked for with the first one's token, and only when the first is used up."""
        pages = [
            pb.ListInvoicesResponse(invoices=[{"number": "1"}, {"number": "2"}], next_page_token="t1"),
            pb.ListInvoicesResponse(invoices=[{"number": "3"}]),
        ]
        wire = ScriptedWire({"ListInvoices": pages})

        walk = invoices(wire).list(filter="state = ISSUED", side="SOLD", page_size=2)
        assert wire.sent == []
        assert [next(walk).number, next(walk).number] == ["1", "2"]
        assert len(wire.sent) == 1
        assert [one.number for one in walk] == ["3"]

        first, second = (pb.ListInvoicesRequest.FromString(one.request) for one in wire.sent)
        assert (first.page_token, second.page_token) == ("", "t1")
        assert (second.filter, second.side, second.page_size) == ("state = ISSUED", pb.SOLD, 2)

    def test_left_early_ask_for_nothing_more(self):
        """A walk that is broken off ends there."""
        wire = ScriptedWire({"ListInvoices": [pb.ListInvoicesResponse(invoices=[{}, {}], next_page_token="t1")]})

        for _ in invoices(wire).list():
            break

        assert len(wire.sent) == 1


class TestWaiting:
    def test_reads_until_it_is_so(self):
        """The state is polled with growing pauses, and what satisfied it is returned."""
        wire = ScriptedWire({"GetInvoice": [pb.Invoice(version=version) for version in (1, 1, 2)]})

        found = invoices(wire).wait_until("an-invoice", lambda invoice: invoice.version == 2)

        assert (found.version, wire.slept) == (2, pytest.approx([0.02, 0.04]))

    def test_ends_at_its_deadline(self):
        """What was seen last is told."""
        with pytest.raises(TimeoutError, match="within 1 s"):
            invoices(ScriptedWire()).wait_until("an-invoice", lambda _: False, within_s=1.0)


def test_every_error_is_an_invochain_error():
    """One except clause catches all that a call may raise."""
    assert issubclass(OutcomeUnknown, InvochainError)
    assert all(issubclass(kind, InvochainError) for kind in errors.InvochainError.by_code.values())
    assert isinstance(errors.error_of(Refusal("OUT_OF_RANGE", "?")), errors.UnexpectedCode)


class TestTheConsistencyToken:
    @pytest.mark.parametrize(
        ("told", "brought"),
        [
            (["00000001/0/16B3748"], "00000001/0/16B3748"),
            (["00000001/0/16B3748", "00000001/0/9"], "00000001/0/16B3748"),
            (["00000001/F/FFFFFFFF", "00000001/10/0"], "00000001/10/0"),
            (["00000001/10/0", "00000002/0/1"], "00000002/0/1"),
            (["00000001/10/0", "of another release"], "of another release"),
            (["of another release", "00000001/0/1"], "00000001/0/1"),
        ],
    )
    def test_of_the_latest_write_goes_with_every_read(self, told, brought):
        """Writes side by side are answered in any order: the one furthest on is the one to be seen."""
        wire = ScriptedWire(tokens=list(told))
        mine = invoices(wire)
        for _ in told:
            mine.create(INVOICE)

        mine.get("0199a000-0000-8000-8000-000000000003")

        assert wire.of("GetInvoice")[0].metadata["x-consistency-token"] == brought
