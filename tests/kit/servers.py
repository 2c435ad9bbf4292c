"""Real servers for tests, by the supervisor's own code: durable as in production, on free ports, gone afterwards.

Each lives in a folder of its own below the temporary folder. Every method comes twice: `await server.start()` inside an
event loop, `server.start_now()` outside of one. Start a server from a thread that outlives it (the main one): the
kernel ends it with the thread that started it.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

from invochain.supervisor import unit
from invochain.supervisor.account import unprivileged_account
from invochain.supervisor.binaries import postgres_files, valkey_files
from invochain.supervisor.folder import DataFolder
from invochain.supervisor.ports import LOOPBACK, free_port
from invochain.supervisor.postgres import PostgresUnit
from invochain.supervisor.process import Process
from invochain.supervisor.replica import ReplicaUnit
from invochain.supervisor.valkey import ValkeyUnit

_T = TypeVar("_T")


class _Server:
    """What both servers share: start, stop, kill, restart, freeze. The port and the data stay the same throughout."""

    def __init__(self, name: str) -> None:
        # A short name: unix socket paths are limited to about 100 characters.
        self.folder = DataFolder(Path(tempfile.mkdtemp(prefix=f"ic-{name}-")), unprivileged_account())
        self.folder.prepare()
        self.port = free_port()
        self.host = LOOPBACK
        self._name = name
        self._process: Process | None = None
        self._unit: unit.Unit = self._make_unit()

    def _make_unit(self) -> unit.Unit:
        raise NotImplementedError

    @property
    def process(self) -> Process:
        if self._process is None:
            raise AssertionError(f"the {self._name} test server is not running; call start() first")
        return self._process

    @property
    def runs(self) -> bool:
        return self._process is not None

    async def start(self) -> Self:
        """Start it and return when it answers. The first start of PostgreSQL makes the cluster (about a second)."""
        assert self._process is None, f"the {self._name} test server is running already"
        self._process = await unit.start(self._unit, self.folder.log)
        return self

    async def stop(self) -> None:
        """End it in good order; the data stay. Does nothing when it is not running."""
        if self._process is not None:
            process, self._process = self._process, None
            await process.stop()

    async def kill9(self) -> None:
        """End it and its children by SIGKILL, as a power failure would."""
        process, self._process = self.process, None
        await process.kill9()

    async def restart(self) -> None:
        """Stop it if it runs, start it again on the same port with the same data."""
        await self.stop()
        await self.start()

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP, with its children): connections stay open and nothing answers."""
        self.process.signal_family(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.signal_family(signal.SIGCONT)

    async def discard(self) -> None:
        """Kill it and remove its folder: the data were this test's alone, so nothing waits for a checkpoint."""
        if self._process is not None:
            await self.kill9()
        shutil.rmtree(self.folder.path)

    def start_now(self) -> Self:
        return _now(self.start())

    def stop_now(self) -> None:
        _now(self.stop())

    def kill9_now(self) -> None:
        _now(self.kill9())

    def restart_now(self) -> None:
        _now(self.restart())

    def discard_now(self) -> None:
        _now(self.discard())

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.discard()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.discard()

    def __enter__(self) -> Self:
        return _now(self.__aenter__())

    def __exit__(self, *_: object) -> None:
        self.discard_now()


class PostgresServer(_Server):
    """A PostgreSQL cluster of its own. POSTGRES_BIN chooses the programs, as for `invochain up`."""

    def __init__(self) -> None:
        super().__init__("postgres")

    def _make_unit(self) -> PostgresUnit:
        self.unit = PostgresUnit(postgres_files(), self.folder, self.port)
        return self.unit

    @property
    def version(self) -> str:
        return self.unit.files.version

    @property
    def data(self) -> Path:
        """The cluster's folder (PGDATA)."""
        return self.unit.data

    def password(self, role: str) -> str:
        return self.folder.password("postgres" if role == "postgres" else f"postgres-{role}")

    def dsn(self, role: str = "postgres", database: str | None = None, *, socket: bool = True) -> str:
        """The URL of `database` (default: the role's own) for `role`; `postgres` is the superuser."""
        return self.unit.server.url(role, self.password(role), database or role, socket=socket)

    async def make_database(self, name: str) -> str:
        """Make a role and a database of one name, as `invochain up` does for each service; returns its URL."""
        return await self.unit.make_database(name)

    def make_database_now(self, name: str) -> str:
        return _now(self.make_database(name))


class ReplicaServer(_Server):
    """A streaming replica of a test's PostgreSQL, in the folder of that one, which must run when it is started."""

    def __init__(self, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__("replica")

    def _make_unit(self) -> ReplicaUnit:
        self.unit = ReplicaUnit(self._primary.unit, self.port)
        return self.unit

    async def start(self) -> Self:
        assert self._process is None, "the replica runs already"
        self._process = await unit.start(self._unit, self._primary.folder.log)
        return self

    def dsn(self, role: str = "postgres", database: str | None = None) -> str:
        return self.unit.server.url(role, self._primary.password(role), database or role)

    async def discard(self) -> None:
        """Kill it, and let the primary forget it."""
        if self._process is not None:
            await self.kill9()
        shutil.rmtree(self.folder.path)
        shutil.rmtree(self.unit.data, ignore_errors=True)


class ValkeyServer(_Server):
    """A Valkey server of its own. VALKEY_BIN chooses the program, as for `invochain up`."""

    def __init__(self) -> None:
        super().__init__("valkey")

    def _make_unit(self) -> ValkeyUnit:
        self.unit = ValkeyUnit(valkey_files(), self.folder, self.port)
        return self.unit

    @property
    def url(self) -> str:
        return self.unit.url


def _now(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)
