"""The door to the inventory: holds stock for a batch, makes holds lasting, gives them back. Nothing else goes there.

Reserve, for which callers wait, passes bulkhead, breaker and retry budget (chassis/target.py). Every call has a
deadline (PROTOCOL 13). An answer that does not come is no proof of anything: the hold stays for the resolver
(PROTOCOL R2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as api
from invochain.api.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from invochain.api.operator.v1 import operator_service_pb2 as operator_api
from invochain.api.operator.v1.operator_service_pb2_grpc import OperatorServiceStub
from invochain.chassis import clock, faults
from invochain.chassis.breaker import OPEN_S, Breaker
from invochain.chassis.channel import Channel, RawChannel
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.target import UNKNOWN, Target
from invochain.chassis.telemetry import RESERVATION_FAILURES
from invochain.chassis.trace import Trace
from invochain.errors import BulkheadFull, DependencyDown, Told

RESERVE_TIMEOUT_S = 1.5
SETTLE_TIMEOUT_S = 5.0
SETTLE_ITEMS_MAX = core.HOLDS_MAX


@dataclass(frozen=True, slots=True)
class Hold:
    """Names one hold, and the request it was made for."""

    merchant_id: Id
    rid: Id
    attempt: int
    fingerprint: bytes

    def ref(self) -> api.ReservationRef:
        return api.ReservationRef(
            reservation_id=to_text(core.reservation_id(self.rid, self.attempt)),
            merchant_id=to_text(self.merchant_id),
            fingerprint=self.fingerprint,
            resolver=api.INVOICE,
            rid=to_text(self.rid),
            attempt=self.attempt,
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """A hold that waits for a decision, with its age by the inventory's database."""

    hold: Hold
    age_ms: int


class InventoryPort:
    """Calls the inventory service as the invoice service."""

    def __init__(self, channel: Channel, breaker_open_s: float = OPEN_S) -> None:
        self._channel = channel
        self._raw = InventoryServiceStub(RawChannel(channel))
        self._stub = InventoryServiceStub(channel.channel)
        self._operators = OperatorServiceStub(channel.channel)
        self._target = Target(Breaker("inventory", what=channel.what, open_s=breaker_open_s), retries=True)

    async def reserve(
        self, request: bytes, *, items: int, time_left_s: float, trace: Trace | None
    ) -> list[Told | None]:
        """Holds stock for an encoded batch of so many items. One entry an item: None if held, else the refusal.

        Refuses the batch: DependencyDown when the outcome is unknown; CircuitOpen, BulkheadFull when nothing was sent.
        """

        async def send(timeout_s: float) -> list[Told | None]:
            await faults.reach("reserve.send")
            raw = await self._channel.call(self._raw.BatchReserveStock, request, timeout_s=timeout_s, trace=trace)
            return [Told.from_bytes(status) if status else None for _state, status in core.reserve_results(raw)]

        try:
            refusals = await self._target.ask(
                send, timeout_s=RESERVE_TIMEOUT_S, time_left_s=time_left_s, items=items, count=_good_and_bad
            )
        except (BulkheadFull, DependencyDown) as unanswered:
            RESERVATION_FAILURES.labels(reason=unanswered.reason).inc()
            raise
        for refusal in refusals:
            if refusal:
                RESERVATION_FAILURES.labels(reason=refusal.reason).inc()
        return refusals

    async def confirm(self, holds: Sequence[Hold]) -> list[str]:
        """Makes holds lasting. One entry an item: empty, or the reason it was refused."""
        request = _settle_request(holds)
        await faults.reach("confirm.send")
        return _reasons(await self._channel.call(self._raw.ConfirmReservations, request, timeout_s=SETTLE_TIMEOUT_S))

    async def release(self, holds: Sequence[Hold], timeout_s: float = SETTLE_TIMEOUT_S) -> list[str]:
        """Gives holds back, after a durable negative decision only (PROTOCOL R2). Entries as `confirm`."""
        request = _settle_request(holds)
        await faults.reach("release.send")
        return _reasons(await self._channel.call(self._raw.ReleaseReservations, request, timeout_s=timeout_s))

    async def release_first(self, holds: Sequence[Hold], *, time_left_s: float) -> list[str]:
        """`release` for a caller who waits for it: through bulkhead and breaker, and no longer than a Reserve."""
        reasons: list[str] = []
        until = clock.monotonic() + time_left_s
        # Several earlier attempts of each request may be more than one call takes.
        for start in range(0, len(holds), core.HOLDS_MAX):
            some = holds[start : start + core.HOLDS_MAX]
            reasons += await self._target.ask(
                partial(self.release, some),
                timeout_s=RESERVE_TIMEOUT_S,
                time_left_s=until - clock.monotonic(),
                items=len(some),
            )
        return reasons

    async def pending(
        self, *, older_than_ms: int, partition: int, partitions: int, page_token: str, page_size: int = 500
    ) -> tuple[list[Pending], str]:
        """One page of the holds that wait for our decision, oldest first, and the next page's token."""
        request = api.ListPendingReservationsRequest(
            resolver=api.INVOICE,
            older_than_ms=older_than_ms,
            partition=partition,
            partition_count=partitions,
            page_size=page_size,
            page_token=page_token,
        )
        response = await self._channel.call(self._stub.ListPendingReservations, request, timeout_s=SETTLE_TIMEOUT_S)
        found = [
            Pending(
                Hold(from_text(r.merchant_id, "merchant_id"), from_text(r.rid, "rid"), r.attempt, r.fingerprint),
                r.age_ms,
            )
            for r in response.reservations
        ]
        return found, response.next_page_token

    async def look_up(self, holds: Sequence[Hold]) -> list[tuple[str, bytes]]:
        """How holds stand: state (empty: there is none) and fingerprint of each, in order."""
        request = api.LookupReservationsRequest(reservations=[hold.ref() for hold in holds])
        response = await self._channel.call(self._stub.LookupReservations, request, timeout_s=SETTLE_TIMEOUT_S)
        return [
            (api.ReservationState.Name(one.state) if one.state else "", one.fingerprint) for one in response.standings
        ]

    async def letters(self, *, page_size: int, page_token: str) -> tuple[list[operator_api.DeadLetter], str]:
        """One page of the inventory's dead letters that wait, newest first, and the next page's token."""
        request = operator_api.ListDeadLettersRequest(room="inventory", page_size=page_size, page_token=page_token)
        response = await self._channel.call(self._operators.ListDeadLetters, request, timeout_s=SETTLE_TIMEOUT_S)
        return list(response.dead_letters), response.next_page_token

    async def close(self) -> None:
        await self._channel.close()


def _settle_request(holds: Sequence[Hold]) -> bytes:
    return core.settle_request([(hold.merchant_id, hold.rid, hold.attempt, hold.fingerprint) for hold in holds])


def _reasons(raw: bytes) -> list[str]:
    return [Told.from_bytes(status).reason if status else "" for _state, status in core.reserve_results(raw)]


def _good_and_bad(refusals: Sequence[Told | None]) -> tuple[int, int]:
    """What the breaker counts of an answer: items held, items whose outcome is unknown; business is neither."""
    bad = sum(1 for refusal in refusals if refusal is not None and refusal.code in UNKNOWN)
    return sum(1 for refusal in refusals if refusal is None), bad
