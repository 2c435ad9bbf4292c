"""The migration runner on a real server, and the migrations of every room through it."""

import asyncio
import subprocess
from pathlib import Path

import asyncpg
import pytest

from invochain.chassis import migrate as migrations
from invochain.chassis.migrate import (
    SEQUENCES,
    Migration,
    MigrationRefused,
    apply,
    load,
    migrate,
    migrations_of,
    unapply,
)

SERVICES = Path(migrations.__file__).parents[1]


def migration(number: int, up: str, down: str = "SELECT 1", sequence: str = "room") -> Migration:
    return Migration(sequence, number, f"step_{number}", up, down)


async def tables(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
        )
        return sorted(row[0] for row in rows)
    finally:
        await connection.close()


ONE = migration(1, "CREATE TABLE one (x int)", "DROP TABLE one")
TWO = migration(2, "CREATE TABLE two (x int); INSERT INTO two VALUES (1)", "DROP TABLE two")


class TestApply:
    async def test_each_is_applied_once_in_order(self, empty):
        """The second call has nothing to do; a later release adds what is new."""
        dsn = await empty()

        assert ["room/0001_step_1"] == await apply(dsn, [ONE])
        assert ["room/0002_step_2"] == await apply(dsn, [ONE, TWO])
        assert [] == await apply(dsn, [ONE, TWO])
        assert ["one", "schema_migration", "two"] == await tables(dsn)

    async def test_several_at_once_apply_each_once(self, empty):
        """Every instance of a service may migrate at its start."""
        dsn = await empty()

        done = await asyncio.gather(*(apply(dsn, [ONE, TWO]) for _ in range(6)))

        assert ["room/0001_step_1", "room/0002_step_2"] == sorted(label for labels in done for label in labels)

    async def test_a_failing_one_leaves_nothing_and_those_before_it_stay(self, empty):
        """One transaction each: half a migration does not exist."""
        dsn = await empty()
        broken = migration(2, "CREATE TABLE two (x int); SELECT 1 / 0")

        with pytest.raises(
            MigrationRefused, match=r"room/0002_step_2 failed, nothing of it was kept: division by zero"
        ):
            await apply(dsn, [ONE, broken])

        assert ["one", "schema_migration"] == await tables(dsn)
        assert ["room/0002_step_2"] == await apply(dsn, [ONE, TWO])

    async def test_a_file_that_changed_after_it_was_applied_is_refused(self, empty):
        """With both checksums and what to do; nothing else is applied either."""
        dsn = await empty()
        await apply(dsn, [ONE])
        changed = migration(1, "CREATE TABLE one (x bigint)")

        with pytest.raises(
            MigrationRefused, match=r"room/0001_step_1 was applied .* checksum .* write a new migration"
        ):
            await apply(dsn, [changed, TWO])

        assert ["one", "schema_migration"] == await tables(dsn)

    async def test_one_that_slipped_in_below_an_applied_one_is_refused(self, empty):
        """Two branches took the same numbers: the database of one of them would differ for ever."""
        dsn = await empty()
        await apply(dsn, [TWO])

        with pytest.raises(MigrationRefused, match="room/0002_step_2 is applied and room/0001_step_1"):
            await apply(dsn, [ONE, TWO])

    async def test_what_a_newer_release_applied_is_left_alone(self, empty):
        """The previous release may still migrate while it serves."""
        dsn = await empty()
        await apply(dsn, [ONE, TWO])

        assert [] == await apply(dsn, [ONE])

    async def test_it_gives_up_on_a_lock_instead_of_queueing_everyone(self, empty, monkeypatch):
        """A long reader must not make all others wait behind the migration."""
        monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 100)
        dsn = await empty()
        await apply(dsn, [ONE])
        reader = await asyncpg.connect(dsn)
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("SELECT * FROM one")

        with pytest.raises(MigrationRefused, match=r"waited 0\.1 s for a lock and gave up"):
            await apply(dsn, [ONE, migration(2, "ALTER TABLE one ADD COLUMN y int")])

        await transaction.rollback()
        await reader.close()


class TestDown:
    async def test_the_newest_is_undone_first_down_to_a_number(self, empty):
        """And can be applied again."""
        dsn = await empty()
        await apply(dsn, [ONE, TWO])

        assert ["room/0002_step_2"] == await unapply(dsn, [ONE, TWO], "room", 1)
        assert ["one", "schema_migration"] == await tables(dsn)
        assert ["room/0002_step_2"] == await apply(dsn, [ONE, TWO])

    async def test_what_others_stand_on_is_not_undone(self, empty):
        """The sequence every room begins with goes last."""
        dsn = await empty()
        base = migration(1, "CREATE TABLE base (x int)", "DROP TABLE base", sequence="durable")
        await apply(dsn, [base, ONE])

        with pytest.raises(MigrationRefused, match="room/0001_step_1 stands on durable; undo it first"):
            await unapply(dsn, [base, ONE], "durable", 0)


class TestLoad:
    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["0002_b.up.sql", "0002_b.down.sql"], "0001 is wanted, 0002_b was found"),
            (["0001_a.up.sql"], r"0001_a has no .down.sql"),
            (["0001_a.down.sql"], r"0001_a has no .up.sql"),
            (["1_a.up.sql"], "1_a.up.sql is not named"),
            (["0001_a.up.sql", "0001_a.down.sql", "0001_b.up.sql", "0001_b.down.sql"], "0002 is wanted, 0001_b"),
        ],
    )
    def test_a_folder_that_does_not_add_up_is_refused(self, tmp_path, names, words):
        """A gap, half a pair, a number used twice, a name that is none."""
        for name in names:
            (tmp_path / name).write_text("SELECT 1")

        with pytest.raises(MigrationRefused, match=words):
            load("room", tmp_path)

    def test_an_unknown_room_is_refused(self):
        """With those there are."""
        with pytest.raises(MigrationRefused, match="no database called 'warehouse'; known are merchant, inventory"):
            migrations_of("warehouse")


class TestEveryRoom:
    @pytest.mark.parametrize("room", SEQUENCES)
    async def test_up_down_and_up_again(self, empty, room):
        """Every `up` has a `down` that takes all of it back."""
        dsn = await empty()
        wanted = migrations_of(room)

        assert [m.label for m in wanted] == await migrate(dsn, room)
        for sequence, _ in reversed(SEQUENCES[room]):
            if any(m.sequence == sequence for m in wanted):
                await unapply(dsn, wanted, sequence, 0)
        assert ["schema_migration"] == await tables(dsn)
        assert [m.label for m in wanted] == await migrate(dsn, room)

    @pytest.mark.parametrize("path", sorted(SERVICES.glob("*/*migrations/*.up.sql")), ids=lambda path: path.name)
    def test_the_linter_finds_nothing_unsafe(self, path):
        """squawk: no lock that stops the previous release, nothing it cannot read; and a first line that says why."""
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(f"-- {path.name.removesuffix('.up.sql')}: ") and " Why: " in first

        # A migration runs in one transaction of ours, so it carries no BEGIN; integers and text are chosen on purpose.
        excluded = "prefer-bigint-over-int,prefer-bigint-over-smallint,prefer-robust-stmts,require-statement-timeout"
        result = subprocess.run(
            ["squawk", "--assume-in-transaction", "--pg-version", "15.0", "--exclude", excluded, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == result.returncode, result.stdout + result.stderr
