"""What a replay does about holds that were not made lasting or not given back: what the decision says now.

The decision row is read again, never the command that failed (PROTOCOL 14): a hold that was to be confirmed is given
back if its request was fenced off after all, and the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from invochain.chassis.postgres import Postgres
from invochain.durable import dead_letters
from invochain.durable.dead_letters import Letter, NotRepaired, Plan, Repair
from invochain.durable.parking import parking_repairs
from invochain.invoice.inventory_port import Hold, InventoryPort
from invochain.invoice.resolve_sagas import read_standings, verdict_of

LASTING = ("HELD", "COMMITTED", "REVERSED")


def repairs(postgres: Postgres, inventory: InventoryPort) -> dict[str, Repair]:
    """The kinds of dead letters of this room."""
    settle = SettleRepair(postgres, inventory)
    return {
        **parking_repairs(postgres),
        dead_letters.CONFIRM: settle,
        dead_letters.RELEASE: settle,
        dead_letters.RECONCILE: LookAgain(),
    }


class LookAgain:
    """What breaks an invariant (workers/checker.py) is for an operator to mend: a replay has it looked at again."""

    async def plan(self, letter: Letter) -> Plan:
        step = f"look at {letter.aggregate} again (invochain check --only {letter.aggregate})"
        return Plan(f"{letter.detail}: {letter.subject}", (step,), "the checker")

    async def repair(self, letter: Letter) -> None:
        """Nothing: the checker ends the letter, or opens it again."""


@dataclass(frozen=True)
class SettleRepair:
    """Confirms or releases the hold, whichever follows from the decision, unless that is so already."""

    postgres: Postgres
    inventory: InventoryPort

    async def plan(self, letter: Letter) -> Plan:
        hold = _hold(letter)
        row = await self._standing(hold)
        verdict = verdict_of(hold, row)
        ((state, fingerprint),) = await self.inventory.look_up([hold])
        found = f"{_words(row, verdict)}; hold {letter.subject} is {state or 'not there'}"
        if verdict is None:
            return Plan(f"{found}; the resolver settles it")
        if verdict:
            kept = state in LASTING and fingerprint == hold.fingerprint
            return Plan(found, () if kept else (f"confirm hold {letter.subject}",))
        # A hold of this id that was made for another body is not ours to give back.
        gone = state in ("", "RELEASED") or fingerprint != hold.fingerprint
        return Plan(found, () if gone else (f"release hold {letter.subject}",))

    async def repair(self, letter: Letter) -> None:
        hold = _hold(letter)
        verdict = verdict_of(hold, await self._standing(hold))
        if verdict is None:
            return
        (reason,) = await (self.inventory.confirm if verdict else self.inventory.release)([hold])
        if reason:
            raise NotRepaired(reason)

    async def _standing(self, hold: Hold) -> asyncpg.Record:
        async with self.postgres.reading() as tx:
            return (await read_standings(tx, [hold]))[hold.rid]


def _words(row: asyncpg.Record, verdict: bool | None) -> str:
    if row["document"] is not None:
        return f"the invoice is there, of attempt {row['invoice_attempt']}{'' if verdict else ', of another hold'}"
    if row["state"] is None:
        return "there is no decision"
    return f"the decision is {row['state']}({row['attempt']})"


def _hold(letter: Letter) -> Hold:
    if letter.rid is None or letter.attempt is None or letter.fingerprint is None:
        raise ValueError(f"dead letter about {letter.subject} names no hold")
    return Hold(letter.merchant_id, letter.rid, letter.attempt, letter.fingerprint)
