"""Numbers that the server gives: one counter a series, moved once a batch (PROTOCOL 3b, 3d, 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from invochain.chassis.ids import Id
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import Tx
from invochain.errors import Refusal, invalid
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import DOC_TYPE
from invochain.invoice.name_locks import NUMBERS_OF_MERCHANT, bucket
from invochain.invoice.room import InvoiceRoom, SeriesKey
from invochain.invoice.work import Work

# INV/2627/00001; more digits when they are needed.
COUNTER_DIGITS = 5
NUMBER_CHARS_MAX = 16


async def with_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Sees to it that the counter rows are there; answers those that cannot have one. A busy merchant delays nobody."""
    new = _without_series(room, work, at)
    ready = set(at) - set(new)

    async def one_transaction(positions: Sequence[int]) -> None:
        ready.update(await _make_series(room, work, list(positions)))

    if new:
        await run_isolating_poison(new, one_transaction, work.fail)
    return [p for p in at if p in ready]


def _without_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """The items whose counter row is not known to exist."""
    return [p for key, positions in _by_series(work, at).items() if key not in room.series for p in positions]


async def _make_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """Makes counter rows that are missing, in a transaction of their own (a first upsert would block rivals).

    Refuses items whose series has a prefix that the merchant's own numbers use; returns the rest.
    """
    unknown = {key: p for key, p in _by_series(work, at).items() if key not in room.series}
    if not unknown:
        return at
    names = sorted({(NUMBERS_OF_MERCHANT, bucket(key[0])) for key in unknown})
    columns = _series_columns(unknown)
    async with room.postgres.transaction() as tx:
        await tx.execute(sql.LOCK_NAMES_ALONE, [space for space, _ in names], [name for _, name in names])
        await tx.execute(sql.MAKE_SERIES, *columns, DOC_TYPE)
        rows = await tx.fetch(sql.READ_SERIES, *columns, DOC_TYPE)
    there = {_series_of(row) for row in rows}
    room.series |= there
    refused = {p: key for key, positions in unknown.items() if key not in there for p in positions}
    for position, key in refused.items():
        words = f"numbers that begin with {key[3]} were given by the merchant; another series or own numbers are wanted"
        work.refuse(position, invalid("invoice.series", "SERIES_PREFIX_USED", words))
    return [p for p in at if p not in refused]


async def lock_series(
    tx: Tx, work: Work, at: list[int], *, wait: bool
) -> tuple[list[int], dict[SeriesKey, list[int]], dict[int, Refusal]]:
    """Locks the counters of server-numbered items; returns what goes on, what a busy counter holds up, and what finds
    no number left (16 characters are the law's limit, RULES G13)."""
    of_series = _by_series(work, at)
    if not of_series:
        return at, {}, {}
    rows = await tx.fetch(sql.LOCK_SERIES_WAITING if wait else sql.LOCK_SERIES, *_series_columns(of_series), DOC_TYPE)
    last_given = {_series_of(row): row["last_given"] for row in rows}
    busy = {key: positions for key, positions in of_series.items() if key not in last_given}
    exhausted: dict[int, Refusal] = {}
    for key, given in last_given.items():
        left = 10 ** (NUMBER_CHARS_MAX - len(key[3])) - 1 - given
        words = f"{key[3]} has no number of {NUMBER_CHARS_MAX} characters left; another series is wanted"
        for position in of_series[key][max(left, 0) :]:
            exhausted[position] = invalid("invoice.series", "SERIES_EXHAUSTED", words)
    held_up = {p for positions in busy.values() for p in positions}
    return [p for p in at if p not in held_up and p not in exhausted], busy, exhausted


async def take_numbers(tx: Tx, work: Work, won: list[int]) -> list[str]:
    """The number of each: the client's, or the next of its series; each counter is moved once, by the count."""
    numbers = dict(zip(won, work.drafts.numbers(won), strict=True))
    of_series = _by_series(work, won)
    if of_series:
        counts = [len(positions) for positions in of_series.values()]
        rows = await tx.fetch(sql.TAKE_NUMBERS, *_series_columns(of_series), DOC_TYPE, counts)
        for row in rows:
            for offset, position in enumerate(of_series[_series_of(row)], start=1):
                numbers[position] = f"{row['prefix']}{row['before'] + offset:0{COUNTER_DIGITS}d}"
    return [numbers[p] for p in won]


def _by_series(work: Work, at: list[int]) -> dict[SeriesKey, list[int]]:
    """The items whose number the server gives, by their series, in the order of the keys."""
    if work.series is None:
        work.series = _series_of_drafts(work)
    of_series: dict[SeriesKey, list[int]] = {}
    for position in at:
        if key := work.series.get(position):
            of_series.setdefault(key, []).append(position)
    return dict(sorted(of_series.items()))


def _series_of_drafts(work: Work) -> dict[int, SeriesKey]:
    """The series of each item whose number the server gives."""
    drafts = work.drafts
    at = drafts.live
    server = [p for p, number in zip(at, drafts.numbers(at), strict=True) if not number]
    keys = zip(
        drafts.merchant_ids(server),
        drafts.seller_gstins(server),
        drafts.financial_years(server),
        drafts.series_prefixes(server),
        strict=True,
    )
    return dict(zip(server, keys, strict=True))


def _series_columns(of_series: Mapping[SeriesKey, Sequence[int]]) -> tuple[list[Id], list[str], list[str], list[str]]:
    keys = list(of_series)
    return [k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys], [k[3] for k in keys]


def _series_of(row: asyncpg.Record) -> SeriesKey:
    return bytes(row["merchant_id"]), row["seller_gstin"], row["financial_year"], row["prefix"]
