"""Nouns of the room: stock, reservations and where they stand, and what callers are refused.

The states and who moves them: README.md and PROTOCOL 4.2. Quantities are thousandths of the unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from invochain import core
from invochain.errors import Code, FieldViolation, KeyReused, Refusal, Retry, ValidationFailed, invalid

QUANTITY_MILLI_MAX: Final = 10**13 - 1
# A row's CHECK; far above what 10^6 movements of the largest quantity come to.
ON_HAND_MILLI_MAX: Final = 10**17
REFS_MAX: Final = 1_000

# How long a batch waits for a connection. Batches under way are fewer than connections, so what is waited for is one
# that is being opened; a batch refused for that would refuse hundreds. Reserve has 1.5 s (PROTOCOL 13).
BATCH_WAIT_S: Final = 0.8

NONE, INVOICE = "NONE", "INVOICE"
# Only these settle what an invoice waits for; the ids are values that a merchant knows (PROTOCOL 4.2).
DECIDERS = ("invoice", "workers")

PENDING, HELD, COMMITTED = "PENDING", "HELD", "COMMITTED"
RELEASED, REVERSED, EXPIRED = "RELEASED", "REVERSED", "EXPIRED"


@dataclass(eq=False)
class InsufficientStock(Refusal):
    """Fewer units are free than were asked for; nothing was reserved."""

    code, reason, retry = Code.FAILED_PRECONDITION, "INSUFFICIENT_STOCK", Retry.WITH_NEW_KEY
    message = "SKU {sku}: {asked_milli} thousandths asked, {free_milli} free"
    sku: str
    asked_milli: int
    free_milli: int


@dataclass(eq=False)
class SkuNotFound(Refusal):
    code, reason, retry = Code.NOT_FOUND, "SKU_NOT_FOUND", Retry.WITH_NEW_KEY
    message = "there is no SKU {sku}; AdjustStock with ADD or SET makes it"
    sku: str


@dataclass(eq=False)
class UnitMismatch(Refusal):
    code, reason, retry = Code.FAILED_PRECONDITION, "UNIT_MISMATCH", Retry.WITH_NEW_KEY
    message = "SKU {sku} is counted in {kept}, {asked} was asked for"
    sku: str
    asked: str
    kept: str


@dataclass(eq=False)
class ReservationTombstoned(Refusal):
    """Its Release came first; the maker takes its next attempt."""

    code, reason, retry = Code.ABORTED, "RESERVATION_TOMBSTONED", Retry.SAME_KEY_SOON
    message = "reservation {reservation_id} was released before it was made"
    reservation_id: str


@dataclass(eq=False)
class ReservationGone(Refusal):
    """A hold that was promised is not there: a defect, paged."""

    code, reason, retry = Code.FAILED_PRECONDITION, "RESERVATION_GONE", Retry.NEVER
    message = "reservation {reservation_id} is {state}; it cannot be confirmed"
    reservation_id: str
    state: str


@dataclass(eq=False)
class ReservationHeld(Refusal):
    code, reason, retry = Code.FAILED_PRECONDITION, "RESERVATION_HELD", Retry.NEVER
    message = "reservation {reservation_id} is {state}; Release gives back only what is PENDING"
    reservation_id: str
    state: str


@dataclass(eq=False)
class ReservationNotFound(Refusal):
    code, reason, retry = Code.NOT_FOUND, "RESERVATION_NOT_FOUND", Retry.NEVER
    message = "there is no reservation {reservation_id}"
    reservation_id: str


# What a field should have held; the core tells what it found.
_WANTED = {
    "ATTEMPT_OUT_OF_RANGE": "1 or more is wanted",
    "FINGERPRINT_INVALID": "32 bytes are wanted",
    "ID_INVALID": "a UUID of 36 characters is wanted",
    "ITEM_COUNT_OUT_OF_RANGE": "1 to 1,000 items are wanted",
    "QUANTITY_OUT_OF_RANGE": f"1 to {QUANTITY_MILLI_MAX} thousandths is wanted",
    "RESOLVER_UNKNOWN": "NONE or INVOICE is wanted",
    "SKU_INVALID": "1 to 64 of [A-Za-z0-9._/-] is wanted",
    "TTL_OUT_OF_RANGE": "1 to 86400 seconds is wanted, and none with resolver INVOICE",
}


def faulty(faults: list[tuple[str, str, str]]) -> ValidationFailed:
    """The refusal of a request whose rules the core found broken."""
    return ValidationFailed(
        [FieldViolation(field, code, f"found {found}; {_WANTED[code]}") for field, code, found in faults]
    )


def refusal_of(reason: str, sku: str, asked_milli: int, free_milli: int, asked: str, kept: str) -> Refusal:
    """What the core's verdict on a hold tells its caller."""
    if reason == "INSUFFICIENT_STOCK":
        return InsufficientStock(sku, asked_milli, free_milli)
    if reason == "UNIT_MISMATCH":
        return UnitMismatch(sku, asked, kept)
    return SkuNotFound(sku)


def repeated(
    reservation_id: str, resolver: str, state: str, fingerprint: bytes | None, asked_for: bytes
) -> str | Refusal:
    """What a Reserve is told whose id is there already: its state, or why it is not its own (PROTOCOL 4.2)."""
    if fingerprint is None or (resolver == INVOICE and state == RELEASED):
        return ReservationTombstoned(reservation_id)
    return state if fingerprint == asked_for else KeyReused()


def wanted_sku(text: str, field: str = "sku") -> str:
    """A SKU as it is kept. Refuses what is none, naming the field."""
    sku = core.normal_sku(text)
    if sku is None:
        raise invalid(field, "SKU_INVALID", f"found {text[:40]!r}; {_WANTED['SKU_INVALID']}")
    return sku
