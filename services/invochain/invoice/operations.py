"""What became of a key, and how to end one for good (PROTOCOL 7: Ask)."""

from __future__ import annotations

from google.rpc import status_pb2

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.chassis.call import Call
from invochain.chassis.ids import Id, from_text
from invochain.chassis.postgres import CommitUnknown, Sql, Tx
from invochain.chassis.rpc import KEY_GRAMMAR
from invochain.errors import DependencyDown, KeyInvalid, SagaAborted, invalid
from invochain.invoice.invoice import CREATE, FIRST_ACTIONS, OPERATIONS, ROLE_OF, CancelledByClient, InvoiceNotFound
from invochain.invoice.room import InvoiceRoom

Request = api.GetOperationRequest | api.CancelOperationRequest


async def get_operation(room: InvoiceRoom, call: Call, request: api.GetOperationRequest) -> api.Operation:
    """UNDECIDED, SUCCEEDED with the answer, FAILED with the refusal, or ABORTED."""
    rid = _rid(call, request)
    async with room.postgres.reading() as tx:
        owner = await _owner(tx, call, request)
        return await _read(tx, request, owner, rid)


async def cancel_operation(room: InvoiceRoom, call: Call, request: api.CancelOperationRequest) -> api.Operation:
    """Returns the success, or ends the key for good: FAILED(CANCELLED_BY_CLIENT), which matches every body.

    An ABORTED row would let a delayed copy of the request open the key again after the client was told "never".
    Stock held for an attempt is given back by the resolver.
    """
    rid = _rid(call, request)
    # Ending a key is done by whoever may use it.
    call.principal.needs_role(ROLE_OF[request.operation])
    status = CancelledByClient().to_status().SerializeToString()
    try:
        async with room.postgres.transaction() as tx:
            owner = await _owner(tx, call, request)
            invoice_id = core.invoice_id(rid)
            args = (owner, rid, invoice_id, request.operation, CancelledByClient.reason, status)
            # A rival that commits between the two statements is seen by one more look.
            for _ in range(2):
                if await tx.fetch(CANCEL_NEW, *args) or await tx.fetch(CANCEL_OPEN, owner, rid, args[4], status):
                    break
                found = await _read(tx, request, owner, rid)
                if found.state in (api.SUCCEEDED, api.FAILED):
                    return found
            else:
                raise SagaAborted()
            return await _read(tx, request, owner, rid)
    except CommitUnknown:
        raise DependencyDown("the database, while COMMIT was under way,") from None


def _rid(call: Call, request: Request) -> Id:
    if request.operation not in OPERATIONS:
        wanted = ", ".join(OPERATIONS)
        raise invalid("operation", "OPERATION_UNKNOWN", f"found {request.operation[:40]!r}; one of {wanted} is wanted")
    if not KEY_GRAMMAR.fullmatch(request.key):
        raise KeyInvalid(len(request.key))
    return core.request_id(call.principal.merchant_id, request.operation, request.key)


async def _owner(tx: Tx, call: Call, request: Request) -> Id:
    """Whose partition holds the row: the caller's for a creation, else the invoice's seller's."""
    caller = call.principal.merchant_id
    if request.operation == CREATE:
        return caller
    if not request.invoice_id:
        raise invalid("invoice_id", "INVOICE_ID_REQUIRED", "found nothing; the invoice acted on is wanted")
    seller = await tx.fetchval(SELLER, caller, from_text(request.invoice_id, "invoice_id"))
    if seller is None:
        raise InvoiceNotFound(request.invoice_id)
    return bytes(seller)


async def _read(tx: Tx, request: Request, owner: Id, rid: Id) -> api.Operation:
    row = await tx.fetchrow(READ, owner, rid, core.invoice_id(rid))
    operation = api.Operation(operation=request.operation, key=request.key, state=api.UNDECIDED)
    if row is None:
        return operation
    if row["document"] is not None or row["state"] == "SUCCEEDED":
        answer = row["answer"] or core.present_issued(row["document"], FIRST_ACTIONS)
        operation.state = api.SUCCEEDED
        operation.invoice.MergeFromString(answer)
    elif row["state"] == "FAILED":
        operation.state = api.FAILED
        operation.error.CopyFrom(status_pb2.Status.FromString(row["answer"]))
    elif row["state"] == "ABORTED":
        operation.state = api.ABORTED
    return operation


SELLER = Sql(
    "operation_seller",
    """
SELECT merchant_id FROM invoice WHERE merchant_id = $1 AND invoice_id = $2
UNION
SELECT merchant_id FROM invoice WHERE buyer_merchant_id = $1 AND invoice_id = $2
""",
)

READ = Sql(
    "operation_read",
    """
SELECT decision.state, decision.answer, invoice.document
FROM (VALUES ($1::uuid, $2::uuid, $3::uuid)) AS asked (merchant_id, rid, invoice_id)
LEFT JOIN decision ON decision.merchant_id = asked.merchant_id AND decision.rid = asked.rid
LEFT JOIN invoice ON invoice.merchant_id = asked.merchant_id AND invoice.invoice_id = asked.invoice_id
WHERE decision.rid IS NOT NULL OR invoice.invoice_id IS NOT NULL
""",
)

CANCEL_NEW = Sql(
    "operation_cancel_new",
    """
INSERT INTO decision (merchant_id, rid, operation, state, attempt, reason, answer)
SELECT $1, $2, $4, 'FAILED', 1, $5, $6
WHERE NOT EXISTS (SELECT FROM invoice WHERE merchant_id = $1 AND invoice_id = $3)
ON CONFLICT DO NOTHING
RETURNING rid
""",
)

CANCEL_OPEN = Sql(
    "operation_cancel_open",
    """
UPDATE decision SET state = 'FAILED', fingerprint = NULL, reason = $3, answer = $4, update_time = now()
WHERE merchant_id = $1 AND rid = $2 AND state IN ('OPEN', 'ABORTED')
RETURNING rid
""",
)
