"""The rules: what clients, workers and misfortune may do next, and what must be answered (README.md)."""

from __future__ import annotations

import itertools
from typing import Any

from google.rpc import status_pb2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.market import Refused
from tests.stateful.books import (
    ABORTED,
    CANCELLED,
    CODES,
    FAILED,
    MOVES,
    REUSED,
    SUCCEEDED,
    UNDECIDED,
    Body,
    Books,
    Fate,
    Invoice,
)
from tests.stateful.floor import Floor

CREATE = "invoice.create"
# All three trade with each other; the last one only looks on.
TRADERS, PARTIES = range(3), range(2)
SKUS, UNKNOWN = ("BOLT", "NUT"), "GHOST"
UNITS = 20
METHODS = {
    "accept": ("AcceptInvoice", pb.AcceptInvoiceRequest),
    "reject": ("RejectInvoice", pb.RejectInvoiceRequest),
    "request_edit": ("RequestEdit", pb.RequestEditRequest),
    "decline_edit": ("DeclineEdit", pb.DeclineEditRequest),
    "cancel": ("CancelInvoice", pb.CancelInvoiceRequest),
}
_keys = itertools.count(1)

line = st.tuples(st.sampled_from((*SKUS, "")), st.integers(1, UNITS // 2))
lines = st.lists(line, min_size=1, max_size=3).map(tuple)
# A number of the seller's own, in either case of letters, comes again soon.
numbers = st.sampled_from(("", "", "", "OWN/1", "own/1", "OWN/2"))
seller_of = st.sampled_from(PARTIES)
some = st.integers(0, 1_000)


class Trade(RuleBasedStateMachine):
    """One example: three fresh traders on a floor that all examples share."""

    floor: Floor

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.healthy = True

    @initialize()
    def three_traders(self) -> None:
        market = self.floor.market
        self.traders = [self._run(market.register()) for _ in TRADERS]
        for who, sku in ((0, "BOLT"), (0, "NUT"), (1, "BOLT")):
            self._run(market.stock_up(self.traders[who], sku, UNITS))
            assert self.books.adjust(who, sku, "SET", UNITS) == ""

    # ---- creation

    @rule(seller=seller_of, lines=lines, number=numbers)
    def create(self, seller: int, lines: Any, number: str) -> None:
        """A new key: issued, short of stock, its SKU not known to this seller, or its number taken."""
        self._create(seller, self._key(), Body(1 - seller, lines, number))

    @rule(seller=seller_of)
    def create_of_an_unknown_sku(self, seller: int) -> None:
        self._create(seller, self._key(), Body(1 - seller, ((UNKNOWN, 1),)))

    @rule(seller=seller_of)
    def create_what_is_no_invoice(self, seller: int) -> None:
        """Refused before anything is begun: the key is as good as new."""
        body, key = Body(1 - seller, (("BOLT", 0),)), self._key()
        answer, _ = self._ask("CreateInvoice", self._request(body), seller, key)
        self._refused(answer, "VALIDATION_FAILED")
        self._operation(seller, key, pb.GetOperationRequest)

    @precondition(lambda self: self.books.creations())
    @rule(at=some)
    def create_again(self, at: int) -> None:
        """A key that was used, with its own body."""
        seller, key, fate = self._some(self.books.creations(), at)
        self._create(seller, key, fate.body or fate.hold or Body(1 - seller, (("", 1),)))

    @precondition(lambda self: self.books.creations())
    @rule(at=some, lines=lines)
    def create_something_else_with_a_used_key(self, at: int, lines: Any) -> None:
        seller, key, _ = self._some(self.books.creations(), at)
        self._create(seller, key, Body(1 - seller, lines))

    @rule(seller=seller_of, bodies=st.lists(st.tuples(lines, st.booleans()), min_size=1, max_size=5), number=numbers)
    def create_a_batch(self, seller: int, bodies: Any, number: str) -> None:
        """Each item its own answer; some repeat the item before them, with its body or with another one."""
        items: list[tuple[str, Body]] = []
        for lines_, again in bodies:
            body = Body(1 - seller, lines_, "" if items else number)
            if again and items:
                items.append((items[-1][0], items[-1][1] if len(lines_) > 1 else body))
            else:
                items.append((self._key(), body))
        self._batch(seller, items, whole=False)

    @rule(seller=seller_of, bodies=st.lists(lines, min_size=1, max_size=3), number=numbers, at=some)
    def create_all_or_nothing(self, seller: int, bodies: Any, number: str, at: int) -> None:
        """New keys, and perhaps one that a batch gave up or that was issued already."""
        items = [(self._key(), Body(1 - seller, one, number if i == 0 else "")) for i, one in enumerate(bodies)]
        known = [
            (key, fate.body)
            for who, key, fate in self.books.creations()
            if who == seller and fate.state in (ABORTED, SUCCEEDED) and fate.hold is None and not fate.body.number
        ]
        if known and at % 2:
            items.append(self._some(known, at))
        self._batch(seller, items, whole=True)

    # ---- actions

    @precondition(lambda self: self.books.invoices)
    @rule(at=some, action=st.sampled_from(sorted(MOVES)), who=st.sampled_from(TRADERS), own_key=st.booleans())
    def act(self, at: int, action: str, who: int, own_key: bool) -> None:
        """Anybody tries anything; a key that made an invoice may also move it."""
        invoice = self._some(self.books.invoices, at)
        self._act(invoice, action, who, invoice.key if own_key else self._key())

    @precondition(lambda self: self.books.invoices)
    @rule(at=some, action=st.sampled_from(sorted(MOVES)))
    def act_rightly(self, at: int, action: str) -> None:
        """By the side whose action it is, knowing the version."""
        invoice = self._some(self.books.invoices, at)
        who = invoice.seller if MOVES[action][0] == "seller" else invoice.body.buyer
        self._act(invoice, action, who, self._key(), etag=str(invoice.version))

    @precondition(lambda self: self.books.invoices)
    @rule(at=some, action=st.sampled_from(sorted(MOVES)))
    def act_for_the_other_side(self, at: int, action: str) -> None:
        invoice = self._some(self.books.invoices, at)
        who = invoice.body.buyer if MOVES[action][0] == "seller" else invoice.seller
        self._act(invoice, action, who, self._key())

    @precondition(lambda self: any(invoice.version > 1 for invoice in self.books.invoices))
    @rule(at=some, action=st.sampled_from(sorted(MOVES)))
    def act_on_an_old_version(self, at: int, action: str) -> None:
        """Nothing changes, and the key may be used again."""
        invoice = self._some([one for one in self.books.invoices if one.version > 1], at)
        who = invoice.seller if MOVES[action][0] == "seller" else invoice.body.buyer
        self._act(invoice, action, who, self._key(), etag=str(invoice.version - 1))

    @precondition(lambda self: self._acted())
    @rule(at=some, other=st.booleans())
    def act_again(self, at: int, other: bool) -> None:
        """A key that was used for an action, with its own words or others."""
        (who, operation, key, invoice_id), fate = self._some(self._acted(), at)
        etag, reason = fate.body or ("", "why not")
        (invoice,) = [one for one in self.books.invoices if one.invoice_id == invoice_id]
        self._act(invoice, operation.split(".")[1], who, key, etag, reason + "!" * other)

    # ---- asking

    @precondition(lambda self: self.books.fates)
    @rule(at=some, end=st.booleans())
    def ask_about_a_used_key(self, at: int, end: bool) -> None:
        """GetOperation, or CancelOperation, which ends what is undecided for good."""
        (who, operation, key, invoice_id), _ = self._some(list(self.books.fates.items()), at)
        kind = pb.CancelOperationRequest if end else pb.GetOperationRequest
        self._operation(who, key, kind, operation, invoice_id)

    @rule(who=seller_of, end=st.booleans())
    def ask_about_a_key_never_used(self, who: int, end: bool) -> None:
        self._operation(who, self._key(), pb.CancelOperationRequest if end else pb.GetOperationRequest)

    # ---- stock

    @rule(
        who=seller_of,
        sku=st.sampled_from(SKUS),
        how=st.sampled_from(("ADD", "REMOVE", "SET")),
        units=st.integers(1, UNITS),
    )
    def adjust_stock(self, who: int, sku: str, how: str, units: int) -> None:
        """What is reserved stays; repeated with its key it is done once."""
        reason, key = self.books.adjust(who, sku, how, units), self._key()
        request = stock_pb.AdjustStockRequest(
            sku=sku, adjustment=how, quantity_milli=units * 1_000, reason="count", hsn="731815", unit="NOS"
        )
        first, _ = self._ask("AdjustStock", request, who, key)
        again, _ = self._ask("AdjustStock", request, who, key)
        if reason:
            self._refused(first, reason)
            assert self._told(again) == self._told(first)
        else:
            assert not isinstance(first, Refused), first
            assert again == first

    # ---- misfortune

    @rule()
    def redis_forgets(self) -> None:
        self._run(self.floor.flush())

    @rule()
    def invoice_service_restarts(self) -> None:
        self._run(self.floor.restart())

    @rule(seller=seller_of, lines=lines)
    def creation_dies_with_its_hold(self, seller: int, lines: Any) -> None:
        """The client hears nothing final, the stock is held, and no row says why."""
        body, key = Body(1 - seller, lines), self._key()
        reason = self.books.refuses(seller, body)
        answer = self._run(self.floor.dies_holding(self._request(body), self.traders[seller], key))
        fate = self.books.fate(seller, CREATE, key)
        self._refused(answer, reason or "DEPENDENCY_DOWN")
        if reason:
            self.books.book_refusal(fate, body, reason, self._told(answer))
        elif body.takes():
            self.books.move_stock(seller, body, reserved=1)
            fate.hold = body

    @rule(seller=seller_of, lines=lines, number=numbers)
    def creation_is_not_settled(self, seller: int, lines: Any, number: str) -> None:
        """The process dies behind its answer: holds are neither confirmed nor released."""
        body, key = Body(1 - seller, lines, number), self._key()

        async def unsettled() -> Any:
            async with self.floor.settlers_lost():
                return await self.floor.ask("CreateInvoice", self._request(body), self.traders[seller], key)

        fate = self.books.fate(seller, CREATE, key)
        reason = self.books.judge_create(seller, body, fate)
        answer, _ = self._run(unsettled())
        self._created(seller, key, fate, body, reason, answer)
        if reason == "DOC_NUMBER_DUPLICATE" and body.takes():
            self.books.move_stock(seller, body, reserved=1)
            fate.hold = body

    # ---- workers

    @precondition(lambda self: self.books.outbox)
    @rule()
    def relays_publish(self) -> None:
        self._run(self.floor.relay())
        self.books.relay()

    @precondition(lambda self: any(self.books.unheard.values()))
    @rule(name=st.sampled_from(("settle", "receive")))
    def consumer_reads(self, name: str) -> None:
        self._run(self.floor.consume(name))
        self.books.consume(name)

    @precondition(lambda self: any(fate.hold for *_, fate in self.books.creations()))
    @rule()
    def resolver_settles(self) -> None:
        self._run(self.floor.resolve())
        self.books.resolve()

    # ---- what must be so

    @invariant()
    def the_databases_say_what_the_books_say(self) -> None:
        if not hasattr(self, "traders"):
            return
        books = self.books
        assert self._run(self.floor.stock(self.traders)) == books.stock
        invoices = {(one.invoice_id, one.state, one.version) for one in books.invoices}
        assert self._run(self.floor.invoices(self.traders)) == invoices
        decisions = {
            core.request_id(self.traders[who].merchant_id, operation, key): fate.state
            for (who, operation, key, _), fate in books.fates.items()
            if fate.state != UNDECIDED
        }
        assert self._run(self.floor.decisions(self.traders)) == decisions
        assert self._run(self.floor.broken(at_rest=False)) == {}
        self.healthy = True

    def teardown(self) -> None:
        """Workers do all that is left; then every invariant holds and every key has the answer it had.

        Not after a step that failed: that is what is to be told.
        """
        if not self.healthy or not hasattr(self, "traders"):
            return
        self._run(self.floor.relay())
        self.books.relay()
        for name in self.floor.listeners:
            self._run(self.floor.consume(name))
        for name in self.books.unheard:
            self.books.consume(name)
        self._run(self.floor.resolve())
        self.books.resolve()
        self.the_databases_say_what_the_books_say()
        assert self._run(self.floor.broken(at_rest=True)) == {}
        for who, operation, key, invoice_id in list(self.books.fates):
            self._operation(who, key, pb.GetOperationRequest, operation, invoice_id)

    # ---- how it is done

    def _run(self, work: Any) -> Any:
        """Until the next look at all that must be so, nothing is known to be."""
        self.healthy = False
        return self.floor.run(work)

    def _key(self) -> str:
        return f"stateful-key-{next(_keys):08d}"

    @staticmethod
    def _some(things: Any, at: int) -> Any:
        return things[at % len(things)]

    def _acted(self) -> list[Any]:
        return [(name, fate) for name, fate in self.books.fates.items() if name[3] and fate.state != UNDECIDED]

    def _request(self, body: Body) -> pb.CreateInvoiceRequest:
        market = self.floor.market
        items = [market.line(units, 100 + units, sku) for sku, units in body.lines]
        return market.invoice(self.traders[body.buyer], *items, number=body.number)

    def _ask(self, method: str, request: Any, who: int, key: str | None) -> tuple[Any, bool | None]:
        return self._run(self.floor.ask(method, request, self.traders[who], key))

    @staticmethod
    def _told(refused: Refused) -> tuple[str, dict[str, str]]:
        return refused.reason, refused.facts

    @staticmethod
    def _refused(answer: Any, reason: str) -> None:
        assert isinstance(answer, Refused), f"{reason} is wanted, found {answer}"
        assert (answer.code, answer.reason) == (CODES[reason], reason), answer

    def _is_new(self, fate: Fate, body: Any, reason: str, answer: Any) -> bool:
        """Whether it is to be booked as something new. A refusal must be the one wanted, a replay the first answer."""
        known = fate.knows(body)
        if reason:
            self._refused(answer, reason)
            if known and reason not in (REUSED, CANCELLED):
                assert self._told(answer) == fate.told
            self.books.book_refusal(fate, body, reason, self._told(answer))
        elif known is not None:
            assert answer == fate.told
        else:
            assert isinstance(answer, pb.Invoice), answer
        return not reason and known is None

    def _create(self, seller: int, key: str, body: Body) -> None:
        fate = self.books.fate(seller, CREATE, key)
        reason, known = self.books.judge_create(seller, body, fate), fate.knows(body)
        answer, replayed = self._ask("CreateInvoice", self._request(body), seller, key)
        assert replayed in (None, known is not None and reason != REUSED)
        self._created(seller, key, fate, body, reason, answer)
        # Whoever cannot use what he held gave it back, unless the cache answered; both are right.
        if fate.hold == body and self._run(self.floor.is_released(self.traders[seller], key)):
            self.books.free(seller, fate)

    def _created(self, seller: int, key: str, fate: Fate, body: Body, reason: str, answer: Any) -> None:
        if self._is_new(fate, body, reason, answer):
            assert (answer.state, answer.version) == (pb.ISSUED, 1)
            assert not body.number or answer.number == body.number
            self.books.book_invoice(seller, key, fate, body, answer)

    def _batch(self, seller: int, items: list[tuple[str, Body]], *, whole: bool) -> None:
        reasons = self.books.judge_batch(seller, items, whole=whole)
        asked = [
            pb.BatchCreateInvoicesItem(invoice=self._request(body).invoice, idempotency_key=key) for key, body in items
        ]
        request = pb.BatchCreateInvoicesRequest(items=asked, all_or_nothing=whole)
        answer, _ = self._ask("BatchCreateInvoices", request, seller, None)
        assert isinstance(answer, pb.BatchCreateInvoicesResponse), answer
        results = list(answer.results)
        assert len(results) == len(items)
        for (key, body), reason, result in zip(items, reasons, results, strict=True):
            fate = self.books.fate(seller, CREATE, key)
            told = self._of_status(result.error) if result.HasField("error") else result.invoice
            self._created(seller, key, fate, body, reason, told)

    @staticmethod
    def _of_status(status: status_pb2.Status) -> Refused:
        refused = Refused.of_status(status)
        refused.code = CODES.get(refused.reason, "")
        return refused

    def _act(self, invoice: Invoice, action: str, who: int, key: str, etag: str = "", reason: str = "why not") -> None:
        method, kind = METHODS[action]
        request = kind(invoice_id=invoice.invoice_id, etag=etag)
        if "reason" in kind.DESCRIPTOR.fields_by_name:
            request.reason = reason
        body = (etag, reason if "reason" in kind.DESCRIPTOR.fields_by_name else "")
        fate = self.books.fates.get((who, f"invoice.{action}", key, invoice.invoice_id), Fate())
        wanted, known = self.books.judge_move(who, action, invoice, etag, fate, body), fate.knows(body)
        answer, replayed = self._ask(method, request, who, key)
        assert replayed in (None, known is not None and wanted != REUSED)
        if self._is_new(fate, body, wanted, answer):
            self.books.book_move(action, invoice, fate, body, answer)
            assert (answer.version, pb.InvoiceState.Name(answer.state)) == (invoice.version, invoice.state)
        if who in PARTIES:
            self.books.fates[who, f"invoice.{action}", key, invoice.invoice_id] = fate

    def _operation(self, who: int, key: str, kind: Any, operation: str = CREATE, invoice_id: str = "") -> None:
        fate = self.books.fate(who, operation, key, invoice_id)
        ends = kind is pb.CancelOperationRequest
        if ends and fate.state in (UNDECIDED, ABORTED):
            fate.state, fate.body, fate.reason, fate.told = FAILED, None, CANCELLED, (CANCELLED, {})
        request = kind(operation=operation, key=key, invoice_id=invoice_id)
        answer, _ = self._ask("CancelOperation" if ends else "GetOperation", request, who, None)
        assert isinstance(answer, pb.Operation), answer
        assert pb.OperationState.Name(answer.state) == fate.state
        if fate.state == SUCCEEDED:
            assert answer.invoice == fate.told
        elif fate.state == FAILED:
            assert self._told(Refused.of_status(answer.error)) == fate.told
