"""The catalogue of refusals: every class is in the contract, and says what it must."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass

import pytest
from google.rpc import error_details_pb2

import invochain
from invochain.api.shared.v1.errors_pb2 import ErrorReason
from invochain.errors import Code, Refusal, Retry, Told


def _refusals() -> list[type[Refusal]]:
    found = set()
    for module in pkgutil.walk_packages(invochain.__path__, "invochain."):
        if module.name.startswith(("invochain.api", "invochain._core", "invochain.cli.__main__")):
            continue
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(member, Refusal) and member not in (Refusal, Told) and member.__module__ == module.name:
                found.add(member)
    return sorted(found, key=lambda c: c.__qualname__)


@pytest.mark.parametrize("refusal", _refusals(), ids=lambda c: c.__qualname__)
def test_every_refusal_is_in_the_contract(refusal):
    """Its reason is in ErrorReason, its code and retry are set, its message is formatted from its facts."""
    assert refusal.reason in dict(ErrorReason.items())
    assert isinstance(refusal.code, Code)
    assert isinstance(refusal.retry, Retry)

    status = _made(refusal).to_status()
    info = error_details_pb2.ErrorInfo()
    assert status.message
    assert sum(detail.Unpack(info) for detail in status.details) == 1
    assert (info.reason, info.domain) == (refusal.reason, "invochain")


def _made(refusal: type[Refusal]) -> Refusal:
    """One of its kind, with facts of the right kind."""
    if not is_dataclass(refusal):
        return refusal()
    return refusal(**{field.name: _example(field.type) for field in fields(refusal)})


def _example(kind: object) -> object:
    from invochain.errors import FieldViolation

    text = str(kind)
    if "FieldViolation" in text:
        return [FieldViolation("a.field", "A_CODE", "words")]
    if "Sequence" in text or "tuple" in text or "list" in text:
        return ["one", "two"]
    return 7 if "int" in text else "fact"


def test_retry_tells_the_client_when():
    """What may be repeated with the same key carries RetryInfo."""
    for refusal in _refusals():
        if refusal.retry not in (Retry.SAME_KEY_SOON, Retry.SAME_KEY_LATER):
            continue
        retry = error_details_pb2.RetryInfo()
        assert any(detail.Unpack(retry) for detail in _made(refusal).to_status().details), refusal
