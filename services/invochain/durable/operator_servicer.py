"""OperatorService over a room's own dead letters: list, show with the plan, replay, discard by two (PROTOCOL 14).

Every service serves it (its `service.py`), each for its own database. What a replay does is the room's (`Repair`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from invochain.api.operator.v1 import operator_service_pb2 as pb
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.pages import Pages, page_size
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.chassis.rpc import rpc
from invochain.durable import dead_letters, decisions
from invochain.durable.dead_letters import (
    OPEN,
    REPLAYING,
    STATES,
    DeadLetterNotFound,
    Letter,
    Plan,
    Repair,
)
from invochain.errors import VersionMismatch, invalid

OPERATORS = ("OPERATOR",)
REASON_CHARS_MAX = 500
AGGREGATE_CHARS_MAX = 200
# After the newest letter there can be.
_END = b"\xff" * 16


class OperatorServicer:
    """The operators' door of one room."""

    service = "invochain.api.operator.v1.OperatorService"

    def __init__(self, room: str, postgres: Postgres, pages: Pages, repairs: Mapping[str, Repair]) -> None:
        self._room, self._postgres, self._pages, self._repairs = room, postgres, pages, repairs

    @rpc(roles=OPERATORS, services_too=True)
    async def ListDeadLetters(self, call: Call, request: pb.ListDeadLettersRequest) -> pb.ListDeadLettersResponse:
        if call.principal.service:
            # For its own operators' list of what waits.
            call.principal.needs_service("another service's list of dead letters", "invoice")
        self._check_room(request.room)
        kind = _name(pb.DeadLetterKind, "kind", request.kind)
        state = _name(pb.DeadLetterState, "state", request.state)
        if len(request.aggregate) > AGGREGATE_CHARS_MAX:
            raise invalid(
                "aggregate",
                "TEXT_TOO_LONG",
                f"found {len(request.aggregate)} characters; at most {AGGREGATE_CHARS_MAX} are wanted",
            )
        states = [state] if state else list(STATES) if request.aggregate else [OPEN, REPLAYING]
        size = page_size(request.page_size)
        scope = ("ListDeadLetters", self._room, call.principal.user_id, kind, state, request.aggregate)
        cursor = self._pages.cursor(scope, request.page_token)
        before = from_text(str(cursor[0]), "page_token") if cursor else _END
        async with self._postgres.reading() as tx:
            rows = await tx.fetch(LIST, before, states, kind, request.aggregate, size + 1)
        response = pb.ListDeadLettersResponse(dead_letters=[self._message(Letter.of(row)) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = self._pages.token(scope, [to_text(rows[size - 1]["dead_letter_id"])])
        return response

    @rpc(roles=OPERATORS)
    async def GetDeadLetter(self, call: Call, request: pb.GetDeadLetterRequest) -> pb.DeadLetter:
        self._check_room(request.room)
        letter = await self._read(request.dead_letter_id)
        message = await self._with_plan(letter)
        async with self._postgres.reading() as tx:
            actions = await tx.fetch(ACTIONS, *letter.key)
        message.actions.extend(_action(row) for row in actions)
        return message

    @rpc(roles=OPERATORS, key=True)
    async def ReplayDeadLetter(self, call: Call, request: pb.ReplayDeadLetterRequest) -> pb.DeadLetter | bytes:
        self._check_room(request.room)
        if request.validate_only:
            return await self._with_plan(await self._read(request.dead_letter_id))

        async def change(tx: Tx, letter: Letter) -> None:
            await dead_letters.replay(tx, letter, call.principal.user_id)

        return await self._change(call, "operator.replay", request, request.dead_letter_id, change)

    @rpc(roles=OPERATORS, key=True)
    async def DiscardDeadLetter(self, call: Call, request: pb.DiscardDeadLetterRequest) -> bytes:
        self._check_room(request.room)
        reason = request.reason.strip()
        if not 1 <= len(reason) <= REASON_CHARS_MAX:
            raise invalid(
                "reason", "REASON_REQUIRED", f"found {len(reason)} characters; 1 to {REASON_CHARS_MAX} are wanted"
            )

        async def change(tx: Tx, letter: Letter) -> None:
            await dead_letters.propose_discard(tx, letter, call.principal.user_id, reason)

        return await self._change(call, "operator.discard", request, request.dead_letter_id, change)

    @rpc(roles=OPERATORS, key=True)
    async def ApproveDiscard(self, call: Call, request: pb.ApproveDiscardRequest) -> bytes:
        self._check_room(request.room)
        if not request.etag:
            raise invalid("etag", "ETAG_REQUIRED", "found nothing; the etag of the letter that was read is wanted")

        async def change(tx: Tx, letter: Letter) -> None:
            if request.etag != _etag(letter):
                raise VersionMismatch(request.etag[:40], _etag(letter))
            await dead_letters.approve_discard(tx, letter, call.principal.user_id)

        return await self._change(call, "operator.approve_discard", request, request.dead_letter_id, change)

    async def _change(
        self,
        call: Call,
        operation: str,
        request: pb.ReplayDeadLetterRequest | pb.DiscardDeadLetterRequest | pb.ApproveDiscardRequest,
        dead_letter_id: str,
        change: Callable[[Tx, Letter], Awaitable[None]],
    ) -> bytes:
        """Changes a locked letter in the transaction that decides the operator's key."""
        id_ = self._id(dead_letter_id)

        async def work(tx: Tx) -> pb.DeadLetter:
            await change(tx, await dead_letters.lock(tx, id_))
            return self._message(await dead_letters.lock(tx, id_))

        # An operator has no merchant; the key is the user's.
        return await decisions.once(self._postgres, call, operation, call.principal.user_id, request, work)

    async def _with_plan(self, letter: Letter) -> pb.DeadLetter:
        message = self._message(letter)
        if letter.state not in (OPEN, REPLAYING):
            plan = Plan(f"the letter is {letter.state}")
        elif (repair := self._repairs.get(letter.kind)) is None:
            plan = Plan(f"nobody here repairs {letter.kind}")
        else:
            plan = await repair.plan(letter)
        message.plan.CopyFrom(pb.DeadLetterPlan(found=plan.found, steps=plan.steps))
        return message

    async def _read(self, dead_letter_id: str) -> Letter:
        id_ = self._id(dead_letter_id)
        async with self._postgres.reading() as tx:
            row = await tx.fetchrow(READ, id_)
        if row is None:
            raise DeadLetterNotFound(dead_letter_id)
        return Letter.of(row)

    def _id(self, text: str) -> Id:
        return from_text(text, "dead_letter_id")

    def _check_room(self, room: str) -> None:
        if room != self._room:
            words = f"found {room[:40]!r}; merchant, inventory or invoice is wanted, and each asked of its own service"
            raise invalid("room", "ROOM_UNKNOWN", words)

    def _message(self, letter: Letter) -> pb.DeadLetter:
        return pb.DeadLetter(
            dead_letter_id=to_text(letter.dead_letter_id),
            room=self._room,
            kind=letter.kind,
            state=letter.state,
            merchant_id=to_text(letter.merchant_id),
            aggregate=letter.aggregate,
            subject=letter.subject,
            consumer=letter.consumer,
            rid=to_text(letter.rid) if letter.rid else "",
            attempt=letter.attempt or 0,
            reason=letter.reason,
            detail=letter.detail,
            attempts=letter.attempts,
            trace_id=letter.trace_id,
            first_time=_time(letter.first_time),
            last_time=_time(letter.last_time),
            discard_reason=letter.discard_reason or "",
            proposer_id=to_text(letter.proposer_id) if letter.proposer_id else "",
            etag=_etag(letter),
        )


def _etag(letter: Letter) -> str:
    return str(letter.version)


def _action(row: asyncpg.Record) -> pb.DeadLetterAction:
    return pb.DeadLetterAction(
        action=row["action"],
        actor_id=to_text(row["actor_id"]) if row["actor_id"] else "",
        note=row["note"],
        create_time=_time(row["create_time"]),
    )


def _time(value: object) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(value)  # type: ignore[arg-type]
    return stamp


def _name(enum: object, field: str, value: int) -> str:
    """The name of an enum's value; empty for the unspecified one. Refuses a number that is none."""
    names = {number: name for name, number in enum.items()}  # type: ignore[attr-defined]
    if value not in names:
        wanted = ", ".join(name for number, name in names.items() if number)
        raise invalid(field, "ENUM_UNKNOWN", f"found {value}; one of {wanted} is wanted")
    return str(names[value]) if value else ""


LIST = Sql(
    "dead_letter_list",
    """
SELECT * FROM dead_letter
WHERE dead_letter_id < $1 AND state = ANY($2::text[]) AND ($3 = '' OR kind = $3) AND ($4 = '' OR aggregate = $4)
ORDER BY dead_letter_id DESC
LIMIT $5
""",
)

READ = Sql("dead_letter_read", "SELECT * FROM dead_letter WHERE dead_letter_id = $1")

ACTIONS = Sql(
    "dead_letter_actions",
    """
SELECT action, actor_id, note, create_time FROM dead_letter_action
WHERE merchant_id = $1 AND dead_letter_id = $2
ORDER BY version
""",
)
