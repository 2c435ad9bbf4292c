"""Passwords: argon2id on threads of their own, so that the event loop never waits for one.

What is stored is the argon2id hash with its own random salt. A request's fingerprint must tell one password from
another without giving it away, so the password enters it as argon2id again, under fixed parameters and a salt made from
the idempotency key: a stolen decision row is no easier to search than a stolen password hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type, hash_secret_raw

from invochain.chassis.ids import Id
from invochain.errors import BulkheadFull
from invochain.merchant.settings import MEMORY_KIB_FLOOR, PASSES_FLOOR, MerchantSettings

T = TypeVar("T")

# Characters, after composition (RFC 8265): 12 resist guessing at the speed sign-in allows, 128 bound the work.
CHARS_MIN, CHARS_MAX = 12, 128


class Passwords:
    """Hashes and verifies; at most `password_workers` at once, at most `password_waiting_max` waiting."""

    def __init__(self, config: MerchantSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=config.password_passes, memory_cost=config.password_memory_kib, parallelism=1, type=Type.ID
        )
        self._threads = ThreadPoolExecutor(config.password_workers, thread_name_prefix="argon2")
        self._room = config.password_workers + config.password_waiting_max
        self._under_way = 0
        # Verified when there is no such account, so that the answer takes as long.
        self.of_nobody = self._hasher.hash("the password of nobody")

    async def hash(self, password: str) -> str:
        """The text to store. Refuses: BulkheadFull."""
        return await self._on_a_thread(lambda: self._hasher.hash(composed(password)))

    async def verify(self, stored: str, password: str) -> bool:
        """Whether the password is the one that was stored. Refuses: BulkheadFull."""
        return await self._on_a_thread(lambda: _verify(self._hasher, stored, composed(password)))

    def outdated(self, stored: str) -> bool:
        """Whether a stored hash was made with other parameters than ours."""
        return self._hasher.check_needs_rehash(stored)

    async def fingerprint(self, password: str, scope: Id, key: str) -> str:
        """Stands for the password in a request's fingerprint: the same for the same key, useless without a search."""
        salt = hashlib.sha256(b"password fingerprint/1\0" + scope + key.encode()).digest()[:16]
        return await self._on_a_thread(lambda: _fingerprint(composed(password), salt))

    async def _on_a_thread(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._room:
            raise BulkheadFull("the hashing of passwords")
        self._under_way += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # Counted until the thread has finished, whether or not somebody still waits for it.
        done.add_done_callback(self._finished)
        return await asyncio.shield(done)

    def _finished(self, done: asyncio.Future[T]) -> None:
        self._under_way -= 1
        if not done.cancelled():
            done.exception()

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def composed(password: str) -> str:
    """The same characters typed on another keyboard are the same password."""
    return unicodedata.normalize("NFC", password)


def _verify(hasher: PasswordHasher, stored: str, password: str) -> bool:
    try:
        return hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def _fingerprint(password: str, salt: bytes) -> str:
    # Fixed: a repeat must find the same fingerprint whatever the settings are by then.
    return hash_secret_raw(
        password.encode(), salt, PASSES_FLOOR, MEMORY_KIB_FLOOR, parallelism=1, hash_len=32, type=Type.ID
    ).hex()
