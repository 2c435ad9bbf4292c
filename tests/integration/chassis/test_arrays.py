"""Arrays between us and the database: the core encodes them, where asyncpg would look at every element in Python."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from invochain import core
from invochain.chassis.postgres import ARRAYS, Postgres, Sql

IDS = [uuid.uuid4().bytes for _ in range(3)]
COLUMNS: dict[str, list[Any]] = {
    "bool": [True, False, None],
    "bytea": [b"", b"\x00\xff", None],
    "int2": [-(2**15), 2**15 - 1, None],
    "int4": [-(2**31), 2**31 - 1, None],
    "int8": [-(2**63), 2**63 - 1, None],
    "text": ["", '₹ and {,"quoted\\', None],
    "uuid": [*IDS, None],
}
ROUND_TRIPS = {name: Sql(f"test_array_{name}", f"SELECT $1::{name}[] AS back") for name in ARRAYS}
LENGTHS = Sql("test_array_lengths", "SELECT count(*) FROM unnest($1::int8[], $2::text[])")
TYPES = Sql("test_array_types", "SELECT typname, oid::int8 FROM pg_type WHERE typname = ANY ($1::text[])")


@pytest.fixture
async def postgres(pool: Callable[..., Awaitable[Postgres]]) -> Postgres:
    return await pool()


@pytest.mark.parametrize("element", ARRAYS)
async def test_what_goes_in_comes_out(postgres: Postgres, element: str):
    """The ends of each type, NULL, no element at all; given as a list or as anything that can be walked."""
    async with postgres.reading() as tx:
        for values in (COLUMNS[element], COLUMNS[element][:1], []):
            assert await tx.fetchval(ROUND_TRIPS[element], values) == values
            assert await tx.fetchval(ROUND_TRIPS[element], tuple(values)) == values
        assert await tx.fetchval(ROUND_TRIPS[element], None) is None


async def test_the_types_are_numbered_as_here(postgres: Postgres):
    """The numbers of array types are PostgreSQL's own."""
    async with postgres.reading() as tx:
        rows = await tx.fetch(TYPES, [f"_{name}" for name in ARRAYS])
    assert {row["typname"]: row["oid"] for row in rows} == {f"_{name}": oid for name, oid in ARRAYS.items()}


async def test_the_server_reads_every_element(postgres: Postgres):
    """A large array arrives whole."""
    async with postgres.reading() as tx:
        assert await tx.fetchval(LENGTHS, list(range(70_000)), ["x"] * 70_000) == 70_000


@pytest.mark.parametrize(
    ("element", "values"),
    [
        ("int2", [2**15]),
        ("int8", [2**63]),
        ("int8", [1.5]),
        ("int8", ["1"]),
        ("int8", "12"),
        ("bool", [1]),
        ("text", [b"x"]),
        ("text", "abc"),
        ("bytea", b"abc"),
        ("uuid", [b"short"]),
        ("uuid", [str(uuid.UUID(bytes=IDS[0]))]),
    ],
)
async def test_what_is_no_element_is_refused(postgres: Postgres, element: str, values: Any):
    """Nothing is cut, rounded or guessed, and a text is no list of its letters."""
    with pytest.raises(asyncpg.DataError):
        async with postgres.reading() as tx:
            await tx.fetchval(ROUND_TRIPS[element], values)


def test_bytes_that_are_no_array_are_refused():
    """Cut short, of another type, of two dimensions."""
    codec = core.ArrayCodec("int4")
    whole = codec.encode([1, 2])
    for wrong in (b"", whole[:-1], whole[:11], core.ArrayCodec("int8").encode([1]), b"\0\0\0\2" + whole[4:]):
        with pytest.raises(ValueError):
            codec.decode(wrong)
    with pytest.raises(ValueError):
        core.ArrayCodec("float8")
