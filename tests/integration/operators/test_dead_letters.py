"""Operators and dead letters, over the services as they run: who may, what is shown, and what a replay does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as invoice_pb
from invochain.api.operator.v1 import operator_service_pb2 as pb
from invochain.chassis.ids import to_text
from invochain.check.check_all import check_all
from invochain.cli import app
from invochain.invoice.give_up import Tries
from invochain.invoice.inventory_port import Hold
from tests.kit.market import Market, Trader, fresh_key

ROOMS = ("merchant", "inventory", "invoice")


class Desk:
    """A seller's accepted or issued invoice whose hold was damaged, and the operators who see to it."""

    def __init__(self, market: Market, seller: Trader, buyer: Trader) -> None:
        self.market, self.seller, self.buyer = market, seller, buyer
        self.ann, self.bob = market.operator(), market.operator()
        self.settlers = market.running["invoice"][1].servicers[0]._room.settlers

    async def issue(self) -> tuple[invoice_pb.Invoice, Hold]:
        key = fresh_key()
        invoice = await self.market.issue(self.seller, self.market.invoice(self.buyer), key)
        rid = core.request_id(self.seller.merchant_id, "invoice.create", key)
        (row,) = await self.market.sql(
            "invoice", "SELECT fingerprint FROM invoice WHERE rid = $1", uuid.UUID(bytes=rid)
        )
        await self.settlers.drain()
        return invoice, Hold(self.seller.merchant_id, rid, 1, row["fingerprint"])

    async def put_hold(self, hold: Hold, state: str) -> None:
        """Sets a hold's state behind everybody's back."""
        sql = "UPDATE reservation SET state = $1 WHERE rid = $2"
        await self.market.sql("inventory", sql, state, uuid.UUID(bytes=hold.rid))

    async def hold_state(self, hold: Hold) -> str:
        sql = "SELECT state FROM reservation WHERE rid = $1"
        (row,) = await self.market.sql("inventory", sql, uuid.UUID(bytes=hold.rid))
        return row["state"]

    async def letters(self, room: str, **more: Any) -> list[pb.DeadLetter]:
        request = pb.ListDeadLettersRequest(room=room, **more)
        return list(
            (await self.market.call(self.market.operators(room).ListDeadLetters, request, self.ann)).dead_letters
        )

    async def show(self, letter: pb.DeadLetter) -> pb.DeadLetter:
        request = pb.GetDeadLetterRequest(room=letter.room, dead_letter_id=letter.dead_letter_id)
        return await self.market.call(self.market.operators(letter.room).GetDeadLetter, request, self.ann)

    async def replay(self, letter: pb.DeadLetter, key: str = "", **more: Any) -> pb.DeadLetter:
        request = pb.ReplayDeadLetterRequest(room=letter.room, dead_letter_id=letter.dead_letter_id, **more)
        return await self.market.call(self.market.operators(letter.room).ReplayDeadLetter, request, self.ann, key)

    async def is_in(self, letter: pb.DeadLetter, state: int) -> bool:
        return (await self.show(letter)).state == state

    async def unconfirmed(self) -> tuple[Hold, pb.DeadLetter]:
        """An issued invoice whose hold was gone when it was to be confirmed; and the letter about it."""
        _, hold = await self.issue()
        await self.put_hold(hold, "RELEASED")
        self.settlers.confirm.soon([hold])
        await self.settlers.drain()
        (letter,) = await self.letters("invoice")
        return hold, letter


@pytest.fixture
async def desk(market: Market) -> AsyncIterator[Desk]:
    seller, buyer = await market.register("27"), await market.register("29")
    await market.stock_up(seller)
    yield Desk(market, seller, buyer)


class TestConfirm:
    async def test_a_hold_that_is_gone_opens_a_letter_at_once(self, desk: Desk):
        """Impossible by design, so nobody tries ten times: one refusal, one letter, with what is to be known."""
        hold, letter = await desk.unconfirmed()

        assert (pb.CONFIRM, pb.OPEN, "RESERVATION_GONE", 1) == (
            letter.kind,
            letter.state,
            letter.reason,
            letter.attempts,
        )
        assert to_text(core.reservation_id(hold.rid, 1)) == letter.subject
        assert (to_text(core.invoice_id(hold.rid)), to_text(hold.rid)) == (letter.aggregate, letter.rid)
        shown = await desk.show(letter)
        assert f"the invoice is there, of attempt 1; hold {letter.subject} is RELEASED" == shown.plan.found
        assert [f"confirm hold {letter.subject}"] == list(shown.plan.steps)
        assert [("OPEN", "", "RESERVATION_GONE")] == [(a.action, a.actor_id, a.note) for a in shown.actions]

    async def test_a_replay_derives_what_is_left_and_the_checker_agrees(self, desk: Desk):
        """The cause lasts: it fails again and is OPEN. The cause is gone: nothing is left to do, and it ends."""
        hold, letter = await desk.unconfirmed()
        await desk.market.work("replayer")
        assert (await desk.replay(letter)).state == pb.REPLAYING
        await desk.market.until(lambda: desk.is_in(letter, pb.OPEN))
        shown = await desk.show(letter)
        assert (2, "RESERVATION_GONE") == (shown.attempts, shown.reason)

        await desk.put_hold(hold, "PENDING")
        dry = await desk.replay(shown, validate_only=True)
        assert (pb.OPEN, [f"confirm hold {letter.subject}"]) == (dry.state, list(dry.plan.steps))
        await desk.replay(letter)
        await desk.market.until(lambda: desk.is_in(letter, pb.DONE))

        assert "HELD" == await desk.hold_state(hold)
        (checked,) = await check_all(desk.market.settings, 0, ["I5"])
        assert 0 == checked.violations
        assert [] == await desk.letters("invoice")
        assert [letter.dead_letter_id] == [one.dead_letter_id for one in await desk.letters("invoice", state=pb.DONE)]

    async def test_replay_twice_is_harmless(self, desk: Desk):
        """The same key is told the first answer; another key finds it under way or done; the hold is confirmed once."""
        hold, letter = await desk.unconfirmed()
        await desk.put_hold(hold, "PENDING")
        key = fresh_key()
        first = await desk.replay(letter, key)
        assert first == await desk.replay(letter, key)
        assert desk.market.last_metadata["x-idempotent-replayed"] == "true"
        assert pb.REPLAYING == (await desk.replay(letter)).state
        await desk.market.work("replayer")
        await desk.market.until(lambda: desk.is_in(letter, pb.DONE))

        request = pb.ReplayDeadLetterRequest(room="invoice", dead_letter_id=letter.dead_letter_id)
        refused = await desk.market.refused(desk.market.operators("invoice").ReplayDeadLetter, request, desk.ann)
        assert ("FAILED_PRECONDITION", "DEAD_LETTER_STATE", "DONE") == (
            refused.code,
            refused.reason,
            refused.facts["state"],
        )
        assert "HELD" == await desk.hold_state(hold)

    async def test_a_letter_about_what_repaired_itself_closes_itself(self, desk: Desk):
        """Nobody asks: the hold is as the decision wants it, so the letter ends, and nothing is done."""
        hold, letter = await desk.unconfirmed()
        await desk.put_hold(hold, "HELD")
        shown = await desk.show(letter)
        assert [] == list(shown.plan.steps)
        await desk.market.work("replayer")

        await desk.market.until(lambda: desk.is_in(letter, pb.DONE))

        assert ("CLOSE", "found repaired") == ((last := (await desk.show(letter)).actions[-1]).action, last.note)
        assert "HELD" == await desk.hold_state(hold)

    def test_a_refusal_that_may_pass_is_counted_first(self):
        """Ten tries, or ten minutes; what is gone for good is given up at once."""
        hold, tries = Hold(bytes(16), bytes(16), 1, bytes(32)), Tries()
        assert [0] * 9 + [10] == [tries.refused(hold, "DEPENDENCY_DOWN", 0) for _ in range(10)]
        assert 1 == tries.refused(hold, "DEPENDENCY_DOWN", 600_000)
        assert 1 == tries.refused(hold, "RESERVATION_GONE", 0)


class TestSell:
    async def test_a_sale_without_its_hold_opens_a_letter_and_a_replay_sells_what_came_back(self, desk: Desk):
        """The event is consumed, its neighbours go on; the replay moves the hold that is there now, once."""
        invoice, hold = await desk.issue()
        await desk.put_hold(hold, "RELEASED")
        request = invoice_pb.AcceptInvoiceRequest(invoice_id=invoice.invoice_id)
        await desk.market.call(desk.market.invoices.AcceptInvoice, request, desk.buyer)
        await desk.market.work("relay", "consumer", "replayer")

        async def opened() -> bool:
            return bool(await desk.letters("inventory"))

        await desk.market.until(opened)
        (letter,) = await desk.letters("inventory")
        assert (pb.SELL, "RESERVATION_GONE", invoice.invoice_id) == (letter.kind, letter.reason, letter.aggregate)
        assert "which refuses it now: RESERVATION_GONE" in (await desk.show(letter)).plan.found

        await desk.put_hold(hold, "HELD")
        await desk.replay(letter)
        await desk.market.until(lambda: desk.is_in(letter, pb.DONE))

        assert "COMMITTED" == await desk.hold_state(hold)
        assert (90, 0) == await desk.market.stock(desk.seller)
        sales = await desk.market.sql("inventory", "SELECT FROM movement WHERE kind = 'SALE'")
        assert 1 == len(sales)


class TestDiscard:
    async def test_takes_two(self, desk: Desk):
        """A reason, then another operator who has seen it; whoever proposed it is refused, and both are on record."""
        _, letter = await desk.unconfirmed()
        door = desk.market.operators("invoice")
        named = {"room": "invoice", "dead_letter_id": letter.dead_letter_id}
        refused = await desk.market.refused(door.DiscardDeadLetter, pb.DiscardDeadLetterRequest(**named), desk.ann)
        assert {("reason", "REASON_REQUIRED")} == refused.broken
        request = pb.DiscardDeadLetterRequest(**named, reason="written off by hand")
        proposed = await desk.market.call(door.DiscardDeadLetter, request, desk.ann)
        assert (pb.OPEN, "written off by hand") == (proposed.state, proposed.discard_reason)

        approval = pb.ApproveDiscardRequest(**named, etag=proposed.etag)
        refused = await desk.market.refused(door.ApproveDiscard, approval, desk.ann)
        assert ("FAILED_PRECONDITION", "SECOND_APPROVER_NEEDED") == (refused.code, refused.reason)
        stale = pb.ApproveDiscardRequest(**named, etag=letter.etag)
        refused = await desk.market.refused(door.ApproveDiscard, stale, desk.bob)
        assert ("ABORTED", "VERSION_MISMATCH") == (refused.code, refused.reason)
        assert pb.DISCARDED == (await desk.market.call(door.ApproveDiscard, approval, desk.bob)).state

        actions = (await desk.show(letter)).actions
        assert ["OPEN", "PROPOSE_DISCARD", "APPROVE_DISCARD"] == [one.action for one in actions]
        assert len({one.actor_id for one in actions}) == 3
        request = pb.ReplayDeadLetterRequest(**named)
        assert "DEAD_LETTER_STATE" == (await desk.market.refused(door.ReplayDeadLetter, request, desk.ann)).reason


class TestLists:
    async def test_page_by_key_and_filter(self, desk: Desk):
        """Every letter once, newest first; a token of another filter is refused, and so is a room that is none."""
        holds = []
        for _ in range(3):
            _, hold = await desk.issue()
            await desk.put_hold(hold, "RELEASED")
            desk.settlers.confirm.soon([hold])
            await desk.settlers.drain()
            holds.append(to_text(core.reservation_id(hold.rid, 1)))
        door, seen, token = desk.market.operators("invoice"), [], ""
        while True:
            request = pb.ListDeadLettersRequest(room="invoice", page_size=2, page_token=token)
            page = await desk.market.call(door.ListDeadLetters, request, desk.ann)
            seen += [letter.subject for letter in page.dead_letters]
            if not (token := page.next_page_token):
                break
            request = pb.ListDeadLettersRequest(room="invoice", page_token=token, kind=pb.SELL)
            other = await desk.market.refused(door.ListDeadLetters, request, desk.ann)
            assert "PAGE_TOKEN_MISMATCH" == other.reason
        assert holds[::-1] == seen
        assert [] == await desk.letters("invoice", kind=pb.SELL)
        refused = await desk.market.refused(door.ListDeadLetters, pb.ListDeadLettersRequest(room="moon"), desk.ann)
        assert {("room", "ROOM_UNKNOWN")} == refused.broken


class TestWhoMay:
    @pytest.mark.parametrize("room", ROOMS)
    async def test_nobody_but_operators(self, desk: Desk, room: str):
        """A merchant's owner and every other role are refused before anything is looked up, whatever they name; a
        letter that there is and one that there is not are told alike."""
        _, letter = await desk.unconfirmed()
        keeper = await desk.market.add_user(desk.seller, "ISSUER", "APPROVER", "STOCK_KEEPER", "VIEWER")
        door = desk.market.operators(room)
        told = set()
        for id_ in (letter.dead_letter_id, str(uuid.uuid4())):
            named = {"room": room, "dead_letter_id": id_}
            for who in (desk.seller, keeper):
                for method, request in (
                    (door.ListDeadLetters, pb.ListDeadLettersRequest(room=room)),
                    (door.GetDeadLetter, pb.GetDeadLetterRequest(**named)),
                    (door.ReplayDeadLetter, pb.ReplayDeadLetterRequest(**named)),
                    (door.DiscardDeadLetter, pb.DiscardDeadLetterRequest(**named, reason="x")),
                    (door.ApproveDiscard, pb.ApproveDiscardRequest(**named, etag="1")),
                ):
                    refused = await desk.market.refused(method, request, who)
                    told.add((refused.code, refused.reason, refused.message))
        assert {("PERMISSION_DENIED", "ROLE_MISSING", "this needs one of the roles OPERATOR")} == told
        assert "UNAUTHENTICATED" == (await desk.market.refused(door.GetDeadLetter, pb.GetDeadLetterRequest())).code
        missing = pb.GetDeadLetterRequest(room=room, dead_letter_id=str(uuid.uuid4()))
        refused = await desk.market.refused(door.GetDeadLetter, missing, desk.ann)
        assert ("NOT_FOUND", "DEAD_LETTER_NOT_FOUND") == (refused.code, refused.reason)

    async def test_only_the_invoice_service_looks_up_holds(self, desk: Desk):
        """Not a merchant, not an operator."""
        from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb

        for who in (desk.seller, desk.ann):
            request = stock_pb.LookupReservationsRequest()
            refused = await desk.market.refused(desk.market.inventory.LookupReservations, request, who)
            assert ("PERMISSION_DENIED", "SERVICE_ONLY") == (refused.code, refused.reason)


class TestTheCommand:
    async def test_lists_shows_replays_and_discards(self, desk: Desk, monkeypatch: pytest.MonkeyPatch):
        """The same by `invochain dlq`, one line a letter; a refusal is one line and exit code 1."""
        _, letter = await desk.unconfirmed()
        monkeypatch.setenv("INVOCHAIN_TOKEN", desk.ann.token)

        async def run(*arguments: str) -> Any:
            address = ("--address", desk.market.settings.invoice_address)
            return await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *arguments, *address])

        listed = await run("list", "--room", "invoice", "--kind", "CONFIRM")
        assert (0, True) == (listed.exit_code, letter.dead_letter_id in listed.output), listed.output
        shown = await run("show", "invoice", letter.dead_letter_id)
        assert f"a replay would 1. confirm hold {letter.subject}" in shown.output
        dry = await run("replay", "invoice", letter.dead_letter_id, "--dry-run")
        assert (0, True) == (dry.exit_code, " OPEN " in dry.output)
        proposed = await run("discard", "invoice", letter.dead_letter_id, "--reason", "written off")
        assert (0, True) == (proposed.exit_code, "written off" in proposed.output), proposed.output
        alone = await run("approve", "invoice", letter.dead_letter_id, "--etag", "2")
        assert (1, True) == (alone.exit_code, "dlq: SECOND_APPROVER_NEEDED" in alone.output)
        replayed = await run("replay", "invoice", letter.dead_letter_id)
        assert (0, True) == (replayed.exit_code, "REPLAYING" in replayed.output)
        wrong = await run("list", "--room", "moon")
        assert 2 == wrong.exit_code
