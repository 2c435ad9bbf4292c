"""Are the pools large enough for what uses them at once, and does the database grant that many? Asked at the start.

No transaction here asks for a second connection, so nobody waits for a connection while he holds one. What remains to
be excluded is that work which may wait long inside the database (batches, lanes behind a busy row) takes all of a pool,
so that those behind it, and reads, find none for a second: each kind of work has its share.
"""

from __future__ import annotations

from collections.abc import Mapping

from invochain.chassis.postgres import Postgres, Sql
from invochain.chassis.settings import Settings
from invochain.chassis.telemetry import log


class PoolRefused(SystemExit):
    """The process does not start: a setting cannot work."""


async def insist(settings: Settings, room: str, postgres: Postgres, wanted: Mapping[str, int]) -> None:
    """Refuses to start with a pool that could wait on itself, or that the database would not fill.

    `wanted`: by kind of work, how many connections it may use at once.
    """
    size, least = settings.pool_size, sum(wanted.values())
    if size < least:
        shares = ", ".join(f"{count} for {what}" for what, count in wanted.items())
        raise PoolRefused(
            f"INVOCHAIN_POOL_SIZE is {size}; with INVOCHAIN_BATCH_SLOTS={settings.batch_slots} "
            f"the {room} service wants {least} or more: {shares}"
        )
    async with postgres.reading() as tx:
        row = await tx.fetchrow(GRANTED)
    if row is None:
        raise AssertionError("a SELECT without FROM has one row")
    limits = [("max_connections less those reserved", row["server"])]
    limits += [(f"CONNECTION LIMIT of the {what}", row[what]) for what in ("role", "database") if row[what] >= 0]
    why, granted = min(limits, key=lambda limit: limit[1])
    together = size * settings.processes
    if together > granted:
        of = f" for each of {settings.processes} processes" if settings.processes > 1 else ""
        raise PoolRefused(
            f"INVOCHAIN_POOL_SIZE is {size}{of}; the {room} database grants {granted} connections ({why}), so "
            f"{granted // settings.processes} or fewer are wanted"
        )
    if together > granted - row["others"]:
        # Others may be on their way out, for example the release before this one: said, not refused.
        log("chassis").warning("connections_scarce", room=room, wanted=together, granted=granted, others=row["others"])


# `reserved_connections` is there from PostgreSQL 16 on. Connections of a role are seen by that role itself.
GRANTED = Sql(
    "connections_granted",
    """
SELECT
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0) AS server,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database,
    (SELECT count(*)::int FROM pg_stat_activity
     WHERE datname IS NOT NULL AND application_name <> current_setting('application_name')) AS others
""",
)
