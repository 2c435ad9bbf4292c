"""One call, as use cases see it: who, which key, until when, which bytes. Never a transport's own object.

Any transport makes a `Call` and waits for its answer, so a second, faster one uses the same seam.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import Message

from invochain.chassis import clock
from invochain.chassis.ids import Id
from invochain.chassis.trace import Trace
from invochain.errors import Refusal, RoleMissing, ServiceOnly

NOBODY = bytes(16)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, from a verified token. A merchant's user has merchant_id; a service has `service`."""

    merchant_id: Id = NOBODY
    gstin: str = ""
    user_id: Id = NOBODY
    roles: frozenset[str] = frozenset()
    # Name of the calling InvoChain service, or empty.
    service: str = ""

    def needs_role(self, *wanted: str) -> None:
        """Refuses a user who has none of the roles. OWNER may do whatever a role of the merchant may."""
        if not self.roles.intersection(wanted) and not ("OWNER" in self.roles and wanted != ("OPERATOR",)):
            raise RoleMissing(sorted({*wanted, "OWNER"} if wanted != ("OPERATOR",) else wanted))

    def needs_service(self, what: str, *names: str) -> None:
        """Refuses anyone but the named InvoChain services (none named: any of them)."""
        if not self.service or (names and self.service not in names):
            raise ServiceOnly(what)


ANONYMOUS = Principal()


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way. `raw` is the request message as it came, undecoded."""

    method: str
    principal: Principal
    raw: bytes
    # By clock.monotonic(): past it the caller has gone.
    deadline: float
    key: str = ""
    trace: Trace = field(default_factory=Trace.start)
    request_id: str = ""
    # Milliseconds the caller would wait for another call with its key (PROTOCOL 7).
    wait_ms: int = 0
    if_match: str = ""
    client_ip: str = ""
    consistency_token: str = ""
    arrived: float = field(default_factory=clock.monotonic)
    # The answer: response bytes, or a Refusal. Set once.
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    # Metadata that go out with the answer.
    replayed: bool = False
    out: dict[str, str] = field(default_factory=dict)
    # Awaited before a replay leaves, where there is something to add to it (a method that collects has no "after").
    on_replay: Callable[[Call], Awaitable[None]] | None = None

    def item(self, raw: bytes, key: str, deadline: float) -> Call:
        """A call of its own for one of the many that this one carries."""
        return Call(self.method, self.principal, raw, deadline, key, self.trace, self.request_id)

    def remaining(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - clock.monotonic()

    def reply(self, response: bytes | Message, *, replayed: bool = False) -> None:
        """Answers the call; a call that was answered before stays as it is."""
        if not self.answer.done():
            self.replayed = replayed
            self.answer.set_result(response if isinstance(response, bytes) else response.SerializeToString())

    def refuse(self, refusal: Refusal, *, replayed: bool = False) -> None:
        """Refuses the call; a call that was answered before stays as it is."""
        if not self.answer.done():
            self.replayed = replayed
        self.fail(refusal)

    def fail(self, error: Exception) -> None:
        """Ends the call with a refusal, or with an error that nobody expected; as above."""
        if not self.answer.done():
            self.answer.set_exception(error)
            # Whoever asked may have gone: an unread refusal is no defect.
            self.answer.exception()


async def outcome(call: Call) -> bytes:
    """Waits for a call's answer; raises its refusal. Whoever stops waiting leaves the answer to others."""
    if not call.answer.done():
        await asyncio.wait([call.answer])
    return call.answer.result()


def reply_all(calls: Sequence[Call], refusal: Refusal) -> None:
    """Refuses every call that has no answer yet."""
    for call in calls:
        call.refuse(refusal)
