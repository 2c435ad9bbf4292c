"""grpc.reflection as servicers: tools such as grpcurl and ghz ask the contract of the server itself.

v1 and v1alpha have the same messages under two names (https://github.com/grpc/grpc/blob/master/doc/server-reflection.md).
The answers are the grpcio library's; here they are served by any transport.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from grpc_reflection.v1alpha.reflection import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from invochain.chassis.call import Call
from invochain.chassis.rpc import rpc

NAMES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


class Reflection:
    """Tells names and descriptors of `services`."""

    def __init__(self, name: str, services: Sequence[str]) -> None:
        self.service = name
        self._library = ReflectionServicer(services)

    @rpc(public=True, quiet=True, stream=True)
    async def ServerReflectionInfo(
        self, call: Call, requests: AsyncIterator[ServerReflectionRequest]
    ) -> AsyncIterator[ServerReflectionResponse]:
        async for request in requests:
            for answer in self._library.ServerReflectionInfo(iter((request,)), None):
                yield answer
