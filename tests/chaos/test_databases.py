"""A database server dies, or a connection is lost exactly at COMMIT: unknown is not failure (PROTOCOL R2, R8).

The outcome of such a COMMIT is read again or asked again; stock is never released because of it. And connections that
are all in use: who finds none is told so at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.chaos.experiment import PATIENCE_S, Experiment, Field

BACK_S = 10.0
# Who finds no free connection is told within; what the service's own clock says, on the quiet machine of the full form.
REFUSED_S, GIVEN_BACK_S = 0.3, 1.0
READERS = 40
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
                # In the full form one by one: a row of them opens the inventory's breaker, and its pause is long.
                for burst in [1] * CUTS if field.full else [CUTS]:
                    to = link.did["commits cut"] + burst
                    link.cut_at_commit(burst, passes=passes)
                    await run.market.until(lambda link=link, to=to: _cut(link, to), PATIENCE_S + field.breaker_s)
                    await run.traffic.done(run.clients if field.full else 0, PATIENCE_S + field.breaker_s)
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


@asynccontextmanager
async def table_locked(field: Field, room: str, table: str) -> AsyncIterator[None]:
    """Whoever reads or writes the table waits, each on a connection, until lock_timeout."""
    connection = await asyncpg.connect(field.market.databases[room])
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


@pytest.mark.timeout(600)
async def test_a_pool_without_a_free_connection_refuses_at_once_and_keeps_nobody_from_settling(field: Field):
    """Every connection of the invoice service's handlers waits for a lock, for 10 s; its health stays up, the resolver
    has connections of its own, and once they are given back it serves again within a second."""
    lasts_s = 10.0 if field.full else 2.0
    async with Experiment(field, "PG pool exhausted") as run:
        log = run.processes.folder / "invoice.log"
        stub, health = run.market.invoices, health_pb2_grpc.HealthStub(run.market.channels["invoice"])
        found = pb.GetInvoiceRequest(invoice_id=next(iter(run.log.acknowledged.values())))
        ended = asyncio.Event()

        async def read() -> None:
            while not ended.is_set():
                try:
                    await run.market.call(stub.GetInvoice, found, run.seller, None)
                except grpc.aio.AioRpcError as told:
                    assert told.code().name in ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"), told
                    await asyncio.sleep(0.05)

        from_ = log.stat().st_size
        async with asyncio.TaskGroup() as readers, table_locked(field, "invoice", "invoice"):
            for _ in range(READERS):
                readers.create_task(read())
            until = time.monotonic() + lasts_s
            while time.monotonic() < until:
                told = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert told.status == health_pb2.HealthCheckResponse.SERVING
                await asyncio.sleep(0.1)
            ended.set()
        given_back = time.monotonic()
        refused = sorted(
            json.loads(line)["ms"] / 1_000
            for line in log.read_bytes()[from_:].splitlines()
            if b'"reason": "BULKHEAD_FULL"' in line and b'"event": "call"' in line and line.endswith(b"}")
        )
        run.happened("refused for want of a connection", len(refused))
        p99 = refused[len(refused) * 99 // 100]
        run.notes.append(f"refused after {1_000 * p99:.0f} ms (p99)")
        if field.full:
            run.measured("refused p99", p99, REFUSED_S)
        await run.first_success(given_back, GIVEN_BACK_S if field.full else PATIENCE_S)
        await run.settled(given_back, field.undecided_s)
        await run.verdict()
