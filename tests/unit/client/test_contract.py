"""Client and contract say the same: every reason has a class, every method its types, both faces all methods."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

import pytest

import invochain
from invochain.errors import FieldViolation, Refusal, ValidationFailed
from invochain_client import errors, invoices, merchants, session, stock
from invochain_client.api.inventory.v1 import inventory_service_pb2
from invochain_client.api.invoice.v1 import invoice_service_pb2
from invochain_client.api.merchant.v1 import merchant_service_pb2
from invochain_client.api.shared.v1.errors_pb2 import ErrorReason
from invochain_client.refusal import read
from invochain_client.wire import Method

CALLED = [
    method
    for module in (merchants, session, stock, invoices)
    for method in vars(module).values()
    if isinstance(method, Method)
]
SERVICES = {
    name: file.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]
    for name, file in (
        ("merchant", merchant_service_pb2),
        ("inventory", inventory_service_pb2),
        ("invoice", invoice_service_pb2),
    )
}
# For other services, for whoever verifies tokens, for operators; and the stream, whose client is `invochain import`.
NOT_FOR_PARTNERS = {
    "LookupMerchants",
    "GetJsonWebKeySet",
    "BatchReserveStock",
    "LookupReservations",
    "ListSagas",
    "ImportInvoices",
}
FACES = [
    (invoices.AsyncInvoices, invoices.Invoices),
    (merchants.AsyncMerchants, merchants.Merchants),
    (stock.AsyncStock, stock.Inventory),
    (stock.AsyncReservations, stock.Reservations),
]


def refusals() -> list[type[Refusal]]:
    """Every refusal of the server."""
    for module in pkgutil.walk_packages(invochain.__path__, "invochain."):
        if module.name.split(".")[1] in ("errors", "merchant", "inventory", "invoice"):
            importlib.import_module(module.name)
    found: list[type[Refusal]] = []
    queue = [Refusal]
    while queue:
        kind = queue.pop()
        queue.extend(kind.__subclasses__())
        if is_dataclass(kind) and kind.__module__.startswith("invochain."):
            found.append(kind)
    return found


def made(kind: type[Refusal]) -> Refusal:
    """One of it with facts of the right types."""
    broken = [FieldViolation("invoice.lines[2].hsn", "HSN_FORMAT_INVALID", "found x")]

    def fact(name: str, kind_of_it: str) -> Any:
        if name == "broken":
            return broken
        return 40 if kind_of_it == "int" else ("A", "B") if "Sequence" in kind_of_it else "X"

    return kind(**{one.name: fact(one.name, str(one.type)) for one in fields(kind)})


def test_every_reason_has_a_class_and_every_class_a_reason():
    """The table and the contract's enum are the same set."""
    assert set(errors.InvochainError.by_reason) == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}


@pytest.mark.parametrize("kind", sorted(refusals(), key=str), ids=lambda kind: kind.__name__)
def test_every_refusal_of_the_server_reads_with_its_facts(kind):
    """What a service says arrives as the class of its reason, and every fact that class promises can be read."""
    refusal = made(kind)
    error = errors.error_of(read(refusal.to_status()))

    assert type(error) is errors.InvochainError.by_reason[kind.reason]
    assert (error.code, error.message) == (kind.code.name, str(refusal))
    for name in {name for name, value in vars(type(error)).items() if isinstance(value, property)}:
        # `asked` and `free` are units, shown of a fact in thousandths.
        wanted = refusal.facts().get(name, Decimal("0.04"))
        assert getattr(error, name) == wanted, name


def test_violations_read_one_by_one():
    """Field, code and words of every broken rule; the text names them all."""
    broken = [FieldViolation("invoice.lines[2].hsn", "HSN_FORMAT_INVALID", "found x"), FieldViolation("b", "C", "d")]
    error = errors.error_of(read(ValidationFailed(broken).to_status()))

    assert isinstance(error, errors.ValidationFailed)
    assert [(v.field, v.code, v.description) for v in error.violations] == [
        ("invoice.lines[2].hsn", "HSN_FORMAT_INVALID", "found x"),
        ("b", "C", "d"),
    ]
    assert "invoice.lines[2].hsn: HSN_FORMAT_INVALID; b: C" in str(error)


def test_a_reason_of_tomorrow_falls_back_to_its_code():
    """A newer server's refusal is caught by its code's class and keeps its reason and facts."""
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status(code=9, message="new")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="NEW", domain="invochain", metadata={"a": "b"}))

    error = errors.error_of(read(status))

    assert type(error) is errors.FailedPrecondition
    assert (error.reason, error.facts) == ("NEW", {"a": "b"})


def test_every_method_is_of_the_contract_with_its_answer():
    """Room, name and type of the answer are those of the service's descriptor, and no method is left out."""
    for method in CALLED:
        assert method.answer.DESCRIPTOR is SERVICES[method.room].methods_by_name[method.name].output_type, method
    all_methods = {(room, name) for room, service in SERVICES.items() for name in service.methods_by_name}
    assert {(method.room, method.name) for method in CALLED} == {
        (room, name) for room, name in all_methods if name not in NOT_FOR_PARTNERS
    }


def test_server_and_client_share_a_process():
    """One contract, two packages: the descriptors are the same, so either's messages are the other's."""
    from invochain.api.invoice.v1 import invoice_service_pb2 as of_the_server

    assert of_the_server.Invoice.DESCRIPTOR is invoice_service_pb2.Invoice.DESCRIPTOR


@pytest.mark.parametrize(("awaited", "blocking"), FACES, ids=lambda face: face.__name__)
def test_the_blocking_face_has_every_method_and_nothing_else(awaited, blocking):
    """What can be awaited can be called."""
    public = {name for name in vars(awaited) if not name.startswith("_")}
    shown = {name for name in vars(blocking) if not name.startswith("_")}

    assert shown == public
    face = blocking(None)
    for name in public:
        assert inspect.signature(getattr(face, name)) == inspect.signature(getattr(awaited, name))
