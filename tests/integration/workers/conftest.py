import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from invochain.chassis import secrets
from invochain.chassis.embedded_broker import EmbeddedBroker
from invochain.chassis.postgres import Postgres, Sql
from invochain.chassis.seal import Seal
from invochain.chassis.session import Session
from invochain.durable import outbox
from invochain.durable.outbox import Event
from invochain.durable.parking import Parking
from tests.integration.chassis.databases import database, empty, events_dsn, events_postgres, pool

__all__ = ["database", "empty", "events_dsn", "events_postgres", "pool"]

ISSUED = "invochain.invoice.issued.v1"
TOPIC = "invoice.events"
MERCHANT = b"\x07" * 16

LOCK = Sql("test_lock_aggregate", "SELECT pg_advisory_xact_lock(hashtextextended(encode($1::bytea, 'hex'), 0))")
# Writers queue for one aggregate on purpose; on a busy machine their turn may take longer than a caller would wait.
PATIENT = Sql(
    "test_patient", "SELECT set_config('lock_timeout', '30s', true), set_config('statement_timeout', '30s', true)"
)
WAITING = Sql("test_outbox_count", "SELECT count(*) FROM outbox")


async def until(true: Callable[[], Awaitable[object]], within_s: float = 20) -> None:
    """Polls a state until it holds; fails after `within_s`."""
    async with asyncio.timeout(within_s):
        while not await true():
            await asyncio.sleep(0.02)


@dataclass
class Source:
    """A room that writes events, as a service would: under the aggregate's lock."""

    dsn: str
    postgres: Postgres
    broker_dsn: str
    broker: EmbeddedBroker
    secrets_dir: Path

    def __post_init__(self) -> None:
        self.versions: dict[bytes, int] = {}
        self.sessions: list[Session] = []

    async def tell(self, aggregate: bytes, count: int = 1, payload: bytes = b"") -> None:
        async with self.postgres.transaction(wait_s=10) as tx:
            await tx.execute(PATIENT)
            await tx.fetch(LOCK, aggregate)
            first = self.versions.get(aggregate, 0) + 1
            self.versions[aggregate] = first + count - 1
            events = [Event(MERCHANT, aggregate, first + n, ISSUED, payload or b"x") for n in range(count)]
            await outbox.append(tx, events, None)

    async def waiting(self) -> int:
        async with self.postgres.reading(wait_s=5) as tx:
            return await tx.fetchval(WAITING)

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a workers process."""
        return {
            **os.environ,
            "INVOCHAIN_MERCHANT_DATABASE_URL": self.dsn,
            "INVOCHAIN_BROKER_DATABASE_URL": self.broker_dsn,
            "INVOCHAIN_SECRETS_DIR": str(self.secrets_dir),
        }

    @property
    def parking(self) -> Parking:
        return Parking(self.postgres, Seal(secrets.load(self.secrets_dir).dead_letter_key))

    async def sql(self, text: str, *args: object) -> list[asyncpg.Record]:
        """Runs SQL in the room's database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(text, *args)
        finally:
            await connection.close()

    def session(self) -> Session:
        self.sessions.append(Session(self.dsn, "merchant"))
        return self.sessions[-1]

    async def published(self) -> list[tuple[str, int]]:
        """Everything at the broker, in the order of each partition: aggregate, version."""
        reader = self.broker.consumer(f"reader-{os.urandom(4).hex()}", TOPIC)
        found: list[tuple[str, int]] = []
        try:
            while batch := await reader.poll(1_000, 0):
                found += [(d.record.key.decode(), int(dict(d.record.headers)["ce_sequence"])) for d in batch]
        finally:
            await reader.close()
        return found


@pytest.fixture
async def source(database, pool, tmp_path) -> AsyncIterator[Source]:
    dsn, broker_dsn = await database("merchant"), await database("broker")
    secrets.ensure(tmp_path / "secrets")
    made = Source(dsn, await pool(dsn=dsn), broker_dsn, await EmbeddedBroker.connect(broker_dsn), tmp_path / "secrets")
    yield made
    for session in made.sessions:
        await session.close()
    await made.broker.close()
