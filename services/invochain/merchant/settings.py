"""Settings of this room alone: what a password costs, and how many tries are free."""

from __future__ import annotations

import os

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB and two passes is the least that may protect real accounts.
MEMORY_KIB_FLOOR, PASSES_FLOOR = 19 * 1024, 2


class MerchantSettings(BaseSettings):
    """Names in the environment: INVOCHAIN_ and the field in upper case."""

    model_config = SettingsConfigDict(env_prefix="INVOCHAIN_", extra="ignore", frozen=True)

    environment: str = "development"

    # argon2id: 64 MiB and three passes are the second choice of RFC 9106, here on one lane: 0.1 to 0.2 s of one core.
    password_memory_kib: int = Field(default=64 * 1024, ge=8, le=4 * 1024 * 1024)
    password_passes: int = Field(default=3, ge=1, le=64)
    # Hashes at once; each takes a core and `password_memory_kib`.
    password_workers: int = Field(default=max(1, (os.cpu_count() or 2) // 2), ge=1, le=64)
    # Hashes that may wait before new ones are refused (BULKHEAD_FULL): at 0.2 s each the last waits about 4 s, less
    # than a handler's 4.8 s.
    password_waiting_max: int = Field(default=20, ge=1, le=10_000)

    # Failed sign-ins that cost nothing; each one after that doubles the wait.
    sign_in_free_per_account: int = Field(default=20, ge=1)
    sign_in_free_per_address: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _strong_enough(self) -> MerchantSettings:
        weak = self.password_memory_kib < MEMORY_KIB_FLOOR or self.password_passes < PASSES_FLOOR
        if weak and self.environment == "production":
            raise ValueError(
                f"INVOCHAIN_PASSWORD_MEMORY_KIB is {self.password_memory_kib} and INVOCHAIN_PASSWORD_PASSES "
                f"{self.password_passes}; production wants at least {MEMORY_KIB_FLOOR} and {PASSES_FLOOR}"
            )
        return self
