"""The units that are InvoChain itself: three services, the workers, the gateway; and the migrations before them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from invochain.chassis.dial import credentials
from invochain.supervisor.health import grpc_serving, http_ok
from invochain.supervisor.process import Process, Program

SERVICES = ("merchant", "inventory", "invoice")
# The embedded event broker keeps its tables in a database of its own.
DATABASES = (*SERVICES, "broker")

# A service drains for 15 s at most before it closes its connections (chassis/server.py).
STOP_WITHIN_S = 20.0
# Two cores that start five Python processes at once; a loaded machine may be ten times slower than an idle one.
READY_WITHIN_S = 60.0
MIGRATED_WITHIN_S = 300.0


def command(*arguments: str) -> list[str]:
    """The `invochain` command with this very interpreter, whatever the PATH says."""
    return [sys.executable, "-c", "from invochain.cli import main; main()", *arguments]


@dataclass
class RoomUnit:
    """One `invochain` process: a service, or the workers.

    `environment` is complete: what the process gets and nothing else. Ready when gRPC health at `address` says so.
    """

    name: str
    arguments: tuple[str, ...]
    address: str
    metrics_address: str
    environment: Mapping[str, str]
    folder: Path
    ready_within_s: float = READY_WITHIN_S

    async def prepare(self) -> None:
        """Nothing: a room keeps all it needs in its database."""

    def program(self) -> Program:
        port = self.metrics_address.rsplit(":", 1)[1]
        return Program(
            name=self.name,
            command=command(*self.arguments),
            environment={**self.environment, "INVOCHAIN_METRICS_PORT": port, "PYTHONUNBUFFERED": "1"},
            folder=self.folder,
            stop_within_s=STOP_WITHIN_S,
        )

    async def is_ready(self, process: Process) -> bool:
        named = (self.environment.get(f"INVOCHAIN_TLS_{name}_FILE") for name in ("CA", "CERT", "KEY"))
        return await grpc_serving(self.address, credentials(*(Path(name) if name else None for name in named)))


@dataclass
class GatewayUnit:
    """The Go gateway: REST in front of the services."""

    binary: Path
    address: str
    metrics_address: str
    environment: Mapping[str, str]
    folder: Path
    name: str = "gateway"
    ready_within_s: float = READY_WITHIN_S

    async def prepare(self) -> None:
        """Nothing: the gateway keeps no state."""

    def program(self) -> Program:
        return Program(
            name=self.name,
            command=[str(self.binary)],
            environment={**self.environment, "INVOCHAIN_GATEWAY_METRICS_ADDRESS": self.metrics_address},
            folder=self.folder,
            stop_within_s=STOP_WITHIN_S,
        )

    async def is_ready(self, process: Process) -> bool:
        # Not at its address: REST may be over TLS.
        return await http_ok(self.metrics_address, "/readyz")


def migration(environment: Mapping[str, str], folder: Path) -> Program:
    """Brings every database up to date; safe to run at each start, and while an older release serves."""
    return Program("migrate", command("migrate", "all"), environment, folder)
