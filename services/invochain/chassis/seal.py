"""Payloads kept for later, unreadable to whoever reads only the database: AES-256-GCM under the key `dead-letter`.

Sealed bytes are a nonce of 12, the ciphertext and its tag of 16. What they are about is authenticated with them, so
that a payload cannot be moved to another row. A nonce is random; one key is good for some 2^32 payloads.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class SealBroken(Exception):
    """The sealed bytes were changed, are about something else, or were sealed under another key."""


class Seal:
    """Seals and opens under one key of 32 bytes (chassis/secrets.py)."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, payload: bytes, about: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """Raises SealBroken."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            raise SealBroken(about) from None
