"""What a rule is: a value with a name, its words, and the probes that look for what breaks it."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import asyncpg

from invochain.check.snapshot import Databases

PAGE_ROWS = 1_000
# What comes before every key of a type.
_BEFORE = {
    "uuid": bytes(16),
    "text": "",
    "bigint": -1,
    "integer": -1,
    "smallint": -1,
    "timestamptz": dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
}

Row: TypeAlias = asyncpg.Record


@dataclass(frozen=True, slots=True)
class Page:
    """Rows that were looked at together, and in words what was wrong with some of them."""

    rows: int
    faults: Sequence[str]


class Probe(Protocol):
    """One way of looking for what breaks a rule."""

    @property
    def rooms(self) -> tuple[str, ...]:
        """The databases it reads."""
        ...

    @property
    def statements(self) -> Mapping[str, Sequence[str]]:
        """Its SQL by room, for the test that prepares all of it."""
        ...

    def pages(self, databases: Databases, lag_s: float) -> AsyncIterator[Page]:
        """Looks at everything, a bounded page at a time."""
        ...


@dataclass(frozen=True)
class Scan:
    """A table in the order of a key, a page at a time, so that nothing is ever loaded whole.

    `key` maps columns to their types. `select` and `joins` speak of the page as `subject`; `also` holds more CTEs, each
    with a comma in front. `due` is a CTE of one row: `(SELECT before FROM due)` is the lag window's end by the
    database's own clock (PROTOCOL R6).
    """

    room: str
    table: str
    key: Mapping[str, str]
    columns: str = "*"
    where: str = "true"
    # What the index on `key` says of its rows, where it is a partial one: there are no others.
    index_where: str = "true"
    also: str = ""
    select: str = "subject.*"
    joins: str = ""
    limit: int = PAGE_ROWS

    @property
    def last(self) -> str:
        """The key of a page's last row, whether it is asked for or not; no row where fewer are left."""
        key = ", ".join(self.key)
        return f"""
SELECT {key} FROM {self.table}
WHERE ({key}) > ({self._parameters(2)}) AND {self.index_where}
ORDER BY {key}
OFFSET $1 LIMIT 1
"""

    @property
    def text(self) -> str:
        """A page's rows that are asked for, up to its last one."""
        key, last = ", ".join(self.key), self._parameters(3 + len(self.key))
        mine = ", ".join(f"subject.{column}" for column in self.key)
        return f"""
WITH due AS (SELECT now() - make_interval(secs => $2) AS before),
subject AS MATERIALIZED (
    SELECT {self.columns} FROM {self.table}
    WHERE ({key}) > ({self._parameters(3)}) AND (({last}) IS NULL OR ({key}) <= ({last}))
        AND {self.index_where} AND {self.where}
    ORDER BY {key}
    LIMIT $1
){self.also}
SELECT {self.select}{"" if self.select == "subject.*" else ", " + mine}
FROM subject {self.joins}
ORDER BY {mine}
"""

    def _parameters(self, first: int) -> str:
        return ", ".join(f"${place}::{kind}" for place, kind in enumerate(self.key.values(), first))

    async def page(
        self, connection: asyncpg.Connection, after: Sequence[Any], lag_s: float
    ) -> tuple[list[Row], list[Any] | None]:
        """The next page's rows, and the key after which the one behind it begins; None: this is the last.

        A page is so many rows of the table, however few of them are asked for: where hardly any are, the first
        thousand of those may lie behind millions.
        """
        found = await connection.fetchrow(self.last, self.limit - 1, *after)
        last = None if found is None else list(found)
        none = [None] * len(self.key)
        rows: list[Row] = await connection.fetch(self.text, self.limit, lag_s, *after, *(last or none))
        return rows, last

    @property
    def start(self) -> list[Any]:
        return [_BEFORE[kind] for kind in self.key.values()]


def by_key(table: str, name: str, *key: str, where: str = "true") -> str:
    """Joins the rows of `table` that have the key of what is `asked`, as `name`: one look into an index for each.

    OFFSET 0 keeps the planner from reading the whole table for every page, as it does where statistics are missing or a
    constant seems rare (seen with 100,000 holds: 212 us a row; 34 us like this).
    """
    same = " AND ".join(f"{table}.{column} = asked.{column}" for column in key)
    return f"JOIN LATERAL (SELECT {table}.* FROM {table} WHERE {same} AND {where} OFFSET 0) AS {name} ON true"


# Says what is wrong with rows of a page; the connection still sees the page's snapshot.
Judge = Callable[[Databases, asyncpg.Connection, Sequence[Row], float], Awaitable[list[str]]]


@dataclass(frozen=True)
class Compare:
    """Pages of one table, judged by code: against more rows of the same snapshot, or against another database."""

    scan: Scan
    judge: Judge
    # Databases that the judge reads besides the scan's own, and all of its SQL by room.
    reads: Mapping[str, Sequence[str]]

    @property
    def rooms(self) -> tuple[str, ...]:
        return (self.scan.room, *(room for room in self.reads if room != self.scan.room))

    @property
    def statements(self) -> Mapping[str, Sequence[str]]:
        own = (self.scan.last, self.scan.text, *self.reads.get(self.scan.room, ()))
        return {**self.reads, self.scan.room: own}

    async def pages(self, databases: Databases, lag_s: float) -> AsyncIterator[Page]:
        after: list[Any] | None = self.scan.start
        while after is not None:
            async with databases.snapshot(self.scan.room) as connection:
                rows, after = await self.scan.page(connection, after, lag_s)
                faults = await self.judge(databases, connection, rows, lag_s) if rows else []
            yield Page(len(rows), faults)


async def _told(_: Databases, __: asyncpg.Connection, rows: Sequence[Row], ___: float) -> list[str]:
    return [row["fault"] for row in rows if row["fault"] is not None]


def sql(room: str, table: str, key: Mapping[str, str], fault: str, **more: Any) -> Compare:
    """A probe that is SQL alone: `fault` is an expression over `subject`, NULL where the row is sound."""
    return Compare(Scan(room, table, key, select=f"{fault} AS fault", **more), _told, {})


@dataclass(frozen=True, slots=True)
class Rule:
    """An invariant. `always` holds in any single snapshot; `lagged` of what is older than the lag window.

    `missing` says why there is nothing to look at yet; such a rule has no probes.
    """

    name: str
    says: str
    when: Literal["always", "lagged"]
    probes: tuple[Probe, ...] = ()
    missing: str = ""
