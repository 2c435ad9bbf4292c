"""grpc.health.v1 and grpc.reflection, as any client or tool asks them."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from invochain.chassis.server import Server
from tests.integration.transport.probe import SERVICE, Wire, fails

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class TestHealth:
    @pytest.mark.parametrize("name", ["", SERVICE, "live"])
    async def test_it_serves(self, wire: Wire, name: str):
        """As a whole, by service, and as a living process."""
        stub = health_pb2_grpc.HealthStub(wire.channel)
        assert SERVING == (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status

    async def test_a_service_that_is_not_there(self, wire: Wire):
        """NOT_FOUND for who asks; SERVICE_UNKNOWN, and the stream stays, for who watches."""
        stub = health_pb2_grpc.HealthStub(wire.channel)
        asked = health_pb2.HealthCheckRequest(service="nobody")
        assert grpc.StatusCode.NOT_FOUND == (await fails(stub.Check(asked))).code()
        watching = stub.Watch(asked)
        assert health_pb2.HealthCheckResponse.SERVICE_UNKNOWN == (await watching.read()).status

    async def test_whoever_watches_hears_of_every_change(self, wire: Wire):
        """The present state at once, then each change, and the drain as the last."""
        watching = health_pb2_grpc.HealthStub(wire.channel).Watch(health_pb2.HealthCheckRequest())
        assert SERVING == (await watching.read()).status
        wire.server.ready(False)
        assert NOT_SERVING == (await watching.read()).status
        wire.server.ready(True)
        assert SERVING == (await watching.read()).status
        async with asyncio.timeout(10):
            draining = asyncio.create_task(wire.server.drain(30))
            assert NOT_SERVING == (await watching.read()).status
            assert grpc.StatusCode.UNAVAILABLE == (await fails(watching.read())).code()
            await draining


class TestReflection:
    async def test_a_tool_finds_services_and_their_methods(self, wire: Wire):
        """Asked as grpcurl and ghz do, by the library's own client."""

        def ask() -> tuple[set[str], list[str]]:
            with grpc.insecure_channel(f"127.0.0.1:{wire.port}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                file = database.FindFileContainingSymbol("grpc.health.v1.Health")
                return set(database.get_services()), [method.name for method in file.service[0].method]

        services, methods = await asyncio.to_thread(ask)
        assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == services
        assert ["Check", "Watch"] == methods[:2]

    async def test_the_newer_name_gives_the_same(self, wire: Wire):
        """v1 has the messages of v1alpha."""
        answers = []
        for version in ("v1alpha", "v1"):
            stream = wire.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )()
            await stream.write(ServerReflectionRequest(list_services=""))
            answers.append(await stream.read())
            await stream.done_writing()
        assert answers[0] == answers[1] and answers[0].list_services_response.service

    async def test_where_it_is_off_it_is_not_there(self, transport: str):
        server = Server("probe", None, reflection_on=False, transport=transport)
        port = await server.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stream = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
            assert grpc.StatusCode.UNIMPLEMENTED == (await fails(stream.read())).code()
        await server.drain(1)
