"""Asking a process whether it is well: gRPC health for services, a web page for the rest."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from invochain.chassis import dial

ANSWER_WITHIN_S = 1.0


async def grpc_serving(address: str, secure: grpc.ChannelCredentials | None = None) -> bool:
    """Whether the server at host:port says SERVING for itself as a whole; `secure`: it is asked over TLS."""
    if not await _listens(address):
        return False
    # A new channel each time: an old one would wait out its back-off after the first refused connection.
    options = [("grpc.enable_http_proxy", 0)]
    async with dial.channel(grpc.aio, address, secure, options) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=ANSWER_WITHIN_S
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def http_ok(address: str, path: str) -> bool:
    """Whether GET http://host:port/path answers 200."""
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status.split(b" ")[1:2] == [b"200"]


async def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
