"""Accept, reject, request an edit, decline it, cancel: every row of PROTOCOL 4.3, and all that is no row of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import product

import asyncpg
import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.integration.invoice.probes import another_door, broken_audit, decision_of, flush, outcome
from tests.kit.market import Market, Refused, Trader, fresh_gstin, fresh_key

REQUESTS = {
    "accept": ("AcceptInvoice", pb.AcceptInvoiceRequest),
    "reject": ("RejectInvoice", pb.RejectInvoiceRequest),
    "request_edit": ("RequestEdit", pb.RequestEditRequest),
    "decline_edit": ("DeclineEdit", pb.DeclineEditRequest),
    "cancel": ("CancelInvoice", pb.CancelInvoiceRequest),
}
SIDES = ("seller", "buyer")
STATES = ("ISSUED", "EDIT_REQUESTED", "ACCEPTED", "REJECTED", "CANCELLED", "PART_PAID", "PAID")
# PROTOCOL 4.3, as it stands there: who, from where, to where.
LEGAL = {
    ("buyer", "accept", "ISSUED"): "ACCEPTED",
    ("buyer", "accept", "EDIT_REQUESTED"): "ACCEPTED",
    ("buyer", "reject", "ISSUED"): "REJECTED",
    ("buyer", "reject", "EDIT_REQUESTED"): "REJECTED",
    ("buyer", "request_edit", "ISSUED"): "EDIT_REQUESTED",
    ("seller", "decline_edit", "EDIT_REQUESTED"): "ISSUED",
    ("seller", "cancel", "ISSUED"): "CANCELLED",
    ("seller", "cancel", "EDIT_REQUESTED"): "CANCELLED",
}
EVENTS = {
    "accept": "invochain.invoice.accepted.v1",
    "reject": "invochain.invoice.rejected.v1",
    "request_edit": "invochain.invoice.edit_requested.v1",
    "decline_edit": "invochain.invoice.edit_declined.v1",
    "cancel": "invochain.invoice.cancelled.v1",
}
ILLEGAL = [case for case in product(SIDES, REQUESTS, STATES) if case not in LEGAL]


@pytest.fixture(scope="module")
async def pair(market: Market) -> dict[str, Trader]:
    """A seller and a buyer that the tests of the table share."""
    return {"seller": await market.register("27"), "buyer": await market.register("27")}


def asking(action: str, invoice_id: str, **more):
    """A request for an action, with a reason where one is wanted."""
    if action in ("reject", "request_edit"):
        more.setdefault("reason", "wrong price")
    return REQUESTS[action][1](invoice_id=invoice_id, **more)


async def move(
    market: Market, action: str, who: Trader, invoice_id: str, key: str = "", **more
) -> pb.Invoice | Refused:
    method = getattr(market.invoices, REQUESTS[action][0])
    metadata = more.pop("metadata", {})
    return await outcome(market, method, asking(action, invoice_id, **more), who, key, **metadata)


async def issued(market: Market, pair: dict[str, Trader]) -> str:
    """An invoice without stock lines."""
    return (await market.issue(pair["seller"], market.invoice(pair["buyer"], market.line(sku="")))).invoice_id


async def in_state(market: Market, pair: dict[str, Trader], state: str) -> str:
    """An invoice that stands in a state."""
    invoice_id = await issued(market, pair)
    way = {
        "EDIT_REQUESTED": ("request_edit", "buyer"),
        "ACCEPTED": ("accept", "buyer"),
        "REJECTED": ("reject", "buyer"),
        "CANCELLED": ("cancel", "seller"),
    }
    if state in way:
        action, side = way[state]
        assert (await move(market, action, pair[side], invoice_id)).state == pb.InvoiceState.Value(state)
    elif state != "ISSUED":
        # Payments are a later part; their states must refuse these actions already.
        await market.sql(
            "invoice", "UPDATE invoice SET state = $1 WHERE invoice_id = $2::text::uuid", state, invoice_id
        )
    return invoice_id


async def read(market: Market, who: Trader, invoice_id: str) -> pb.Invoice:
    return await market.call(market.invoices.GetInvoice, pb.GetInvoiceRequest(invoice_id=invoice_id), who, None)


class TestALegalMove:
    @pytest.mark.parametrize(("side", "action", "state"), LEGAL)
    async def test_changes_state_version_audit_and_event_together(self, market, pair, side, action, state):
        """The invoice ends where the table says, one version on; audit entry, event and decision row say the same."""
        invoice_id = await in_state(market, pair, state)
        before = await read(market, pair[side], invoice_id)
        key = fresh_key()

        after = await move(market, action, pair[side], invoice_id, key)

        ends = LEGAL[side, action, state]
        assert (pb.InvoiceState.Name(after.state), after.version) == (ends, before.version + 1)
        assert (after.etag, after.etag != before.etag) == (str(after.version), True)
        assert after == await read(market, pair[side], invoice_id)
        assert set(after.allowed_actions) == {a for s, a, start in LEGAL if (s, start) == (side, ends)}
        (entry,) = await market.sql(
            "invoice",
            "SELECT action FROM audit_entry WHERE invoice_id = $1::text::uuid AND version = $2",
            invoice_id,
            after.version,
        )
        assert entry["action"] == action
        (event,) = await market.sql(
            "invoice",
            "SELECT type, payload FROM outbox WHERE aggregate_id = $1::text::uuid AND version = $2",
            invoice_id,
            after.version,
        )
        assert event["type"] == EVENTS[action]
        assert await broken_audit(market, invoice_id) == ""
        operation = f"invoice.{action}"
        assert (await decision_of(market, pair[side], key, operation))[:2] == ("SUCCEEDED", 1)

    async def test_is_seen_by_the_other_side_with_his_own_actions(self, market, pair):
        """The buyer asks for an edit; the seller sees the reason and may decline it or cancel."""
        invoice_id = await issued(market, pair)
        await move(market, "request_edit", pair["buyer"], invoice_id, reason="two bolts too many")

        theirs = await read(market, pair["seller"], invoice_id)
        assert (theirs.state_reason, list(theirs.allowed_actions)) == ("two bolts too many", ["decline_edit", "cancel"])

    async def test_stores_its_decision_beside_the_invoice(self, market, pair):
        """The buyer's key is the buyer's, but its row lies in the seller's partition (PROTOCOL 2)."""
        invoice_id = await issued(market, pair)
        await move(market, "accept", pair["buyer"], invoice_id)
        rows = await market.sql(
            "invoice", "SELECT DISTINCT merchant_id FROM decision WHERE operation = 'invoice.accept'"
        )
        assert [bytes(row["merchant_id"].bytes) for row in rows] == [pair["seller"].merchant_id]


class TestAnIllegalMove:
    @pytest.mark.parametrize(("side", "action", "state"), ILLEGAL)
    async def test_is_refused_with_the_state_and_what_is_allowed(self, market, pair, side, action, state):
        """Nothing moves; the refusal names the present state and the caller's own allowed actions."""
        invoice_id = await in_state(market, pair, state)
        before = await read(market, pair[side], invoice_id)

        refusal = await move(market, action, pair[side], invoice_id)

        assert isinstance(refusal, Refused), f"{side} {action} in {state}: {refusal}"
        allowed = [a for a in REQUESTS if (side, a, state) in LEGAL]
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "INVALID_STATE")
        assert (refusal.facts["state"], refusal.facts["allowed_actions"]) == (state, ", ".join(allowed))
        assert await read(market, pair[side], invoice_id) == before

    async def test_is_final_for_its_key(self, market, pair):
        """INVALID_STATE stays the answer of its key, with Redis and without, also once the state would allow it."""
        invoice_id = await in_state(market, pair, "ISSUED")
        key = fresh_key()
        first = await move(market, "decline_edit", pair["seller"], invoice_id, key)
        assert first.reason == "INVALID_STATE"
        await move(market, "request_edit", pair["buyer"], invoice_id)
        for emptied in (False, True):
            if emptied:
                await flush(market)
            again = await move(market, "decline_edit", pair["seller"], invoice_id, key)
            assert (again.reason, again.facts, again.replayed) == (first.reason, first.facts, True)
        assert (await move(market, "decline_edit", pair["seller"], invoice_id)).state == pb.ISSUED


class TestAReason:
    @pytest.mark.parametrize("action", ["reject", "request_edit"])
    @pytest.mark.parametrize("reason", ["", "   \n"])
    async def test_is_required_where_the_buyer_objects(self, market, pair, action, reason):
        """No reason, or blanks: the field is named, and the key may be used again with one."""
        invoice_id, key = await issued(market, pair), fresh_key()
        refusal = await move(market, action, pair["buyer"], invoice_id, key, reason=reason)
        assert refusal.broken == {("reason", "REASON_REQUIRED")}
        assert (await move(market, action, pair["buyer"], invoice_id, key)).version == 2

    @pytest.mark.parametrize(("action", "side"), [("reject", "buyer"), ("request_edit", "buyer"), ("cancel", "seller")])
    async def test_has_2000_characters_at_most(self, market, pair, action, side):
        """2,000 characters (not bytes) are stored as they are; 2,001 are refused."""
        invoice_id = await issued(market, pair)
        refusal = await move(market, action, pair[side], invoice_id, reason="क" * 2_001)
        assert refusal.broken == {("reason", "TEXT_LENGTH")}
        assert (await move(market, action, pair[side], invoice_id, reason="क" * 2_000)).state_reason == "क" * 2_000

    async def test_is_stored_word_for_word(self, market, pair):
        """SQL, CR/LF, template and right-to-left characters are text like any other."""
        invoice_id = await issued(market, pair)
        text = "'; DROP TABLE invoice; --\r\n%n {{7*7}} \u202e"
        after = await outcome(
            market,
            market.invoices.RejectInvoice,
            pb.RejectInvoiceRequest(invoice_id=invoice_id, reason=text),
            pair["buyer"],
        )
        assert isinstance(after, pb.Invoice)
        assert (await read(market, pair["seller"], invoice_id)).state_reason == text

    @pytest.mark.parametrize("character", ["\x00", "\x1b", "\x85"])
    async def test_with_a_control_character_is_refused_by_name(self, market, pair, character):
        """PostgreSQL cannot keep U+0000, and no terminal should get an escape: the field is named."""
        invoice_id = await issued(market, pair)
        refusal = await move(market, "reject", pair["buyer"], invoice_id, reason=f"no{character}thing")
        assert refusal.broken == {("reason", "TEXT_CONTROL_CHARACTER")}


class TestAnEtag:
    @pytest.mark.parametrize("how", ["field", "If-Match", "If-Match quoted"])
    async def test_that_is_stale_leaves_no_trace(self, market, pair, how):
        """VERSION_MISMATCH: no decision row, no version; the same key then moves the invoice under the right etag."""
        invoice_id, key = await issued(market, pair), fresh_key()

        def with_etag(etag: str) -> dict:
            quoted = f'"{etag}"' if "quoted" in how else etag
            return {"etag": etag} if how == "field" else {"metadata": {"if_match": quoted}}

        refusal = await move(market, "accept", pair["buyer"], invoice_id, key, **with_etag("7"))

        assert (refusal.code, refusal.reason) == ("ABORTED", "VERSION_MISMATCH")
        assert (refusal.facts["found"], refusal.facts["present"]) == ("7", "1")
        assert await decision_of(market, pair["buyer"], key, "invoice.accept") == ("", 0, "")
        assert (await read(market, pair["buyer"], invoice_id)).version == 1
        accepted = await move(market, "accept", pair["buyer"], invoice_id, key, **with_etag("1"))
        assert accepted.state == pb.ACCEPTED

    async def test_of_two_who_read_the_same_version_lets_one_through(self, market, pair):
        """Two edits of version 1: one wins, the other is told VERSION_MISMATCH or INVALID_STATE."""
        invoice_id = await issued(market, pair)
        asked = [move(market, a, pair["buyer"], invoice_id, etag="1") for a in ("accept", "request_edit")]
        outcomes = await asyncio.gather(*asked)
        assert sorted(isinstance(o, pb.Invoice) for o in outcomes) == [False, True]
        assert {o.reason for o in outcomes if isinstance(o, Refused)} <= {"VERSION_MISMATCH", "INVALID_STATE"}


class TestTheSameKey:
    async def test_gives_the_first_answer(self, market, pair):
        """A repeated accept is answered from what was decided: from Redis, and from the row without it."""
        invoice_id, key = await issued(market, pair), fresh_key()
        first = await move(market, "accept", pair["buyer"], invoice_id, key)
        for emptied in (False, True):
            if emptied:
                await flush(market)
            assert await move(market, "accept", pair["buyer"], invoice_id, key) == first
            assert market.last_metadata["x-idempotent-replayed"] == "true"
        assert (await read(market, pair["buyer"], invoice_id)).version == 2

    @pytest.mark.parametrize("emptied", [False, True])
    async def test_with_another_body_is_refused(self, market, pair, emptied):
        """The key of one rejection with another reason is reused, whatever Redis remembers."""
        invoice_id, key = await issued(market, pair), fresh_key()
        await move(market, "reject", pair["buyer"], invoice_id, key, reason="too dear")
        if emptied:
            await flush(market)
        refusal = await move(market, "reject", pair["buyer"], invoice_id, key, reason="too late")
        assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD")
        assert (await read(market, pair["buyer"], invoice_id)).state_reason == "too dear"

    async def test_serves_create_and_accept(self, market):
        """One key for both operations, by one merchant on both sides of trade: scopes do not meet (PROTOCOL 2)."""
        one, other = await market.register("27"), await market.register("27")
        key = fresh_key()
        mine = await market.issue(one, market.invoice(other, market.line(sku="")), key)
        theirs = await market.issue(other, market.invoice(one, market.line(sku="")), key)
        assert mine.invoice_id != theirs.invoice_id
        assert (await move(market, "accept", one, theirs.invoice_id, key)).state == pb.ACCEPTED
        assert (await move(market, "accept", other, mine.invoice_id, key)).state == pb.ACCEPTED

    async def test_at_once_from_twenty_callers_moves_once(self, market, pair):
        """Copies get the one answer, or CONCURRENT_REQUEST; the version rises by one."""
        invoice_id, key = await issued(market, pair), fresh_key()
        outcomes = await asyncio.gather(*(move(market, "accept", pair["buyer"], invoice_id, key) for _ in range(20)))
        assert {o.version for o in outcomes if isinstance(o, pb.Invoice)} == {2}
        assert {o.reason for o in outcomes if isinstance(o, Refused)} <= {"CONCURRENT_REQUEST"}
        assert (await read(market, pair["buyer"], invoice_id)).version == 2


class TestATableThatIsLocked:
    async def test_costs_a_repeat_and_no_more(self, market, pair):
        """lock_timeout in the look before the move: UNAVAILABLE for the batch, not INTERNAL (PROTOCOL 9)."""
        invoice_id, key = await issued(market, pair), fresh_key()
        holder = await asyncpg.connect(market.databases["invoice"])
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE invoice IN ACCESS EXCLUSIVE MODE")
                refused = await move(market, "accept", pair["buyer"], invoice_id, key)
        finally:
            await holder.close()
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "DEPENDENCY_DOWN")
        assert (await move(market, "accept", pair["buyer"], invoice_id, key)).version == 2


class TestARace:
    async def test_of_accept_and_cancel_has_one_winner(self, market, pair):
        """Fifty rounds through two processes: exactly one of the two wins, the other is told INVALID_STATE."""
        async with AsyncExitStack() as stack:
            second = await another_door(market, stack)
            for round_ in range(50):
                invoice_id = await issued(market, pair)
                accept = outcome(market, market.invoices.AcceptInvoice, asking("accept", invoice_id), pair["buyer"])
                cancel = outcome(market, second.CancelInvoice, asking("cancel", invoice_id), pair["seller"])
                results = await asyncio.gather(*((accept, cancel) if round_ % 2 else (cancel, accept)))
                (won,) = [o for o in results if isinstance(o, pb.Invoice)]
                (lost,) = [o for o in results if isinstance(o, Refused)]
                assert (won.version, lost.reason) == (2, "INVALID_STATE")
                assert lost.facts["state"] == pb.InvoiceState.Name(won.state)

    async def test_of_many_moves_of_many_invoices_leaves_each_whole(self, market, pair):
        """Thirty invoices, each accepted, rejected and cancelled at once: one move each, chains intact."""
        ids = [await issued(market, pair) for _ in range(30)]
        asked = [
            move(market, action, pair[side], invoice_id)
            for invoice_id in ids
            for action, side in (("accept", "buyer"), ("reject", "buyer"), ("cancel", "seller"))
        ]
        outcomes = await asyncio.gather(*asked)
        assert sum(isinstance(o, pb.Invoice) for o in outcomes) == len(ids)
        assert {o.reason for o in outcomes if isinstance(o, Refused)} == {"INVALID_STATE"}
        assert [await broken_audit(market, invoice_id) for invoice_id in ids[:3]] == ["", "", ""]


class TestAStranger:
    @pytest.mark.parametrize("action", REQUESTS)
    async def test_finds_nothing_to_move(self, market, pair, action):
        """NOT_FOUND, told exactly as of an invoice that does not exist; no row is written."""
        stranger = await market.register("29")
        invoice_id = await issued(market, pair)
        nowhere = "0" * 8 + invoice_id[8:]
        foreign = await move(market, action, stranger, invoice_id)
        missing = await move(market, action, stranger, nowhere)

        assert (foreign.code, foreign.reason) == (missing.code, missing.reason) == ("NOT_FOUND", "INVOICE_NOT_FOUND")
        assert foreign.message.replace(invoice_id, nowhere) == missing.message
        rows = await market.sql(
            "invoice", "SELECT rid FROM decision WHERE merchant_id = $1::text::uuid", stranger.merchant.merchant_id
        )
        assert rows == []

    async def test_finds_nothing_to_read_or_ask_about(self, market, pair):
        """GetInvoice, ListInvoices and GetOperation show no more."""
        stranger = await market.register("29")
        invoice_id, key = await issued(market, pair), fresh_key()
        await move(market, "accept", pair["buyer"], invoice_id, key)
        get = pb.GetInvoiceRequest(invoice_id=invoice_id)
        assert (await market.refused(market.invoices.GetInvoice, get, stranger, None)).code == "NOT_FOUND"
        asked = pb.GetOperationRequest(operation="invoice.accept", key=key, invoice_id=invoice_id)
        assert (await market.refused(market.invoices.GetOperation, asked, stranger, None)).code == "NOT_FOUND"
        cancel = pb.CancelOperationRequest(operation="invoice.accept", key=key, invoice_id=invoice_id)
        assert (await market.refused(market.invoices.CancelOperation, cancel, stranger, None)).code == "NOT_FOUND"
        listed = await market.call(market.invoices.ListInvoices, pb.ListInvoicesRequest(), stranger, None)
        assert list(listed.invoices) == []

    @pytest.mark.parametrize("invoice_id", ["", "17", "not-a-uuid-at-all", "'; --", "٣" * 36])
    async def test_id_that_is_none_is_named(self, market, pair, invoice_id):
        """An id that cannot be one is INVALID_ARGUMENT on its field."""
        refusal = await move(market, "accept", pair["buyer"], invoice_id)
        assert (refusal.code, {field for field, _ in refusal.broken}) == ("INVALID_ARGUMENT", {"invoice_id"})

    async def test_without_the_role_is_refused_before_any_replay(self, market, pair):
        """An ISSUER cannot accept, an APPROVER cannot cancel; not even under a key that succeeded."""
        invoice_id, key = await issued(market, pair), fresh_key()
        issuer = await market.add_user(pair["buyer"], "ISSUER")
        approver = await market.add_user(pair["seller"], "APPROVER")
        await move(market, "accept", pair["buyer"], invoice_id, key)
        for action, who in (("accept", issuer), ("reject", issuer), ("cancel", approver), ("decline_edit", approver)):
            refusal = await move(market, action, who, invoice_id, key)
            assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")


class TestABuyerWhoRegistersLater:
    async def test_is_linked_and_may_accept(self, market):
        """An invoice to a GSTIN that nobody has is found by its buyer once he registers; then he accepts it."""
        await market.work("relay", "consumer")
        seller, gstin = await market.register("27"), fresh_gstin("27")
        invoice = await market.issue(seller, market.invoice(gstin, market.line(sku="")))
        assert invoice.buyer_merchant_id == ""

        late = await market.register(gstin=gstin)

        async def linked() -> bool:
            return (await read(market, seller, invoice.invoice_id)).buyer_merchant_id == late.merchant.merchant_id

        await market.until(linked)
        assert (await read(market, late, invoice.invoice_id)).etag == invoice.etag
        accepted = await move(market, "accept", late, invoice.invoice_id, etag=invoice.etag)
        assert (accepted.state, accepted.version) == (pb.ACCEPTED, 2)
        assert await broken_audit(market, invoice.invoice_id) == ""


class TestTheAuditChain:
    @pytest.mark.parametrize(
        ("table", "change"),
        [
            ("invoice", "state = 'ACCEPTED'"),
            ("invoice", "reason = 'another one'"),
            ("invoice", "total_paise = total_paise + 1"),
            ("invoice", "taxable_paise = taxable_paise - 1"),
            ("invoice", "buyer_gstin = '29AAPFU0939F1ZR'"),
            ("invoice", "invoice_date = invoice_date - 1"),
            ("invoice", "version = version + 1"),
            ("invoice", "audit_head = sha256('x')"),
            ("invoice", "document = document || '\\x980101'::bytea"),
            ("audit_entry", "action = 'accept'"),
            ("audit_entry", "time_micros = time_micros + 1"),
            ("audit_entry", "actor_id = gen_random_uuid()"),
            ("audit_entry", "payload = payload || '\\x00'::bytea"),
            ("audit_entry", "salt = substr(sha256('x'), 1, 16)"),
            ("audit_entry", "previous = sha256('x')"),
            ("audit_entry", "hash = sha256('x')"),
            ("audit_entry", "mac = sha256('x')"),
        ],
    )
    async def test_shows_every_change_of_a_row(self, market, pair, table, change):
        """Whoever changes the invoice's row or an entry by hand is found out; put back, the chain verifies again."""
        invoice_id = await issued(market, pair)
        await move(market, "request_edit", pair["buyer"], invoice_id)
        assert await broken_audit(market, invoice_id) == ""
        column = change.split(" = ")[0]
        where = "invoice_id = $1::text::uuid" + (" AND version = 2" if table == "audit_entry" else "")
        (before,) = await market.sql("invoice", f"SELECT {column} AS kept FROM {table} WHERE {where}", invoice_id)
        await market.sql("invoice", f"UPDATE {table} SET {change} WHERE {where}", invoice_id)
        try:
            assert await broken_audit(market, invoice_id) != ""
        finally:
            back = f"UPDATE {table} SET {column} = $2 WHERE invoice_id = $1::text::uuid"
            back += " AND version = 2" if table == "audit_entry" else ""
            await market.sql("invoice", back, invoice_id, before["kept"])
        assert await broken_audit(market, invoice_id) == ""
