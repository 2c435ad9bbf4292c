"""Invoices, from issue to acceptance: AsyncClient.invoices and Client.invoices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from google.protobuf.message import Message

from invochain_client import errors
from invochain_client.api.invoice.v1 import invoice_service_pb2 as pb
from invochain_client.blocking import blocking, iterating
from invochain_client.calling import Answer, Caller, fresh_key
from invochain_client.outcome import Undecided
from invochain_client.refusal import read
from invochain_client.types import (
    AskGstResponse,
    Explanation,
    Invoice,
    InvoiceSide,
    InvoiceView,
    Operation,
    ValidateInvoiceResponse,
)
from invochain_client.wire import Method

CREATE = Method("invoice", "CreateInvoice", pb.Invoice)
CREATE_MANY = Method("invoice", "BatchCreateInvoices", pb.BatchCreateInvoicesResponse)
VALIDATE = Method("invoice", "ValidateInvoice", pb.ValidateInvoiceResponse)
ASK_GST = Method("invoice", "AskGst", pb.AskGstResponse)
EXPLAIN = Method("invoice", "ExplainInvoice", pb.Explanation)
GET = Method("invoice", "GetInvoice", pb.Invoice)
LIST = Method("invoice", "ListInvoices", pb.ListInvoicesResponse)
ACCEPT = Method("invoice", "AcceptInvoice", pb.Invoice)
REJECT = Method("invoice", "RejectInvoice", pb.Invoice)
REQUEST_EDIT = Method("invoice", "RequestEdit", pb.Invoice)
DECLINE_EDIT = Method("invoice", "DeclineEdit", pb.Invoice)
CANCEL = Method("invoice", "CancelInvoice", pb.Invoice)
GET_OPERATION = Method("invoice", "GetOperation", pb.Operation)
CANCEL_OPERATION = Method("invoice", "CancelOperation", pb.Operation)

CREATE_OPERATION = "invoice.create"


@dataclass(frozen=True, slots=True)
class Issued:
    """What one invoice of a batch came to: the invoice, or why it was refused."""

    key: str
    invoice: Invoice | None
    error: errors.InvochainError | None
    # The answer was given before.
    replayed: bool


class AsyncInvoices:
    """InvoiceService. Changes return an Answer; its `message` is the invoice as it is then, its `replayed` says whether
    it was done before.

    `idempotency_key`: made for you; bring your own (16 to 128 of [A-Za-z0-9._:~-]) and keep it with the order, and a
    repeat after a crash of your program is a repeat. `timeout_s`: for the call with all its attempts.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(
        self, invoice: Invoice, *, idempotency_key: str | None = None, timeout_s: float | None = None
    ) -> Answer[Invoice]:
        """Issues an invoice and takes the stock it sells, wholly or not at all.

        Raises ValidationFailed (the broken rules), SkuNotFound, InsufficientStock, UnitMismatch, NumberTaken,
        KeyReused, OutcomeUnknown.
        """
        request = pb.CreateInvoiceRequest(invoice=invoice)
        return await self._change(CREATE, request, CREATE_OPERATION, "", idempotency_key, timeout_s)

    async def create_many(
        self,
        invoices: Iterable[Invoice | tuple[str, Invoice]],
        *,
        all_or_nothing: bool = False,
        timeout_s: float | None = None,
    ) -> Sequence[Issued]:
        """Issues up to 500 invoices; a result each, in order, and none can fail its neighbours.

        Each is an invoice, which gets a key, or (idempotency key, invoice). `all_or_nothing`: if one is refused, none
        is issued, and the others come back as BatchRefused.
        """
        pairs = [one if isinstance(one, tuple) else (fresh_key(), one) for one in invoices]
        items = [pb.BatchCreateInvoicesItem(invoice=invoice, idempotency_key=key) for key, invoice in pairs]
        request = pb.BatchCreateInvoicesRequest(items=items, all_or_nothing=all_or_nothing)
        answer = await self._caller.write(CREATE_MANY, request, CREATE_OPERATION, keyed=False, timeout_s=timeout_s)
        return [
            Issued(
                key,
                result.invoice if result.HasField("invoice") else None,
                errors.error_of(read(result.error, request_id=answer.request_id, replayed=result.replayed))
                if result.HasField("error")
                else None,
                result.replayed,
            )
            for (key, _), result in zip(pairs, answer.message.results, strict=True)
        ]

    async def validate(self, invoice: Invoice, *, timeout_s: float | None = None) -> ValidateInvoiceResponse:
        """Every check of `create`, and what would be issued; stores nothing, takes nothing, needs no key."""
        return await self._caller.read(VALIDATE, pb.ValidateInvoiceRequest(invoice=invoice), timeout_s)

    async def ask_gst(self, kind: str, question: str, *, timeout_s: float | None = None) -> AskGstResponse:
        """A question that needs no invoice: gstin, rate, irn, irn_cancel, return_summary and others.

        `question` is its JSON text, for example '{"gstin": "27AAPFU0939F1ZV"}'. What is wrong with it is an answer.
        """
        return await self._caller.read(ASK_GST, pb.AskGstRequest(kind=kind, input_json=question), timeout_s)

    async def explain(self, invoice: Invoice | str, *, timeout_s: float | None = None) -> Explanation:
        """Which rate row, date and rule gave each figure of an invoice: a stored one by its id, or a proposed one."""
        if isinstance(invoice, str):
            request = pb.ExplainInvoiceRequest(invoice_id=invoice)
        else:
            request = pb.ExplainInvoiceRequest(invoice=invoice)
        return await self._caller.read(EXPLAIN, request, timeout_s)

    async def get(self, invoice_id: str, *, timeout_s: float | None = None) -> Invoice:
        """An invoice that the caller sold or bought, with its lines. Raises InvoiceNotFound."""
        return await self._caller.read(GET, pb.GetInvoiceRequest(invoice_id=invoice_id), timeout_s)

    def list(
        self,
        *,
        filter: str = "",
        order_by: str = "",
        view: InvoiceView | str | None = None,
        side: InvoiceSide | str | None = None,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Invoice, None]:
        """Invoices that the caller sold or bought, newest first, without lines unless `view="FULL"`.

        `filter` joins `field op literal` by AND: state, number, buyer_gstin, seller_gstin, supply_type, doc_type,
        financial_year, invoice_date, total_paise. `side`: SOLD or BOUGHT. A page at a time as you go; `timeout_s` is
        for one page.
        """
        request = pb.ListInvoicesRequest(page_size=page_size, filter=filter, order_by=order_by, view=view, side=side)
        return self._caller.pages(LIST, request, lambda page: page.invoices, timeout_s)

    async def accept(
        self, invoice_id: str, *, etag: str = "", idempotency_key: str | None = None, timeout_s: float | None = None
    ) -> Answer[Invoice]:
        """The buyer accepts; the held stock is sold. Raises InvalidState, InvoiceNotFound, VersionMismatch."""
        request = pb.AcceptInvoiceRequest(invoice_id=invoice_id, etag=etag)
        return await self._change(ACCEPT, request, "invoice.accept", invoice_id, idempotency_key, timeout_s)

    async def reject(
        self,
        invoice_id: str,
        reason: str,
        *,
        etag: str = "",
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Invoice]:
        """The buyer rejects; the held stock goes back to the seller. Raises as `accept`."""
        request = pb.RejectInvoiceRequest(invoice_id=invoice_id, etag=etag, reason=reason)
        return await self._change(REJECT, request, "invoice.reject", invoice_id, idempotency_key, timeout_s)

    async def request_edit(
        self,
        invoice_id: str,
        reason: str,
        *,
        etag: str = "",
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Invoice]:
        """The buyer asks for a change. Raises as `accept`."""
        request = pb.RequestEditRequest(invoice_id=invoice_id, etag=etag, reason=reason)
        return await self._change(REQUEST_EDIT, request, "invoice.request_edit", invoice_id, idempotency_key, timeout_s)

    async def decline_edit(
        self,
        invoice_id: str,
        reason: str = "",
        *,
        etag: str = "",
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Invoice]:
        """The seller stands by the invoice. Raises as `accept`."""
        request = pb.DeclineEditRequest(invoice_id=invoice_id, etag=etag, reason=reason)
        return await self._change(DECLINE_EDIT, request, "invoice.decline_edit", invoice_id, idempotency_key, timeout_s)

    async def cancel(
        self,
        invoice_id: str,
        reason: str = "",
        *,
        etag: str = "",
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Invoice]:
        """The seller cancels before acceptance; the held stock goes back, the number stays used. Raises as `accept`."""
        request = pb.CancelInvoiceRequest(invoice_id=invoice_id, etag=etag, reason=reason)
        return await self._change(CANCEL, request, "invoice.cancel", invoice_id, idempotency_key, timeout_s)

    async def operation(
        self, operation: str, key: str, invoice_id: str = "", *, timeout_s: float | None = None
    ) -> Operation:
        """What became of a key: `operation` is invoice.create, or invoice.accept and the like with the invoice's id."""
        request = pb.GetOperationRequest(operation=operation, key=key, invoice_id=invoice_id)
        return await self._caller.read(GET_OPERATION, request, timeout_s)

    async def cancel_operation(
        self, operation: str, key: str, invoice_id: str = "", *, timeout_s: float | None = None
    ) -> Operation:
        """Forces a definite answer: the success if there is one, else the key is ended for good. Repeating it is
        harmless, so it takes no key of its own."""
        request = pb.CancelOperationRequest(operation=operation, key=key, invoice_id=invoice_id)
        return await self._caller.read(CANCEL_OPERATION, request, timeout_s)

    async def wait_until(self, invoice_id: str, true: Callable[[Invoice], bool], within_s: float = 10.0) -> Invoice:
        """Reads the invoice until `true` of it, and returns it. Raises TimeoutError."""
        return await self._caller.wait_until(lambda: self.get(invoice_id), true, within_s)

    async def _change(
        self,
        method: Method[Invoice],
        request: Message,
        operation: str,
        invoice_id: str,
        key: str | None,
        timeout_s: float | None,
    ) -> Answer[Invoice]:
        ask = partial(self._find_out, operation, invoice_id)
        return await self._caller.write(method, request, operation, key=key, timeout_s=timeout_s, ask=ask)

    async def _find_out(self, operation: str, invoice_id: str, key: str, cancel: bool) -> Answer[Invoice]:
        """The success of a key. Raises the refusal that ended it, or Undecided."""
        find = self.cancel_operation if cancel else self.operation
        found = await find(operation, key, invoice_id)
        if found.state == pb.SUCCEEDED:
            return Answer(found.invoice, replayed=True, key=key, attempts=1, request_id="")
        if found.state == pb.FAILED:
            raise errors.error_of(read(found.error, replayed=True))
        raise Undecided


class Invoices:
    """InvoiceService, blocking: the methods of AsyncInvoices."""

    def __init__(self, behind: AsyncInvoices) -> None:
        self._behind = behind

    create = blocking(AsyncInvoices.create)
    create_many = blocking(AsyncInvoices.create_many)
    validate = blocking(AsyncInvoices.validate)
    ask_gst = blocking(AsyncInvoices.ask_gst)
    explain = blocking(AsyncInvoices.explain)
    get = blocking(AsyncInvoices.get)
    list = iterating(AsyncInvoices.list)
    accept = blocking(AsyncInvoices.accept)
    reject = blocking(AsyncInvoices.reject)
    request_edit = blocking(AsyncInvoices.request_edit)
    decline_edit = blocking(AsyncInvoices.decline_edit)
    cancel = blocking(AsyncInvoices.cancel)
    operation = blocking(AsyncInvoices.operation)
    cancel_operation = blocking(AsyncInvoices.cancel_operation)
    wait_until = blocking(AsyncInvoices.wait_until)
