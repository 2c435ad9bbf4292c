"""The public keys of access tokens by key id: fetched, kept, fetched again, given up when they are too old to trust.

    age of the set   0 ... 30 s      used as it is
                    30 s ... 60 s    used, while a fresh one is fetched behind the caller's back
                    60 s ... 15 min  a fresh one is waited for; if that fails, the last good one is used
                    over 15 min      nothing is used: UNAVAILABLE

A key id that is not in the set asks for it anew, at most every 5 s whatever is sent, so a stranger's tokens cannot make
us hammer the merchant service. Where keys come from is fixed at start: nothing a token says of itself is ever fetched.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from invochain.api.merchant.v1.merchant_service_pb2 import GetJsonWebKeySetRequest
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.chassis import clock
from invochain.chassis.dial import open_channel
from invochain.chassis.telemetry import log
from invochain.errors import DependencyDown, Refusal

REFRESH_AFTER_S = 30
# A revoked key is refused everywhere after this long, however idle the process was.
REVOKED_WITHIN_S = 60
KEPT_S = 15 * 60
FETCH_EVERY_S = 5
# Until there is a first set: at the start of a stack the merchant service may come up a moment after us.
FIRST_FETCH_EVERY_S = 0.5
FETCH_TIMEOUT_S = 1.0
# Key ids are thumbprints (RFC 7638): 32 bytes in base64url. Nothing else is even looked up.
KID_GRAMMAR = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)

# A key as RFC 7517 writes it. Fetching raises grpc.RpcError, OSError, TimeoutError or a Refusal when it fails.
Jwk = Mapping[str, Any]
Fetch = Callable[[], Awaitable[Iterable[Jwk]]]
_UNREACHABLE = (grpc.RpcError, OSError, TimeoutError, Refusal)


class KeySet:
    """Keys by id, from one source; `every_s` is the least time between two fetches, 0 for a source in this process."""

    def __init__(self, fetch: Fetch, *, every_s: float = FETCH_EVERY_S) -> None:
        self._fetch, self._every_s = fetch, every_s
        self._keys: dict[str, ECKey] = {}
        self._good = self._tried = -math.inf
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None
        self._log = log("chassis")

    def known(self, kid: str) -> ECKey | None:
        """The key of that id where the set is young enough to say so without asking the source."""
        return self._keys.get(kid) if clock.monotonic() - self._good <= REFRESH_AFTER_S else None

    async def get(self, kid: str) -> ECKey | None:
        """The key of that id, or None if it is not (or no longer) one of ours.

        Refuses: DependencyDown while the source does not answer and the last good set is over 15 minutes old.
        """
        if not KID_GRAMMAR.fullmatch(kid):
            return None
        age = clock.monotonic() - self._good
        if kid not in self._keys or age > KEPT_S or (age > REVOKED_WITHIN_S and not self._failed):
            await self._refresh()
        elif age > REFRESH_AFTER_S:
            self._start()
        if clock.monotonic() - self._good > KEPT_S:
            raise DependencyDown("the source of the token keys")
        return self._keys.get(kid)

    def _start(self) -> None:
        every_s = self._every_s if self._keys else min(self._every_s, FIRST_FETCH_EVERY_S)
        if self._fetching is None and clock.monotonic() - self._tried >= every_s:
            self._tried = clock.monotonic()
            self._fetching = asyncio.create_task(self._fetch_once(), name="token-keys")

    async def _refresh(self) -> None:
        self._start()
        if self._fetching is not None:
            # One fetch serves all who wait; a caller that goes away does not end it.
            await asyncio.shield(self._fetching)

    async def _fetch_once(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                found = usable(await self._fetch())
            if not found:
                raise OSError("the source has no key")
            self._keys = {kid: _same(self._keys.get(kid), key) for kid, key in found.items()}
            self._good, self._failed = clock.monotonic(), False
        except _UNREACHABLE as lost:
            if not self._failed:
                self._log.warning("token_keys_not_fetched", why=type(lost).__name__, kept=len(self._keys))
            self._failed = True
        finally:
            self._fetching = None


def usable(jwks: Iterable[Jwk]) -> dict[str, ECKey]:
    """Those keys that sign by ES256 and nothing else, by id; others (of a later release, say) are passed over."""
    keys = {}
    for jwk in jwks:
        kid = str(jwk.get("kid", ""))
        if (jwk.get("kty"), jwk.get("crv"), jwk.get("alg"), jwk.get("use")) != ("EC", "P-256", "ES256", "sig"):
            continue
        try:
            key = ECKey.import_key({name: str(jwk[name]) for name in ("kty", "crv", "kid", "x", "y")})
        except (JoseError, KeyError, ValueError):
            continue
        if KID_GRAMMAR.fullmatch(kid):
            keys[kid] = key
    return keys


def _same(old: ECKey | None, new: ECKey) -> ECKey:
    """The object that was there if it is the same key, so that tokens verified by it stay verified."""
    return old if old is not None and old.as_dict(private=False) == new.as_dict(private=False) else new


class MerchantKeys:
    """Fetches the keys from the merchant service: `KeySet(MerchantKeys(address))`."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(
            address, [("grpc.max_reconnect_backoff_ms", 1_000), ("grpc.initial_reconnect_backoff_ms", 100)]
        )
        self._stub = MerchantServiceStub(self._channel)

    async def __call__(self) -> Sequence[Jwk]:
        answer = await self._stub.GetJsonWebKeySet(GetJsonWebKeySetRequest(), timeout=FETCH_TIMEOUT_S)
        return [{field.name: value for field, value in key.ListFields()} for key in answer.keys]

    async def close(self) -> None:
        await self._channel.close()
