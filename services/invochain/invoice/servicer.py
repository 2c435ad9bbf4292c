"""InvoiceService: each method is one line to its use case. What a call needs stands in its `@rpc`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from functools import cache, partial

from prometheus_client import Counter

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import clock
from invochain.chassis.batch import Collector
from invochain.chassis.call import Call, outcome, reply_all
from invochain.chassis.rpc import key_refusal, rpc
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import INVOICE_ACTION, INVOICE_CREATED, INVOICE_CREATION_SECONDS
from invochain.chassis.turn import turn
from invochain.errors import DeadlineTooShort, FieldViolation, MalformedRequest, Refusal, ValidationFailed, invalid
from invochain.invoice.all_or_nothing import create_all_or_nothing
from invochain.invoice.ask_gst import ask_gst
from invochain.invoice.create_invoice import create_invoices
from invochain.invoice.explain_invoice import explain_invoice
from invochain.invoice.import_invoices import import_invoices
from invochain.invoice.invoice import ACCEPT, CANCEL, DECLINE_EDIT, REJECT, REQUEST_EDIT
from invochain.invoice.list_sagas import list_sagas
from invochain.invoice.move_invoice import Wish, move_invoices, wish
from invochain.invoice.operations import cancel_operation, get_operation
from invochain.invoice.read_invoice import get_invoice, list_invoices
from invochain.invoice.room import InvoiceRoom
from invochain.invoice.validate_invoice import validate_invoice

BATCH_ITEMS_MAX = 500
# Batches of all or nothing that may wait: about what is issued while a caller waits, in batches of that size.
WHOLE_WAITING_MAX = 32
TOKEN = "x-consistency-token"
SELLERS = ("ISSUER",)
BUYERS = ("APPROVER",)


class InvoiceServicer:
    """The door of the room."""

    service = "invochain.api.invoice.v1.InvoiceService"

    def __init__(self, room: InvoiceRoom, settings: Settings) -> None:
        self._room = room
        limits = {
            "slots": settings.batch_slots,
            "items_max": settings.batch_items_max,
            "waiting_max": settings.batch_waiting_max,
        }
        self._creating = Collector("create_invoice", lambda calls: create_invoices(room, calls), **limits)
        self._moving = Collector("move_invoice", self._move_all, **limits)
        # Each of its calls is a batch that is never cut, and goes alone.
        self._creating_whole = Collector(
            "create_all_or_nothing", self._create_whole, slots=1, items_max=1, waiting_max=WHOLE_WAITING_MAX
        )
        self._items_of: dict[Call, list[Call]] = {}
        self._wishes: dict[Call, Wish] = {}

    async def drain(self) -> None:
        """Answers what was taken."""
        await asyncio.gather(self._creating.drain(), self._creating_whole.drain(), self._moving.drain())
        await self._room.drain()

    @rpc(key=True, roles=SELLERS, collects=True)
    def CreateInvoice(self, call: Call) -> None:
        call.on_replay = self._date_replay
        self._create([call])

    @rpc(roles=SELLERS)
    async def BatchCreateInvoices(self, call: Call) -> bytes:
        items, all_or_nothing = self._split(call)
        calls = [call.item(raw, key, call.deadline) for raw, key in items]
        if all_or_nothing:
            if len({key for _, key in items}) != len(items):
                raise invalid("items", "KEY_REPEATED", "found a key twice; every item brings a key of its own")
            await self._all_or_nothing(call, calls)
        else:
            self._create(calls)
        results = []
        for one in calls:
            try:
                body, issued = await outcome(one), True
            except Refusal as refusal:
                body, issued = refusal.to_status().SerializeToString(), False
            results.append((body, issued, one.replayed, 0))
        if token := await self._token_of(calls):
            call.out[TOKEN] = token
        return core.join_results(results, 0)

    @rpc(roles=SELLERS, stream=True)
    def ImportInvoices(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        return import_invoices(self._create, self._token_of, call, requests)

    @rpc(roles=SELLERS)
    async def ValidateInvoice(self, call: Call, request: api.ValidateInvoiceRequest) -> api.ValidateInvoiceResponse:
        return await validate_invoice(self._room, call, request)

    @rpc()
    async def AskGst(self, call: Call, request: api.AskGstRequest) -> api.AskGstResponse:
        return await ask_gst(request)

    @rpc()
    async def ExplainInvoice(self, call: Call, request: api.ExplainInvoiceRequest) -> api.Explanation:
        return await explain_invoice(self._room, call, request)

    @rpc()
    async def GetInvoice(self, call: Call, request: api.GetInvoiceRequest) -> bytes:
        return await get_invoice(self._room, call, request)

    @rpc()
    async def ListInvoices(self, call: Call, request: api.ListInvoicesRequest) -> bytes:
        return await list_invoices(self._room, call, request)

    @rpc(key=True, roles=BUYERS, collects=True)
    def AcceptInvoice(self, call: Call, request: api.AcceptInvoiceRequest) -> None:
        self._move(wish(call, ACCEPT, request))

    @rpc(key=True, roles=BUYERS, collects=True)
    def RejectInvoice(self, call: Call, request: api.RejectInvoiceRequest) -> None:
        self._move(wish(call, REJECT, request))

    @rpc(key=True, roles=BUYERS, collects=True)
    def RequestEdit(self, call: Call, request: api.RequestEditRequest) -> None:
        self._move(wish(call, REQUEST_EDIT, request))

    @rpc(key=True, roles=SELLERS, collects=True)
    def DeclineEdit(self, call: Call, request: api.DeclineEditRequest) -> None:
        self._move(wish(call, DECLINE_EDIT, request))

    @rpc(key=True, roles=SELLERS, collects=True)
    def CancelInvoice(self, call: Call, request: api.CancelInvoiceRequest) -> None:
        self._move(wish(call, CANCEL, request))

    @rpc(roles=("OPERATOR",))
    async def ListSagas(self, call: Call, request: api.ListSagasRequest) -> api.ListSagasResponse:
        return await list_sagas(self._room, call, request)

    @rpc()
    async def GetOperation(self, call: Call, request: api.GetOperationRequest) -> api.Operation:
        return await get_operation(self._room, call, request)

    @rpc()
    async def CancelOperation(self, call: Call, request: api.CancelOperationRequest) -> api.Operation:
        return await cancel_operation(self._room, call, request)

    def _create(self, calls: list[Call]) -> None:
        """Joins the creations that wait."""
        _count_all(calls)
        try:
            self._creating.put(calls)
        except Refusal as refusal:
            reply_all(calls, refusal)
            raise

    async def _all_or_nothing(self, call: Call, items: list[Call]) -> None:
        """Has the items of a batch issued whole or not at all; returns when they are answered."""
        _count_all(items)
        self._items_of[call] = items
        try:
            await self._creating_whole.submit(call)
        except Refusal as refusal:
            reply_all(items, refusal)
            raise
        finally:
            # Not begun, and nobody asks any more.
            reply_all(self._items_of.pop(call, ()), DeadlineTooShort("before its batch was begun"))

    async def _create_whole(self, calls: list[Call]) -> None:
        for call in calls:
            # A caller that hung up while he waited has taken his items along: they were not begun.
            if items := self._items_of.pop(call, None):
                await create_all_or_nothing(self._room, items)
            call.reply(b"")

    def _split(self, call: Call) -> tuple[list[tuple[bytes, str]], bool]:
        """The items of a batch; refuses one without a key, or with one outside the grammar, by its position."""
        try:
            items, all_or_nothing = core.split_batch(call.raw)
        except ValueError as fault:
            raise MalformedRequest(str(fault)) from None
        if not 1 <= len(items) <= BATCH_ITEMS_MAX:
            raise invalid("items", "ITEMS_COUNT", f"found {len(items)}; 1 to {BATCH_ITEMS_MAX} are wanted")
        broken = []
        for index, (_, key) in enumerate(items):
            if refusal := key_refusal(key):
                broken.append(FieldViolation(f"items[{index}].idempotency_key", refusal.reason, str(refusal)))
        if broken:
            raise ValidationFailed(broken)
        return items, all_or_nothing

    async def _date_replay(self, call: Call) -> None:
        """A replay comes with a token too: whoever was cut off and asks again reads what was written the first time."""
        if token := await self._room.reader.token():
            call.out[TOKEN] = token

    async def _token_of(self, calls: Sequence[Call]) -> str:
        """A token of what all of these wrote, those too that only tell of an earlier write; empty if there is none."""
        if any(one.replayed for one in calls) and (token := await self._room.reader.token()):
            return token
        tokens = [one.out[TOKEN] for one in calls if one.out.get(TOKEN)]
        return max(tokens, key=lambda lsn: [int(part, 16) for part in lsn.split("/")], default="")

    def _move(self, one: Wish) -> None:
        one.call.on_replay = self._date_replay
        self._wishes[one.call] = one
        one.call.answer.add_done_callback(partial(self._moved, one))
        try:
            self._moving.put([one.call])
        except Refusal as refusal:
            one.call.refuse(refusal)
            raise

    def _moved(self, one: Wish, answer: asyncio.Future[bytes]) -> None:
        del self._wishes[one.call]
        if (error := answer.exception()) is None:
            turn.count(_acted(one.move.action, "replayed" if one.call.replayed else "done"))
        elif isinstance(error, Refusal):
            turn.count(_acted(one.move.action, error.reason))

    async def _move_all(self, calls: list[Call]) -> Collection[Call]:
        # Whose time ran out meanwhile has taken his wish along: it was not begun.
        return await move_invoices(self._room, [self._wishes[call] for call in calls if call in self._wishes])


def _count_all(calls: Sequence[Call]) -> None:
    """Has creations counted, each when its answer is there, whoever waits for it."""
    for call in calls:
        call.answer.add_done_callback(partial(_count, call))


def _count(call: Call, answer: asyncio.Future[bytes]) -> None:
    """Counts a creation by its outcome."""
    if (error := answer.exception()) is None:
        turn.count(_created("replayed" if call.replayed else "issued"))
        turn.observe(INVOICE_CREATION_SECONDS, clock.monotonic() - call.arrived)
    elif isinstance(error, Refusal):
        turn.count(_created(error.reason))


@cache
def _created(outcome: str) -> Counter:
    """The counter of an outcome; reasons are a few dozen."""
    return INVOICE_CREATED.labels(outcome=outcome)


@cache
def _acted(action: str, outcome: str) -> Counter:
    """The same for what is done with an invoice."""
    return INVOICE_ACTION.labels(action=action, outcome=outcome)
