"""grpc.health.v1 as a servicer: whether a service is ready, asked once or watched.

Written against the seam and not taken from the grpcio library, so that every transport has the same one.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from invochain.chassis.call import Call
from invochain.chassis.rpc import rpc
from invochain.errors import ShuttingDown, Told

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN
# Serves for as long as the process answers, also while it drains.
LIVE = "live"


class Health:
    """Readiness by service name; "" is the process as a whole."""

    service = "grpc.health.v1.Health"

    def __init__(self) -> None:
        self._status: dict[str, int] = {LIVE: SERVING}
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, names: Iterable[str], ready: bool) -> None:
        """Says whether services are ready; whoever watches hears of it."""
        self._status.update(dict.fromkeys(names, SERVING if ready else NOT_SERVING))
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Ends the watching, after a last word."""
        self._closed = True
        self._changed.set()

    @rpc(public=True, quiet=True)
    async def Check(self, call: Call, request: HealthCheckRequest) -> HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            raise Told(Status(code=code_pb2.NOT_FOUND, message="unknown service"))
        return HealthCheckResponse(status=status)

    @rpc(public=True, quiet=True, stream=True)
    async def Watch(
        self, call: Call, requests: AsyncIterator[HealthCheckRequest]
    ) -> AsyncIterator[HealthCheckResponse]:
        request = await anext(requests, HealthCheckRequest())
        told = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, SERVICE_UNKNOWN)
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            elif self._closed:
                raise ShuttingDown()
            else:
                await changed.wait()
