"""Every hop is slow, torn and cut: one result a key (FAULTS: network)."""

from __future__ import annotations

import time

import pytest

from tests.chaos.experiment import PATIENCE_S, Experiment, Field

HOPS = (
    "client>gateway",
    "gateway>invoice",
    "invoice>inventory",
    "invoice>invoice-database",
    "inventory>inventory-database",
)
# 200 ms a round trip; a transaction of the database hop has some ten of them.
DELAY_S = {name: 0.01 if name.endswith("database") else 0.1 for name in HOPS}
LOSS = 0.05
# In the middle of an answer's headers or of its body.
BYTES = (150, 700)


@pytest.mark.timeout(900)
async def test_slow_torn_and_cut_hops_give_one_result_a_key(field: Field):
    """Each hop in turn: +200 ms, then 5 % of the answers reset their connection, then every answer is cut short."""
    asks = 100 if field.full else 12
    async with Experiment(field, "network") as run:
        for name in HOPS:
            link = run.links[name]
            before = link.did.copy()
            link.delay(DELAY_S[name])
            await run.traffic.done(asks, PATIENCE_S)
            run.happened("delayed", link.did["delayed"] - before["delayed"])
            link.heal()
            link.reset_some(LOSS)
            await run.market.until(lambda link=link, was=before["resets"]: _more(link, "resets", was), PATIENCE_S)
            await run.traffic.done(asks, PATIENCE_S)
            run.happened("reset", link.did["resets"] - before["resets"])
            link.heal()
            for count in BYTES:
                link.cut_answers_after(count)
                await run.market.until(lambda link=link, was=link.did["cut"]: _more(link, "cut", was), PATIENCE_S)
                link.heal()
            run.happened("cut", link.did["cut"] - before["cut"])
            await run.first_success(time.monotonic(), 10)
        await run.settled(time.monotonic(), field.undecided_s)
        await run.verdict()


async def _more(link, what: str, than: int) -> bool:
    return link.did[what] > than
