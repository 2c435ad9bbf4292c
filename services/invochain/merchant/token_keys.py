"""The keys that sign access tokens, as the secrets folder has them now: a rotation needs no restart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invochain.chassis import clock, secrets
from invochain.chassis.secrets import Secrets, SecretsUnusable, TokenKey
from invochain.chassis.telemetry import log


class TokenKeys:
    """Signs by the newest key whose time has come; publishes all that still verify."""

    def __init__(self, made: Secrets) -> None:
        self._folder: Path = made.folder
        self._keys = made.token_keys
        self._stamp = secrets.token_keys_stamp(made.folder)
        self._log = log("merchant")
        made.signing_key(clock.now())  # a service that cannot sign must not start

    def signing(self) -> TokenKey:
        """The key for new tokens."""
        return Secrets(self._folder, {}, {}, self._now(), {}).signing_key(clock.now())

    def public(self) -> Sequence[dict[str, Any]]:
        """The public halves of all keys that verify, also of those that do not sign yet (RFC 7517)."""
        now = clock.now()
        return [key.key.as_dict(private=False) for key in self._now() if key.verifies(now)]

    async def __call__(self) -> Sequence[dict[str, Any]]:
        """For `KeySet`: this service verifies by its own keys."""
        return self.public()

    def _now(self) -> tuple[TokenKey, ...]:
        stamp = secrets.token_keys_stamp(self._folder)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = secrets.read_token_keys(self._folder) or self._keys
                self._log.info("token_keys_read", kids=[key.kid[:8] for key in self._keys])
            except SecretsUnusable as refused:
                # The keys in memory are good; what is on disk is said until somebody mends it.
                self._log.error("token_keys_unusable", why=str(refused))
        return self._keys
