"""A database server dies, or a connection is lost exactly at COMMIT: unknown is not failure (PROTOCOL R2, R8).

The outcome of such a COMMIT is read again or asked again; stock is never released because of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.chaos.experiment import PATIENCE_S, Experiment, Field

BACK_S = 10.0
# Of each kind; enough for group commits of several sizes.
CUTS = 8


@pytest.mark.timeout(600)
async def test_a_database_server_that_was_killed_recovers_and_nothing_acknowledged_is_lost(field: Field):
    """kill -9 of the server and its backends, of the invoice service first, then of the inventory."""
    async with Experiment(field, "PG kill -9") as run:
        for room in ("invoice", "inventory"):
            await field.servers[room].kill9()
            run.happened(f"{room} database killed", 1)
            await run.traffic.unanswered(run.clients, PATIENCE_S)
            await field.servers[room].start()
            accepts = time.monotonic()
            # The inventory's breaker has opened meanwhile and looks again when its time has come.
            pause_s = field.breaker_s if room == "inventory" else 0
            await run.first_success(accepts, BACK_S + pause_s)
            await run.settled(accepts, BACK_S + field.undecided_s + pause_s)
        await run.verdict()


@pytest.mark.timeout(600)
async def test_a_connection_cut_at_commit_leaves_one_result_and_never_frees_stock(field: Field):
    """By both databases: COMMIT has passed and its answer is lost, or it is lost itself; the caller sees the same."""
    async with Experiment(field, "PG connection cut at COMMIT") as run:
        for name in ("invoice>invoice-database", "inventory>inventory-database"):
            link = run.links[name]
            for passes in (True, False):
                before = link.did["commits cut"]
                link.cut_at_commit(CUTS, passes=passes)
                await run.market.until(lambda link=link, to=before + CUTS: _cut(link, to), PATIENCE_S)
                run.happened(f"{name} {'answer' if passes else 'COMMIT'} lost", link.did["commits cut"] - before)
        await run.settled(time.monotonic(), field.undecided_s)
        await run.verdict()


async def _cut(link, to: int) -> bool:
    return link.did["commits cut"] >= to


@asynccontextmanager
async def waiting_for_a_standby(field: Field) -> AsyncIterator[asyncpg.Connection]:
    """Every COMMIT of the invoice database waits for a synchronous standby that is not there."""
    superuser = await asyncpg.connect(field.servers["invoice"].dsn())
    try:
        await superuser.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await superuser.execute("SELECT pg_reload_conf()")
        yield superuser
    finally:
        await superuser.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await superuser.execute("SELECT pg_reload_conf()")
        await superuser.close()


TERMINATE = """
SELECT count(*) FROM (SELECT pg_terminate_backend(pid) AS told FROM pg_stat_activity
  WHERE wait_event = 'SyncRep' AND application_name LIKE 'invochain:invoice') AS one WHERE told
"""


@pytest.mark.timeout(600)
async def test_a_backend_terminated_during_commit_leaves_one_result(field: Field):
    """COMMIT is held up by a missing standby, so the backends are certainly in it; then nobody is terminated and the
    callers run out of time: COMMIT is not cancelled, and after the standby's return each has one result."""
    async with Experiment(field, "PG terminated during COMMIT") as run:
        terminated = 0
        async with waiting_for_a_standby(field) as superuser, asyncio.timeout(PATIENCE_S):
            while terminated < CUTS:
                terminated += await superuser.fetchval(TERMINATE)
                await asyncio.sleep(0.02)
            run.happened("backends terminated in COMMIT", terminated)
            await run.traffic.unanswered(run.clients, PATIENCE_S)
        back = time.monotonic()
        await run.first_success(back, BACK_S)
        await run.settled(back, field.undecided_s)
        await run.verdict()
