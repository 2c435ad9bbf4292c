"""Ids: 16 bytes inside, a lower-case UUID of 36 characters outside.

Made afresh they are UUIDv7 (index-local, no sequence to contend on). Those derived from an idempotency key are
UUIDv8 and come from the Rust core (PROTOCOL section 2). Nobody parses time out of an id.
"""

from __future__ import annotations

import os
import time

from invochain.errors import invalid

Id = bytes  # 16 bytes


class _Random:
    """The system's random bytes, asked for by the page: a call needs three ids, and each would be a system call."""

    def __init__(self) -> None:
        self._page, self._used = b"", 0

    def forget(self) -> None:
        self._page = b""

    def take(self, count: int) -> bytes:
        begin, self._used = self._used, self._used + count
        if self._used > len(self._page):
            self._page, begin, self._used = os.urandom(4_096), 0, count
        return self._page[begin : self._used]


_random = _Random()
# A child must not give what its parent gives.
os.register_at_fork(after_in_child=_random.forget)

# Random bytes for ids, at most 4,096 at once. What must stay secret is asked of the system itself.
random_bytes = _random.take


def new_id() -> Id:
    """A fresh UUIDv7 (RFC 9562): 48 bits of milliseconds, then random bits."""
    raw = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + random_bytes(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return bytes(raw)


def to_text(value: Id) -> str:
    """The 36 characters clients see."""
    h = value.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def from_text(text: str, field: str) -> Id:
    """Reads an id sent by a client; refuses what is not one, naming the field."""
    plain = text.replace("-", "") if len(text) == 36 else ""
    try:
        # fromhex passes over white space, which would make it shorter.
        value = bytes.fromhex(plain)
    except ValueError:
        value = b""
    if len(value) != 16 or not text[8] == text[13] == text[18] == text[23] == "-":
        raise invalid(field, "ID_INVALID", f"found {text[:40]!r}; a UUID of 36 characters is wanted")
    return value
