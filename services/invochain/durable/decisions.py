"""Decision rows: a request's fate is one row, committed with its effect (PROTOCOL R1, 4.1).

`once` is for commands of one transaction (merchant, stock). The hot path of invoices uses the batch functions in
`invoice/decide.py` and `attempts.py`, which speak to the same table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from invochain import core
from invochain.chassis.call import Call
from invochain.chassis.ids import Id
from invochain.chassis.postgres import CommitUnknown, Postgres, Sql, Tx
from invochain.errors import Code, DependencyDown, InvariantBroken, KeyReused, Refusal, Told

# Only these are final: stored, and told again to whoever repeats the key (PROTOCOL 13).
FINAL_CODES = frozenset({Code.FAILED_PRECONDITION, Code.ALREADY_EXISTS, Code.NOT_FOUND})


def fingerprint(request: Message) -> bytes:
    """SHA-256 of a typed request in its canonical bytes: fields in order, defaults left out."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


async def once(
    postgres: Postgres,
    call: Call,
    operation: str,
    scope: Id,
    request: Message,
    work: Callable[[Tx], Awaitable[Message]],
    *,
    print_: bytes | None = None,
) -> bytes:
    """Does `work` in one transaction at most once for the call's key, and answers repeats from its decision row.

    `scope` is the merchant the key belongs to. A refusal with a final code is stored, so that a repeat is told the
    same; any other leaves no trace. `print_` replaces the fingerprint where the request holds a secret.
    Refuses: KeyReused, what `work` refuses, DependencyDown when it is unknown whether COMMIT went through.
    """
    rid = core.request_id(scope, operation, call.key)
    print_ = print_ or fingerprint(request)
    try:
        async with postgres.transaction() as tx:
            if not await tx.fetch(CLAIM, scope, rid, operation, print_, core.FINGERPRINT_VERSION):
                return await _replay(tx, call, scope, rid, print_)
            answer = (await work(tx)).SerializeToString()
            await tx.execute(SUCCEED, scope, rid, answer)
    except CommitUnknown:
        raise DependencyDown("the database, while COMMIT was under way") from None
    except Refusal as refusal:
        if refusal.code not in FINAL_CODES or isinstance(refusal, Told):
            raise
        await _store(postgres, call, operation, scope, rid, print_, refusal)
        raise
    return answer


async def _replay(tx: Tx, call: Call, scope: Id, rid: Id, print_: bytes) -> bytes:
    row = await tx.fetchrow(READ, scope, rid)
    if row is None:
        raise InvariantBroken("a decision row that blocked a claim cannot be read")
    if row["fingerprint"] != print_:
        raise KeyReused()
    call.replayed = True
    if row["state"] == "FAILED":
        raise Told.from_bytes(row["answer"])
    return bytes(row["answer"])


async def _store(
    postgres: Postgres, call: Call, operation: str, scope: Id, rid: Id, print_: bytes, refusal: Refusal
) -> None:
    """Makes a refusal final. A rival that decided meanwhile wins: its refusal is raised instead."""
    status = refusal.to_status().SerializeToString()
    async with postgres.transaction() as tx:
        if not await tx.fetch(FAIL, scope, rid, operation, print_, core.FINGERPRINT_VERSION, refusal.reason, status):
            await _replay(tx, call, scope, rid, print_)


CLAIM = Sql(
    "decision_claim_one",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version)
VALUES ($1, $2, $3, 'OPEN', 1, $4, $5)
ON CONFLICT DO NOTHING
RETURNING rid
""",
)

READ = Sql(
    "decision_read_one",
    "SELECT state, attempt, fingerprint, fp_version, reason, answer FROM decision WHERE merchant_id = $1 AND rid = $2",
)

SUCCEED = Sql(
    "decision_succeed_one",
    """
UPDATE decision SET state = 'SUCCEEDED', answer = $3, update_time = now()
WHERE merchant_id = $1 AND rid = $2 AND state = 'OPEN' AND attempt = 1
""",
)

FAIL = Sql(
    "decision_fail_one",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, fingerprint, fp_version, reason, answer)
VALUES ($1, $2, $3, 'FAILED', 1, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING rid
""",
)
