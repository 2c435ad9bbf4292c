"""A batch of requests on its way to being issued: what the steps hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from invochain import core
from invochain.chassis.call import Call
from invochain.chassis.telemetry import EXPIRED
from invochain.errors import DeadlineTooShort, Refusal, Told
from invochain.invoice.inventory_port import Hold
from invochain.invoice.invoice import CREATE
from invochain.invoice.outcomes import Asked, refused, success
from invochain.invoice.room import SeriesKey

# An attempt is given back before the next one reserves, so all but the last few are long settled.
EARLIER_MAX = 4
# DECIDE is started only with this much left to its caller (PROTOCOL 13).
DECIDE_NEEDS_S = 0.5


@dataclass(slots=True)
class Work:
    """A batch on its way. Positions are those of `calls` and `drafts`; what is answered is in no list any more."""

    calls: Sequence[Call]
    drafts: core.Drafts
    # By position: which attempt of its request this is (PROTOCOL 4.1).
    attempt: list[int]
    started: float
    # Positions whose attempt holds stock, as far as we know.
    held: set[int] = field(default_factory=set)
    # Positions whose attempt was fenced off before it could reserve.
    tombstoned: set[int] = field(default_factory=set)
    # Positions whose stock is another's to change just now: nothing is known of them, they are to be asked for again.
    busy: set[int] = field(default_factory=set)
    # By position: the series that gives its number, once it was asked for (number_series.py).
    series: dict[int, SeriesKey] | None = None
    # By position: the outcome that may be kept, once it is final.
    final: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def answer(self, position: int, response: bytes, *, replayed: bool) -> None:
        """A success, after COMMIT."""
        self.final[position] = success(response)
        self.calls[position].reply(response, replayed=replayed)

    def refuse(self, position: int, refusal: Refusal, *, final: bool = False, replayed: bool = False) -> None:
        """A refusal; a final one is in its decision row."""
        if final:
            self.final[position] = refused(refusal)
        self.calls[position].refuse(refusal, replayed=replayed)

    def fail(self, positions: Sequence[int], why: Refusal) -> None:
        """One refusal for several, none of it final: each has an exception of its own."""
        for position in positions:
            self.refuse(position, Told(why.to_status()) if isinstance(why, Told) else why)

    def in_time(self, position: int) -> bool:
        """Whether its caller waits long enough for a decision; who does not is answered here."""
        call = self.calls[position]
        if call.answer.done():
            return False
        if call.remaining() < DECIDE_NEEDS_S:
            EXPIRED.labels(where="decide").inc()
            call.refuse(DeadlineTooShort("before it could be decided"))
            return False
        return True

    def asked(self, at: list[int]) -> list[Asked]:
        """The positions' requests, as `Outcomes` knows them."""
        drafts = self.drafts
        columns = zip(at, drafts.merchant_ids(at), drafts.rids(at), drafts.fingerprints(at), strict=True)
        return [Asked(self.calls[p], merchant, CREATE, rid, print_) for p, merchant, rid, print_ in columns]

    def fingerprint(self, position: int) -> bytes:
        return self.drafts.fingerprints([position])[0]

    def hold(self, position: int) -> Hold:
        """The hold of a position's present attempt."""
        return self.holds([position])[0]

    def holds(self, at: list[int]) -> list[Hold]:
        """The holds of positions' present attempts."""
        attempts = [self.attempt[position] for position in at]
        columns = self.drafts.merchant_ids(at), self.drafts.rids(at), attempts, self.drafts.fingerprints(at)
        return [Hold(*one) for one in zip(*columns, strict=True)]

    def earlier_holds(self, position: int) -> list[Hold]:
        """The holds that attempts before the present one may have made; of many, the latest."""
        hold = self.hold(position)
        first = max(1, hold.attempt - EARLIER_MAX)
        return [replace(hold, attempt=attempt) for attempt in range(first, hold.attempt)]


def unchecked(calls: Sequence[Call]) -> list[Asked]:
    """Requests that end without an outcome to be kept, so that no fingerprint is needed."""
    ids = [(call, call.principal.merchant_id) for call in calls]
    return [Asked(call, merchant, CREATE, core.request_id(merchant, CREATE, call.key), b"") for call, merchant in ids]
