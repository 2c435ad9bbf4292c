"""The server of a process: its servicers, health and reflection behind one door (transport).

What is done for each call is in handler.py, what a method may ask for in rpc.py. Nothing in a servicer ever sees a
transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invochain.chassis.door import Door, Tls
from invochain.chassis.grpcio_door import GrpcioDoor
from invochain.chassis.handler import Authenticator, Handler
from invochain.chassis.health import Health
from invochain.chassis.reflection import NAMES as REFLECTION
from invochain.chassis.reflection import Reflection
from invochain.chassis.rpc import methods
from invochain.chassis.settings import Settings, Transport, settings
from invochain.chassis.tonic_door import TonicDoor

DRAIN_S = 15.0


def tls_of(config: Settings) -> Tls | None:
    """The certificates that the settings name. Raises OSError: a file cannot be read."""
    if config.tls_cert_file is None or config.tls_key_file is None:
        return None
    authorities = config.tls_client_ca_file
    return Tls(
        config.tls_cert_file.read_bytes(),
        config.tls_key_file.read_bytes(),
        authorities.read_bytes() if authorities else None,
    )


class Server:
    """The servicers of a process, served."""

    def __init__(
        self,
        name: str,
        authenticator: Authenticator | None,
        *,
        reflection_on: bool = True,
        reuse_port: bool = False,
        transport: Transport | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._handler = Handler(name, authenticator)
        self._reflection_on, self._reuse_port = reflection_on, reuse_port
        self._transport, self._tls = transport or settings().transport, tls
        self._health = Health()
        self._servicers: list[Any] = []
        self._door: Door | None = None

    def add(self, servicer: Any) -> None:
        """Serves every `@rpc` method of the servicer under its `service` name."""
        self._servicers.append(servicer)

    async def start(self, address: str) -> int:
        """Listens on host:port (port 0: a free one), says SERVING, and returns the port."""
        served = [*self._servicers, self._health]
        if self._reflection_on:
            names = (*self._names(), Health.service, REFLECTION[0])
            served += [Reflection(name, names) for name in REFLECTION]
        served_methods = [method for servicer in served for method in methods(servicer)]
        kind = GrpcioDoor if self._transport == "grpcio" else TonicDoor
        self._door = kind(self._handler, served_methods, reuse_port=self._reuse_port, tls=self._tls)
        port = await self._door.start(address)
        self.ready(True)
        return port

    def _names(self) -> Sequence[str]:
        return [servicer.service for servicer in self._servicers]

    def ready(self, ready: bool) -> None:
        """Readiness. Liveness is the service name `live`, which serves for as long as the process answers."""
        self._health.set(("", *self._names()), ready)

    async def drain(self, within_s: float = DRAIN_S) -> None:
        """NOT_SERVING first, then no new calls; returns when those under way are answered, or the time is over."""
        self.ready(False)
        self._health.close()
        self._handler.stop()
        if self._door is not None:
            await self._door.drain(within_s)
