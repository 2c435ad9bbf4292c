"""Dead letters: what was not done after every try, kept for an operator, who is shown what is left to do (PROTOCOL 14).

        open                 replay                  done
    ─────────▶ OPEN ─────────────────▶ REPLAYING ──────────▶ DONE
                │  ◀── failed again ──┘                        ▲
                ├─ found repaired ─────────────────────────────┘
                └─ discard proposed by one, approved by another ─▶ DISCARDED

A letter names what it is about by ids and stores no command. Its kind says where to look and what follows from what is
found there (`Repair`), so that doing it twice, or after it repaired itself, is harmless. Every change of state is a
row of `dead_letter_action`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg

from invochain.chassis.ids import Id, new_id, to_text
from invochain.chassis.postgres import Sql, Tx, column
from invochain.errors import Code, Refusal, Retry

CONFIRM, RELEASE, SELL, REVERSE = "CONFIRM", "RELEASE", "SELL", "REVERSE"
PUBLISH, CONSUME, RECONCILE = "PUBLISH", "CONSUME", "RECONCILE"
KINDS = (CONFIRM, RELEASE, SELL, REVERSE, PUBLISH, CONSUME, RECONCILE)
# The kinds whose events wait in `parked_event` (durable/parking.py).
PARKING = (PUBLISH, CONSUME)
OPEN, REPLAYING, DONE, DISCARDED = "OPEN", "REPLAYING", "DONE", "DISCARDED"
STATES = (OPEN, REPLAYING, DONE, DISCARDED)

# After so many tries, or so long, it will not be done by itself.
TRIES_MAX = 10
TRYING_S_MAX = 600.0
# More letters than this, or an older one, page somebody.
DEPTH_ALARM = 10
AGE_ALARM_S = 900.0


@dataclass(frozen=True, slots=True)
class Failed:
    """What is to become a letter. `subject`: an event's id, or a hold's, as text."""

    kind: str
    merchant_id: Id
    subject: str
    aggregate: str
    reason: str
    consumer: str = ""
    rid: Id | None = None
    attempt: int | None = None
    fingerprint: bytes | None = None
    # A refusal's own words; nothing of a payload.
    detail: str = ""
    attempts: int = 1
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is stored."""

    merchant_id: Id
    dead_letter_id: Id
    kind: str
    consumer: str
    subject: str
    aggregate: str
    rid: Id | None
    attempt: int | None
    fingerprint: bytes | None
    reason: str
    detail: str
    attempts: int
    trace_id: str
    state: str
    version: int
    first_time: dt.datetime
    last_time: dt.datetime
    discard_reason: str | None
    proposer_id: Id | None

    @classmethod
    def of(cls, row: asyncpg.Record) -> Letter:
        return cls(**{name: row[name] for name in cls.__slots__})

    @property
    def key(self) -> tuple[Id, Id]:
        return self.merchant_id, self.dead_letter_id


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay would do now. `found`: what decides it; `steps`: what is left, in order (none: nothing)."""

    found: str
    steps: tuple[str, ...] = ()
    # A replay is under way, and this does the steps (for example `the replayer`); a letter that waits is left alone.
    waits_for: str = ""

    @property
    def left(self) -> bool:
        return bool(self.steps)


class Repair(Protocol):
    """One kind of letter. A new kind is one of these, listed in its room's `repairs.py`."""

    async def plan(self, letter: Letter) -> Plan:
        """Looks, reading only, at what decides and at what is there. Refuses: DependencyDown."""
        ...

    async def repair(self, letter: Letter) -> None:
        """Does what is left, with the same ids. Raises NotRepaired or a Refusal; a passing one is tried again."""
        ...


@dataclass(eq=False)
class DeadLetterNotFound(Refusal):
    code, reason, retry = Code.NOT_FOUND, "DEAD_LETTER_NOT_FOUND", Retry.NEVER
    message = "there is no dead letter {dead_letter_id} here"
    dead_letter_id: str


@dataclass(eq=False)
class DeadLetterState(Refusal):
    code, reason, retry = Code.FAILED_PRECONDITION, "DEAD_LETTER_STATE", Retry.WITH_NEW_KEY
    message = "the dead letter is {state}; {wanted} is wanted"
    state: str
    wanted: str


@dataclass(eq=False)
class OlderLetterFirst(Refusal):
    """Letters of one aggregate are replayed in order."""

    code, reason, retry = Code.FAILED_PRECONDITION, "OLDER_DEAD_LETTER_FIRST", Retry.WITH_NEW_KEY
    message = "dead letter {dead_letter_id} of the same aggregate is older; replay or discard that one first"
    dead_letter_id: str


class NotRepaired(Exception):
    """A repair was refused for good: the letter stays, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class SecondApproverNeeded(Refusal):
    code, reason, retry = Code.FAILED_PRECONDITION, "SECOND_APPROVER_NEEDED", Retry.NEVER
    message = "whoever proposed the discard cannot approve it; another operator is wanted"


async def open_letters(tx: Tx, failures: Sequence[Failed]) -> None:
    """Opens a letter for each, or adds to the one there is: one a subject. What was discarded stays discarded."""
    if not failures:
        return
    failures = sorted(failures, key=lambda one: (one.merchant_id, one.kind, one.consumer, one.subject))
    await tx.execute(
        OPEN_LETTERS,
        [one.merchant_id for one in failures],
        [new_id() for _ in failures],
        [one.kind for one in failures],
        [one.consumer for one in failures],
        [one.subject for one in failures],
        [one.aggregate for one in failures],
        [one.rid for one in failures],
        [one.attempt for one in failures],
        [one.fingerprint for one in failures],
        [one.reason for one in failures],
        [one.detail for one in failures],
        [one.attempts for one in failures],
        [one.trace_id for one in failures],
    )


async def close(tx: Tx, letters: Sequence[Letter], note: str) -> None:
    """Ends letters whose work is done. One that failed again meanwhile, or was touched, stays."""
    await tx.execute(
        CLOSE,
        [letter.merchant_id for letter in letters],
        [letter.dead_letter_id for letter in letters],
        [letter.version for letter in letters],
        note,
    )


async def lock(tx: Tx, dead_letter_id: Id) -> Letter:
    """Reads a letter and keeps it as it is until the transaction ends. Refuses: DeadLetterNotFound."""
    row = await tx.fetchrow(LOCK, dead_letter_id)
    if row is None:
        raise DeadLetterNotFound(to_text(dead_letter_id))
    return Letter.of(row)


async def replay(tx: Tx, letter: Letter, actor_id: Id) -> None:
    """Asks for a replay of a locked letter; the replayer does it (workers/replayer.py).

    A letter that is REPLAYING stays so. Refuses: DeadLetterState, OlderLetterFirst.
    """
    if letter.state == REPLAYING:
        return
    if letter.state != OPEN:
        raise DeadLetterState(letter.state, OPEN)
    older = await tx.fetchval(OLDER, letter.aggregate, letter.consumer, letter.dead_letter_id)
    if older is not None:
        raise OlderLetterFirst(to_text(bytes(older)))
    await tx.execute(CHANGE, *letter.key, REPLAYING, None, None)
    await _note(tx, letter, "REPLAY", actor_id, "")
    if letter.kind in PARKING:
        await tx.execute(DRAIN, letter.consumer, letter.aggregate)


async def propose_discard(tx: Tx, letter: Letter, actor_id: Id, reason: str) -> None:
    """Notes on a locked letter who wants it gone, and why. A later proposal replaces an earlier one.

    Refuses: DeadLetterState.
    """
    if letter.state != OPEN:
        raise DeadLetterState(letter.state, OPEN)
    await tx.execute(CHANGE, *letter.key, OPEN, reason, actor_id)
    await _note(tx, letter, "PROPOSE_DISCARD", actor_id, reason)


async def approve_discard(tx: Tx, letter: Letter, actor_id: Id) -> None:
    """Discards a locked letter for good: its work is never done. Events parked behind it go on.

    Refuses: DeadLetterState (also without a proposal), SecondApproverNeeded.
    """
    if letter.state != OPEN or letter.proposer_id is None:
        raise DeadLetterState(letter.state, "OPEN with a proposed discard")
    if letter.proposer_id == actor_id:
        raise SecondApproverNeeded()
    await tx.execute(CHANGE, *letter.key, DISCARDED, letter.discard_reason, letter.proposer_id)
    await _note(tx, letter, "APPROVE_DISCARD", actor_id, "")
    if letter.kind in PARKING:
        await tx.execute(DROP_EVENT, letter.consumer, letter.subject)
        await tx.execute(DRAIN, letter.consumer, letter.aggregate)


async def _note(tx: Tx, letter: Letter, action: str, actor_id: Id, note: str) -> None:
    await tx.execute(NOTE, *letter.key, letter.version + 1, action, actor_id, note)


async def with_state(tx: Tx, state: str, at_most: int) -> list[Letter]:
    """The letters that are OPEN or REPLAYING, oldest first."""
    return [Letter.of(row) for row in await tx.fetch(WITH_STATE, state, at_most)]


async def about(tx: Tx, kind: str, aggregate: str) -> list[Letter]:
    """The letters of a kind that are OPEN or REPLAYING about one aggregate."""
    return [Letter.of(row) for row in await tx.fetch(ABOUT, kind, aggregate)]


async def depth(tx: Tx) -> tuple[int, float]:
    """How many letters wait, and seconds since the oldest was opened, by the database's clock."""
    row = await tx.fetchrow(DEPTH)
    return (0, 0.0) if row is None else (row["waiting"], float(row["oldest_s"]))


async def discarded(tx: Tx, consumer: str, aggregates: Sequence[str]) -> set[str]:
    """Events (their ids) of these aggregates that were discarded for a consumer: it passes them by."""
    return set(column(await tx.fetch(DISCARDED_OF, consumer, list(aggregates)), "subject"))


# The version counts changes of state, and so names the action that is noted; a try that is only counted changes none.
OPEN_LETTERS = Sql(
    "dead_letter_open",
    """
WITH opened AS (
    INSERT INTO dead_letter AS known (
        merchant_id, dead_letter_id, kind, consumer, subject, aggregate, rid, attempt, fingerprint, reason, detail,
        attempts, trace_id
    )
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::int[], $9::bytea[],
        $10::text[], $11::text[], $12::int[], $13::text[]
    )
    ON CONFLICT ON CONSTRAINT dead_letter_once DO UPDATE SET
        state = 'OPEN',
        version = known.version + (known.state <> 'OPEN')::int,
        reason = EXCLUDED.reason,
        detail = EXCLUDED.detail,
        attempts = known.attempts + EXCLUDED.attempts,
        first_time = CASE WHEN known.state = 'DONE' THEN now() ELSE known.first_time END,
        last_time = now()
    WHERE known.state <> 'DISCARDED'
    RETURNING known.merchant_id, known.dead_letter_id, known.version, known.reason
)
INSERT INTO dead_letter_action (merchant_id, dead_letter_id, version, action, note)
SELECT merchant_id, dead_letter_id, version, 'OPEN', reason FROM opened
ON CONFLICT DO NOTHING
""",
)

CLOSE = Sql(
    "dead_letter_close",
    """
WITH asked AS MATERIALIZED (
    SELECT letter.merchant_id, letter.dead_letter_id
    FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS given (merchant_id, dead_letter_id, version)
    JOIN dead_letter AS letter USING (merchant_id, dead_letter_id)
    WHERE letter.version = given.version AND letter.state IN ('OPEN', 'REPLAYING')
    ORDER BY letter.merchant_id, letter.dead_letter_id
    FOR NO KEY UPDATE OF letter
), closed AS (
    UPDATE dead_letter SET
        state = 'DONE', version = dead_letter.version + 1, discard_reason = NULL, proposer_id = NULL
    FROM asked
    WHERE dead_letter.merchant_id = asked.merchant_id AND dead_letter.dead_letter_id = asked.dead_letter_id
    RETURNING dead_letter.merchant_id, dead_letter.dead_letter_id, dead_letter.version
)
INSERT INTO dead_letter_action (merchant_id, dead_letter_id, version, action, note)
SELECT merchant_id, dead_letter_id, version, 'CLOSE', $4 FROM closed
""",
)

LOCK = Sql("dead_letter_lock", "SELECT * FROM dead_letter WHERE dead_letter_id = $1 FOR NO KEY UPDATE")

OLDER = Sql(
    "dead_letter_older",
    """
SELECT dead_letter_id FROM dead_letter
WHERE aggregate = $1 AND consumer = $2 AND state IN ('OPEN', 'REPLAYING') AND dead_letter_id < $3
ORDER BY dead_letter_id
LIMIT 1
""",
)

CHANGE = Sql(
    "dead_letter_change",
    """
UPDATE dead_letter SET
    state = $3, discard_reason = $4, proposer_id = $5, version = version + 1
WHERE merchant_id = $1 AND dead_letter_id = $2
""",
)

NOTE = Sql(
    "dead_letter_note",
    """
INSERT INTO dead_letter_action (merchant_id, dead_letter_id, version, action, actor_id, note)
VALUES ($1, $2, $3, $4, $5, $6)
""",
)

DRAIN = Sql("parked_drain", "UPDATE parked_aggregate SET draining = true WHERE consumer = $1 AND aggregate = $2")

DROP_EVENT = Sql("parked_drop_event", "DELETE FROM parked_event WHERE consumer = $1 AND subject = $2")

WITH_STATE = Sql(
    "dead_letter_with_state",
    """
SELECT * FROM dead_letter
WHERE state = $1 AND state IN ('OPEN', 'REPLAYING')
ORDER BY first_time
LIMIT $2
""",
)

ABOUT = Sql(
    "dead_letter_about",
    """
SELECT * FROM dead_letter
WHERE aggregate = $2 AND consumer = '' AND kind = $1 AND state <> 'DONE' AND state IN ('OPEN', 'REPLAYING')
""",
)

DEPTH = Sql(
    "dead_letter_depth",
    """
SELECT count(*)::int AS waiting, coalesce(extract(epoch FROM now() - min(first_time)), 0) AS oldest_s
FROM dead_letter
WHERE state IN ('OPEN', 'REPLAYING')
""",
)

DISCARDED_OF = Sql(
    "dead_letter_discarded",
    """
SELECT subject FROM dead_letter
WHERE consumer = $1 AND aggregate = ANY($2::text[]) AND state <> 'DONE' AND state = 'DISCARDED' AND kind = 'CONSUME'
""",
)
