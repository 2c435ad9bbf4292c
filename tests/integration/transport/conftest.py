from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from invochain.chassis.server import Server
from invochain.chassis.settings import Transport
from tests.integration.transport.probe import Doorkeeper, Probe, Wire

# Responses of 16 MiB are tested; each channel has connections of its own, so that limits of one do not meet another's.
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


@pytest.fixture(params=["grpcio", "tonic"])
def transport(request: pytest.FixtureRequest) -> str:
    """Every test of this room runs against both doors."""
    return request.param


@pytest.fixture
async def wire(transport: Transport) -> AsyncIterator[Wire]:
    """A server over real sockets."""
    server, probe = Server("probe", Doorkeeper(), transport=transport), Probe()
    server.add(probe)
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        yield Wire(server, probe, port, channel)
    await server.drain(0.5)
