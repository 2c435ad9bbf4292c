"""The only recovery of sagas: holds that still wait are settled by the decision row, whoever died on the way.

Decisions are facts: they may be applied at any later time, twice, by anyone. So this guesses nothing, and may run
beside the request it repairs. Source: PROTOCOL section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from invochain import core
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.chassis.telemetry import SAGA_COMPENSATION, log
from invochain.errors import SagaAborted
from invochain.invoice import decide_sql as sql
from invochain.invoice.give_up import Tries, give_up
from invochain.invoice.inventory_port import Hold, InventoryPort, Pending
from invochain.invoice.invoice import CREATE

# Younger holds belong to requests under way, or to their confirmer.
LIST_OLDER_THAN_MS = 10_000
# A request that has not decided after 30 s never will: its task lives 15 s (PROTOCOL 8). Whoever lengthens the task's
# life lengthens this first.
ABORT_AFTER_MS = 30_000


@dataclass(frozen=True, slots=True)
class Found:
    """What was done in one round."""

    confirmed: int
    released: int
    fenced: int
    left: int


async def resolve(
    postgres: Postgres,
    inventory: InventoryPort,
    *,
    partition: int,
    partitions: int,
    abort_after_ms: int = ABORT_AFTER_MS,
    tries: Tries | None = None,
    stop: asyncio.Event | None = None,
) -> Found:
    """Settles every hold of a partition that waits longer than its requests live; page after page until drained.

    `tries` remembers between rounds which holds were refused; what is refused too often becomes a dead letter. Once
    `stop` is set it ends with the page under way, and leaves the others to the next process.
    """
    tries = tries or Tries()
    seen: list[Hold] = []
    token, confirmed, released, fenced, left = "", 0, 0, 0, 0
    older_than_ms = min(LIST_OLDER_THAN_MS, abort_after_ms)
    while True:
        pending, token = await inventory.pending(
            older_than_ms=older_than_ms, partition=partition, partitions=partitions, page_token=token
        )
        if pending:
            ages = {one.hold: one.age_ms for one in pending}
            seen += ages
            confirm, release, written = await judge(postgres, pending, abort_after_ms)
            if confirm:
                await _report(postgres, "confirm", confirm, await inventory.confirm(confirm), ages, tries)
            if release:
                await _report(postgres, "release", release, await inventory.release(release), ages, tries)
            confirmed, released, fenced = confirmed + len(confirm), released + len(release), fenced + written
            left += len(pending) - len(confirm) - len(release)
        if not token:
            tries.keep(seen)
        if not token or (stop is not None and stop.is_set()):
            return Found(confirmed, released, fenced, left)


async def judge(
    postgres: Postgres, pending: Sequence[Pending], abort_after_ms: int
) -> tuple[list[Hold], list[Hold], int]:
    """Which holds are to be made lasting, which given back; writes the tombstones that fence late creators.

    Returns (confirm, release, tombstones written). What is undecided and young is in neither.
    """
    confirm: list[Hold] = []
    release: list[Hold] = []
    async with postgres.transaction() as tx:
        rows = await read_standings(tx, [p.hold for p in pending])
        undecided = []
        for one in pending:
            verdict = verdict_of(one.hold, rows[one.hold.rid])
            if verdict is None:
                undecided.append(one)
            else:
                (confirm if verdict else release).append(one.hold)
        late = [one.hold for one in undecided if one.age_ms >= abort_after_ms]
        written = await _fence(tx, late, rows)
    # Only a committed row lets go of stock (PROTOCOL R2). What lost its race is judged again in the next round.
    release += written
    return confirm, release, len(written)


def verdict_of(hold: Hold, row: asyncpg.Record) -> bool | None:
    """True: confirm. False: release. None: undecided."""
    if row["document"] is not None:
        return bool(row["invoice_attempt"] == hold.attempt and row["invoice_fingerprint"] == hold.fingerprint)
    if row["state"] is None:
        return None
    if row["attempt"] > hold.attempt or row["state"] == "FAILED":
        # A later attempt, or an end for good: this one can never be decided.
        return False
    if row["state"] == "ABORTED" and row["attempt"] == hold.attempt:
        return False
    if row["fingerprint"] is not None and row["fingerprint"] != hold.fingerprint:
        return False
    return None


async def read_standings(tx: Tx, holds: Sequence[Hold]) -> dict[bytes, asyncpg.Record]:
    """What is decided about each, by its rid."""
    rows = await tx.fetch(
        sql.STANDINGS,
        [h.merchant_id for h in holds],
        [h.rid for h in holds],
        [core.invoice_id(h.rid) for h in holds],
    )
    return {bytes(row["rid"]): row for row in rows}


async def _fence(tx: Tx, holds: Sequence[Hold], rows: dict[bytes, asyncpg.Record]) -> list[Hold]:
    """Writes ABORTED(n) for each request's latest attempt; returns the holds of the requests written here."""
    reason = SagaAborted.reason
    written: set[bytes] = set()
    # A row says no to every attempt up to its own, so the latest one speaks for the others.
    latest = {h.rid: h for h in sorted(holds, key=lambda h: h.attempt)}
    new = [h for h in latest.values() if rows[h.rid]["state"] is None]
    opened = [h for h in latest.values() if rows[h.rid]["state"] == "OPEN" and rows[h.rid]["attempt"] == h.attempt]
    behind = [h for h in latest.values() if rows[h.rid]["state"] is not None and rows[h.rid]["attempt"] < h.attempt]
    if new:
        fenced = await tx.fetch(
            sql.INSERT_NEGATIVE,
            [h.merchant_id for h in new],
            [h.rid for h in new],
            [core.invoice_id(h.rid) for h in new],
            ["ABORTED"] * len(new),
            [h.attempt for h in new],
            [h.fingerprint for h in new],
            [reason] * len(new),
            CREATE,
            core.FINGERPRINT_VERSION,
            [None] * len(new),
        )
        written.update(bytes(row["rid"]) for row in fenced)
    if opened:
        closed = await tx.fetch(
            sql.CLOSE,
            [h.merchant_id for h in opened],
            [h.rid for h in opened],
            [h.attempt for h in opened],
            ["ABORTED"] * len(opened),
            [reason] * len(opened),
            [None] * len(opened),
        )
        written.update(bytes(row["rid"]) for row in closed)
    if behind:
        raised = await tx.fetch(
            ABORT_LATER, [h.merchant_id for h in behind], [h.rid for h in behind], [h.attempt for h in behind], reason
        )
        written.update(bytes(row["rid"]) for row in raised)
    return [h for h in holds if h.rid in written]


async def _report(
    postgres: Postgres,
    way: str,
    holds: Sequence[Hold],
    refused: Sequence[str],
    ages: Mapping[Hold, int],
    tries: Tries,
) -> None:
    SAGA_COMPENSATION.labels(way=way).inc(len(holds))
    lost: list[tuple[Hold, str, int]] = []
    for hold, reason in zip(holds, refused, strict=True):
        if reason:
            # Impossible by design (PROTOCOL 4.2): the row that decides and the hold disagree.
            log("invoice").error("resolver_refused", way=way, reason=reason, rid=hold.rid.hex(), attempt=hold.attempt)
            if count := tries.refused(hold, reason, ages[hold]):
                lost.append((hold, reason, count))
    await give_up(postgres, way, lost)


# The row speaks of an earlier attempt than the hold: that hold's own row was purged, or set back by a restore.
ABORT_LATER = Sql(
    "resolver_abort_later",
    """
UPDATE decision SET state = 'ABORTED', attempt = behind.attempt, reason = $4, update_time = now()
FROM (
    SELECT decision.merchant_id, decision.rid, asked.attempt
    FROM decision
    JOIN unnest($1::uuid[], $2::uuid[], $3::int[]) AS asked (merchant_id, rid, attempt)
        ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
    WHERE decision.state IN ('OPEN', 'ABORTED') AND decision.attempt < asked.attempt
    ORDER BY decision.merchant_id, decision.rid
    FOR UPDATE OF decision
) AS behind
WHERE decision.merchant_id = behind.merchant_id AND decision.rid = behind.rid
    AND decision.state IN ('OPEN', 'ABORTED') AND decision.attempt < behind.attempt
RETURNING decision.rid
""",
)
