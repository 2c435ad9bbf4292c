"""ImportInvoices: a stream of invoices that join the same batches as single requests, answered in their order.

Nothing of a stream is stored: every item has a key, so whoever resumes may send too much and never too little.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis import clock
from invochain.chassis.call import Call, outcome
from invochain.chassis.rpc import HANDLER_BUDGET_S, key_refusal
from invochain.errors import Code, MalformedRequest, Refusal, invalid

MESSAGE_ITEMS_MAX = 100
# Items of a stream that are under way, and the bytes of their requests; its caller is slowed down there.
UNDER_WAY_MAX = 1_000
UNDER_WAY_BYTES_MAX = 4 * 1024 * 1024
# At least one answer for so many items, or so many bytes of results. The last result may reach beyond: with the largest
# invoice that the rules allow (1,000 lines of 300 characters), an answer still is less than the 4 MiB that a gRPC
# client takes unless it is told otherwise.
ANSWER_ITEMS_MAX = 100
ANSWER_BYTES_MAX = 2 * 1024 * 1024
# What ends with one of these stays so: it is in the decision row, or it is wrong in itself (PROTOCOL 13).
FINAL = {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.ALREADY_EXISTS, Code.NOT_FOUND, Code.PERMISSION_DENIED}


async def import_invoices(
    create: Callable[[list[Call]], None],
    token_of: Callable[[Sequence[Call]], Awaitable[str]],
    call: Call,
    requests: AsyncIterator[bytes],
) -> AsyncIterator[bytes]:
    """Yields ImportInvoicesResponses. Each result is durable, and they come in the order of the items.

    `create` hands items to the batches, `token_of` tells the consistency token of some (PROTOCOL 8).
    Refuses, behind the results of all items before it: what made an item's outcome unknown (PROTOCOL R8),
    MalformedRequest, ValidationFailed of a message that breaks the stream's own rules.
    """
    under_way: deque[tuple[int, Call]] = deque()
    changed = asyncio.Event()
    reading = asyncio.create_task(_read(create, call, requests, under_way, changed))
    reading.add_done_callback(lambda _: changed.set())
    try:
        while under_way or not reading.done():
            if not under_way:
                changed.clear()
                await changed.wait()
                continue
            results: list[tuple[bytes, bool, bool, int]] = []
            issued: list[Call] = []
            unknown: Refusal | None = None
            size = 0
            await asyncio.wait([under_way[0][1].answer])
            while (
                under_way
                and under_way[0][1].answer.done()
                and len(results) < ANSWER_ITEMS_MAX
                and size < ANSWER_BYTES_MAX
            ):
                offset, one = under_way.popleft()
                try:
                    results.append((await outcome(one), True, one.replayed, offset))
                    issued.append(one)
                except Refusal as refusal:
                    status = refusal.to_status()
                    if status.code not in FINAL:
                        unknown = refusal
                        break
                    results.append((status.SerializeToString(), False, one.replayed, offset))
                size += len(results[-1][0])
            changed.set()
            if results:
                token = api.ImportInvoicesResponse(consistency_token=await token_of(issued))
                # Encoded messages behind each other are one message.
                yield core.join_results(results, results[-1][3]) + token.SerializeToString()
            if unknown is not None:
                raise unknown
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(
    create: Callable[[list[Call]], None],
    call: Call,
    requests: AsyncIterator[bytes],
    under_way: deque[tuple[int, Call]],
    changed: asyncio.Event,
) -> None:
    """Takes what the caller sends to the batches, as far as there is room."""
    last = 0
    async for raw in requests:
        try:
            items = core.split_import(raw)
        except ValueError as fault:
            raise MalformedRequest(str(fault)) from None
        if not 1 <= len(items) <= MESSAGE_ITEMS_MAX:
            raise invalid("items", "ITEMS_COUNT", f"found {len(items)}; 1 to {MESSAGE_ITEMS_MAX} are wanted")
        deadline = clock.monotonic() + HANDLER_BUDGET_S
        calls: list[Call] = []
        taken: list[tuple[int, Call]] = []
        for index, (request, key, offset) in enumerate(items):
            if offset <= last:
                raise invalid(
                    f"items[{index}].offset", "OFFSET_NOT_RISING", f"found {offset} after {last}; offsets rise, from 1"
                )
            last = offset
            one = call.item(request, key, deadline)
            if refusal := key_refusal(key):
                one.refuse(refusal)
            else:
                calls.append(one)
            taken.append((offset, one))
        create(calls)
        under_way.extend(taken)
        changed.set()
        while len(under_way) >= UNDER_WAY_MAX or sum(len(one.raw) for _, one in under_way) >= UNDER_WAY_BYTES_MAX:
            changed.clear()
            await changed.wait()
