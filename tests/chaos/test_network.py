"""Every hop is slow, narrow, torn and cut: one result a key, and nobody waits past his deadline (FAULTS: network)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.chaos.experiment import PATIENCE_S, Experiment, Field
from tests.kit.fault_proxy import Link

HOPS = (
    "client>gateway",
    "gateway>invoice",
    "invoice>inventory",
    "invoice>invoice-database",
    "inventory>inventory-database",
    "invoice>redis",
    "workers>broker-database",
)
# What the link does, by what it counts. 0.1 s each way; 5 % of the answers; bytes within the headers or the body.
FAULTS: tuple[tuple[str, Callable[[Link], None]], ...] = (
    ("delayed", lambda link: link.delay(0.1)),
    ("slowed", lambda link: link.slow(1_000)),
    ("resets", lambda link: link.reset_some(0.05)),
    ("cut", lambda link: link.cut_answers_after(150)),
    ("cut", lambda link: link.cut_answers_after(700)),
)
BACK_S = 10.0


@pytest.mark.timeout(1_800)
async def test_slow_narrow_torn_and_cut_hops_give_one_result_a_key(field: Field):
    """Each hop in turn: +200 ms a round trip, 1 KB/s, 5 % of the answers reset their connection, answers cut short.

    A database that is so far away answers no creation in time, nor does anything at 1 KB/s: callers are told so by
    their deadline, and have their one result afterwards. Only a client's own hop may keep it waiting for longer.
    """
    tries = 200 if field.full else 20
    async with Experiment(field, "network") as run:
        for name in HOPS:
            link = run.links[name]
            begun, late = time.monotonic(), run.traffic.unknown["UNAVAILABLE ReadTimeout"]
            for what, break_ in FAULTS:
                before = link.did[what]
                break_(link)
                await run.traffic.tried(tries, 2 * PATIENCE_S)
                await run.market.until(lambda link=link, what=what, was=before: _more(link, what, was), PATIENCE_S)
                link.heal()
                run.happened(f"{name} {what}", link.did[what] - before)
                if field.full:
                    # What one fault has opened or filled must not be all that the next one meets.
                    await run.first_success(time.monotonic(), BACK_S + await run.breaker_pause_s())
            await run.first_success(time.monotonic(), BACK_S + await run.breaker_pause_s())
            if name != "client>gateway":
                # The client waits for 8 s, the gateway for 5.
                waited = run.traffic.unknown["UNAVAILABLE ReadTimeout"] - late
                assert waited == 0, f"{name}: {waited} clients heard nothing from the gateway in time"
                run.notes.append(f"{name}: slowest answer {run.traffic.slowest_s(begun):.1f} s")
        await run.settled(time.monotonic(), field.undecided_s)
        await run.verdict()


async def _more(link: Link, what: str, than: int) -> bool:
    return link.did[what] > than
