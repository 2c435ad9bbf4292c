"""One Valkey (or Redis) server on a loopback port, with a password. A cache: it keeps nothing across a restart.

Losing all of it costs a slower answer and nothing else (PROTOCOL section 7), so it writes no file.
"""

from __future__ import annotations

import asyncio
import signal
from urllib.parse import quote

from invochain.supervisor.binaries import ServerFiles
from invochain.supervisor.folder import DataFolder
from invochain.supervisor.ports import LOOPBACK
from invochain.supervisor.process import Process, Program

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
    ready_within_s = 20.0

    def __init__(self, files: ServerFiles, folder: DataFolder, port: int) -> None:
        self.files = files.copied_below(folder.programs) if folder.account else files
        self.folder = folder
        self.port = port
        self.address = f"{LOOPBACK}:{port}"
        self._password = folder.password("valkey")

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

    async def is_ready(self, process: Process) -> bool:
        """Whether it answers PING to our password."""
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
