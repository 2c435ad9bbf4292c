"""Tokens: who is calling, proven by a signature, or refused in constant words.

    kind      who signs, with what               aud                   typ         lives     in the metadata
    access    the merchant service, token key    invochain-api         at+jwt      15 min    authorization: Bearer ...
    service   each service, its own key          invochain-services    svc+jwt     2 min     x-invochain-service-token

Both are JWS compact (RFC 7515) by ES256 and nothing else: the algorithm is ours, not the header's. A header may hold
alg, kid and typ only, so no key, address or extension that a token brings along is ever looked at. Claims are read
strictly: no member twice, `exp` and `nbf` whole numbers, `iss`, `aud` and `typ` as above. Source: RFC 8725.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from invochain.chassis import clock, ids
from invochain.chassis.call import NOBODY, Principal
from invochain.chassis.key_set import KeySet
from invochain.chassis.secrets import Secrets, TokenKey
from invochain.errors import Refusal, TokenExpired, TokenInvalid

ISSUER = "invochain"
AUDIENCE, ACCESS_TYPE = "invochain-api", "at+jwt"
SERVICE_AUDIENCE, SERVICE_TYPE = "invochain-services", "svc+jwt"
SERVICE_METADATA = "x-invochain-service-token"

ACCESS_LIFE_S = 15 * 60
SERVICE_LIFE_S = 120
SERVICE_LIFE_S_MIN, SERVICE_LIFE_S_MAX = 60, 300
# Clocks of two hosts may differ by this much (PROTOCOL 8).
LEEWAY_S = 30
# Ours have about 600; more is not read at all.
TOKEN_CHARS_MAX = 2_048
# Verified tokens that are remembered, about 1 KiB each: one signature costs a tenth of a millisecond, a look-up none.
REMEMBERED_MAX = 10_000

_COMPACT = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{86}", re.ASCII)
_HEADER = {"alg", "kid", "typ"}


@dataclass(frozen=True, slots=True)
class _Remembered:
    principal: Principal
    key: ECKey
    kid: str
    not_before: int
    expires: int


class Authenticator:
    """Verifies access tokens by `keys` and service tokens by the services' public keys; chassis/handler.py asks it."""

    def __init__(self, secrets: Secrets, keys: KeySet) -> None:
        self._keys = keys
        self._services = secrets.service_keys
        self._users, self._callers = _Memory(), _Memory()
        # What was answered in this turn of the event loop: hundreds of calls with one token come together.
        self._this_turn: dict[str, Principal] = {}

    def known(self, bearer: str) -> Principal | None:
        """Whom a token stands for that was verified before, without waiting; None: ask `user`. Refuses: as `user`."""
        principal = self._this_turn.get(bearer)
        if principal is None and (principal := self._looked_up(bearer)) is not None:
            if not self._this_turn:
                asyncio.get_running_loop().call_soon(self._this_turn.clear)
            self._this_turn[bearer] = principal
        return principal

    def _looked_up(self, bearer: str) -> Principal | None:
        scheme, _, token = bearer.partition(" ")
        seen = self._users.get(token) if scheme.lower() == "bearer" else None
        if seen is None or self._keys.known(seen.kid) is not seen.key:
            return None
        _on_time(seen)
        return seen.principal

    async def user(self, bearer: str) -> Principal:
        """Whom `Bearer <access token>` stands for. Refuses: TokenInvalid, TokenExpired, DependencyDown (no keys)."""
        scheme, _, token = bearer.partition(" ")
        if scheme.lower() != "bearer" or not _plausible(token):
            raise TokenInvalid()
        seen = self._users.get(token)
        if seen is None:
            kid = _kid(token, ACCESS_TYPE)
            key = await self._keys.get(kid)
            if key is None:
                raise TokenInvalid()
            claims = _verified(token, key)
            seen = _Remembered(_user(claims), key, kid, *_times(claims, AUDIENCE))
            self._users.put(token, seen)
        elif await self._keys.get(seen.kid) is not seen.key:
            # The set was fetched anew: the same key is another object, a revoked one is not there.
            self._users.forget(token)
            return await self.user(bearer)
        _on_time(seen)
        return seen.principal

    async def service(self, token: str) -> Principal:
        """Which InvoChain service a service token stands for. Refuses: TokenInvalid, TokenExpired."""
        if not _plausible(token):
            raise TokenInvalid()
        seen = self._callers.get(token)
        if seen is None:
            kid = _kid(token, SERVICE_TYPE)
            name, key = self._services.get(kid, ("", None))
            if key is None:
                raise TokenInvalid()
            claims = _verified(token, key)
            times = _times(claims, SERVICE_AUDIENCE, issuer=name)
            life = times[1] - times[0]
            if claims.get("sub") != name or not SERVICE_LIFE_S_MIN <= life <= SERVICE_LIFE_S_MAX:
                raise TokenInvalid()
            seen = _Remembered(Principal(service=name), key, kid, *times)
            self._callers.put(token, seen)
        _on_time(seen)
        return seen.principal


class _Memory:
    """Tokens that were verified, by their hash; the ones not seen for longest go first."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, _Remembered] = OrderedDict()

    def get(self, token: str) -> _Remembered | None:
        name = _name(token)
        seen = self._seen.get(name)
        if seen is not None:
            self._seen.move_to_end(name)
        return seen

    def put(self, token: str, seen: _Remembered) -> None:
        self._seen[_name(token)] = seen
        while len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)

    def forget(self, token: str) -> None:
        self._seen.pop(_name(token), None)


class ServiceIdentity:
    """By which a service proves itself to the others."""

    def __init__(self, name: str, secrets: Secrets) -> None:
        self.name = name
        self._key = secrets.own_key(name)
        self._token, self._made = "", 0.0

    def token(self) -> str:
        """A service token with at least half of its life left."""
        if not self._token or clock.monotonic() - self._made > SERVICE_LIFE_S / 2:
            self._made = clock.monotonic()
            now = int(clock.now().timestamp())
            claims = {"iss": self.name, "sub": self.name, "aud": SERVICE_AUDIENCE}
            self._token = sign(self._key, SERVICE_TYPE, claims, now, SERVICE_LIFE_S)
        return self._token

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call to another service."""
        return ((SERVICE_METADATA, self.token()),)


def access_token(key: TokenKey, principal: Principal) -> str:
    """An access token for a merchant's user, or for an operator (who has no merchant)."""
    now = int(clock.now().timestamp())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": ids.to_text(principal.user_id),
        "merchant_id": "" if principal.merchant_id == NOBODY else ids.to_text(principal.merchant_id),
        "gstin": principal.gstin,
        "roles": sorted(principal.roles),
        "jti": ids.to_text(ids.new_id()),
    }
    return sign(key.key, ACCESS_TYPE, claims, now, ACCESS_LIFE_S)


def sign(key: ECKey, kind: str, claims: dict[str, Any], now: int, life_s: int) -> str:
    """A token of that kind, valid from `now` (seconds since 1970) for `life_s`."""
    header = {"alg": "ES256", "kid": key.kid, "typ": kind}
    times = {"iat": now, "nbf": now, "exp": now + life_s}
    return jws.serialize_compact(header, json.dumps({**claims, **times}), key, algorithms=["ES256"])


# ---------------------------------------------------------------- reading a token, strictly


def _plausible(token: str) -> bool:
    return len(token) <= TOKEN_CHARS_MAX and _COMPACT.fullmatch(token) is not None


def _name(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _kid(token: str, kind: str) -> str:
    """The key id of a header that is exactly one of ours."""
    header = _object(token.split(".", 1)[0])
    kid = header.get("kid")
    if set(header) != _HEADER or header["alg"] != "ES256" or header["typ"] != kind or not isinstance(kid, str):
        raise TokenInvalid()
    return kid


def _verified(token: str, key: ECKey) -> dict[str, Any]:
    """The claims of a token whose signature is by that key."""
    try:
        jws.deserialize_compact(token, key, algorithms=["ES256"])
    except (JoseError, ValueError):
        raise TokenInvalid() from None
    return _object(token.split(".")[1])


def _object(part: str) -> dict[str, Any]:
    """A part of the token as a JSON object in which no member comes twice."""
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, binascii.Error, RecursionError):
        raise TokenInvalid() from None
    if not isinstance(found, dict):
        raise TokenInvalid()
    return found


def _once(members: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise ValueError("a member comes twice")
        found[name] = value
    return found


def _times(claims: dict[str, Any], audience: str, issuer: str = ISSUER) -> tuple[int, int]:
    """`nbf` and `exp`, of a token that we issued for that audience."""
    begins, ends = claims.get("nbf"), claims.get("exp")
    if claims.get("iss") != issuer or claims.get("aud") != audience:
        raise TokenInvalid()
    if type(begins) is not int or type(ends) is not int or not 0 < begins < ends < 2**40:
        raise TokenInvalid()
    return begins, ends


def _on_time(seen: _Remembered) -> None:
    now = clock.now().timestamp()
    if now < seen.not_before - LEEWAY_S:
        raise TokenInvalid()
    if now >= seen.expires + LEEWAY_S:
        raise TokenExpired()


def _user(claims: dict[str, Any]) -> Principal:
    merchant, gstin, user, roles = (claims.get(name) for name in ("merchant_id", "gstin", "sub", "roles"))
    if not (isinstance(merchant, str) and isinstance(gstin, str) and isinstance(user, str)):
        raise TokenInvalid()
    if not (isinstance(roles, list) and all(isinstance(role, str) for role in roles)):
        raise TokenInvalid()
    try:
        return Principal(
            merchant_id=ids.from_text(merchant, "merchant_id") if merchant else NOBODY,
            gstin=gstin,
            user_id=ids.from_text(user, "sub"),
            roles=frozenset(roles),
        )
    except Refusal:
        raise TokenInvalid() from None
