"""The broker delivers again, and across invoices in another order; consumers are killed meanwhile: effects once.

(Killed between effect and position: test_kill_points.py.)
"""

from __future__ import annotations

import random

import pytest

from tests.chaos import books
from tests.chaos.experiment import PATIENCE_S, SEED, Experiment, Field

GROUPS = "SELECT consumer_group, topic, partition, next_offset FROM group_position"
REWIND = "UPDATE group_position SET next_offset = $4 WHERE (consumer_group, topic, partition) = ($1, $2, $3)"


@pytest.mark.timeout(600)
async def test_events_delivered_three_times_more_and_across_invoices_in_another_order_have_their_effects_once(
    field: Field,
):
    """Three times the consumers are killed and find their positions set back, each partition by another length."""
    chance = random.Random(SEED)
    async with Experiment(field, "redelivery") as run:
        for _ in range(3):
            await run.processes.kill9("workers")
            again = 0
            for row in await run.market.sql("broker", GROUPS):
                to = chance.randint(0, row["next_offset"] // 2)
                again += row["next_offset"] - to
                position = (row["consumer_group"], row["topic"], row["partition"])
                await run.market.sql("broker", REWIND, *position, to)
            run.happened("consumers killed", 1)
            run.happened("events delivered again", again)
            await run.processes.start("workers")
            await run.traffic.done(run.clients, PATIENCE_S)
        await run.verdict()
        assert await books.events_wrong(run.market, run.seller) == []
