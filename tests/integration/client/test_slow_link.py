"""A partner far away, or on a bad line: what sets a connection up takes longer than the pause between two tries."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from invochain_client.wire import Addresses, _Channels
from tests.kit.certificates import Authority
from tests.kit.fault_proxy import Link


async def test_a_client_connects_over_a_link_of_0_4_s_each_way():
    """TCP, TLS and the first frames take 1.6 s together; a try that ended sooner would end each time."""
    authority = Authority("ours")
    pair = authority.issue("server")
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
    await server.start()
    link = await Link("far", "127.0.0.1", port).start()
    link.delay(0.4)
    addresses = Addresses({}, grpc.ssl_channel_credentials(authority.pem))
    channels = _Channels(addresses, grpc.aio.secure_channel, grpc.aio.insecure_channel)
    try:
        async with channels._channel(f"127.0.0.1:{link.port}") as channel:
            asked = health_pb2.HealthCheckRequest()
            answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=20, wait_for_ready=True)
            assert health_pb2.HealthCheckResponse.SERVING == answer.status
    finally:
        await link.close()
        await server.stop(None)
