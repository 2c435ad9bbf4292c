"""Numbers that the server gives: one counter a series, moved once a batch (PROTOCOL 3b, 3d, 9)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import asyncpg

from invochain.chassis import clock
from invochain.chassis.ids import Id
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import LOCK_TIMEOUT_MS, Tx
from invochain.errors import Refusal, invalid
from invochain.invoice import decide_sql as sql
from invochain.invoice.invoice import DOC_TYPE
from invochain.invoice.name_locks import NUMBERS_OF_MERCHANT, bucket
from invochain.invoice.room import InvoiceRoom, SeriesKey
from invochain.invoice.work import Work

# INV/2627/00001; more digits when they are needed.
COUNTER_DIGITS = 5
NUMBER_CHARS_MAX = 16
# Who writes own numbers queues behind one who wants them to hold still: so he does not queue for long at a time.
NAMES_PATIENCE_MS = 100
NAMES_PAUSE_S = (0.02, 0.1)

OfSeries: TypeAlias = dict[SeriesKey, list[int]]
"""Positions by the series that numbers them."""


async def with_series(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool = False) -> list[int]:
    """Makes the counter rows that are missing; answers the items that cannot have one, and returns the others.

    A merchant whose own numbers are being written just now keeps a first series waiting. It is not made then, so that
    DECIDE finds its counter busy and its items go on in their lane, which delays nobody else. There, with `wait`, it is
    waited for as long as for a row that is locked.
    """
    give_up = clock.monotonic() + LOCK_TIMEOUT_MS / 1_000
    new = _without_series(room, work, at)
    ready = set(at) - set(new)

    async def one_transaction(positions: Sequence[int]) -> None:
        while True:
            try:
                ready.update(await _make_series(room, work, list(positions), wait=wait))
                return
            except asyncpg.LockNotAvailableError:
                if clock.monotonic() > give_up:
                    raise
            await asyncio.sleep(random.uniform(*NAMES_PAUSE_S))

    if new:
        await run_isolating_poison(new, one_transaction, work.fail)
    return [p for p in at if p in ready]


def _without_series(room: InvoiceRoom, work: Work, at: list[int]) -> list[int]:
    """The items whose counter row is not known to exist."""
    return [p for key, positions in _by_series(work, at).items() if key not in room.series for p in positions]


async def _make_series(room: InvoiceRoom, work: Work, at: list[int], *, wait: bool) -> list[int]:
    """Makes counter rows that are missing, in a transaction of their own (a first upsert would block rivals).

    Refuses items whose series has a prefix that the merchant's own numbers use; returns the rest.
    """
    unknown = {key: p for key, p in _by_series(work, at).items() if key not in room.series}
    async with room.postgres.transaction() as tx:
        # Most were made long ago: this process has not met them yet.
        there = await _read_series(tx, unknown)
        missing = {key: p for key, p in unknown.items() if key not in there}
        makes = await _lock_names(tx, missing, wait=wait) if missing else {}
        if makes:
            await tx.execute(sql.MAKE_SERIES, *_series_columns(makes), DOC_TYPE)
            there |= await _read_series(tx, makes)
        refused_series = set(makes) - there
        if held_up := {key: positions for key, positions in missing.items() if key not in makes}:
            # Told now, while nothing is held for them: afterwards the key would be that of a request that holds stock.
            rows = await tx.fetch(sql.PREFIXES_USED, *_series_columns(held_up), DOC_TYPE)
            refused_series |= {_series_of(row) for row in rows}
    room.series |= there
    refused = {p: key for key in refused_series for p in missing[key]}
    for position, key in refused.items():
        words = f"numbers that begin with {key[3]} were given by the merchant; another series or own numbers are wanted"
        work.refuse(position, invalid("invoice.series", "SERIES_PREFIX_USED", words))
    return [p for p in at if p not in refused]


async def _lock_names(tx: Tx, missing: OfSeries, *, wait: bool) -> OfSeries:
    """Keeps the merchants of missing series from writing numbers of their own; returns the series that may be made."""
    names = sorted({(NUMBERS_OF_MERCHANT, bucket(key[0])) for key in missing})
    columns = [space for space, _ in names], [name for _, name in names]
    if wait:
        await tx.execute(sql.WAIT_SHORTLY, f"{NAMES_PATIENCE_MS}ms")
        await tx.execute(sql.LOCK_NAMES_ALONE, *columns)
        return missing
    locked = {row["bucket"] for row in await tx.fetch(sql.LOCK_FREE_NAMES_ALONE, *columns)}
    return {key: positions for key, positions in missing.items() if bucket(key[0]) in locked}


async def _read_series(tx: Tx, of_series: OfSeries) -> set[SeriesKey]:
    """Those of the series whose counter row is there."""
    return {_series_of(row) for row in await tx.fetch(sql.READ_SERIES, *_series_columns(of_series), DOC_TYPE)}


async def lock_series(
    tx: Tx, work: Work, at: list[int], *, wait: bool
) -> tuple[list[int], OfSeries, dict[int, Refusal]]:
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


def _by_series(work: Work, at: list[int]) -> OfSeries:
    """The items whose number the server gives, by their series, in the order of the keys."""
    if work.series is None:
        work.series = _series_of_drafts(work)
    of_series: OfSeries = {}
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
