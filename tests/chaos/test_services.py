"""Services die, freeze, and are replaced one by one, under traffic over REST."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.experiment import PATIENCE_S, Experiment, Field

DRAIN_S = 15.0
BOTH_BACK_S = 60.0


@pytest.mark.timeout(900)
async def test_services_that_die_freeze_and_restart_leave_no_hold_behind_and_lose_nothing(field: Field):
    """The inventory alone, then both services at once. What was left is settled after their return."""
    async with Experiment(field, "services killed, frozen, restarting") as run:
        await run.processes.kill9("inventory")
        run.happened("inventory killed", 1)
        await run.traffic.unanswered(run.clients, PATIENCE_S)
        await run.processes.start("inventory")
        await run.settled(time.monotonic(), field.undecided_s)

        run.processes.freeze("inventory")
        run.happened("inventory stopped", 1)
        await run.traffic.unanswered(run.clients, PATIENCE_S)
        run.processes.go_on("inventory")
        await run.settled(time.monotonic(), field.undecided_s)

        for _ in range(10 if field.full else 1):
            await run.processes.kill9("inventory")
            await run.processes.start("inventory")
            run.happened("inventory restarted", 1)
        await run.settled(time.monotonic(), field.undecided_s)

        for _ in range(10 if field.full else 1):
            await asyncio.gather(run.processes.kill9("invoice"), run.processes.kill9("inventory"))
            run.happened("both killed", 1)
            await asyncio.gather(run.processes.start("invoice"), run.processes.start("inventory"))
            back = time.monotonic()
            await run.traffic.done(run.clients, PATIENCE_S)
        await run.settled(back, BOTH_BACK_S)
        await run.verdict()


@pytest.mark.timeout(900)
async def test_services_replaced_one_by_one_fail_no_request(field: Field):
    """A second process behind the same port, then SIGTERM to the first: clients see UNAVAILABLE at most, and repeat."""
    async with Experiment(field, "rolling restart") as run:
        unknown = set(run.traffic.unknown)
        drains = []
        for room in ("invoice", "inventory"):
            old = room
            for number in range(2, 5 if field.full else 3):
                new = f"{room}#{number}"
                await run.processes.start(new)
                begun = time.monotonic()
                await run.processes.stop(old)
                drains.append(time.monotonic() - begun)
                run.happened(f"{room} replaced", 1)
                await run.traffic.done(run.clients, PATIENCE_S)
                old = new
            await run.processes.start(room)
            await run.processes.stop(old)
        run.measured("longest drain", max(drains), DRAIN_S)
        told = {text.split()[0] for text in set(run.traffic.unknown) - unknown}
        # 504: the machine was busy with the start of the new ones.
        assert told <= {"503", "504", "409", "UNAVAILABLE"}, f"clients were told {run.traffic.unknown}"
        await run.verdict()
