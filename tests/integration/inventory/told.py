"""What a refused call says, as tests ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from invochain.errors import facts_of, reason_of


class Told:
    """A refusal that was told: its facts, and the code of each field's broken rule."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.fields: dict[str, str] = {}


@contextmanager
def refused(reason: str, *, replayed: bool | None = None, **facts: str) -> Iterator[Told]:
    """The block makes a call that is refused for that reason, with at least those facts."""
    told = Told()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    trailing = {name: value for name, value in caught.value.trailing_metadata() or ()}  # noqa: C416 - not a mapping
    assert "grpc-status-details-bin" in trailing, caught.value
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert reason_of(status) == reason, status
    told.facts = facts_of(status)
    assert facts.items() <= told.facts.items(), told.facts
    if replayed is not None:
        assert (trailing.get("x-idempotent-replayed") == "true") is replayed
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            told.fields = {violation.field: violation.reason for violation in bad.field_violations}
