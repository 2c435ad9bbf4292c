"""Experiment B: the event broker is away (its database, for the embedded one), and the relay is killed meanwhile.

Invoices are issued and moved as ever; the outbox grows and says so. Afterwards every event is delivered, in order per
invoice, with its effects once, and the backlog is gone within 30 s.
"""

from __future__ import annotations

import time

import pytest

from tests.chaos import books
from tests.chaos.experiment import PATIENCE_S, Experiment, Field

DRAINED_S = 30.0


@pytest.mark.timeout(600)
async def test_without_a_broker_invoices_go_on_and_afterwards_every_event_has_its_effects_once(field: Field):
    away_s = 60 if field.full else 4
    link, server = field.links["workers>broker-database"], field.servers["broker"]
    async with Experiment(field, "B broker down") as run:
        normal = run.traffic.p95_ms(0)
        link.down()
        went = time.monotonic()
        if field.full:
            await server.kill9()
        await run.traffic.done(run.clients, PATIENCE_S)
        await run.processes.kill9("workers")
        await run.traffic.done(run.clients, PATIENCE_S)
        await run.processes.start("workers")
        oldest = 'outbox_oldest_unpublished_seconds{room="invoice"'
        await run.processes.reached("workers", oldest, away_s, away_s + PATIENCE_S)
        if field.full:
            await run.processes.said("workers", '"outbox_late"', PATIENCE_S)
        await run.traffic.done(run.clients, PATIENCE_S)
        run.happened("broker down", link.did["refused"])
        run.happened("relay killed", 1)
        run.happened("events kept back", await books.unpublished(run.market))
        without = run.traffic.p95_ms(went)

        if field.full:
            await server.start()
        link.heal()
        healed, backlog = time.monotonic(), await books.backlog(run.market)

        async def drained() -> bool:
            return await books.unpublished_up_to(run.market, backlog) == 0

        await run.market.until(drained, DRAINED_S + PATIENCE_S)
        run.measured("backlog drained", time.monotonic() - healed, DRAINED_S)
        run.notes.append(f"p95 {normal:.0f} ms before, {without:.0f} ms without a broker")
        await run.verdict()
        assert await books.events_wrong(run.market, run.seller) == []
