"""Who is calling: signs in, and renews the access token before its end, once for all who wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from invochain_client.api.merchant.v1 import merchant_service_pb2 as pb
from invochain_client.refusal import Refusal
from invochain_client.retrying import Timing
from invochain_client.wire import Failed, Method, Wire

SIGN_IN = Method("merchant", "SignIn", pb.TokenPair, public=True)
REFRESH = Method("merchant", "RefreshToken", pb.TokenPair, public=True)


@dataclass(frozen=True, slots=True)
class User:
    """Whom to sign in as."""

    email: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Pair:
    access: str
    # Empty once it was sent: a refresh token is good for one exchange, and its second use signs everybody out.
    refresh: str
    renew_at_s: float
    end_at_s: float


class Session:
    """The tokens of one user. Threads or tasks may share it."""

    def __init__(self, wire: Wire, user: User, timing: Timing) -> None:
        self._wire, self._user, self._timing = wire, user, timing
        self._lock = wire.lock()
        self._pair: _Pair | None = None
        # Renewals so far, and what the last one failed with: whoever waited for it fails with it too, so that a wrong
        # password of a thousand callers is one failed sign-in.
        self._round = 0
        self._failed: Refusal | None = None

    async def bearer(self, request_id: str, within_s: float) -> str:
        """An access token that is good for a while. Raises Failed."""
        if (token := self._good()) is not None:
            return token
        began_s, seen = self._wire.monotonic_s(), self._round
        if not await self._lock.acquire(within_s):
            raise Failed(Refusal("DEADLINE_EXCEEDED", "the time was over while another call signed in"))
        try:
            if (token := self._good()) is not None:
                return token
            if self._round != seen and self._failed:
                raise Failed(self._failed)
            remaining_s = within_s - (self._wire.monotonic_s() - began_s)
            if remaining_s <= 0:
                raise Failed(Refusal("DEADLINE_EXCEEDED", "the time was over while another call signed in"))
            return await self._renew(request_id, remaining_s)
        finally:
            self._lock.release()

    def distrust(self, token: str) -> None:
        """A service refused this token: it is not used again."""
        pair = self._pair
        if pair and pair.access == token:
            never = float("-inf")
            self._pair = replace(pair, renew_at_s=never, end_at_s=never)

    def _good(self) -> str | None:
        pair = self._pair
        return pair.access if pair and self._wire.monotonic_s() < pair.renew_at_s else None

    async def _renew(self, request_id: str, within_s: float) -> str:
        began_s = self._wire.monotonic_s()
        self._round += 1
        self._failed = None
        try:
            pair = await self._exchange(request_id, within_s)
        except Failed as failed:
            old = self._pair
            if old and began_s < old.end_at_s:
                # The present token is still good; the next try is due in a while.
                self._pair = replace(old, renew_at_s=min(old.end_at_s, began_s + self._timing.renew_before_s / 4))
                return old.access
            self._failed = failed.refusal
            raise
        # Counted from before it was asked for: early rather than late.
        life_s = float(pair.expires_in)
        early_s = min(self._timing.renew_before_s, life_s / 5)
        self._pair = _Pair(pair.access_token, pair.refresh_token, began_s + life_s - early_s, began_s + life_s)
        return pair.access_token

    async def _exchange(self, request_id: str, within_s: float) -> pb.TokenPair:
        began_s = self._wire.monotonic_s()
        metadata = [("x-request-id", request_id)]
        pair = self._pair
        if pair and pair.refresh:
            # Gone before it is sent: if the answer is lost, or this task is cancelled, it must not be sent again.
            self._pair = replace(pair, refresh="")
            try:
                request = pb.RefreshTokenRequest(refresh_token=pair.refresh).SerializeToString()
                return (
                    await self._wire.unary(REFRESH, request, metadata, min(self._timing.attempt_s, within_s))
                ).message
            except Failed:
                within_s -= self._wire.monotonic_s() - began_s
                if within_s <= 0:
                    raise
        sign_in = pb.SignInRequest(email=self._user.email, password=self._user.password).SerializeToString()
        return (await self._wire.unary(SIGN_IN, sign_in, metadata, min(self._timing.attempt_s, within_s))).message
