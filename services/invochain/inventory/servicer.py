"""The methods of InventoryService: who may, and which use case. Stories are in the files they call."""

from __future__ import annotations

from collections.abc import Sequence

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as pb
from invochain.chassis.call import Call
from invochain.chassis.ids import from_text, to_text
from invochain.chassis.pages import Pages
from invochain.chassis.postgres import Postgres
from invochain.chassis.rpc import decode, rpc
from invochain.durable import decisions
from invochain.errors import FieldViolation, Refusal, ServiceOnly, Told, ValidationFailed
from invochain.inventory import adjust_stock, list_pending, partner_keys, read_stock
from invochain.inventory.look_up_holds import look_up_holds
from invochain.inventory.reservation import DECIDERS, INVOICE, NONE, REFS_MAX, ReservationNotFound
from invochain.inventory.reserve_stock import Reserving
from invochain.inventory.settle_reservation import CONFIRM, RELEASE, Move, Outcome, Ref
from invochain.inventory.settling import Settling

# What a merchant's call leaves to the server (PROTOCOL 4.2, who may).
SERVICE_FIELDS = ("reservation_id", "merchant_id", "resolver", "rid", "attempt", "fingerprint")
SETTLING = "settling what an invoice holds"


class InventoryServicer:
    """Speaks the contract; decides nothing but who may."""

    service = "invochain.api.inventory.v1.InventoryService"

    def __init__(self, postgres: Postgres, pages: Pages, reserving: Reserving, settling: Settling) -> None:
        self._postgres, self._pages = postgres, pages
        self._reserving, self._settling = reserving, settling

    @rpc(roles=("STOCK_KEEPER",), key=True)
    async def AdjustStock(self, call: Call, request: pb.AdjustStockRequest) -> bytes:
        return await adjust_stock.adjust_stock(self._postgres, call, request)

    @rpc()
    async def GetStock(self, call: Call, request: pb.GetStockRequest) -> pb.Stock:
        return await read_stock.get_stock(self._postgres, call.principal.merchant_id, request)

    @rpc()
    async def ListStock(self, call: Call, request: pb.ListStockRequest) -> pb.ListStockResponse:
        return await read_stock.list_stock(self._postgres, self._pages, call.principal.merchant_id, request)

    @rpc()
    async def ListMovements(self, call: Call, request: pb.ListMovementsRequest) -> pb.ListMovementsResponse:
        return await read_stock.list_movements(self._postgres, self._pages, call.principal.merchant_id, request)

    @rpc(services=DECIDERS)
    async def BatchReserveStock(self, call: Call) -> bytes:
        return await self._reserving.reserve(call, call.raw, INVOICE)

    @rpc(roles=("STOCK_KEEPER",), key=True, services_too=True)
    async def ReserveStock(self, call: Call, request: pb.ReserveStockRequest) -> pb.Reservation:
        if call.principal.service:
            call.principal.needs_service("resolver INVOICE", *DECIDERS)
            result = await self._reserve_one(call, request, INVOICE)
            return pb.Reservation(reservation_id=result.reservation_id, state=result.state, resolver=pb.INVOICE)
        if named := [field for field in SERVICE_FIELDS if getattr(request, field)]:
            raise ServiceOnly(", ".join(named))
        merchant_id = call.principal.merchant_id
        rid = core.request_id(merchant_id, partner_keys.OPERATION, call.key)
        reservation_id = core.reservation_id(rid, 1)
        own = pb.ReserveStockRequest(
            items=request.items,
            ttl_seconds=request.ttl_seconds,
            reservation_id=to_text(reservation_id),
            merchant_id=to_text(merchant_id),
            resolver=NONE,
            rid=to_text(rid),
            attempt=1,
            fingerprint=decisions.fingerprint(request),
        )
        await self._reserve_one(call, own, NONE)
        return await read_stock.get_reservation(self._postgres, merchant_id, reservation_id)

    async def _reserve_one(self, call: Call, request: pb.ReserveStockRequest, resolver: str) -> pb.ReserveStockResult:
        raw = pb.BatchReserveStockRequest(requests=[request]).SerializeToString()
        answer = await self._reserving.reserve(call, raw, resolver)
        result = pb.BatchReserveStockResponse.FromString(answer).results[0]
        if result.HasField("error"):
            raise Told(result.error)
        return result

    @rpc(roles=("STOCK_KEEPER",), services_too=True)
    async def ConfirmReservations(self, call: Call) -> bytes | pb.SettleReservationsResponse:
        if call.principal.service:
            call.principal.needs_service(SETTLING, *DECIDERS)
            if refs := core.Refs.read(call.raw):
                outcomes = await self._settling.confirm(call, refs)
                return refs.all_held() if outcomes is None else _settled(refs.id_texts(), outcomes)
        request = decode(pb.ConfirmReservationsRequest, call.raw)
        return await self._settle(call, CONFIRM, request.reservations)

    @rpc(roles=("STOCK_KEEPER",), services_too=True)
    async def ReleaseReservations(
        self, call: Call, request: pb.ReleaseReservationsRequest
    ) -> pb.SettleReservationsResponse:
        return await self._settle(call, RELEASE, request.reservations)

    async def _settle(
        self, call: Call, moves: dict[str, Move], refs: Sequence[pb.ReservationRef]
    ) -> pb.SettleReservationsResponse:
        if call.principal.service:
            call.principal.needs_service(SETTLING, *DECIDERS)
        move = moves[INVOICE if call.principal.service else NONE]
        outcomes = await self._settling.settle(call, move, _refs(call, move, refs))
        return _settled([ref.reservation_id for ref in refs], outcomes)

    @rpc(services_too=True)
    async def ListPendingReservations(
        self, call: Call, request: pb.ListPendingReservationsRequest
    ) -> pb.ListPendingReservationsResponse:
        return await list_pending.list_pending(self._postgres, self._pages, call.principal, request)

    @rpc(services=DECIDERS)
    async def LookupReservations(
        self, call: Call, request: pb.LookupReservationsRequest
    ) -> pb.LookupReservationsResponse:
        return await look_up_holds(self._postgres, request)

    @rpc()
    async def GetReservation(self, call: Call, request: pb.GetReservationRequest) -> pb.Reservation:
        try:
            reservation_id = from_text(request.reservation_id, "reservation_id")
        except ValidationFailed:
            raise ReservationNotFound(request.reservation_id[:40]) from None
        return await read_stock.get_reservation(self._postgres, call.principal.merchant_id, reservation_id)


def _settled(ids: Sequence[str], outcomes: Sequence[Outcome]) -> pb.SettleReservationsResponse:
    return pb.SettleReservationsResponse(
        results=[
            pb.SettleResult(reservation_id=one, error=outcome.to_status())
            if isinstance(outcome, Refusal)
            else pb.SettleResult(reservation_id=one, state=outcome)
            for one, outcome in zip(ids, outcomes, strict=True)
        ]
    )


def _refs(call: Call, move: Move, refs: Sequence[pb.ReservationRef]) -> list[Ref]:
    """The holds that are named; every broken rule at once. Merchants name their own, by the id alone."""
    broken: list[FieldViolation] = []
    if not 1 <= len(refs) <= REFS_MAX:
        broken.append(
            FieldViolation(
                "reservations", "ITEM_COUNT_OUT_OF_RANGE", f"found {len(refs)}; 1 to {REFS_MAX:,} are wanted"
            )
        )
    service = call.principal.service
    found: list[Ref] = []
    prints: dict[tuple[bytes, bytes], bytes | None] = {}
    for index, ref in enumerate(refs):
        field = f"reservations[{index}]"
        try:
            reservation_id = from_text(ref.reservation_id, f"{field}.reservation_id")
            if not service:
                if named := [name for name in SERVICE_FIELDS[1:] if getattr(ref, name)]:
                    raise ServiceOnly(", ".join(named))
                found.append(Ref(call.principal.merchant_id, reservation_id, rid=reservation_id))
                continue
            merchant_id = from_text(ref.merchant_id, f"{field}.merchant_id")
            rid = from_text(ref.rid, f"{field}.rid") if ref.rid or move.tombstones else bytes(16)
        except ValidationFailed as wrong:
            broken += wrong.broken
            continue
        if len(ref.fingerprint) != 32:
            length = len(ref.fingerprint)
            broken.append(
                FieldViolation(
                    f"{field}.fingerprint", "FINGERPRINT_INVALID", f"found {length} bytes; 32 bytes are wanted"
                )
            )
        if ref.resolver not in (pb.RESOLVER_UNSPECIFIED, pb.INVOICE):
            broken.append(
                FieldViolation(f"{field}.resolver", "RESOLVER_UNKNOWN", f"found {ref.resolver}; INVOICE is wanted")
            )
        if move.tombstones and ref.attempt < 1:
            broken.append(
                FieldViolation(f"{field}.attempt", "ATTEMPT_OUT_OF_RANGE", f"found {ref.attempt}; 1 or more is wanted")
            )
        one = Ref(merchant_id, reservation_id, bytes(ref.fingerprint), rid, ref.attempt or 1)
        if prints.setdefault((merchant_id, reservation_id), one.fingerprint) != one.fingerprint:
            broken.append(
                FieldViolation(field, "RESERVATION_NAMED_TWICE", "found it twice, for two requests; one is wanted")
            )
        found.append(one)
    if broken:
        raise ValidationFailed(broken)
    return found
