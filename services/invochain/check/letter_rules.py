"""I19: a dead letter that waits points to something that is still wrong, and what is parked has its letter.

A letter whose cause went away closes itself within seconds (workers/replayer.py), so one that is older than the lag and
whose cause has been gone for longer than that is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from invochain.chassis.ids import from_text, to_text
from invochain.check.rule import Compare, Row, Scan, by_key, sql
from invochain.check.snapshot import Databases
from invochain.check.stock_rules import RESERVATION

LETTER = {"merchant_id": "uuid", "dead_letter_id": "uuid"}
WAITS = "state IN ('OPEN', 'REPLAYING') AND last_time <= now() - make_interval(secs => $2)"
SAME_EVENT = "event.consumer = subject.consumer AND event.subject = subject.subject"
SAME_AGGREGATE = "letter.consumer = subject.consumer AND letter.aggregate = subject.aggregate"


def parked_for_a_letter(room: str) -> Compare:
    """The event that a letter is about is parked."""
    return sql(
        room,
        "dead_letter",
        LETTER,
        f"""CASE WHEN NOT EXISTS (SELECT FROM parked_event AS event WHERE {SAME_EVENT})
            THEN format('dead letter %s, %s: its event %s is not parked', subject.dead_letter_id, subject.kind,
                subject.subject) END""",
        where=f"kind IN ('PUBLISH', 'CONSUME') AND {WAITS}",
    )


def letter_for_the_parked(room: str) -> Compare:
    """An aggregate that is parked, and not on its way, has a letter that an operator sees."""
    return sql(
        room,
        "parked_aggregate",
        {"merchant_id": "uuid", "consumer": "text", "aggregate": "text"},
        f"""CASE WHEN NOT EXISTS (
                SELECT FROM dead_letter AS letter
                WHERE {SAME_AGGREGATE} AND letter.state IN ('OPEN', 'REPLAYING')
                    AND letter.kind IN ('PUBLISH', 'CONSUME')
            ) THEN format('aggregate %s is parked by %s without a dead letter', subject.aggregate,
                coalesce(nullif(subject.consumer, ''), 'the relay')) END""",
        where="NOT draining AND create_time <= now() - make_interval(secs => $2)",
    )


NOT_SOLD_YET = sql(
    "inventory",
    "dead_letter",
    LETTER,
    """CASE WHEN EXISTS (
            SELECT FROM reservation AS hold
            WHERE hold.merchant_id = subject.merchant_id AND hold.reservation_id = subject.subject::uuid
                AND hold.resolver = 'INVOICE' AND hold.update_time <= (SELECT before FROM due)
                AND hold.state = CASE subject.kind WHEN 'SELL' THEN 'COMMITTED' ELSE 'REVERSED' END
        ) THEN format('dead letter %s, %s: hold %s is settled', subject.dead_letter_id, subject.kind, subject.subject)
        END""",
    where=f"kind IN ('SELL', 'REVERSE') AND {WAITS}",
)

# Holds that have been as they are for longer than the lag.
AT_REST = f"""
SELECT hold.merchant_id, hold.reservation_id, hold.state, hold.fingerprint
FROM unnest($1::uuid[], $2::uuid[]) AS asked (merchant_id, reservation_id)
{by_key("reservation", "hold", *(name for name in RESERVATION if name != "resolver"))}
WHERE hold.resolver = 'INVOICE' AND hold.update_time <= now() - make_interval(secs => $3)
"""


async def _settled(databases: Databases, _: asyncpg.Connection, rows: Sequence[Row], lag_s: float) -> list[str]:
    subjects = [from_text(row["subject"], "subject") for row in rows]
    async with databases.snapshot("inventory") as connection:
        found = await connection.fetch(AT_REST, [row["merchant_id"] for row in rows], subjects, lag_s)
    holds = {(row["merchant_id"], to_text(row["reservation_id"])): row for row in found}
    faults = []
    for row in rows:
        hold = holds.get((row["merchant_id"], row["subject"]))
        lasting = hold is not None and hold["fingerprint"] == row["fingerprint"]
        wanted = ("HELD", "COMMITTED", "REVERSED") if row["kind"] == "CONFIRM" else ("RELEASED",)
        if lasting and hold is not None and hold["state"] in wanted:
            faults.append(f"dead letter {to_text(row['dead_letter_id'])}, {row['kind']}: its hold is {hold['state']}")
    return faults


NOT_SETTLED_YET = Compare(
    Scan(
        "invoice",
        "dead_letter",
        LETTER,
        columns="merchant_id, dead_letter_id, kind, subject, fingerprint",
        where=f"kind IN ('CONFIRM', 'RELEASE') AND {WAITS}",
    ),
    _settled,
    {"inventory": (AT_REST,)},
)
