"""The secrets folder: made once, read by every process, open to nobody else.

    SECRETS/ (INVOCHAIN_SECRETS_DIR)    each file 0600
      service-<name>.jwk.json           the private ES256 key by which one service proves itself to the others
      service-keys.json                 the public keys of all services
      token-keys.json                   the keys that sign access tokens, private; the merchant service's alone
      audit-mac.key  cache-mac.key  page-token.key  dead-letter.key      32 random bytes, as 64 hexadecimal digits

A service needs its own private key, `service-keys.json` and the MAC keys it uses; what is not in the folder is missed
only by whoever asks for it. Rotation of token keys: a new key is published first and signs after `PUBLISH_S`; the key
before it verifies until the tokens it signed have ended; a revoked key is gone at once (verifiers ask every 30 s).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import re
import secrets as random
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey

from invochain.chassis import clock

SERVICES = ("merchant", "inventory", "invoice", "workers", "gateway")
# The last one is no MAC key but seals payloads; it is made and read alike.
MAC_KEYS = ("audit-mac", "cache-mac", "page-token", "dead-letter")
MAC_KEY_BYTES = 32
# A key is published this long before it signs: verifiers read the key set every 30 s, so all of them know it by then.
PUBLISH_S = 120
# After its last signature a key verifies for a token's life of 15 minutes, the leeway of 30 s, and a margin.
OVERLAP_S = 20 * 60

_TOKEN_KEYS, _SERVICE_KEYS = "token-keys.json", "service-keys.json"


class SecretsUnusable(Exception):
    """A secret is missing, open to others, or damaged. The message names the file and the remedy."""


@dataclass(frozen=True)
class TokenKey:
    """One key of access tokens. It signs from `sign_from`; `verify_until` is set once another has taken its place."""

    kid: str
    key: ECKey
    made_at: dt.datetime
    sign_from: dt.datetime
    verify_until: dt.datetime | None

    def verifies(self, now: dt.datetime) -> bool:
        return self.verify_until is None or now < self.verify_until


@dataclass(frozen=True)
class Secrets:
    """What the folder held when it was read."""

    folder: Path
    # Private keys by service name: those whose file is here.
    own_keys: Mapping[str, ECKey]
    # kid -> (service name, public key).
    service_keys: Mapping[str, tuple[str, ECKey]]
    token_keys: tuple[TokenKey, ...]
    mac_keys: Mapping[str, bytes]

    @property
    def audit_mac_key(self) -> bytes:
        """Authenticates audit entries (PROTOCOL 11)."""
        return self._mac("audit-mac")

    @property
    def cache_mac_key(self) -> bytes:
        """Authenticates outcomes kept in Redis (PROTOCOL 7)."""
        return self._mac("cache-mac")

    @property
    def page_token_key(self) -> bytes:
        """Authenticates page tokens (API section 5)."""
        return self._mac("page-token")

    @property
    def dead_letter_key(self) -> bytes:
        """Seals the payloads of parked events (PROTOCOL 14, chassis/seal.py)."""
        return self._mac("dead-letter")

    def own_key(self, service: str) -> ECKey:
        """The private key of a service."""
        if service not in self.own_keys:
            raise _missing(self.folder / _own(service))
        return self.own_keys[service]

    def signing_key(self, now: dt.datetime) -> TokenKey:
        """The newest token key whose time has come."""
        ready = [key for key in self.token_keys if key.sign_from <= now and key.verifies(now)]
        if not ready:
            raise _missing(self.folder / _TOKEN_KEYS)
        return max(ready, key=lambda key: (key.sign_from, key.made_at))

    def _mac(self, name: str) -> bytes:
        if name not in self.mac_keys:
            raise _missing(self.folder / f"{name}.key")
        return self.mac_keys[name]


def ensure(folder: Path) -> None:
    """Makes whatever is missing; what is there stays as it is. Any number of processes may do so at once."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        for name in MAC_KEYS:
            _make(folder / f"{name}.key", lambda: random.token_hex(MAC_KEY_BYTES) + "\n")
        for name in SERVICES:
            _make(folder / _own(name), lambda: _json(_new_key().as_dict(private=True)))
        _make(folder / _TOKEN_KEYS, lambda: _token_keys_text([_new_token_key(clock.now(), publish_s=0)]))
        _publish(folder)


def load(folder: Path) -> Secrets:
    """Reads the folder. Refuses (SecretsUnusable) a missing folder, a file open to others, a damaged one."""
    if not folder.is_dir():
        raise SecretsUnusable(f"there is no secrets folder {folder}; `invochain keys make` makes it")
    own = {name: _key(folder / _own(name)) for name in SERVICES if (folder / _own(name)).exists()}
    mac = {name: _mac_key(folder / f"{name}.key") for name in MAC_KEYS if (folder / f"{name}.key").exists()}
    services = _read_services(folder / _SERVICE_KEYS) if (folder / _SERVICE_KEYS).exists() else {}
    return Secrets(folder, own, services, read_token_keys(folder), mac)


def read_token_keys(folder: Path) -> tuple[TokenKey, ...]:
    """The keys of access tokens as they are now on disk; none in the folder of a service that signs none."""
    path = folder / _TOKEN_KEYS
    if not path.exists():
        return ()
    with _readable(path):
        return tuple(_token_key(entry) for entry in json.loads(_read(path))["keys"])


def token_keys_stamp(folder: Path) -> tuple[int, int]:
    """Changes whenever the file of token keys was replaced; costs one look at the folder."""
    try:
        found = (folder / _TOKEN_KEYS).stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ino)


def rotate(folder: Path, *, at_once: bool = False) -> TokenKey:
    """Adds a token key that signs after `PUBLISH_S` (or at once), and lets the others end once their tokens have.

    Keys whose time is over are dropped from the file.
    """
    now = clock.now()
    with _alone(folder):
        fresh = _new_token_key(now, publish_s=0 if at_once else PUBLISH_S)
        until = fresh.sign_from + dt.timedelta(seconds=OVERLAP_S)
        kept = [
            TokenKey(key.kid, key.key, key.made_at, key.sign_from, min(key.verify_until or until, until))
            for key in read_token_keys(folder)
            if key.verifies(now)
        ]
        _replace(folder / _TOKEN_KEYS, _token_keys_text([*kept, fresh]))
    return fresh


def revoke(folder: Path, kid: str) -> TokenKey | None:
    """Takes a token key away at once. If no other could sign now, a new one is made and returned. Raises KeyError."""
    now = clock.now()
    with _alone(folder):
        keys = read_token_keys(folder)
        kept = [key for key in keys if key.kid != kid]
        if len(kept) == len(keys):
            raise KeyError(kid)
        fresh = None
        if not any(key.sign_from <= now and key.verifies(now) for key in kept):
            fresh = _new_token_key(now, publish_s=0)
            kept.append(fresh)
        _replace(folder / _TOKEN_KEYS, _token_keys_text(kept))
    return fresh


# ---------------------------------------------------------------- what the files hold


def _own(service: str) -> str:
    return f"service-{service}.jwk.json"


def _new_key() -> ECKey:
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, private=True)
    return ECKey.import_key({**key.as_dict(private=True), "kid": key.thumbprint()})


def _new_token_key(now: dt.datetime, *, publish_s: int) -> TokenKey:
    key = _new_key()
    return TokenKey(str(key.kid), key, now, now + dt.timedelta(seconds=publish_s), None)


def _token_keys_text(keys: list[TokenKey]) -> str:
    return _json(
        {
            "keys": [
                {
                    **key.key.as_dict(private=True),
                    "made_at": key.made_at.isoformat(),
                    "sign_from": key.sign_from.isoformat(),
                    **({"verify_until": key.verify_until.isoformat()} if key.verify_until else {}),
                }
                for key in keys
            ]
        }
    )


def _token_key(entry: dict[str, Any]) -> TokenKey:
    own = {name: entry.pop(name, None) for name in ("made_at", "sign_from", "verify_until")}
    until = own["verify_until"]
    return TokenKey(
        kid=entry["kid"],
        key=_import(entry),
        made_at=dt.datetime.fromisoformat(str(own["made_at"])),
        sign_from=dt.datetime.fromisoformat(str(own["sign_from"])),
        verify_until=dt.datetime.fromisoformat(until) if until else None,
    )


def _publish(folder: Path) -> None:
    """Makes `service-keys.json` from the private keys that are here; those of services kept elsewhere stay in it."""
    path = folder / _SERVICE_KEYS
    known = dict(_read_services(path).values()) if path.exists() else {}
    mine = {name: _key(folder / _own(name)) for name in SERVICES if (folder / _own(name)).exists()}
    public = {
        "keys": [{**key.as_dict(private=False), "service": name} for name, key in sorted({**known, **mine}.items())]
    }
    if not path.exists() or json.loads(_read(path)) != public:
        _replace(path, _json(public))


def _read_services(path: Path) -> dict[str, tuple[str, ECKey]]:
    with _readable(path):
        return {entry["kid"]: (entry.pop("service"), _import(entry)) for entry in json.loads(_read(path))["keys"]}


def _key(path: Path) -> ECKey:
    with _readable(path):
        key = _import(json.loads(_read(path)))
        if not key.is_private:
            raise ValueError("it holds a public key; a private one is wanted")
        return key


def _import(entry: dict[str, Any]) -> ECKey:
    """An ES256 key with its kid; raises ValueError for any other kind."""
    if entry.get("kty") != "EC" or entry.get("crv") != "P-256" or not entry.get("kid"):
        raise ValueError("it holds a key that is not EC P-256 with a kid")
    return ECKey.import_key(entry)


def _mac_key(path: Path) -> bytes:
    with _readable(path):
        text = _read(path).strip()
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise ValueError(f"it has {len(text)} characters; 64 hexadecimal digits are wanted")
        return bytes.fromhex(text)


# ---------------------------------------------------------------- files


def _missing(path: Path) -> SecretsUnusable:
    return SecretsUnusable(f"the secret {path} is missing; `invochain keys make` makes those that are")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong while a file is understood is told with the file's name, never with what it holds."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as wrong:
        why = str(wrong) if type(wrong) is ValueError else type(wrong).__name__
        raise SecretsUnusable(f"the secret {path} cannot be used: {why}") from None


def _read(path: Path) -> str:
    with open(path, encoding="ascii") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise SecretsUnusable(
                f"the secret {path} is open to others (mode {mode:04o}); `chmod 600` it and rotate it"
            )
        return file.read()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time changes the folder; the lock ends with its holder."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make(path: Path, text: Any) -> None:
    """Writes a file that is not there. A rival that makes it first, without our lock, keeps its own."""
    if path.exists():
        return
    half = _half(path, text())
    try:
        os.link(half, path)
    except FileExistsError:
        pass
    finally:
        half.unlink()
    _settle(path.parent)


def _replace(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never half of it."""
    _half(path, text).replace(path)
    _settle(path.parent)


def _half(path: Path, text: str) -> Path:
    # mkstemp makes files of mode 0600.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(handle, "w", encoding="ascii") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    return Path(name)


def _settle(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
