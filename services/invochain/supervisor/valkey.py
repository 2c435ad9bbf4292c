"""One Valkey (or Redis) server on a loopback port, with a password. A cache: it keeps nothing across a restart.

Losing all of it costs a slower answer and nothing else (PROTOCOL section 7), so it writes no file.
"""

from __future__ import annotations

import asyncio
import signal
import time
from urllib.parse import quote

from invochain.supervisor.binaries import ServerFiles
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.folder import DataFolder
from invochain.supervisor.ports import LOOPBACK
from invochain.supervisor.process import Process, Program

READY_WITHIN_S = 20.0
POLL_S = 0.01

CONFIGURATION = """\
# Written by InvoChain at every start; changes here are lost.
bind {host}
port {port}
requirepass {password}
dir "{folder}"
save ""
appendonly no
daemonize no
# Every key has a time to live; when memory is short, the one that was used longest ago goes first.
maxmemory 256mb
maxmemory-policy volatile-lru
"""


class ValkeyUnit:
    """Writes the configuration and says how to run the server."""

    name = "valkey"

    def __init__(self, files: ServerFiles, folder: DataFolder, port: int) -> None:
        self.files = files.copied_below(folder.programs) if folder.account else files
        self.folder = folder
        self.port = port
        self._password = folder.password("valkey")

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://:{quote(self._password, safe='')}@{self.address}/0"

    def program(self) -> Program:
        folder = self.folder.path / "valkey"
        return Program(
            name=self.name,
            command=[self.files.program(), str(folder / "valkey.conf")],
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C", "TZ": "UTC"},
            folder=folder,
            account=self.folder.account,
            stop_signal=signal.SIGTERM,
            death_signal=signal.SIGKILL,  # there is nothing to save
            stop_within_s=5.0,
        )

    async def prepare(self) -> None:
        folder = self.folder.owned_by_account("valkey")
        escaped = str(folder).replace("\\", "\\\\").replace('"', '\\"')
        text = CONFIGURATION.format(host=LOOPBACK, port=self.port, password=self._password, folder=escaped)
        self.folder.file_for_account(folder, "valkey.conf", text)

    async def ready(self, process: Process) -> None:
        """Return when the server answers PING to our password. Raises CannotStart when it ends or is late."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not await self._answers():
            if process.exit_code is not None:
                raise CannotStart(f"Valkey ended with {process.exit_code}:\n{process.last_words()}")
            if time.monotonic() > deadline_s:
                raise CannotStart(f"Valkey was not ready within {READY_WITHIN_S:g} s:\n{process.last_words()}")
            await asyncio.sleep(POLL_S)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        try:
            writer.write(f"AUTH {self._password}\r\nPING\r\n".encode())
            answer = await asyncio.wait_for(reader.readuntil(b"+PONG\r\n"), 1.0)
            return answer.startswith(b"+OK")
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
