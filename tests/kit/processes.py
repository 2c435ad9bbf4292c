"""InvoChain as the processes it is in production: each can be killed, stopped, armed with a fault and started again.

On real PostgreSQL and Valkey, by the supervisor's own code, on ports that stay the same across restarts. What the
market of one process (market.py) does for use cases, this does for crashes. Between any two of them a link
(fault_proxy.py) may be put, by the names `caller>callee`:

    client>gateway  gateway>invoice  invoice>inventory  workers>inventory     (any service)
    invoice>invoice-database  workers>broker-database  invoice>redis          (any process)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import grpc
import httpx

from invochain.api.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.chassis import dial, secrets
from invochain.chassis.settings import Settings
from invochain.chassis.settings import settings as process_settings
from invochain.supervisor import unit
from invochain.supervisor.ports import LOOPBACK, free_port
from invochain.supervisor.process import Process
from invochain.supervisor.rooms import GatewayUnit, RoomUnit
from invochain.supervisor.stack import gateway_binary
from tests.kit.fault_proxy import Link
from tests.kit.market import ROOMS, Market
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer

SERVICES = ("merchant", "inventory", "invoice")
COMMANDS = {**{name: ("serve", name) for name in SERVICES}, "workers": ("run", "workers")}
# A client that finds a killed service again soon after it is back.
RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
]


@dataclass
class Processes:
    """The processes of one InvoChain, by name: merchant, inventory, invoice, workers, and perhaps gateway.

    A setting of `environment` is every process's, one of `own` that of the process named.
    """

    environment: Mapping[str, str]
    ports: dict[str, int]
    folder: Path
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)
    # Where in its log the words of a running process begin.
    _begin: dict[str, int] = field(default_factory=dict)

    async def start(self, name: str, fault: str = "") -> Process:
        """Starts one and returns when it is ready; `fault` as INVOCHAIN_FAULT.

        `invoice#2` is a second one of `invoice`, at the same address (INVOCHAIN_REUSE_PORT).
        """
        assert name not in self.running, f"{name} is running"
        room = name.partition("#")[0]
        beside = [other for other in self.running if other.partition("#")[0] == room]
        if name != room and f"{name}-metrics" not in self.ports:
            self.ports[f"{name}-metrics"] = free_port((), set(self.ports.values()))
        log = self._log(name)
        self._begin[name] = log.stat().st_size if log.exists() else 0
        environment = {**self.environment, **self.own.get(room, {}), "INVOCHAIN_FAULT": fault}
        address, metrics = f"{LOOPBACK}:{self.ports[room]}", f"{LOOPBACK}:{self.ports[name + '-metrics']}"
        what: unit.Unit
        if name == "gateway":
            what = GatewayUnit(gateway_binary(), address, metrics, environment, self.folder)
        else:
            what = RoomUnit(name, COMMANDS[room], address, metrics, environment, self.folder)
        process = await unit.start(what, self.folder)
        self.running[name] = process
        if beside:
            # The health that was asked may have been the other's.
            await self.said(name, '"serving"', what.ready_within_s)
        return process

    async def start_all(self) -> None:
        """Services first, then who needs them."""
        await asyncio.gather(*(self.start(name) for name in SERVICES))
        await asyncio.gather(*(self.start(name) for name in ("workers", "gateway") if name in self.ports))

    def missing(self) -> list[str]:
        """Those of `start_all` that do not run now."""
        return [name for name in (*SERVICES, "workers", "gateway") if name in self.ports and name not in self.running]

    def freeze(self, name: str) -> None:
        """SIGSTOP: connections stay open and nobody answers, until `go_on`."""
        self.running[name].signal(SIGSTOP)

    async def metric(self, name: str, metric: str) -> float:
        """The sum of a metric's samples in a process, over the lines that begin so: `outbox_oldest{room="invoice"`."""
        async with httpx.AsyncClient(timeout=5) as client:
            text = (await client.get(f"http://{LOOPBACK}:{self.ports[f'{name}-metrics']}/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(metric))

    async def reached(self, name: str, metric: str, at_least: float, within_s: float) -> float:
        """Waits until a metric of a process is so large; how large it is then."""
        async with asyncio.timeout(within_s):
            while (found := await self.metric(name, metric)) < at_least:
                await asyncio.sleep(0.1)
        return found

    async def stop(self, name: str) -> None:
        """Ends one in good order."""
        await self.running.pop(name).stop()

    async def restart(self, name: str, fault: str = "") -> Process:
        await self.stop(name)
        return await self.start(name, fault)

    async def death(self, name: str, within_s: float) -> float:
        """Waits until a fault has killed a process; when that was, by the monotonic clock.

        A run whose fault did not happen is void: AssertionError.
        """
        process = self.running[name]
        try:
            code = await asyncio.wait_for(process.ended(), within_s)
        except TimeoutError:
            raise AssertionError(f"void: {name} is alive after {within_s:g} s, its fault did not happen") from None
        died = time.monotonic()
        await self.running.pop(name).kill9()
        assert code == -SIGKILL, f"void: {name} {unit.describe_end(code)}:\n{process.last_words()}"
        return died

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def said(self, name: str, words: str, within_s: float) -> None:
        """Waits until a process has logged some words since it was started."""
        try:
            async with asyncio.timeout(within_s):
                while words.encode() not in self._log(name).read_bytes()[self._begin[name] :]:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"void: {name} did not say {words!r} within {within_s:g} s") from None

    async def stopped(self, name: str, within_s: float) -> None:
        """Waits until a fault has stopped (SIGSTOP) a process."""
        stat = Path(f"/proc/{self.running[name].pid}/stat")
        try:
            async with asyncio.timeout(within_s):
                while stat.read_text().rpartition(")")[2].split()[0] != "T":
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"void: {name} runs after {within_s:g} s, its fault did not happen") from None

    def go_on(self, name: str) -> None:
        self.running[name].signal(SIGCONT)

    async def kill9(self, name: str) -> float:
        """Ends one as a power failure would; when that was, by the monotonic clock."""
        code = await self.running.pop(name).kill9()
        assert code == -SIGKILL, f"void: {name} {unit.describe_end(code)}"
        return time.monotonic()

    async def kill_all(self) -> None:
        """Nothing is left: the data are the test's alone."""
        await asyncio.gather(*(self.running.pop(name).kill9() for name in list(self.running)))


async def open_processes(
    stack: AsyncExitStack,
    postgres: PostgresServer | Mapping[str, PostgresServer],
    valkey: ValkeyServer,
    folder: Path,
    *,
    gateway: bool = False,
    links: Collection[str] = (),
    replica: ReplicaServer | None = None,
    **environment: Any,
) -> tuple[Processes, Market]:
    """Starts all processes on databases of their own, copied from migrated templates; and a market over their doors.

    `postgres`: one server, or one by room. `links`: names as above. `replica`: of the invoice's server, to read from.
    `environment`: settings by their variable's name.
    """
    servers = postgres if isinstance(postgres, Mapping) else dict.fromkeys(ROOMS, postgres)
    names = {room: f"{room}_p{free_port()}" for room in ROOMS}
    for room, server in servers.items():
        await _superuser(server, f"CREATE DATABASE {names[room]} TEMPLATE {room} OWNER {room}")
    databases = {room: server.dsn(room, names[room]) for room, server in servers.items()}

    async def drop() -> None:
        for room, server in servers.items():
            if server.runs:
                await _superuser(server, f"DROP DATABASE IF EXISTS {names[room]} WITH (FORCE)")

    stack.push_async_callback(drop)
    if replica is not None:
        environment["INVOCHAIN_INVOICE_REPLICA_URLS"] = replica.dsn("invoice", names["invoice"])
    secrets.ensure(folder / "secrets")
    taken: set[int] = set()
    ports = {}
    for name in (*COMMANDS, *(["gateway"] if gateway else [])):
        for purpose in (name, f"{name}-metrics"):
            ports[purpose] = free_port((), taken)
            taken.add(ports[purpose])
    given = {
        **{f"INVOCHAIN_{room.upper()}_DATABASE_URL": dsn for room, dsn in databases.items()},
        **{
            f"INVOCHAIN_{name.upper()}_ADDRESS": f"{LOOPBACK}:{ports[name]}"
            for name in (*COMMANDS, "gateway")
            if name in ports
        },
        "INVOCHAIN_REDIS_URL": valkey.url,
        # The whole suite runs on either transport.
        "INVOCHAIN_TRANSPORT": process_settings().transport,
        "INVOCHAIN_SECRETS_DIR": str(folder / "secrets"),
        # What a password hash costs is not what these tests are about, nor how many calls an address may make.
        "INVOCHAIN_PASSWORD_MEMORY_KIB": "64",
        "INVOCHAIN_PASSWORD_PASSES": "1",
        "INVOCHAIN_GATEWAY_IP_LIMIT": "0",
        "INVOCHAIN_GATEWAY_AUTH_LIMIT": "0",
        **{name: str(value) for name, value in environment.items()},
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("INVOCHAIN_")}
    processes = Processes({**theirs, **given}, ports, folder)
    for link in links:
        await _open_link(stack, processes, link, servers, names)
    stack.push_async_callback(processes.kill_all)
    await processes.start_all()
    fields = {name.removeprefix("INVOCHAIN_").lower(): value for name, value in given.items()}
    settings = Settings(**{name: value for name, value in fields.items() if name in Settings.model_fields})
    market = Market(settings, databases, None, None, None, stack)  # type: ignore[arg-type]
    for name in SERVICES:
        channel = _channel(f"{LOOPBACK}:{ports[name]}", settings)
        market.channels[name] = await stack.enter_async_context(channel)
    market.merchants = MerchantServiceStub(market.channels["merchant"])
    market.inventory = InventoryServiceStub(market.channels["inventory"])
    market.invoices = InvoiceServiceStub(market.channels["invoice"])
    return processes, market


def _channel(address: str, settings: Settings) -> grpc.aio.Channel:
    secure = dial.credentials(settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    return dial.channel(grpc.aio, address, secure, RECONNECT)


async def _superuser(server: PostgresServer, sql: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _open_link(
    stack: AsyncExitStack,
    processes: Processes,
    name: str,
    servers: Mapping[str, PostgresServer],
    databases: Mapping[str, str],
) -> None:
    """Puts a link between two, by the caller's own setting of where the callee is."""
    caller, callee = name.split(">")
    if callee.endswith("-database"):
        room = callee.removesuffix("-database")
        setting, url = f"INVOCHAIN_{room.upper()}_DATABASE_URL", servers[room].dsn(room, databases[room], socket=False)
    elif callee == "redis":
        setting, url = "INVOCHAIN_REDIS_URL", processes.environment["INVOCHAIN_REDIS_URL"]
    else:
        setting, url = f"INVOCHAIN_{callee.upper()}_ADDRESS", f"//{LOOPBACK}:{processes.ports[callee]}"
    parts = urlsplit(url)
    assert parts.hostname and parts.port, f"{name}: {callee} has no port"
    link = processes.links[name] = await Link(name, parts.hostname, parts.port).start()
    stack.push_async_callback(link.close)
    who = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    through = urlunsplit(parts._replace(netloc=f"{who}{LOOPBACK}:{link.port}"))
    processes.own.setdefault(caller, {})[setting] = through.removeprefix("//")
