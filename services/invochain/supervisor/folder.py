"""The data folder: who may look into which part, the lock on it, and the passwords kept there.

    DATA/                 0711  the account of the databases may pass through, not look around
      lock                0600  held by the running supervisor (flock)
      stack.json          0600  ports, addresses, pids; see state.py
      passwords/          0700  of the database roles and the cache, each 0600
      secrets/            0700  keys of the services; see chassis/secrets.py
      log/                0700  one file a process, bounded
      bin/                0755  copies of server programs, only when root
      postgres/ replica/ valkey/  0700  owned by the account
      run/                0711  unix sockets, owned by the account

Nothing outside this folder is ever changed.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from invochain.supervisor.account import Account, first_closed_folder
from invochain.supervisor.errors import CannotStart

# Held by the running supervisor; its being there says that a folder is ours.
LOCK = "lock"
# sun_path holds 108 bytes on Linux and 104 on macOS; `.s.PGSQL.65535.lock` is 19 of them.
SOCKET_FOLDER_BYTES_MAX = 104 - 20


def default_data_folder() -> Path:
    """/var/lib/invochain for root, else invochain below XDG_DATA_HOME (~/.local/share)."""
    if os.geteuid() == 0:
        return Path("/var/lib/invochain")
    share = os.environ.get("XDG_DATA_HOME", "") or Path.home() / ".local" / "share"
    return Path(share) / "invochain"


class DataFolder:
    """A data folder that this process may use; `account` is whom its databases run as, None for ourselves."""

    def __init__(self, path: Path, account: Account | None) -> None:
        self.path = path.expanduser().resolve()
        self.account = account
        self._lock: IO[str] | None = None

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def passwords(self) -> Path:
        return self.path / "passwords"

    @property
    def programs(self) -> Path:
        return self.path / "bin"

    @property
    def sockets(self) -> Path | None:
        """Where unix sockets go; None when the path is too long for the operating system to hold one."""
        folder = self.path / "run"
        return folder if len(os.fsencode(folder)) <= SOCKET_FOLDER_BYTES_MAX else None

    def prepare(self) -> None:
        """Make the folder and its parts. Raises CannotStart when it cannot be made, used, or reached by the account."""
        self._check_the_way(self.path)
        try:
            self._check_it_is_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600))  # first: it marks the folder as ours
            self.path.chmod(0o711)
            closed_to_others = (self.passwords, self.secrets, self.log)
            for part, mode in (*((part, 0o700) for part in closed_to_others), (self.programs, 0o755)):
                part.mkdir(exist_ok=True)
                part.chmod(mode)
        except OSError as error:
            raise CannotStart(
                f"the data folder {self.path} cannot be used: {error.strerror}", "choose another one with --data-dir"
            ) from None
        self._check_the_way(self.path / "postgres")  # again: a strict umask closes the parents that were just made
        if self.sockets:
            self.owned_by_account("run", 0o711)

    def _check_it_is_ours(self) -> None:
        """We change the permissions of our folder, so it must not be one that others live in: a home, or /tmp."""
        if self.path.exists() and not (self.path / LOCK).exists() and any(self.path.iterdir()):
            raise CannotStart(
                f"{self.path} holds files that are not InvoChain's", "name a folder of its own with --data-dir"
            )

    def _check_the_way(self, path: Path) -> None:
        """Whether the account may go where `path` is; what is not there yet is not in the way."""
        if self.account and (closed := first_closed_folder(path, self.account)):
            raise CannotStart(
                f"{closed} is closed to {self.account.name!r}, whom the databases run as; its permissions are not ours",
                "choose a folder that every user may pass through, such as --data-dir /var/lib/invochain",
            )

    def owned_by_account(self, name: str, mode: int = 0o700) -> Path:
        """A part of the folder that belongs to the account of the databases."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        if self.account and folder.stat().st_uid != self.account.uid:
            _give(folder, self.account)
        folder.chmod(mode)
        return folder

    def file_for_account(self, folder: Path, name: str, text: str) -> Path:
        """Write a file that only the account may read, replacing it as a whole."""
        half = folder / f".{name}.half"
        half.unlink(missing_ok=True)
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
        if self.account:
            os.chown(half, self.account.uid, self.account.gid)
        return half.rename(folder / name)

    def lock(self) -> None:
        """Hold the folder until `unlock` or our end. Raises CannotStart when another supervisor has it."""
        path = self.path / LOCK
        held = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = held.read().strip() or "unknown"
            held.close()
            raise CannotStart(
                f"the data folder {self.path} is already in use by `invochain up` with process id {owner}",
                "stop that one first (Ctrl-C there), or choose another folder with --data-dir, or use --ephemeral",
            ) from None
        held.truncate(0)
        held.write(f"{os.getpid()}\n")
        held.flush()
        self._lock = held

    @property
    def locked(self) -> bool:
        """Whether we hold the folder."""
        return self._lock is not None

    def unlock(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    def password(self, name: str) -> str:
        """The password called `name`: 32 URL-safe characters, made at the first call and kept since."""
        path = self.passwords / name
        if not path.exists():
            half = path.with_name(f".{name}.half")
            half.unlink(missing_ok=True)
            with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as out:
                out.write(secrets.token_urlsafe(24) + "\n")
                out.flush()
                os.fsync(out.fileno())
            half.rename(path)
        return path.read_text(encoding="ascii").strip()


def _give(top: Path, account: Account) -> None:
    """Make `account` the owner of `top` and all below it; needed when INVOCHAIN_RUN_AS changes between two starts."""
    os.chown(top, account.uid, account.gid)
    for parent, folders, files in os.walk(top):
        for name in (*folders, *files):
            os.chown(Path(parent, name), account.uid, account.gid, follow_symlinks=False)
