"""Stock and the holds on it: AsyncClient.stock and .reservations, Client.stock and .reservations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass

from invochain_client import errors
from invochain_client.api.inventory.v1 import inventory_service_pb2 as pb
from invochain_client.blocking import blocking, iterating
from invochain_client.calling import Answer, Caller
from invochain_client.money import Exact, quantity_milli
from invochain_client.refusal import read
from invochain_client.types import Movement, PendingReservation, Reservation, ReservationItem, Stock, StockAdjustment
from invochain_client.wire import Method

ADJUST = Method("inventory", "AdjustStock", pb.Stock)
GET = Method("inventory", "GetStock", pb.Stock)
LIST = Method("inventory", "ListStock", pb.ListStockResponse)
MOVEMENTS = Method("inventory", "ListMovements", pb.ListMovementsResponse)
RESERVE = Method("inventory", "ReserveStock", pb.Reservation)
CONFIRM = Method("inventory", "ConfirmReservations", pb.SettleReservationsResponse)
RELEASE = Method("inventory", "ReleaseReservations", pb.SettleReservationsResponse)
PENDING = Method("inventory", "ListPendingReservations", pb.ListPendingReservationsResponse)
GET_RESERVATION = Method("inventory", "GetReservation", pb.Reservation)


class AsyncStock:
    """InventoryService: what is there. Quantities are decimal text of units ("2.5") or whole units."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def adjust(
        self,
        sku: str,
        adjustment: StockAdjustment | str,
        quantity: Exact,
        *,
        reason: str = "",
        description: str = "",
        hsn: str = "",
        unit: str = "",
        etag: str = "",
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Stock]:
        """ADD, REMOVE or SET what is on hand; makes the SKU if it is new, with `description`, `hsn` and `unit`.

        Raises InsufficientStock (less would be left than is reserved), UnitMismatch, VersionMismatch.
        """
        request = pb.AdjustStockRequest(
            sku=sku,
            adjustment=adjustment,
            quantity_milli=quantity_milli(quantity),
            reason=reason,
            description=description,
            hsn=hsn,
            unit=unit,
            etag=etag,
        )
        return await self._caller.write(ADJUST, request, "stock.adjust", key=idempotency_key, timeout_s=timeout_s)

    async def get(self, sku: str, *, timeout_s: float | None = None) -> Stock:
        """One SKU. Raises SkuNotFound."""
        return await self._caller.read(GET, pb.GetStockRequest(sku=sku), timeout_s)

    def list(self, *, page_size: int = 0, timeout_s: float | None = None) -> AsyncGenerator[Stock, None]:
        """All SKUs in their order, a page at a time as you go. `timeout_s` is for one page."""
        request = pb.ListStockRequest(page_size=page_size)
        return self._caller.pages(LIST, request, lambda page: page.stock, timeout_s)

    def movements(
        self, sku: str = "", *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[Movement, None]:
        """What was added to and taken from the stock on hand, newest first; of all SKUs unless one is named."""
        request = pb.ListMovementsRequest(sku=sku, page_size=page_size)
        return self._caller.pages(MOVEMENTS, request, lambda page: page.movements, timeout_s)

    async def wait_until(self, sku: str, true: Callable[[Stock], bool], within_s: float = 10.0) -> Stock:
        """Reads the SKU until `true` of it, and returns it: accepted goods arrive by an event, shortly after.

        A SKU that is not there yet is an empty one. Raises TimeoutError.
        """

        async def look() -> Stock:
            try:
                return await self.get(sku)
            except errors.SkuNotFound:
                return Stock(sku=sku)

        return await self._caller.wait_until(look, true, within_s)


@dataclass(frozen=True, slots=True)
class Settled:
    """What confirming or releasing came to for one reservation: its state, or why it was refused."""

    reservation_id: str
    # Value of ReservationState; 0 when refused.
    state: int
    error: errors.InvochainError | None


class AsyncReservations:
    """InventoryService: holds on stock that the caller makes and settles; unsettled, they expire."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def make(
        self,
        quantities: Mapping[str, Exact],
        *,
        ttl_s: int = 900,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Answer[Reservation]:
        """Holds a quantity of each SKU, all or none, for `ttl_s` seconds (1 to 86,400).

        Raises SkuNotFound, InsufficientStock.
        """
        items = [ReservationItem(sku=sku, quantity_milli=quantity_milli(units)) for sku, units in quantities.items()]
        request = pb.ReserveStockRequest(items=items, ttl_seconds=ttl_s)
        return await self._caller.write(RESERVE, request, "reservation.make", key=idempotency_key, timeout_s=timeout_s)

    async def get(self, reservation_id: str, *, timeout_s: float | None = None) -> Reservation:
        """One reservation. Raises ReservationNotFound."""
        request = pb.GetReservationRequest(reservation_id=reservation_id)
        return await self._caller.read(GET_RESERVATION, request, timeout_s)

    async def confirm(self, reservation_ids: Sequence[str], *, timeout_s: float | None = None) -> list[Settled]:
        """The held stock leaves. A result each, in order; repeating it is harmless, so it takes no key."""
        refs = [pb.ReservationRef(reservation_id=one) for one in reservation_ids]
        request = pb.ConfirmReservationsRequest(reservations=refs)
        return _settled(
            await self._caller.write(CONFIRM, request, "reservation.confirm", keyed=False, timeout_s=timeout_s)
        )

    async def release(self, reservation_ids: Sequence[str], *, timeout_s: float | None = None) -> list[Settled]:
        """The held stock is free again. A result each, in order; repeating it is harmless, so it takes no key."""
        refs = [pb.ReservationRef(reservation_id=one) for one in reservation_ids]
        request = pb.ReleaseReservationsRequest(reservations=refs)
        return _settled(
            await self._caller.write(RELEASE, request, "reservation.release", keyed=False, timeout_s=timeout_s)
        )

    def pending(
        self, *, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncGenerator[PendingReservation, None]:
        """The caller's holds that wait to be settled, oldest first."""
        request = pb.ListPendingReservationsRequest(page_size=page_size)
        return self._caller.pages(PENDING, request, lambda page: page.reservations, timeout_s)


def _settled(answer: Answer[pb.SettleReservationsResponse]) -> list[Settled]:
    return [
        Settled(
            one.reservation_id,
            one.state,
            errors.error_of(read(one.error, request_id=answer.request_id)) if one.HasField("error") else None,
        )
        for one in answer.message.results
    ]


class Inventory:
    """AsyncStock, blocking."""

    def __init__(self, behind: AsyncStock) -> None:
        self._behind = behind

    adjust = blocking(AsyncStock.adjust)
    get = blocking(AsyncStock.get)
    list = iterating(AsyncStock.list)
    movements = iterating(AsyncStock.movements)
    wait_until = blocking(AsyncStock.wait_until)


class Reservations:
    """AsyncReservations, blocking."""

    def __init__(self, behind: AsyncReservations) -> None:
        self._behind = behind

    make = blocking(AsyncReservations.make)
    get = blocking(AsyncReservations.get)
    confirm = blocking(AsyncReservations.confirm)
    release = blocking(AsyncReservations.release)
    pending = iterating(AsyncReservations.pending)
