"""The checker finds nothing after honest trade, finds each invariant that is broken, and stands in nobody's way."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from typer.testing import CliRunner

from invochain.chassis.ids import new_id
from invochain.chassis.postgres import Postgres, _prepare_connection
from invochain.chassis.session import Session
from invochain.check import check_all as checking
from invochain.check.across_rules import SOLD_IS_RECEIVED
from invochain.check.check_all import CheckFailed, Found, NoSuchInvariant, check_all, chosen
from invochain.check.rule import Page, Rule, Scan
from invochain.check.rules import NAMES, RULES
from invochain.check.snapshot import Databases
from invochain.cli import app
from invochain.durable import dead_letters
from invochain.invoice.repairs import LookAgain
from invochain.workers import checker, runner
from invochain.workers.replayer import Replayer
from tests.integration.check.breaks import BREAKS, HELD, one
from tests.integration.check.conftest import Copies, Traded, hits

WITHOUT_SUBJECT = ["I11", "I14", "I17"]


@pytest.fixture
async def letters(copies: Copies) -> AsyncIterator[Postgres]:
    """Where the worker writes what it finds: a copy of the invoice service's database."""
    await copies.own("invoice")
    postgres = await Postgres.connect(copies.dsn("invoice"), name="test", size=2)
    yield postgres
    await postgres.close()


class TestAfterHonestTrade:
    async def test_every_invariant_holds(self, traded: Traded):
        """Nothing is wrong, and not for want of looking: every rule with a subject saw rows."""
        found = await check_all(traded.settings, 0)
        assert hits(found) == {}
        assert [one.rule.name for one in found if one.skipped] == WITHOUT_SUBJECT
        # Nothing is pending and nothing has failed, so I7 and I19 have nothing to see.
        assert {one.rule.name for one in found if not one.rows} == {*WITHOUT_SUBJECT, "I7", "I19"}

    async def test_pages_of_one_row_see_as_many_rows(self, traded: Traded, monkeypatch: pytest.MonkeyPatch):
        """No row is skipped or seen twice at the border of a page."""
        whole = [(one.rule.name, one.rows) for one in await check_all(traded.settings, 0)]
        pages = Scan.page

        async def single(self: Scan, connection, after, lag_s):
            monkeypatch.setitem(self.__dict__, "limit", 1)
            return await pages(self, connection, after, lag_s)

        monkeypatch.setattr(Scan, "page", single)
        assert [(one.rule.name, one.rows) for one in await check_all(traded.settings, 0)] == whole

    async def test_a_page_ends_after_so_many_rows_of_the_table(self, traded: Traded, monkeypatch: pytest.MonkeyPatch):
        """Also where few of them are asked for: to look for the next one could take a walk through all the others."""
        monkeypatch.setitem(SOLD_IS_RECEIVED.scan.__dict__, "limit", 1)
        databases = Databases(traded.settings)
        try:
            pages = [page.rows async for page in SOLD_IS_RECEIVED.pages(databases, 0)]
            async with databases.snapshot("invoice") as connection:
                invoices = await connection.fetchval("SELECT count(*) FROM invoice")
        finally:
            await databases.close()
        assert 0 < sum(pages) < invoices
        assert len(pages) == invoices + 1

    async def test_rules_are_those_of_the_protocol(self):
        """I1 to I20, each with probes or with the reason why it has none."""
        assert [f"I{n}" for n in range(1, 21)] == list(NAMES)
        assert [rule.name for rule in RULES if rule.missing] == WITHOUT_SUBJECT
        assert all(bool(rule.probes) != bool(rule.missing) for rule in RULES)


class TestABrokenInvariant:
    @pytest.mark.parametrize("what", BREAKS)
    async def test_is_found(self, copies: Copies, what: str):
        name, room, damage = BREAKS[what]
        await copies.own(room)
        await copies.sql(room, damage)
        (found,) = await check_all(copies.settings, 0, [name])
        assert found.violations > 0
        assert 1 <= len(found.examples) <= 5

    async def test_of_every_rule_is_tried(self):
        assert {name for name, _, _ in BREAKS.values()} == set(NAMES) - set(WITHOUT_SUBJECT)

    async def test_a_letter_about_a_hold_that_is_as_its_decision_wants_it_is_found(self, copies: Copies):
        """Between two databases: the letter at the invoice service, the hold at the inventory. One that is still wrong
        is no hit."""
        await copies.own("inventory", "invoice")
        insert = """INSERT INTO dead_letter (merchant_id, dead_letter_id, kind, subject, aggregate, rid, attempt,
                 fingerprint, reason, attempts)
               VALUES ($1, $2, 'CONFIRM', $3, $3, $2, 1, $4, 'RESERVATION_GONE', 1)"""
        inventory = await asyncpg.connect(copies.dsn("inventory"))
        hold = await inventory.fetchrow(f"SELECT * FROM reservation WHERE {HELD} LIMIT 1")
        invoice = await asyncpg.connect(copies.dsn("invoice"))
        subject = str(hold["reservation_id"])
        await invoice.execute(insert, hold["merchant_id"], hold["reservation_id"], subject, hold["fingerprint"])
        (found,) = await check_all(copies.settings, 0, ["I19"])
        assert (found.violations, subject[:8] in found.examples[0]) == (1, True)

        await inventory.execute("UPDATE reservation SET state = 'RELEASED' WHERE reservation_id = $1", subject)
        (found,) = await check_all(copies.settings, 0, ["I19"])
        assert (found.violations, found.rows) == (0, 1)
        await inventory.close()
        await invoice.close()

    @pytest.mark.parametrize("where", ["parked by its consumer", "discarded", "parked by the relay"])
    async def test_an_event_that_is_parked_or_discarded_is_accounted_for(self, copies: Copies, where: str):
        """I15 asks for the effect or for the letter; without either it is a hit."""
        room = "invoice" if where == "parked by the relay" else "inventory"
        await copies.own("inventory", "invoice")
        seen = await asyncpg.connect(copies.dsn("inventory"))
        rows = await seen.fetch("DELETE FROM inbox WHERE consumer = 'inventory.settle' RETURNING merchant_id, event_id")
        await seen.close()
        (lost,) = await check_all(copies.settings, 0, ["I15"])
        assert lost.violations == len(rows) > 0

        connection = await asyncpg.connect(copies.dsn(room))
        consumer = "" if where == "parked by the relay" else "inventory.settle"
        for row in rows:
            if where == "discarded":
                await connection.execute(
                    """INSERT INTO dead_letter (merchant_id, dead_letter_id, kind, consumer, subject, aggregate, reason,
                         attempts, state, discard_reason, proposer_id)
                       VALUES ($1, $2, 'CONSUME', $3, $4, $4, 'X', 10, 'DISCARDED', 'by hand', $2)""",
                    *(row["merchant_id"], row["event_id"], consumer, str(row["event_id"])),
                )
            else:
                await connection.execute(
                    """INSERT INTO parked_event (merchant_id, consumer, aggregate, seq, subject, envelope, sealed)
                       VALUES ($1, $2, $3, 1, $3, '{}', '')""",
                    *(row["merchant_id"], consumer, str(row["event_id"])),
                )
        await connection.close()
        (found,) = await check_all(copies.settings, 0, ["I15"])
        assert found.violations == 0

    async def test_two_lasting_holds_of_one_request_are_found(self, copies: Copies):
        """The second attempt is kept beside the first."""
        from invochain import core

        await copies.own("inventory")
        connection = await asyncpg.connect(copies.dsn("inventory"))
        await _prepare_connection(connection)
        hold = await connection.fetchrow(f"SELECT rid FROM reservation WHERE {HELD} LIMIT 1")
        await connection.execute(
            """INSERT INTO reservation (merchant_id, reservation_id, resolver, state, rid, attempt, fingerprint, skus,
                 quantities_milli)
               SELECT merchant_id, $1, resolver, 'REVERSED', rid, 2, fingerprint, skus, quantities_milli
               FROM reservation WHERE rid = $2""",
            core.reservation_id(hold["rid"], 2),
            hold["rid"],
        )
        await connection.close()
        found = await check_all(copies.settings, 0, ["I4", "I5"])
        assert [(one.rule.name, one.violations) for one in found] == [("I4", 1), ("I5", 1)]

    async def test_is_told_without_a_gstin(self, copies: Copies):
        """SKUs that the server made for goods received have the seller's GSTIN in them; examples do not."""
        await copies.own("inventory")
        await copies.sql("inventory", "UPDATE stock SET on_hand_milli = on_hand_milli + 1 WHERE sku LIKE '%@%'")
        (found,) = await check_all(copies.settings, 0, ["I1"])
        assert found.violations == 1
        assert "@<gstin>" in found.examples[0]
        assert not re.search(r"[0-9]{2}[A-Z]{5}[0-9]{4}", found.examples[0])

    async def test_gives_five_examples_at_most(self, copies: Copies):
        await copies.own("invoice")
        await copies.sql("invoice", "UPDATE audit_entry SET mac = sha256('x')")
        (found,) = await check_all(copies.settings, 0, ["I13"])
        assert (found.violations > 5, len(found.examples)) == (True, 5)


class TestTheLag:
    @pytest.mark.parametrize(
        ("name", "room", "damage"),
        [
            ("I5", "inventory", f"DELETE FROM reservation WHERE {HELD}"),
            ("I6", "invoice", "DELETE FROM invoice WHERE takes_stock"),
            ("I7", "inventory", f"UPDATE reservation SET state = 'PENDING' WHERE {HELD}"),
            ("I15", "inventory", "DELETE FROM inbox"),
            ("I16", "inventory", "DELETE FROM movement WHERE kind = 'SALE'"),
        ],
    )
    async def test_covers_what_is_young(self, copies: Copies, name: str, room: str, damage: str):
        """What is younger than the lag may be under way: with an hour of lag nothing is wrong, with none it is."""
        await copies.own(room)
        await copies.sql(room, damage)
        (within,) = await check_all(copies.settings, 3_600, [name])
        (without,) = await check_all(copies.settings, 0, [name])
        assert (within.violations, without.violations > 0) == (0, True)

    async def test_does_not_cover_what_holds_always(self, copies: Copies):
        await copies.own("inventory")
        await copies.sql("inventory", f"UPDATE stock SET on_hand_milli = on_hand_milli + 1 WHERE {one('stock')}")
        (found,) = await check_all(copies.settings, 3_600, ["I1"])
        assert found.violations == 1


class TestTheChecksOwnConnections:
    async def test_cannot_write(self, traded: Traded):
        databases = Databases(traded.settings)
        try:
            async with databases.snapshot("inventory") as connection:
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    await connection.execute("DELETE FROM stock")
            pool = await databases._pool("inventory")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await pool.execute("DELETE FROM stock")
        finally:
            await databases.close()

    async def test_take_no_lock_that_delays_a_writer(self, copies: Copies, monkeypatch: pytest.MonkeyPatch):
        """At the end of every page of every rule, while its transaction is still open, the check holds nothing but
        ACCESS SHARE, which only DROP and ALTER wait for."""
        await copies.own("inventory", "invoice")
        watcher = copies.traded.superuser
        modes: set[str] = set()
        pages = Scan.page

        async def watched(self: Scan, connection, after, lag_s):
            rows = await pages(self, connection, after, lag_s)
            held = await watcher.fetch(
                """SELECT DISTINCT mode FROM pg_locks JOIN pg_stat_activity USING (pid)
                   WHERE application_name LIKE 'invochain-check:%' AND locktype <> 'virtualxid'"""
            )
            modes.update(row["mode"] for row in held)
            return rows

        monkeypatch.setattr(Scan, "page", watched)
        assert hits(await check_all(copies.settings, 0)) == {}
        assert modes == {"AccessShareLock"}

    async def test_let_writers_write_and_do_not_wait_for_them(self, copies: Copies, monkeypatch: pytest.MonkeyPatch):
        """While a writer holds every row of stock, the check goes through; and while a page of the check is open, a
        writer that may not wait changes every row of it."""
        await copies.own("inventory")
        writer = await asyncpg.connect(copies.dsn("inventory"), server_settings={"lock_timeout": "1ms"})
        pages, writes = Scan.page, []

        async def beside(self: Scan, connection, after, lag_s):
            rows = await pages(self, connection, after, lag_s)
            writes.append(await writer.execute("UPDATE stock SET update_time = now()"))
            return rows

        monkeypatch.setattr(Scan, "page", beside)
        assert hits(await check_all(copies.settings, 0, ["I1", "I2", "I3"])) == {}
        assert len(writes) >= 3

        monkeypatch.setattr(Scan, "page", pages)
        async with writer.transaction():
            await writer.execute("UPDATE stock SET on_hand_milli = on_hand_milli + 1")
            await writer.execute("LOCK TABLE reservation, movement IN SHARE ROW EXCLUSIVE MODE")
            assert hits(await check_all(copies.settings, 0, ["I1", "I2", "I3"])) == {}
        assert hits(await check_all(copies.settings, 0, ["I1"])).keys() == {"I1"}
        await writer.close()

    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
    async def test_may_read_what_they_read(self, traded: Traded, rule):
        """Every statement is prepared under the role of the service whose database it reads."""
        for probe in rule.probes:
            for room, texts in probe.statements.items():
                connection = await asyncpg.connect(traded.settings.database_url(room))
                for text in texts:
                    await connection.prepare(text)
                await connection.close()

    async def test_say_when_they_cannot_look(self, traded: Traded):
        """That is a failure of the check, not an invariant that holds."""
        nowhere = traded.settings.model_copy(update={"invoice_database_url": "postgresql://x@127.0.0.1:1/none"})
        with pytest.raises(CheckFailed, match=r"^I8 \(invoice\): "):
            await check_all(nowhere, 0, ["I8"])

    async def test_name_the_database_that_is_missing(self, traded: Traded):
        """Without a broker the rest is looked at, and what was not is said."""
        settings = traded.settings.model_copy(update={"broker_database_url": ""})
        (found,) = await check_all(settings, 0, ["I12"])
        assert found.rows > 0
        assert found.skipped == "INVOCHAIN_BROKER_DATABASE_URL is not set"


class TestTheCommand:
    def run(self, copies: Copies | Traded, *args: str, monkeypatch: pytest.MonkeyPatch):
        for room in ("merchant", "inventory", "invoice", "broker"):
            monkeypatch.setenv(f"INVOCHAIN_{room.upper()}_DATABASE_URL", copies.settings.database_url(room))
        monkeypatch.setenv("INVOCHAIN_SECRETS_DIR", str(copies.settings.secrets_dir))
        return CliRunner().invoke(app, ["check", *args])

    # Not async: the command runs an event loop of its own.
    def test_prints_a_line_for_each_and_exits_0(self, traded: Traded, monkeypatch: pytest.MonkeyPatch):
        result = self.run(traded, "--lag", "0", monkeypatch=monkeypatch)
        assert result.exit_code == 0, result.output
        lines = result.output.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == list(NAMES)
        assert lines[-1] == "every invariant holds"
        assert lines[10] == "I11  no subject yet: there are no payments and notes yet"

    def test_exits_1_on_a_hit_and_says_which(self, broken: Copies, monkeypatch: pytest.MonkeyPatch):
        result = self.run(broken, "--lag", "0", "--only", "i1,I3", "--json", monkeypatch=monkeypatch)
        assert result.exit_code == 1
        first, second = (json.loads(line) for line in result.output.splitlines())
        assert (first["invariant"], first["violations"], len(first["examples"])) == ("I1", 1, 1)
        assert (second["invariant"], second["violations"]) == ("I3", 0)

    def test_refuses_an_invariant_that_is_none(self, traded: Traded, monkeypatch: pytest.MonkeyPatch):
        result = self.run(traded, "--only", "I99", monkeypatch=monkeypatch)
        assert result.exit_code == 2
        with pytest.raises(NoSuchInvariant):
            chosen(["I99"])

    @pytest.fixture
    async def broken(self, copies: Copies) -> Copies:
        await copies.own("inventory")
        await copies.sql("inventory", f"UPDATE stock SET on_hand_milli = on_hand_milli + 1 WHERE {one('stock')}")
        return copies


def gauge(metric, name: str) -> float:
    return metric.labels(invariant=name)._value.get()


class TestTheWorker:
    async def test_measures_every_rule(self, copies: Copies, letters: Postgres):
        """One sweep: violations, rows and seconds of each, and a letter. A later one sees that it was mended."""
        await copies.own("inventory")
        await copies.sql("inventory", "UPDATE stock SET on_hand_milli = on_hand_milli + 1 WHERE sku LIKE '%@%'")
        worker = checker.Checker(Databases(copies.settings), letters, lag_s=0)
        replayer = Replayer("invoice", letters, {dead_letters.RECONCILE: LookAgain()})

        async def found(state: str) -> list[dead_letters.Letter]:
            async with letters.reading() as tx:
                return await dead_letters.with_state(tx, state, 10)

        try:
            assert await worker.run_once() == 0
            (letter,) = await found("OPEN")
            assert (letter.kind, letter.aggregate, letter.reason) == ("RECONCILE", "I1", "INVARIANT_BROKEN")
            assert "<gstin>" in letter.subject
            # Asked to look again, it finds the same: the letter is open again, and nobody else ends it.
            async with letters.transaction() as tx:
                await dead_letters.replay(tx, await dead_letters.lock(tx, letter.dead_letter_id), new_id())
            assert await replayer.run_once() == 0
            assert len(await found("REPLAYING")) == 1
            assert await worker.run_once() == 0
            assert [one.dead_letter_id for one in await found("OPEN")] == [letter.dead_letter_id]
            assert [gauge(checker.VIOLATIONS, name) for name in ("I1", "I2", "I13")] == [1, 0, 0]
            assert gauge(checker.ROWS, "I13") > 0
            assert gauge(checker.SECONDS, "I13") > 0
            await copies.sql("inventory", "UPDATE stock SET on_hand_milli = on_hand_milli - 1 WHERE sku LIKE '%@%'")
            assert await worker.run_once() == 0
            assert gauge(checker.VIOLATIONS, "I1") == 0
            assert (await found("OPEN"), await found("REPLAYING")) == ([], [])
        finally:
            await worker.close()

    async def test_goes_on_where_it_stopped(self, traded: Traded, letters: Postgres, monkeypatch: pytest.MonkeyPatch):
        """A table too large for one round takes several, each one page here, and every page is seen once."""
        monkeypatch.setattr(checker, "ROUND_S", 0)
        pages: list[Page] = []
        add = Found.add
        monkeypatch.setattr(Found, "add", lambda self, page: (pages.append(page), add(self, page)))
        worker = checker.Checker(Databases(traded.settings), letters, lag_s=0)
        rounds = 1
        try:
            while await worker.run_once():
                rounds += 1
        finally:
            await worker.close()
        whole = await check_all(traded.settings, 0)
        assert rounds > len(RULES) - len(WITHOUT_SUBJECT)
        assert sum(page.rows for page in pages) == 2 * sum(one.rows for one in whole)

    async def test_finishes_a_rule_whose_pauses_are_longer_than_a_round(
        self, traded: Traded, letters: Postgres, monkeypatch: pytest.MonkeyPatch
    ):
        """A slow page's pause goes on in the rounds after it; no round is cut off for it."""
        monkeypatch.setattr(checker, "ROUND_S", 0.2)
        monkeypatch.setattr(checker, "PAUSES", 20)

        class Slow:
            rooms, statements = ("inventory",), {}

            async def pages(self, databases: Databases, lag_s: float) -> AsyncIterator[Page]:
                for _ in range(3):
                    async with databases.snapshot("inventory") as connection:
                        await connection.execute("SELECT pg_sleep(0.05)")
                    yield Page(1, [])

        rule = Rule("I1", "slow", "always", (Slow(),))
        worker = checker.Checker(Databases(traded.settings), letters, rules=[rule])
        longest, begun = 0.0, time.monotonic()
        try:
            more = 1
            while more:
                round_begun = time.monotonic()
                more = await worker.run_once()
                longest = max(longest, time.monotonic() - round_begun)
        finally:
            await worker.close()
        assert gauge(checker.ROWS, "I1") == 3
        assert time.monotonic() - begun > 2 * 20 * 0.05
        assert longest < 20 * 0.05

    async def test_a_stop_does_not_wait_for_a_sweep(self, traded: Traded, letters: Postgres):
        """Told to end while the database is at a statement of half a minute, the loop is gone at once."""
        began = asyncio.Event()

        class Slow:
            rooms, statements = ("inventory",), {}

            async def pages(self, databases: Databases, lag_s: float) -> AsyncIterator[Page]:
                async with databases.snapshot("inventory") as connection:
                    began.set()
                    await connection.execute("SELECT pg_sleep(25)")
                yield Page(0, [])

        rule = Rule("I1", "never done", "always", (Slow(),))
        worker = checker.Checker(Databases(traded.settings), letters, rules=[rule])
        stop, leader = asyncio.Event(), Session(traded.settings.invoice_database_url, "invoice")
        running = asyncio.create_task(runner.run([worker], stop, lambda room: leader))
        try:
            async with asyncio.timeout(20):
                await began.wait()
            stop.set()
            async with asyncio.timeout(8):
                await running
                await worker.close()
        finally:
            running.cancel()
            await leader.close()

    async def test_leaves_a_rule_that_fails_for_the_next_sweep(
        self, traded: Traded, letters: Postgres, monkeypatch: pytest.MonkeyPatch
    ):
        """The failure is the runner's to count; the other rules are looked at all the same."""
        looked: list[str] = []
        real = checking.look

        def look(databases, rule, lag_s):
            looked.append(rule.name)
            if rule.name == "I2":
                raise CheckFailed("I2 (inventory): timed out")
            return real(databases, rule, lag_s)

        monkeypatch.setattr(checker, "look", look)
        worker = checker.Checker(Databases(traded.settings), letters, lag_s=0)
        try:
            with pytest.raises(CheckFailed):
                await worker.run_once()
            assert await worker.run_once() == 0
        finally:
            await worker.close()
        assert looked == [name for name in NAMES if name not in WITHOUT_SUBJECT]
