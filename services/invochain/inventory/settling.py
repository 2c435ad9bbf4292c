"""Confirms and releases that wait together are settled together: one collector a move, each call a list of holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from invochain import core
from invochain.chassis.batch import Collector
from invochain.chassis.call import Call
from invochain.chassis.isolate import run_isolating_poison
from invochain.chassis.postgres import CommitUnknown, Postgres
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import RESERVATION_FAILURES, log
from invochain.errors import Refusal
from invochain.inventory.reservation import INVOICE, ReservationGone
from invochain.inventory.settle_reservation import (
    CONFIRM,
    RELEASE,
    Move,
    Name,
    Outcome,
    Ref,
    confirm_pending,
    settle,
)

# Calls a batch; each names up to 1,000 holds.
CALLS_MAX = 16


@dataclass(slots=True, eq=False)
class Named(Call):
    """A call that names holds. Its outcomes are complete once it is answered."""

    refs: Sequence[Ref] = ()
    # In place of them: those of a service's Confirm with which nothing is wrong.
    confirms: core.Refs | None = None
    outcomes: dict[Name, Outcome] = field(default_factory=dict)


class Settling:
    """The room's confirms and releases under way."""

    def __init__(self, postgres: Postgres, settings: Settings) -> None:
        self._postgres = postgres
        self._collectors = {
            id(move): Collector(
                f"{move.name}.{move.resolver.lower()}",
                partial(self._run, move),
                slots=1,
                items_max=CALLS_MAX,
                waiting_max=settings.batch_waiting_max,
            )
            for move in (*CONFIRM.values(), *RELEASE.values())
        }

    async def settle(self, call: Call, move: Move, refs: Sequence[Ref]) -> list[Outcome]:
        """What became of each hold, in order. Refuses the whole call: BulkheadFull, DeadlineTooShort, ShuttingDown."""
        named = Named(
            call.method, call.principal, b"", call.deadline, request_id=call.request_id, trace=call.trace, refs=refs
        )
        await self._collectors[id(move)].submit(named)
        return [named.outcomes[ref.merchant_id, ref.reservation_id] for ref in refs]

    async def confirm(self, call: Call, refs: core.Refs) -> list[Outcome] | None:
        """The same for the invoice service's Confirm, as the core reads it. None: all of them are HELD."""
        named = Named(
            call.method, call.principal, b"", call.deadline, request_id=call.request_id, trace=call.trace, confirms=refs
        )
        await self._collectors[id(CONFIRM[INVOICE])].submit(named)
        return [named.outcomes[ref.merchant_id, ref.reservation_id] for ref in named.refs] or None

    async def drain(self) -> None:
        await asyncio.gather(*(collector.drain() for collector in self._collectors.values()))

    async def _run(self, move: Move, calls: list[Call]) -> None:
        """Calls that name one hold for different bodies cannot share a transaction: they come one after the other."""
        named = [call for call in calls if isinstance(call, Named)]
        if move is CONFIRM[INVOICE] and await self._confirm_all(named):
            return
        while named:
            batch: dict[tuple[Name, bytes | None], Ref] = {}
            prints: dict[Name, bytes | None] = {}
            later: list[Named] = []
            now: list[Named] = []
            for call in named:
                if all(prints.get(_name(ref), ref.fingerprint) == ref.fingerprint for ref in call.refs):
                    prints.update((_name(ref), ref.fingerprint) for ref in call.refs)
                    batch.update(((_name(ref), ref.fingerprint), ref) for ref in call.refs)
                    now.append(call)
                else:
                    later.append(call)
            outcomes: dict[Name, Outcome] = {}

            async def run(refs: Sequence[Ref], outcomes: dict[Name, Outcome] = outcomes) -> None:
                outcomes.update(await settle(self._postgres, move, refs))

            def fail(refs: Sequence[Ref], refusal: Refusal, outcomes: dict[Name, Outcome] = outcomes) -> None:
                outcomes.update(dict.fromkeys(map(_name, refs), refusal))

            await run_isolating_poison(list(batch.values()), run, fail)
            _page(move, outcomes)
            for call in now:
                call.outcomes = {_name(ref): outcomes[_name(ref)] for ref in call.refs}
                call.reply(b"")
            named = later

    async def _confirm_all(self, named: Sequence[Named]) -> bool:
        """Answers the calls if every hold was PENDING, as nearly always; else they are looked at hold by hold."""
        refs = [call.confirms for call in named if call.confirms is not None]
        try:
            all_held = len(refs) == len(named) and await confirm_pending(self._postgres, refs) == sum(map(len, refs))
        except (Refusal, CommitUnknown, asyncpg.PostgresError) as failed:
            # Met again, and told, by whoever looks hold by hold: to confirm twice is to confirm once.
            log("inventory").info("confirmed_one_by_one", why=type(failed).__name__)
            all_held = False
        for call in named:
            if all_held:
                call.reply(b"")
            elif call.confirms is not None:
                call.refs = [Ref(*row) for row in call.confirms.rows()]
        return all_held


def _name(ref: Ref) -> Name:
    return ref.merchant_id, ref.reservation_id


def _page(move: Move, outcomes: dict[Name, Outcome]) -> None:
    """A promised hold that is gone is a defect, never business (PROTOCOL 4.2); a merchant's own may have expired."""
    for outcome in outcomes.values():
        if isinstance(outcome, Refusal):
            RESERVATION_FAILURES.labels(reason=outcome.reason).inc()
            if isinstance(outcome, ReservationGone) and move.resolver == "INVOICE":
                log("inventory").error(
                    "reservation_gone", move=move.name, reservation=outcome.reservation_id, state=outcome.state
                )
