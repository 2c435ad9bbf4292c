"""What is not settled yet, for operators: since when, and whom it waits for.

Nobody keeps a list of sagas (PROTOCOL R4): each waits as a row where the next step begins. So this reads those rows,
five lists one behind the other, each by its own key:

    holds that are PENDING, at the inventory      DECISION, CONFIRMATION or GIVING_BACK, by the decision row
    settling events in the outbox                 PUBLICATION
    settling events at the broker, unread         CONSUMER
    dead letters here, and at the inventory       REPLAY
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.api.operator.v1 import operator_service_pb2 as operator_pb
from invochain.chassis import clock
from invochain.chassis.broker import Unread
from invochain.chassis.call import Call
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.pages import page_size
from invochain.chassis.postgres import Sql
from invochain.errors import DependencyDown, invalid
from invochain.invoice.inventory_port import Pending
from invochain.invoice.invoice import ACCEPT, CANCEL, REJECT
from invochain.invoice.resolve_sagas import read_standings, verdict_of
from invochain.invoice.room import InvoiceRoom

TOPIC = "invoice.events"
# The moves that end in the inventory.
SETTLING = tuple(move.event for move in (ACCEPT, REJECT, CANCEL))
# Above this nobody means milliseconds: a year.
OLDER_THAN_MS_MAX = 365 * 24 * 3600 * 1000
NO_BROKER = "events that wait for a consumer: INVOCHAIN_BROKER_DATABASE_URL is not set here"
HERE, THERE = ("CONFIRM", "RELEASE", "PUBLISH"), ("SELL", "REVERSE", "CONSUME")

# Where a list goes on (empty: at its beginning), and where the next page of it begins; None at its end.
Place: TypeAlias = list[str | int]


async def list_sagas(room: InvoiceRoom, call: Call, request: api.ListSagasRequest) -> api.ListSagasResponse:
    """A page. Refuses: ValidationFailed, PageTokenMismatch, DependencyDown (a list that cannot be read)."""
    if not 0 <= request.older_than_ms <= OLDER_THAN_MS_MAX:
        words = f"found {request.older_than_ms}; 0 to {OLDER_THAN_MS_MAX} milliseconds is wanted"
        raise invalid("older_than_ms", "AGE_OUT_OF_RANGE", words)
    if request.waits_for not in api.SagaWait.values():
        wanted = ", ".join(api.SagaWait.keys()[1:])
        raise invalid("waits_for", "ENUM_UNKNOWN", f"found {request.waits_for}; one of {wanted} or none is wanted")
    lists = [one for waits, one in LISTS if not request.waits_for or request.waits_for in waits]
    size = page_size(request.page_size)
    scope = ("ListSagas", call.principal.user_id, request.older_than_ms, int(request.waits_for))
    number, *place = room.pages.cursor(scope, request.page_token) or [0]
    response = api.ListSagasResponse()
    sagas, after = await lists[int(number)](room, request.older_than_ms, place, size)
    response.sagas.extend(one for one in sagas if request.waits_for in (api.SAGA_WAIT_UNSPECIFIED, one.waits_for))
    if not room.broker_url and _unread in lists:
        response.not_looked_at.append(NO_BROKER)
    if after is not None:
        response.next_page_token = room.pages.token(scope, [int(number), *after])
    elif int(number) + 1 < len(lists):
        response.next_page_token = room.pages.token(scope, [int(number) + 1])
    return response


async def _holds(
    room: InvoiceRoom, older_than_ms: int, place: Sequence[str | int], size: int
) -> tuple[list[api.Saga], Place | None]:
    pending, token = await room.inventory.pending(
        older_than_ms=older_than_ms,
        partition=0,
        partitions=1,
        page_token=str(place[0]) if place else "",
        page_size=size,
    )
    if not pending:
        return [], None
    async with room.postgres.reading() as tx:
        rows = await read_standings(tx, [one.hold for one in pending])
    waits = {None: api.DECISION, True: api.CONFIRMATION, False: api.GIVING_BACK}
    return [_hold(one, waits[verdict_of(one.hold, rows[one.hold.rid])]) for one in pending], [token] if token else None


def _hold(one: Pending, waits_for: api.SagaWait) -> api.Saga:
    return api.Saga(
        merchant_id=to_text(one.hold.merchant_id),
        invoice_id=to_text(core.invoice_id(one.hold.rid)),
        waits_for=waits_for,
        age_ms=one.age_ms,
        rid=to_text(one.hold.rid),
        attempt=one.hold.attempt,
    )


async def _unpublished(
    room: InvoiceRoom, older_than_ms: int, place: Sequence[str | int], size: int
) -> tuple[list[api.Saga], Place | None]:
    async with room.postgres.reading() as tx:
        rows = await tx.fetch(UNPUBLISHED, list(SETTLING), older_than_ms, int(place[0]) if place else 0, size + 1)
    sagas = [
        api.Saga(
            merchant_id=to_text(row["merchant_id"]),
            invoice_id=to_text(row["aggregate_id"]),
            waits_for=api.PUBLICATION,
            age_ms=row["age_ms"],
            event_id=to_text(row["event_id"]),
            event_type=row["type"],
        )
        for row in rows[:size]
    ]
    return sagas, [rows[size - 1]["seq"]] if len(rows) > size else None


async def _unread(
    room: InvoiceRoom, older_than_ms: int, place: Sequence[str | int], size: int
) -> tuple[list[api.Saga], Place | None]:
    if not room.broker_url:
        return [], None
    group, partition, offset = place or ("", 0, -1)
    async with _broker(room.broker_url) as broker:
        found = await broker.unread(TOPIC, older_than_ms, (str(group), int(partition), int(offset)), size)
    last = found[-1] if len(found) == size else None
    place_after: Place | None = [last.group, last.delivered.partition, last.delivered.offset] if last else None
    return [saga for one in found if (saga := _event(one))], place_after


def _event(one: Unread) -> api.Saga | None:
    headers = dict(one.delivered.record.headers)
    if headers.get("ce_type") not in SETTLING:
        return None
    return api.Saga(
        merchant_id=headers.get("ce_source", "").removeprefix("/merchants/"),
        invoice_id=one.delivered.record.key.decode(errors="replace"),
        waits_for=api.CONSUMER,
        age_ms=one.age_ms,
        event_id=headers.get("ce_id", ""),
        event_type=headers["ce_type"],
        consumer=one.group,
    )


@asynccontextmanager
async def _broker(url: str) -> AsyncIterator[EmbeddedBroker]:
    """Opened for one look: this service has no other use for the broker, and operators look rarely."""
    try:
        broker = await EmbeddedBroker.connect(url, size=2)
    except OSError as down:
        raise DependencyDown("the event broker") from down
    try:
        yield broker
    finally:
        await broker.close()


async def _letters_here(
    room: InvoiceRoom, older_than_ms: int, place: Sequence[str | int], size: int
) -> tuple[list[api.Saga], Place | None]:
    after = from_text(str(place[0]), "page_token") if place else bytes(16)
    async with room.postgres.reading() as tx:
        rows = await tx.fetch(LETTERS, list(HERE), older_than_ms, after, size + 1)
    sagas = [
        api.Saga(
            merchant_id=to_text(row["merchant_id"]),
            invoice_id=row["aggregate"],
            waits_for=api.REPLAY,
            age_ms=row["age_ms"],
            rid=to_text(row["rid"]) if row["rid"] else "",
            attempt=row["attempt"] or 0,
            event_id=row["subject"] if row["kind"] == "PUBLISH" else "",
        )
        for row in rows[:size]
    ]
    return sagas, [to_text(rows[size - 1]["dead_letter_id"])] if len(rows) > size else None


async def _letters_there(
    room: InvoiceRoom, older_than_ms: int, place: Sequence[str | int], size: int
) -> tuple[list[api.Saga], Place | None]:
    letters, token = await room.inventory.letters(page_size=size, page_token=str(place[0]) if place else "")
    sagas = []
    for one in letters:
        # Shown to a person only; nothing is decided by it, so another clock's time will do (PROTOCOL R6).
        age_ms = int(clock.now().timestamp() * 1_000) - one.first_time.ToMilliseconds()
        kind = operator_pb.DeadLetterKind.Name(one.kind)
        if kind in THERE and age_ms >= older_than_ms:
            sagas.append(
                api.Saga(
                    merchant_id=one.merchant_id,
                    invoice_id=one.aggregate,
                    waits_for=api.REPLAY,
                    age_ms=max(0, age_ms),
                    rid=one.rid,
                    attempt=one.attempt,
                    event_id=one.subject if kind == "CONSUME" else "",
                    consumer=one.consumer,
                )
            )
    return sagas, [token] if token else None


LISTS = (
    ((api.DECISION, api.CONFIRMATION, api.GIVING_BACK), _holds),
    ((api.PUBLICATION,), _unpublished),
    ((api.CONSUMER,), _unread),
    ((api.REPLAY,), _letters_here),
    ((api.REPLAY,), _letters_there),
)

UNPUBLISHED = Sql(
    "sagas_unpublished",
    """
SELECT merchant_id, aggregate_id, event_id, type, seq,
    floor(extract(epoch FROM now() - create_time) * 1000)::bigint AS age_ms
FROM outbox
WHERE type = ANY($1::text[]) AND create_time <= now() - $2::bigint * interval '1 millisecond' AND seq > $3
ORDER BY seq
LIMIT $4
""",
)

LETTERS = Sql(
    "sagas_letters",
    """
SELECT merchant_id, dead_letter_id, kind, aggregate, subject, rid, attempt,
    floor(extract(epoch FROM now() - first_time) * 1000)::bigint AS age_ms
FROM dead_letter
WHERE state IN ('OPEN', 'REPLAYING') AND kind = ANY($1::text[])
    AND first_time <= now() - $2::bigint * interval '1 millisecond' AND dead_letter_id > $3
ORDER BY dead_letter_id
LIMIT $4
""",
)
