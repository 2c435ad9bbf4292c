"""Page tokens: where a list goes on, signed, so that nobody asks for a page they were not given (API section 5).

A token is the last row's sort key, when it was made, and a hash of who asked for what in which order, under an HMAC. It
lives 24 hours. Lists go on after that key (`WHERE (a, b) > ($1, $2)`), never by OFFSET.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence

from invochain.chassis import clock
from invochain.errors import PageTokenMismatch, invalid

LIFE_S = 24 * 3600
SIZE_DEFAULT = 50
SIZE_MAX = 500
TOKEN_CHARS_MAX = 1_000
_FORM = b"\x01"
_MAC_BYTES = _SCOPE_BYTES = 16
_TIME_BYTES = 8

# What one page is cut by: method, caller, filter and order. Texts, numbers and ids.
Scope = Sequence[str | int | bytes]
# The sort key of the last row of a page: texts and numbers (ids as text).
Cursor = list[str | int]


def page_size(asked: int) -> int:
    """0 means 50, above 500 means 500. Refuses a negative one."""
    if asked < 0:
        raise invalid(
            "page_size", "PAGE_SIZE_NEGATIVE", f"found {asked}; 0 to {SIZE_MAX} is wanted, 0 means {SIZE_DEFAULT}"
        )
    return min(asked or SIZE_DEFAULT, SIZE_MAX)


class Pages:
    """Makes and reads page tokens under one key (`page-token.key`, 32 bytes)."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the page token key has 32 bytes at least")
        self._key = key

    def token(self, scope: Scope, cursor: Cursor) -> str:
        """The token for the page after `cursor`."""
        made = int(clock.now().timestamp()).to_bytes(_TIME_BYTES, "big")
        body = _FORM + made + _hash(scope) + json.dumps(cursor, separators=(",", ":")).encode()
        return _text(self._mac(body) + body)

    def cursor(self, scope: Scope, token: str) -> Cursor | None:
        """Where the page begins; None for the first one (no token). Refuses: PageTokenMismatch."""
        if not token:
            return None
        body = self._open(token)
        made = int.from_bytes(body[1 : 1 + _TIME_BYTES], "big")
        if not -60 <= clock.now().timestamp() - made <= LIFE_S:
            raise PageTokenMismatch("older than 24 hours")
        of, cursor = body[1 + _TIME_BYTES :][:_SCOPE_BYTES], body[1 + _TIME_BYTES + _SCOPE_BYTES :]
        if not hmac.compare_digest(of, _hash(scope)):
            raise PageTokenMismatch("of another filter, order or caller")
        return list(json.loads(cursor))

    def _open(self, token: str) -> bytes:
        """The body under a MAC that is right."""
        try:
            if len(token) > TOKEN_CHARS_MAX:
                raise ValueError
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            # One cursor, one text: what only decodes to the same bytes is not ours.
            if _text(raw) != token:
                raise ValueError
        except (binascii.Error, ValueError):
            raise PageTokenMismatch("not one of ours") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(body)) or body[:1] != _FORM:
            raise PageTokenMismatch("not one of ours")
        return body

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"page/1" + body, "sha256")[:_MAC_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _hash(scope: Scope) -> bytes:
    """Fields cannot run into each other: each has its kind and its length before it."""
    digest = hashlib.sha256()
    for part in scope:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(type(part).__name__[:1].encode() + len(raw).to_bytes(4, "big") + raw)
    return digest.digest()[:_SCOPE_BYTES]
