"""Experiment D: the link between gateway and invoice service is silent, loses answers only, is reset, flaps.

Clients ask over REST and repeat with the same key. No invoice and no movement comes twice; a request that has passed
is replayed and says so; the first success comes at most 5 s after the link is whole again.
"""

from __future__ import annotations

import time

import pytest

from tests.chaos.experiment import PATIENCE_S, Experiment, Field

LINK = "gateway>invoice"
FIRST_SUCCESS_S = 5.0


async def silent(run: Experiment, ways, how: str, lasts_s: float) -> None:
    """Nothing passes in these directions, at least until every client has waited for an answer in vain."""
    link = run.links[LINK]
    before = link.did.total()
    getattr(link, how)(ways)
    await run.traffic.unanswered(run.clients, PATIENCE_S)
    await run.lasts(lasts_s)
    link.heal()
    run.happened(f"{how} {'/'.join(ways)}", link.did.total() - before)
    await run.first_success(time.monotonic(), FIRST_SUCCESS_S)


@pytest.mark.timeout(600)
async def test_requests_through_a_broken_link_to_the_invoice_service_have_one_result(field: Field):
    """One after the other on one load: what a fault left behind meets the next one."""
    async with Experiment(field, "D gateway-invoice") as run:
        link, long_s = run.links[LINK], 30.0 if field.full else 0.0
        await silent(run, ("up", "down"), "hold", long_s)
        await silent(run, ("up", "down"), "lose", long_s)

        replayed = run.traffic.replayed_unknown
        await silent(run, ("down",), "lose", long_s)
        await run.traffic.done(run.clients, PATIENCE_S)
        assert run.traffic.replayed_unknown > replayed, "void: no request passed whose answer was lost"

        before = link.did["resets"]
        link.reset()
        run.happened("resets", link.did["resets"] - before)
        await run.first_success(time.monotonic(), FIRST_SUCCESS_S)

        before, until = link.did["refused"], time.monotonic() + (30 if field.full else 4)
        while time.monotonic() < until:
            link.down()
            await run.lasts(0.5)
            link.heal()
            await run.lasts(0.5)
        run.happened("flaps", link.did["refused"] - before)
        await run.first_success(time.monotonic(), FIRST_SUCCESS_S)
        await run.verdict()
