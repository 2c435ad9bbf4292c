"""Whom the database servers run as: ourselves, or an unprivileged account when we are root.

PostgreSQL refuses to run as root, and Valkey should not. No account is ever created: that would change the machine
outside our own folder. In order: the account named by INVOCHAIN_RUN_AS, one called `invochain`, else `nobody`. An
operator who shares the machine with other programs that run as `nobody` makes the first of them:
`useradd --system --no-create-home --shell /usr/sbin/nologin invochain`.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from invochain.supervisor.errors import CannotStart

PREFERRED = ("invochain", "nobody")
MAKE_ONE = "make one: useradd --system --no-create-home --shell /usr/sbin/nologin invochain"


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """The account for the servers, or None when we are not root and simply run them as ourselves.

    Raises CannotStart when INVOCHAIN_RUN_AS names nobody or root, or no account is there.
    """
    if os.geteuid() != 0:
        return None
    chosen = os.environ.get("INVOCHAIN_RUN_AS", "")
    for name in (chosen,) if chosen else PREFERRED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise CannotStart(f"INVOCHAIN_RUN_AS is {name!r}, which is root; PostgreSQL refuses that", MAKE_ONE)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    wanted = repr(chosen) if chosen else " or ".join(PREFERRED)
    raise CannotStart(f"run as root, the databases need an unprivileged account, and there is no {wanted}", MAKE_ONE)


def first_closed_folder(path: Path, account: Account) -> Path | None:
    """The outermost existing parent of `path` that `account` may not enter, or None when the way is open."""
    for folder in reversed(path.resolve().parents):
        if not folder.exists():
            return None
        found = folder.stat()
        if found.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif found.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed:
            return folder
    return None
