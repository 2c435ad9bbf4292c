"""Looks at every invariant and says what was found."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

import asyncpg

from invochain.chassis import clock
from invochain.chassis.settings import Settings
from invochain.check.rule import Page, Rule
from invochain.check.rules import NAMES, RULES
from invochain.check.snapshot import Databases

# PROTOCOL 15: T.
LAG_S = 60.0
EXAMPLES_MAX = 5
# SKUs that the server made have their seller's GSTIN in them.
_GSTIN = re.compile(r"[0-9]{2}[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]{3}", re.IGNORECASE)


class CheckFailed(Exception):
    """A rule could not be looked at; that says nothing about whether it holds."""


class NoSuchInvariant(Exception):
    """A name that PROTOCOL 15 does not have."""


@dataclass(slots=True)
class Found:
    """What was found about one rule. `skipped`: why some or all of it could not be looked at."""

    rule: Rule
    rows: int = 0
    violations: int = 0
    seconds: float = 0.0
    # In words, without GSTINs; at most EXAMPLES_MAX.
    examples: list[str] = field(default_factory=list)
    skipped: str = ""

    def add(self, page: Page) -> None:
        self.rows += page.rows
        self.violations += len(page.faults)
        left = EXAMPLES_MAX - len(self.examples)
        self.examples += [_GSTIN.sub("<gstin>", fault) for fault in page.faults[:left]]


def chosen(only: Collection[str] = ()) -> list[Rule]:
    """The rules named (none named: all), in the order of the protocol. Raises NoSuchInvariant."""
    wanted = {name.strip().upper() for name in only if name.strip()}
    if unknown := sorted(wanted - set(NAMES)):
        raise NoSuchInvariant(f"there is no invariant {', '.join(unknown)}; known are {', '.join(NAMES)}")
    return [rule for rule in RULES if not wanted or rule.name in wanted]


async def look(databases: Databases, rule: Rule, lag_s: float) -> AsyncIterator[Found]:
    """Looks at one rule and gives what is known so far after each page; the last one is complete.

    Between pages no transaction is open, so it may be left for as long as one likes. Raises CheckFailed.
    """
    found = Found(rule, skipped=rule.missing)
    started = clock.monotonic()
    for probe in rule.probes:
        if absent := [room for room in probe.rooms if not databases.has(room)]:
            found.skipped = f"INVOCHAIN_{absent[0].upper()}_DATABASE_URL is not set"
            continue
        try:
            async for page in probe.pages(databases, lag_s):
                found.add(page)
                found.seconds = clock.monotonic() - started
                yield found
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as failed:
            where = " and ".join(probe.rooms)
            raise CheckFailed(f"{rule.name} ({where}): {type(failed).__name__}: {failed}") from failed
    found.seconds = clock.monotonic() - started
    yield found


async def check_rule(databases: Databases, rule: Rule, lag_s: float) -> Found:
    """Looks at the whole of one rule."""
    found = Found(rule)
    async for so_far in look(databases, rule, lag_s):
        found = so_far
    return found


async def check_all(settings: Settings, lag_s: float = LAG_S, only: Collection[str] = ()) -> list[Found]:
    """Looks at all rules (or those named), one after the other. `lag_s` 0 is for a system at rest.

    Raises CheckFailed when a rule could not be looked at, NoSuchInvariant.
    """
    rules = chosen(only)
    databases = Databases(settings)
    try:
        return [await check_rule(databases, rule, lag_s) for rule in rules]
    finally:
        await databases.close()
