"""Idempotency keys of partners' reservations: a refusal is as final for its key as a success (PROTOCOL 13).

A success is a reservation under an id derived from the key; a refusal has no reservation, so it needs its decision row.
Both insert it, in the transaction that decides, so that of two rivals with one key only one can be right. Operation
`inventory.reserve`; the rows are purged like all decision rows.
"""

from __future__ import annotations

from invochain import core
from invochain.chassis.postgres import Sql, Tx
from invochain.errors import KeyReused, Refusal, Told

OPERATION = "inventory.reserve"


async def refused(tx: Tx, holds: core.Holds, fingerprints: list[bytes], chosen: list[int]) -> dict[int, Refusal]:
    """Which of the keys were refused before, and how."""
    merchant_ids, _, _, rids, *_ = holds.rows(chosen)
    found: dict[int, Refusal] = {}
    for row in await tx.fetch(REFUSED, merchant_ids, rids):
        index = chosen[row["place"] - 1]
        same = row["fingerprint"] == fingerprints[index]
        found[index] = Told.from_bytes(row["answer"]) if same else KeyReused()
    return found


async def succeed(tx: Tx, holds: core.Holds, granted: list[int]) -> set[int]:
    """Decides the keys of granted holds; returns those that a rival decided first."""
    return await _decide(tx, holds, granted, "SUCCEEDED", {})


async def fail(tx: Tx, holds: core.Holds, refusals: list[tuple[int, Refusal]]) -> list[int]:
    """Makes refusals final; returns those whose key a rival decided first."""
    return sorted(await _decide(tx, holds, [index for index, _ in refusals], "FAILED", dict(refusals)))


async def _decide(tx: Tx, holds: core.Holds, chosen: list[int], state: str, refusals: dict[int, Refusal]) -> set[int]:
    merchant_ids, _, _, rids, _, prints, *_ = holds.rows(chosen)
    columns = sorted(zip(rids, merchant_ids, prints, chosen, strict=True))
    rows = await tx.fetch(
        DECIDE,
        [merchant_id for _, merchant_id, _, _ in columns],
        [rid for rid, *_ in columns],
        [print_ for _, _, print_, _ in columns],
        [refusals[index].reason if index in refusals else None for *_, index in columns],
        [refusals[index].to_status().SerializeToString() if index in refusals else None for *_, index in columns],
        OPERATION,
        state,
        core.FINGERPRINT_VERSION,
    )
    won = {(row["merchant_id"], row["rid"]) for row in rows}
    return {index for rid, merchant_id, _, index in columns if (merchant_id, rid) not in won}


REFUSED = Sql(
    "partner_key_refused",
    """
SELECT asked.place, decision.fingerprint, decision.answer
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (merchant_id, rid, place)
JOIN decision USING (merchant_id, rid)
WHERE decision.state = 'FAILED'
""",
)

DECIDE = Sql(
    "partner_key_decide",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version, reason, answer)
SELECT merchant_id, rid, $6, $7, 1, fingerprint, $8, reason, answer
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::bytea[])
    AS decided (merchant_id, rid, fingerprint, reason, answer)
ON CONFLICT DO NOTHING
RETURNING merchant_id, rid
""",
)
