"""How ImportInvoices cuts its answers and holds its caller back, where every invoice is issued at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis import clock
from invochain.chassis.call import Call, Principal
from invochain.invoice.import_invoices import UNDER_WAY_BYTES_MAX, import_invoices

# What a gRPC client takes that was told nothing.
CLIENT_BYTES_MAX = 4 * 1024 * 1024
WITHIN_S = 30


class Issuing:
    """Takes calls, and answers each with the invoice it brought once it may."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once
        self.calls: list[Call] = []

    def create(self, calls: list[Call]) -> None:
        self.calls += calls
        if self.at_once:
            self.answer()

    def answer(self) -> None:
        for call in self.calls:
            call.reply(pb.CreateInvoiceRequest.FromString(call.raw).invoice)


async def token_of(calls: Sequence[Call]) -> str:
    return ""


def messages(items: int, size: int, a_message: int) -> list[bytes]:
    """Messages of so many items each, every item an invoice of about so many bytes."""
    every = [
        pb.ImportInvoicesItem(offset=n, idempotency_key=f"import-key-{n:06}", invoice=pb.Invoice(notes="x" * size))
        for n in range(1, items + 1)
    ]
    return [
        pb.ImportInvoicesRequest(items=every[at : at + a_message]).SerializeToString()
        for at in range(0, items, a_message)
    ]


def imported(issuing: Issuing, sent: list[bytes]) -> AsyncIterator[bytes]:
    async def requests() -> AsyncIterator[bytes]:
        for message in sent:
            yield message

    call = Call("ImportInvoices", Principal(), b"", clock.monotonic() + WITHIN_S)
    return import_invoices(issuing.create, token_of, call, requests())


@pytest.mark.parametrize(("items", "size"), [(100, 45_000), (4, 1_400_000), (2, 3_000_000)])
async def test_answers_are_cut_by_bytes_as_well_as_by_count(items, size):
    """A hundred invoices of 45 KB, four of the largest that the rules allow, two far larger."""
    answers = [raw async for raw in imported(Issuing(at_once=True), messages(items, size, 50))]

    results = [result for raw in answers for result in pb.ImportInvoicesResponse.FromString(raw).results]
    assert [result.offset for result in results] == list(range(1, items + 1))
    assert items * size > CLIENT_BYTES_MAX, "void: one answer would do"
    assert all(len(raw) < CLIENT_BYTES_MAX for raw in answers)


async def test_a_caller_is_held_back_by_bytes_as_well_as_by_count():
    """While nothing is answered, no message is taken beyond the one that reaches the bound; then all are."""
    issuing = Issuing(at_once=False)
    answers = imported(issuing, messages(40, 400_000, 2))
    first = asyncio.ensure_future(anext(answers))
    async with asyncio.timeout(WITHIN_S):
        while sum(len(call.raw) for call in issuing.calls) < UNDER_WAY_BYTES_MAX:
            await asyncio.sleep(0)
        # Long enough for a reader that nobody holds back to take the rest.
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert len(issuing.calls) == 12

        issuing.at_once = True
        issuing.answer()
        taken = [await first] + [raw async for raw in answers]
    assert sum(len(pb.ImportInvoicesResponse.FromString(raw).results) for raw in taken) == 40
