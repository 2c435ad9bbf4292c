"""Ids: fresh ones differ, in a forked process too; texts of clients are read strictly."""

from __future__ import annotations

import os
import uuid

import pytest

from invochain.chassis.ids import from_text, new_id, random_bytes, to_text
from invochain.errors import ValidationFailed

TEXT = "01a202ed-c55b-724a-986e-514a905374af"


def test_fresh_ids_are_uuids_of_version_7_and_never_the_same():
    """More of them than one page of random bytes makes."""
    ids = [new_id() for _ in range(2_000)]
    assert len(set(ids)) == len(ids)
    assert {(uuid.UUID(bytes=one).version, uuid.UUID(bytes=one).variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert len(random_bytes(4_096)) == 4_096


def test_a_child_makes_other_ids_than_its_parent():
    """A page of random bytes that both held would give both the same."""
    random_bytes(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 16) != random_bytes(16)
    os.close(read)
    os.close(write)


def test_an_id_is_read_in_either_case():
    """What `to_text` writes is read back."""
    assert to_text(from_text(TEXT.upper(), "id")) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT + "0",
        TEXT.replace("-", ""),
        TEXT[:-1] + " ",
        TEXT[:-1] + "g",
        "01a202edc-55b-724a-986e-514a905374af",
        "{1a202ed-c55b-724a-986e-514a905374a}",
        "٠" * 36,
    ],
)
def test_what_is_no_id_is_refused(text: str):
    """By the field it stands in."""
    with pytest.raises(ValidationFailed) as refused:
        from_text(text, "invoice_id")
    assert refused.value.broken[0].field == "invoice_id"
