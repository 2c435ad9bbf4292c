"""The floor: an empty grpc.aio handler for CreateInvoice that answers one stored invoice, whatever it is asked.

Usage: floor.py FILE (an Invoice as JSON). Prints its address, serves until it is told to stop.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import uvloop
from google.protobuf import json_format
from grpc_reflection.v1alpha import reflection

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis.process import stop_signal

SERVICE = "invochain.api.invoice.v1.InvoiceService"


async def main(answer: pb.Invoice) -> None:

    async def create(_request: pb.CreateInvoiceRequest, _context: object) -> pb.Invoice:
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        create,
        request_deserializer=pb.CreateInvoiceRequest.FromString,
        response_serializer=pb.Invoice.SerializeToString,
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"CreateInvoice": handler})])
    reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await stop_signal().wait()
    await server.stop(1)


uvloop.run(main(json_format.Parse(Path(sys.argv[1]).read_text(), pb.Invoice())))
