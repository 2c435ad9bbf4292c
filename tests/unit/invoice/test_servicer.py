"""What the door keeps of a call, and for how long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import clock
from invochain.chassis.call import Call, Principal
from invochain.chassis.settings import Settings
from invochain.errors import ShuttingDown
from invochain.invoice.servicer import InvoiceServicer

INVOICE_ID = "01a2045a-2ed9-8686-93d3-be10179d34ba"


async def test_of_a_move_that_no_batch_takes_nothing_is_kept():
    """Refused at the door, it is ended like any other, so that it is counted and forgotten."""
    servicer = InvoiceServicer(SimpleNamespace(), Settings())
    await servicer._moving.drain()
    call = Call("accept", Principal(merchant_id=bytes(15) + b"1"), b"", clock.monotonic() + 5, "key-0123456789abcdef")
    with pytest.raises(ShuttingDown):
        servicer.AcceptInvoice(call, api.AcceptInvoiceRequest(invoice_id=INVOICE_ID))
    await asyncio.sleep(0)
    assert isinstance(call.answer.exception(), ShuttingDown)
    assert servicer._wishes == {}
