"""The messages the Rust core reads are those of the contract: every field, its number and its kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.type import date_pb2

from invochain.api.inventory.v1 import inventory_service_pb2 as inventory
from invochain.api.invoice.v1 import invoice_events_pb2 as events
from invochain.api.invoice.v1 import invoice_service_pb2 as invoice

CONTRACT = Path(__file__).parents[2] / "core-rs" / "core" / "src" / "contract.rs"
# The core's own names for well-known messages.
WELL_KNOWN = {"CivilDate": date_pb2.Date.DESCRIPTOR, "Timestamp": timestamp_pb2.Timestamp.DESCRIPTOR}
PACKAGES = (invoice, events, inventory)

STRUCTS = {
    name: {field: (int(number), kind.strip()) for number, field, kind in re.findall(r"(\d+) (\w+): ([^,{}]+),?", body)}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\n?\s*\}", CONTRACT.read_text(), re.DOTALL)
}


def descriptor(name: str) -> Descriptor:
    if name in WELL_KNOWN:
        return WELL_KNOWN[name]
    (found,) = [
        p.DESCRIPTOR.message_types_by_name[name] for p in PACKAGES if name in p.DESCRIPTOR.message_types_by_name
    ]
    return found


def rust_kind(field: FieldDescriptor) -> set[str]:
    """How the core may read a field of the contract."""
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        name = {"Date": "CivilDate"}.get(field.message_type.name, field.message_type.name)
        # A message that is only passed on stays bytes.
        return {f"Vec<{name}<'a>>"} if repeated else {f"Option<{name}<'a>>", "&'a [u8]"}
    plain = {
        FieldDescriptor.TYPE_STRING: "&'a str",
        FieldDescriptor.TYPE_BYTES: "&'a [u8]",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_INT32: "i32",
        FieldDescriptor.TYPE_INT64: "i64",
        FieldDescriptor.TYPE_ENUM: "i32",
    }[field.type]
    if repeated:
        return {"Texts<'a>"}
    return {f"Option<{plain}>"} if field.has_presence else {plain}


def test_the_core_declares_messages():
    """The file is read as it is written."""
    assert len(STRUCTS) >= 15
    assert STRUCTS["InvoiceLine"]["gst_rate_milli"] == (9, "Option<i32>")


@pytest.mark.parametrize("name", STRUCTS)
def test_a_message_has_every_field_of_the_contract(name):
    """A field that the core does not know would be refused as unknown; one with another number would be misread."""
    theirs = {field.name: field.number for field in descriptor(name).fields}
    assert {field: number for field, (number, _) in STRUCTS[name].items()} == theirs


@pytest.mark.parametrize("name", STRUCTS)
def test_a_message_reads_every_field_by_its_kind(name):
    """Text as text, presence as presence, lists as lists."""
    wrong = {
        field: (kind, rust_kind(descriptor(name).fields_by_name[field]))
        for field, (_, kind) in STRUCTS[name].items()
        if kind not in rust_kind(descriptor(name).fields_by_name[field])
    }
    assert wrong == {}


@pytest.mark.parametrize("name", STRUCTS)
def test_fields_are_written_in_ascending_order(name):
    """The fingerprint is taken over what is written: its order is part of fp_version 1."""
    numbers = [number for number, _ in STRUCTS[name].values()]
    assert numbers == sorted(numbers)
