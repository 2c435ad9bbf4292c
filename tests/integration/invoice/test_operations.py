"""GetOperation and CancelOperation: what became of a key, and a definite answer whoever died (PROTOCOL 7)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.ids import to_text
from tests.integration.invoice.probes import (
    age_holds,
    another_door,
    decision_of,
    flush,
    hold_by_hand,
    hold_states,
    outcome,
    settle,
)
from tests.kit.market import Market, Refused, Trader, fresh_key

CREATE = "invoice.create"


async def ask(market: Market, who: Trader, key: str, operation: str = CREATE, invoice_id: str = "") -> pb.Operation:
    request = pb.GetOperationRequest(operation=operation, key=key, invoice_id=invoice_id)
    return await market.call(market.invoices.GetOperation, request, who, None)


async def cancel(market: Market, who: Trader, key: str, operation: str = CREATE, invoice_id: str = "") -> pb.Operation:
    request = pb.CancelOperationRequest(operation=operation, key=key, invoice_id=invoice_id)
    return await market.call(market.invoices.CancelOperation, request, who, None)


async def row(market: Market, who: Trader, key: str, state: str, attempt: int = 1) -> None:
    """A decision row as a process that died left it."""
    rid = core.request_id(who.merchant_id, CREATE, key)
    await market.sql(
        "invoice",
        """INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
           VALUES ($1::text::uuid, $2::text::uuid, 'invoice.create', $3, $4, sha256('body'), 1)""",
        who.merchant.merchant_id,
        to_text(rid),
        state,
        attempt,
    )


class TestGetOperation:
    async def test_of_a_key_never_seen_is_undecided(self, market, seller):
        """No row says nothing: the request may be under way or lost."""
        operation = await ask(market, seller, key := fresh_key())
        assert (operation.state, operation.operation, operation.key) == (pb.UNDECIDED, CREATE, key)

    @pytest.mark.parametrize(("state", "told"), [("OPEN", pb.UNDECIDED), ("ABORTED", pb.ABORTED)])
    async def test_of_what_has_not_ended_says_so(self, market, seller, state, told):
        """OPEN is undecided; ABORTED says that a retry starts afresh."""
        key = fresh_key()
        await row(market, seller, key, state)
        assert (await ask(market, seller, key)).state == told

    @pytest.mark.parametrize("purged", [False, True])
    async def test_of_a_success_returns_the_answer(self, market, seller, buyer, purged):
        """The invoice as it was answered, also when the decision row is purged."""
        key = fresh_key()
        invoice = await market.issue(seller, market.invoice(buyer, market.line(sku="")), key)
        if purged:
            await market.sql(
                "invoice", "DELETE FROM decision WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
            )
        operation = await ask(market, seller, key)
        assert (operation.state, operation.invoice) == (pb.SUCCEEDED, invoice)

    async def test_of_a_refusal_returns_it(self, market, seller, buyer):
        """The stored status, with reason and facts."""
        key = fresh_key()
        first = await market.refused(
            market.invoices.CreateInvoice, market.invoice(buyer, market.line(500)), seller, key
        )
        operation = await ask(market, seller, key)
        told = Refused.of_status(operation.error)
        assert (operation.state, told.reason, told.facts) == (pb.FAILED, "INSUFFICIENT_STOCK", first.facts)

    async def test_of_an_action_finds_it_beside_the_invoice(self, market, seller, buyer):
        """The buyer asks with the invoice he acted on, and gets his answer."""
        key = fresh_key()
        invoice = await market.issue(seller, market.invoice(buyer, market.line(sku="")))
        request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
        accepted = await market.call(market.invoices.AcceptInvoice, request, buyer, key)
        operation = await ask(market, buyer, key, "invoice.accept", invoice.invoice_id)
        assert (operation.state, operation.invoice) == (pb.SUCCEEDED, accepted)

    @pytest.mark.parametrize(
        ("asked", "reason"),
        [
            ({"operation": "invoice.explode", "key": "k" * 16}, "VALIDATION_FAILED"),
            ({"operation": CREATE, "key": "short"}, "IDEMPOTENCY_KEY_INVALID"),
            ({"operation": CREATE, "key": ""}, "IDEMPOTENCY_KEY_INVALID"),
            ({"operation": "invoice.accept", "key": "k" * 16}, "VALIDATION_FAILED"),
            ({"operation": "invoice.accept", "key": "k" * 16, "invoice_id": "x"}, "VALIDATION_FAILED"),
        ],
    )
    async def test_with_a_bad_question_is_refused(self, market, seller, asked, reason):
        """Unknown operation, bad key, no invoice for an action: each is INVALID_ARGUMENT; so for CancelOperation."""
        for method, kind in (
            (market.invoices.GetOperation, pb.GetOperationRequest),
            (market.invoices.CancelOperation, pb.CancelOperationRequest),
        ):
            refusal = await market.refused(method, kind(**asked), seller, None)
            assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)


class TestCancelOperation:
    @pytest.mark.parametrize("state", ["", "ABORTED"])
    async def test_ends_a_key_for_every_body_while_stock_is_still_held_for_one(self, market, seller, buyer, state):
        """Before the resolver gave the stock back and after it, the same body and another one are told the same."""
        key, same, other = fresh_key(), market.invoice(buyer), market.invoice(buyer, market.line(3))
        await hold_by_hand(market, seller, same, key)
        if state:
            await row(market, seller, key, state)
        assert (await cancel(market, seller, key)).state == pb.FAILED
        for held in (True, False):
            if not held:
                await age_holds(market, 31, seller)
                await settle(market)
            for body in (other, same, other):
                told = await market.refused(market.invoices.CreateInvoice, body, seller, key)
                assert (told.code, told.reason) == ("FAILED_PRECONDITION", "CANCELLED_BY_CLIENT"), (held, body)

    @pytest.mark.parametrize("state", ["", "OPEN", "ABORTED"])
    async def test_ends_a_key_for_good(self, market, seller, buyer, state):
        """Nothing there, OPEN or ABORTED: FAILED(CANCELLED_BY_CLIENT), which a second cancel returns."""
        key = fresh_key()
        if state:
            await row(market, seller, key, state, 3)
        for _ in range(2):
            operation = await cancel(market, seller, key)
            assert operation.state == pb.FAILED
            assert Refused.of_status(operation.error).reason == "CANCELLED_BY_CLIENT"
        assert await decision_of(market, seller, key) == ("FAILED", 3 if state else 1, "CANCELLED_BY_CLIENT")

    async def test_refuses_every_late_copy_for_ever(self, market, seller, buyer):
        """Whatever its body, before and after Redis forgot: CANCELLED_BY_CLIENT, no invoice, no stock held."""
        key = fresh_key()
        await cancel(market, seller, key)
        for request in (market.invoice(buyer), market.invoice(buyer, market.line(3)), market.invoice(buyer)):
            for emptied in (False, True):
                if emptied:
                    await flush(market)
                refusal = await market.refused(market.invoices.CreateInvoice, request, seller, key)
                assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "CANCELLED_BY_CLIENT")

        async def nothing_held() -> bool:
            return await market.stock(seller) == (100, 0)

        await market.until(nothing_held)
        assert (await ask(market, seller, key)).state == pb.FAILED

    async def test_of_a_success_returns_it_and_changes_nothing(self, market, seller, buyer):
        """Too late: the answer is the invoice, also without its decision row."""
        key, request = fresh_key(), market.invoice(buyer, market.line(sku=""))
        invoice = await market.issue(seller, request, key)
        for purged in (False, True):
            if purged:
                await market.sql(
                    "invoice", "DELETE FROM decision WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
                )
            operation = await cancel(market, seller, key)
            assert (operation.state, operation.invoice) == (pb.SUCCEEDED, invoice)
        assert await market.issue(seller, request, key) == invoice

    async def test_of_a_refusal_returns_that_refusal(self, market, seller, buyer):
        """A final refusal is not rewritten (mutant overwrite_failure)."""
        key = fresh_key()
        await market.refused(market.invoices.CreateInvoice, market.invoice(buyer, market.line(500)), seller, key)
        operation = await cancel(market, seller, key)
        assert Refused.of_status(operation.error).reason == "INSUFFICIENT_STOCK"
        assert await decision_of(market, seller, key) == ("FAILED", 1, "INSUFFICIENT_STOCK")

    async def test_leaves_the_hold_to_the_resolver(self, market, seller, buyer):
        """The cancelled attempt held ten bolts when its process died: they come free."""
        key = fresh_key()
        await hold_by_hand(market, seller, market.invoice(buyer), key)
        await cancel(market, seller, key)
        assert await market.stock(seller) == (100, 10)
        await age_holds(market, 11, seller)
        await settle(market)
        assert (await hold_states(market, seller), await market.stock(seller)) == ({1: "RELEASED"}, (100, 0))

    async def test_of_an_action_ends_that_key_alone(self, market, seller, buyer):
        """The accept of that key never happens; under another key the invoice is accepted."""
        key = fresh_key()
        invoice = await market.issue(seller, market.invoice(buyer, market.line(sku="")))
        request = pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
        operation = await cancel(market, buyer, key, "invoice.accept", invoice.invoice_id)
        assert operation.state == pb.FAILED
        for body in (request, pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id, etag="1")):
            refusal = await market.refused(market.invoices.AcceptInvoice, body, buyer, key)
            assert refusal.reason == "CANCELLED_BY_CLIENT"
        assert (await market.call(market.invoices.AcceptInvoice, request, buyer)).state == pb.ACCEPTED

    async def test_needs_the_role_that_may_use_the_key(self, market, seller, buyer):
        """Whoever may not issue cannot end the key of an issue; asking is open to every user of the merchant."""
        key = fresh_key()
        approver = await market.add_user(seller, "APPROVER")
        request = pb.CancelOperationRequest(operation=CREATE, key=key)
        refusal = await market.refused(market.invoices.CancelOperation, request, approver, None)
        assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")
        assert (await ask(market, approver, key)).state == pb.UNDECIDED

    async def test_of_another_merchants_key_does_nothing_to_it(self, market, seller, buyer):
        """Keys are the merchant's own: the buyer ends a key of his, not the seller's."""
        key = fresh_key()
        await cancel(market, buyer, key)
        assert (await market.issue(seller, market.invoice(buyer, market.line(sku="")), key)).version == 1

    async def test_racing_the_request_leaves_one_truth(self, market, seller, buyer):
        """Forty rounds through two processes: either both say SUCCEEDED or both say CANCELLED, and the stock agrees."""
        await market.stock_up(seller, units=1_000)
        issued = 0
        async with AsyncExitStack() as stack:
            second = await another_door(market, stack)
            for round_ in range(40):
                key, request = fresh_key(), market.invoice(buyer)
                ended = pb.CancelOperationRequest(operation=CREATE, key=key)
                both = [
                    outcome(market, market.invoices.CreateInvoice, request, seller, key),
                    outcome(market, second.CancelOperation, ended, seller, None),
                ]
                if round_ % 2:
                    both[1] = _later(both[1], round_ / 4_000)
                created, operation = await asyncio.gather(*both)
                assert isinstance(operation, pb.Operation)
                if isinstance(created, Refused):
                    assert created.reason == "CANCELLED_BY_CLIENT"
                    assert operation.state == pb.FAILED
                else:
                    issued += 1
                    assert operation.state == pb.SUCCEEDED
                    assert operation.invoice.invoice_id == created.invoice_id
                assert (await ask(market, seller, key)).state == operation.state

        async def agrees() -> bool:
            return await market.stock(seller) == (1_100, 10 * issued)

        await market.until(agrees)


async def _later(work, seconds: float):
    """Starts a moment later: the race is spread over the request's steps."""
    await asyncio.sleep(seconds)
    return await work
