"""A whole InvoChain on this machine: which servers are ours, on which ports, in which order.

Databases and cache that the user has of their own (INVOCHAIN_*_URL) are used; the others are started here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from invochain.chassis import secrets
from invochain.supervisor import logs
from invochain.supervisor.account import unprivileged_account
from invochain.supervisor.binaries import postgres_files, valkey_files
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.folder import DataFolder
from invochain.supervisor.ports import LOOPBACK, free_port, is_free
from invochain.supervisor.postgres import PostgresUnit
from invochain.supervisor.process import run_to_end
from invochain.supervisor.replica import ReplicaUnit, forget_replica
from invochain.supervisor.rooms import DATABASES, MIGRATED_WITHIN_S, SERVICES, GatewayUnit, RoomUnit, migration
from invochain.supervisor.state import StackState, chosen_data_folder, read_state
from invochain.supervisor.supervisor import Say, Supervisor, first_cause
from invochain.supervisor.unit import Unit
from invochain.supervisor.valkey import ValkeyUnit

# Where people will look first. Taken when free and nothing else was asked for; a throw-away stack takes random ones.
USUAL_PORTS = {"gateway": 8080, "merchant": 7001, "inventory": 7002, "invoice": 7003}
PURPOSES = (
    *USUAL_PORTS,
    "workers",
    "postgres",
    "replica",
    "valkey",
    *(f"{name}-metrics" for name in (*SERVICES, "workers", "gateway")),
)


@dataclass(frozen=True)
class Options:
    """What the user chose. `ports` names purposes of PURPOSES; a port that is named and not free is refused."""

    data_folder: Path | None = None
    ephemeral: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    # Processes of each service.
    workers: int = 1
    gateway_binary: Path | None = None
    # A streaming replica of the embedded PostgreSQL that answers the invoice service's reads.
    replica: bool = False


class Stack:
    """One stack, from `start` to `stop`. Its methods are called from one event loop, in the main thread."""

    def __init__(self, options: Options, say: Say) -> None:
        self._options = options
        self._say = say
        self._account = unprivileged_account()
        if options.ephemeral:
            path = Path(tempfile.mkdtemp(prefix="invochain-"))
        else:
            path = options.data_folder or chosen_data_folder()
        self.folder = DataFolder(path, self._account)
        self._supervisor = Supervisor(self.folder.log, say, changed=self._write_state)
        self._log_keeper: asyncio.Task[None] | None = None
        self.state = StackState(
            state="starting", pid=os.getpid(), data_folder=self.folder.path, ephemeral=options.ephemeral
        )

    async def start(self) -> None:
        """Bring everything up and return when all is healthy. Raises CannotStart; call `stop` in any case."""
        gateway = self._gateway_binary()
        self.folder.prepare()
        self.folder.lock()
        whom = f"; the databases run as {self._account.name}" if self._account else ""
        self._say(f"data folder {self.folder.path}{whom}")
        secrets.ensure(self.folder.secrets)
        self.state.ports = self._choose_ports()
        self._write_state()
        self._log_keeper = asyncio.create_task(logs.keep_short(self.folder.log))
        try:
            await self._start_servers()
            environment = {**os.environ, **self.state.environment}
            await run_to_end(
                migration(environment, self.folder.path), self.folder.log / "migrate.log", MIGRATED_WITHIN_S
            )
            self._say("databases  migrated")
            await self._supervisor.start(*self._services(environment))
            await self._supervisor.start(self._workers(environment), self._gateway(gateway, environment))
        except BaseExceptionGroup as group:
            raise first_cause(group) from None
        self.state.state = "ready"
        self._write_state()

    async def stop(self) -> None:
        """Stop in the reverse order and leave the folder to others; a throw-away folder is removed."""
        self.state.state = "stopping"
        await self._supervisor.stop()
        await self._leave()

    async def kill(self) -> None:
        """Stop at once, without waiting for open requests."""
        await self._supervisor.kill()
        await self._leave()

    async def _leave(self) -> None:
        if self._log_keeper:
            self._log_keeper.cancel()
            await asyncio.gather(self._log_keeper, return_exceptions=True)
        if self._options.ephemeral:
            await asyncio.to_thread(shutil.rmtree, self.folder.path, ignore_errors=True)
        elif self.folder.locked:
            self.state.state, self.state.environment = "stopped", {}
            self._write_state()
        self.folder.unlock()

    def _write_state(self) -> None:
        self.state.pids = self._supervisor.pids
        self.state.write()

    def _choose_ports(self) -> dict[str, int]:
        before = read_state(self.folder.path)
        chosen: dict[str, int] = {}
        taken: set[int] = set()
        for purpose, port in self._options.ports.items():
            if purpose not in PURPOSES:
                raise CannotStart(f"there is no port called {purpose!r}", f"there are: {', '.join(PURPOSES)}")
            if not is_free(port) or port in taken:
                raise CannotStart(
                    f"port {port} for {purpose} is in use", f"choose another one: --port {purpose}=NUMBER"
                )
            chosen[purpose] = port
            taken.add(port)
        for purpose in PURPOSES:
            if purpose not in chosen:
                preferred = [before.ports[purpose]] if before and purpose in before.ports else []
                if purpose in USUAL_PORTS and not self._options.ephemeral:
                    preferred.append(USUAL_PORTS[purpose])
                chosen[purpose] = free_port(tuple(preferred), taken)
        return chosen

    def _address(self, purpose: str) -> str:
        return f"{LOOPBACK}:{self.state.ports[purpose]}"

    async def _start_servers(self) -> None:
        """Start the servers that the user does not have, and fill in the settings that lead to all of them."""
        theirs = {name: os.environ[variable] for name in DATABASES if os.environ.get(variable := url_setting(name))}
        ours = [name for name in DATABASES if name not in theirs]
        stage: list[Unit] = []
        postgres = valkey = None
        if self._options.replica and "invoice" in theirs:
            raise CannotStart(
                f"--replica copies the embedded database, and {url_setting('invoice')} names one of your own",
                f"name its replicas in {REPLICAS}, or leave --replica out",
            )
        if ours:
            postgres = PostgresUnit(postgres_files(), self.folder, self.state.ports["postgres"])
            stage.append(postgres)
            self.state.addresses["postgres"] = postgres.address
        if not (redis_url := os.environ.get("INVOCHAIN_REDIS_URL", "")):
            valkey = ValkeyUnit(valkey_files(), self.folder, self.state.ports["valkey"])
            stage.append(valkey)
            self.state.addresses["valkey"] = valkey.address
            redis_url = valkey.url
        await self._supervisor.start(*stage)
        urls = dict(theirs)
        for name in ours:
            assert postgres is not None
            urls[name] = await postgres.make_database(name)
        replica_url = ""
        if postgres is not None and self._options.replica:
            replica_url = await self._start_replica(postgres)
        elif postgres is not None:
            await forget_replica(postgres)
        for name in theirs:
            self._say(f"{name:<10} database of your own ({url_setting(name)})")
        self.state.environment = {
            **{url_setting(name): url for name, url in urls.items()},
            "INVOCHAIN_REDIS_URL": redis_url,
            **({REPLICAS: replica_url} if replica_url else {}),
            "INVOCHAIN_SECRETS_DIR": str(self.folder.secrets),
            **{f"INVOCHAIN_{name.upper()}_ADDRESS": self._address(name) for name in (*SERVICES, "workers", "gateway")},
        }
        self._write_state()

    async def _start_replica(self, postgres: PostgresUnit) -> str:
        """Start the copy, which has every role and database of its primary; the URL of the invoice service's."""
        replica = ReplicaUnit(postgres, self.state.ports["replica"])
        await self._supervisor.start(replica)
        self.state.addresses["replica"] = replica.address
        return replica.server.url("invoice", self.folder.password("postgres-invoice"), "invoice")

    def _services(self, environment: Mapping[str, str]) -> list[Unit]:
        workers = str(self._options.workers)
        return [self._room(name, ("serve", name, "--workers", workers), environment) for name in SERVICES]

    def _workers(self, environment: Mapping[str, str]) -> Unit:
        return self._room("workers", ("run", "workers"), environment)

    def _room(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> Unit:
        address = self.state.addresses[name] = self._address(name)
        return RoomUnit(name, arguments, address, self._metrics(name), environment, self.folder.path)

    def _gateway(self, binary: Path, environment: Mapping[str, str]) -> Unit:
        address = self.state.addresses["gateway"] = self._address("gateway")
        return GatewayUnit(binary, address, self._metrics("gateway"), environment, self.folder.path)

    def _metrics(self, name: str) -> str:
        address = self._address(f"{name}-metrics")
        self.state.metrics[name] = f"http://{address}/metrics"
        return address

    def _gateway_binary(self) -> Path:
        binary = self._options.gateway_binary or gateway_binary()
        if not os.access(binary, os.X_OK):
            raise CannotStart(f"there is no gateway program at {binary}", "build it with `make build`")
        return binary


def gateway_binary() -> Path:
    """Where the gateway is: INVOCHAIN_GATEWAY_BIN, else where `make build` puts it."""
    chosen = os.environ.get("INVOCHAIN_GATEWAY_BIN", "")
    if chosen:
        return Path(chosen).expanduser()
    return Path(__file__).resolve().parents[2] / "gateway" / "bin" / "invochain-gateway"


# The setting that names the invoice database's read replicas.
REPLICAS = "INVOCHAIN_INVOICE_REPLICA_URLS"


def url_setting(database: str) -> str:
    """The setting that names a database of the user's own."""
    return f"INVOCHAIN_{database.upper()}_DATABASE_URL"
