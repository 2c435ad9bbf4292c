"""Keeps the log folder bounded while children write into it.

A child holds its file open and appends, so the file is copied aside and cut to nothing, as logrotate's copytruncate
does. A line written between the copy and the cut is lost; the alternative, a pipe through the supervisor, would make
every process wait for it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

FILE_BYTES_MAX = 16 * 1024 * 1024
KEPT = 2  # name.log.1 and name.log.2: with the live one at most 48 MiB a process
LOOK_EVERY_S = 5.0


def shorten(log: Path, bytes_max: int = FILE_BYTES_MAX) -> bool:
    """Move what a log file holds to `name.log.1` when it has grown beyond its bound; older ones move up, then out."""
    try:
        if log.stat().st_size <= bytes_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT, 1, -1):
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number}"))
    aside = log.with_name(f"{log.name}.1")
    shutil.copyfile(log, aside)
    aside.chmod(0o600)
    os.truncate(log, 0)
    return True


def shorten_all(folder: Path) -> None:
    """Shorten every log of the folder that has grown beyond its bound."""
    for log in folder.glob("*.log"):
        shorten(log)


async def keep_short(folder: Path) -> None:
    """Look at every log of the folder from time to time; runs until it is cancelled."""
    while True:
        await asyncio.to_thread(shorten_all, folder)
        await asyncio.sleep(LOOK_EVERY_S)
