"""`invochain call METHOD JSON`: one gRPC call from the command line, by the contract this package was built with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command("call")(call)


def call(
    method: Annotated[str, typer.Argument(help="For example InvoiceService/GetInvoice.")],
    request: Annotated[str, typer.Argument(help="The request as JSON; - reads it from standard input.")] = "{}",
    token: Annotated[str, typer.Option(help="Access token; INVOCHAIN_TOKEN if it is not given.")] = "",
    key: Annotated[str, typer.Option(help="Idempotency key; a fresh one if it is not given.")] = "",
    address: Annotated[str, typer.Option(help="host:port; that of the running stack if it is not given.")] = "",
    timeout: Annotated[int, typer.Option(help="Seconds.")] = 5,
) -> None:
    """Call a method over gRPC and print the answer as JSON; exit 1 with the refusal if there is one."""
    import json
    import uuid

    import grpc
    from google.protobuf import json_format

    from invochain.chassis.dial import blocking_channel
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import running_stack

    service, _, name = method.rpartition("/")
    room = service.rsplit(".", 1)[-1].removesuffix("Service").lower()
    stub, messages = _contract(room)
    descriptor = messages.DESCRIPTOR.services_by_name[f"{room.capitalize()}Service"].methods_by_name.get(name)
    if descriptor is None:
        raise typer.BadParameter(f"{room.capitalize()}Service has no method {name!r}")
    try:
        target = address or running_stack().addresses[room]
        body = json_format.Parse(sys.stdin.read() if request == "-" else request, _class(descriptor.input_type)())
    except (CannotStart, json_format.ParseError) as fault:
        typer.echo(f"call: {fault}", err=True)
        raise typer.Exit(1) from None
    metadata = [("idempotency-key", key or str(uuid.uuid4()))]
    if bearer := token or os.environ.get("INVOCHAIN_TOKEN", ""):
        metadata.append(("authorization", f"Bearer {bearer}"))
    with blocking_channel(target) as channel:
        try:
            answer, pending = getattr(stub(channel), name).with_call(body, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            typer.echo(json.dumps(refusal_of(error), indent=2), err=True)
            raise typer.Exit(1) from None
    typer.echo(json_format.MessageToJson(answer, preserving_proto_field_name=True))
    if ("x-idempotent-replayed", "true") in tuple(pending.initial_metadata()):
        typer.echo("x-idempotent-replayed: true", err=True)


def _contract(room: str) -> tuple[Any, Any]:
    """The stub class and the messages of a room."""
    import importlib

    if room not in ("merchant", "inventory", "invoice"):
        raise typer.BadParameter("METHOD reads MerchantService/..., InventoryService/... or InvoiceService/...")
    package = f"invochain.api.{room}.v1.{room}_service"
    stub = getattr(importlib.import_module(f"{package}_pb2_grpc"), f"{room.capitalize()}ServiceStub")
    return stub, importlib.import_module(f"{package}_pb2")


def _class(descriptor: Any) -> Any:
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(descriptor)


def refusal_of(error: Any) -> dict[str, Any]:
    """A refused call as a person reads it."""
    from google.rpc import status_pb2

    status = status_pb2.Status()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status.ParseFromString(value)
    return {"code": error.code().name, **told(status), "message": error.details()}


def told(status: Any) -> dict[str, Any]:
    """What a google.rpc.Status tells: reason, message, metadata, violations."""
    from google.rpc import error_details_pb2

    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    violations = [{"field": v.field, "code": v.reason, "description": v.description} for v in bad.field_violations]
    return {
        "reason": info.reason,
        "message": status.message,
        "metadata": dict(info.metadata),
        "violations": violations,
    }


def authorization(token: str) -> tuple[str, str]:
    """The metadata that say who asks: the token given, else INVOCHAIN_TOKEN."""
    return "authorization", f"Bearer {token or os.environ.get('INVOCHAIN_TOKEN', '')}"


@contextmanager
def refused_in_one_line(command: str) -> Iterator[None]:
    """A refusal, and a stack that does not run, are one line and exit code 1."""
    import grpc

    from invochain.supervisor.errors import CannotStart

    try:
        yield
    except grpc.RpcError as error:
        refusal = refusal_of(error)
        typer.echo(f"{command}: {refusal['reason'] or refusal['code']}: {refusal['message']}", err=True)
        raise typer.Exit(1) from None
    except CannotStart as fault:
        typer.echo(f"{command}: {fault}", err=True)
        raise typer.Exit(1) from None
