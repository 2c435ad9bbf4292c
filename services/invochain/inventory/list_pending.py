"""What waits to be settled: the deciders' to-do list, or a merchant's own open holds. Oldest first.

Ages are intervals by the database's clock; no absolute time crosses the border of a service (PROTOCOL R6, 5).
"""

from __future__ import annotations

import datetime as dt

from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.call import Principal
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.pages import Pages, page_size
from invochain.chassis.postgres import Postgres, Sql
from invochain.errors import FieldViolation, ServiceOnly, ValidationFailed
from invochain.inventory.reservation import DECIDERS, INVOICE, NONE

# Above this the clients cannot mean milliseconds: a year.
OLDER_THAN_MS_MAX = 365 * 24 * 3600 * 1000
PARTITION_COUNT_MAX = 1_024


async def list_pending(
    postgres: Postgres, pages: Pages, principal: Principal, request: pb.ListPendingReservationsRequest
) -> pb.ListPendingReservationsResponse:
    """Refuses: ValidationFailed, ServiceOnly (what another than the decider may not see)."""
    resolver = _check(principal, request)
    size = page_size(request.page_size)
    scope = (
        "ListPendingReservations",
        principal.service.encode() or principal.merchant_id,
        resolver,
        request.older_than_ms,
        request.partition,
        request.partition_count,
    )
    cursor = pages.cursor(scope, request.page_token)
    since = dt.datetime.fromisoformat(str(cursor[0])) if cursor else None
    last_id = from_text(str(cursor[1]), "page_token") if cursor else None
    async with postgres.reading() as tx:
        if principal.service:
            count = request.partition_count or 1
            rows = await tx.fetch(
                PENDING, resolver, request.older_than_ms, since, last_id, size + 1, count, request.partition
            )
        else:
            rows = await tx.fetch(
                PENDING_OF_MERCHANT, principal.merchant_id, request.older_than_ms, since, last_id, size + 1
            )
    response = pb.ListPendingReservationsResponse(
        reservations=[
            pb.PendingReservation(
                reservation_id=to_text(row["reservation_id"]),
                merchant_id=to_text(row["merchant_id"]),
                rid=to_text(row["rid"]),
                attempt=row["attempt"],
                fingerprint=row["fingerprint"],
                age_ms=row["age_ms"],
                resolver=resolver,
            )
            for row in rows[:size]
        ]
    )
    if len(rows) > size:
        last = rows[size - 1]
        response.next_page_token = pages.token(
            scope, [last["create_time"].isoformat(), to_text(last["reservation_id"])]
        )
    return response


def _check(principal: Principal, request: pb.ListPendingReservationsRequest) -> str:
    """Which holds the caller may see."""
    broken = []
    if not 0 <= request.older_than_ms <= OLDER_THAN_MS_MAX:
        broken.append(
            FieldViolation(
                "older_than_ms",
                "AGE_OUT_OF_RANGE",
                f"found {request.older_than_ms}; 0 to {OLDER_THAN_MS_MAX} milliseconds is wanted",
            )
        )
    if not 0 <= request.partition_count <= PARTITION_COUNT_MAX:
        broken.append(
            FieldViolation(
                "partition_count",
                "PARTITION_OUT_OF_RANGE",
                f"found {request.partition_count}; 0 to {PARTITION_COUNT_MAX} is wanted",
            )
        )
    if not 0 <= request.partition < max(1, request.partition_count):
        broken.append(
            FieldViolation(
                "partition",
                "PARTITION_OUT_OF_RANGE",
                f"found {request.partition}; 0 and up, below partition_count, is wanted",
            )
        )
    if request.resolver not in pb.Resolver.values():
        broken.append(
            FieldViolation("resolver", "RESOLVER_UNKNOWN", f"found {request.resolver}; NONE or INVOICE is wanted")
        )
    if broken:
        raise ValidationFailed(broken)
    resolver = INVOICE if request.resolver == pb.INVOICE else NONE
    if resolver == INVOICE or principal.service:
        principal.needs_service("the list of what waits for a decision", *DECIDERS)
    elif request.partition_count:
        raise ServiceOnly("partition_count")
    return resolver


_COLUMNS = """
    merchant_id, reservation_id, rid, attempt, fingerprint, create_time,
    floor(extract(epoch FROM now() - create_time) * 1000)::bigint AS age_ms
"""

# The partition is that of core.partition: the id's last four bytes, big endian, modulo the count.
PENDING = Sql(
    "reservation_pending",
    f"""
SELECT {_COLUMNS}
FROM reservation
WHERE state = 'PENDING' AND resolver = $1
    AND create_time <= now() - $2::bigint * interval '1 millisecond'
    AND (create_time, reservation_id)
        > (coalesce($3, '-infinity'::timestamptz), coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
    AND (
        $6::bigint = 1
        OR (
            get_byte(uuid_send(reservation_id), 12) * 16777216::bigint
            + get_byte(uuid_send(reservation_id), 13) * 65536
            + get_byte(uuid_send(reservation_id), 14) * 256 + get_byte(uuid_send(reservation_id), 15)
        ) % $6 = $7::bigint
    )
ORDER BY create_time, reservation_id
LIMIT $5
""",
)

PENDING_OF_MERCHANT = Sql(
    "reservation_pending_of_merchant",
    f"""
SELECT {_COLUMNS}
FROM reservation
WHERE state = 'PENDING' AND resolver = 'NONE' AND merchant_id = $1
    AND create_time <= now() - $2::bigint * interval '1 millisecond'
    AND (create_time, reservation_id)
        > (coalesce($3, '-infinity'::timestamptz), coalesce($4, '00000000-0000-0000-0000-000000000000'::uuid))
ORDER BY create_time, reservation_id
LIMIT $5
""",
)
