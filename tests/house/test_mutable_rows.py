"""Every table, and what keeps two writers of one of its rows from overwriting each other.

A new table, or a new UPDATE, that is not accounted for here fails. That stale versions are refused over the wire is
tests/integration/test_stale_versions.py.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import invochain
from invochain.chassis.postgres import Sql

PACKAGE = Path(__file__).parents[2] / "services" / "invochain"

# What people change: a version that grows with every change, sent back as an etag, refused when it is stale.
VERSIONED = {"merchant", "stock", "invoice", "dead_letter"}
# A copy of what is versioned elsewhere: a lower version never overwrites a higher one.
COPIED = {"party"}
# State machines of PROTOCOL 4: the UPDATE names the state (and attempt, secret, generation) it starts from, or the row
# was locked and looked at by the statement before it.
BY_STATE = {"decision", "reservation", "refresh_family", "app_user", "parked_aggregate"}
# Sums and positions: added to in one statement, on the row as it is then.
COUNTED = {"number_series", "sign_in_attempt", "fence", "topic_partition", "group_position"}
# Written once; what is over is deleted, nothing is changed.
WRITTEN_ONCE = {
    "audit_entry",
    "dead_letter_action",
    "inbox",
    "invoice_item",
    "log_record",
    "movement",
    "outbox",
    "parked_event",
    "restore_epoch",
    "schema_migration",
}
# Changes of a versioned row that are no change of what its version counts, each with its reason.
NOT_COUNTED = {
    "stock_reserve": "holds come and go without a change of what is on hand",
    "stock_free": "the same",
    "dead_letter_open": "one more try is counted; where it changes the state, the version grows",
    "invoice_link_buyer": "a registration is no action on the invoice: versions count audit entries (I12)",
}


def statements() -> list[Sql]:
    for module in pkgutil.walk_packages(invochain.__path__, "invochain."):
        if not module.name.startswith(("invochain.api", "invochain._core", "invochain.cli")):
            importlib.import_module(module.name)
    return [sql for sql in Sql.registered if sql.module.startswith("invochain.")]


def changes(sql: Sql) -> set[str]:
    """The tables whose rows a statement changes."""
    updated = re.findall(r"\bUPDATE\s+(?!SET\b)([a-z_]+)(?:\s+AS\s+\w+)?\s+SET\b", sql.text)
    return {*updated, *re.findall(r"\bINSERT INTO ([a-z_]+)[^;]*?\bDO UPDATE\b", sql.text)}


def test_every_table_says_what_guards_its_rows():
    """A table that nobody thought about is not there."""
    made = {
        name
        for path in PACKAGE.rglob("*migrations/*.up.sql")
        for name in re.findall(r"^CREATE TABLE (?:IF NOT EXISTS )?([a-z_]+)", path.read_text(), re.MULTILINE)
    }
    kinds = (VERSIONED, COPIED, BY_STATE, COUNTED, WRITTEN_ONCE)
    assert made | {"schema_migration"} == set().union(*kinds)
    assert sum(map(len, kinds)) == len(set().union(*kinds)), "a table is of one kind"


def test_what_is_written_once_is_never_changed():
    """Audit entries, movements, events and lines of invoices have no UPDATE at all."""
    found = {sql.name: changes(sql) & WRITTEN_ONCE for sql in statements()}
    assert {name for name, tables in found.items() if tables} == set()


def test_every_change_of_a_versioned_row_grows_its_version():
    """Else a writer who read before it would overwrite it unnoticed."""
    without = {
        sql.name
        for sql in statements()
        if changes(sql) & VERSIONED and not re.search(r"\bversion = (\w+\.)?version \+ 1\b", sql.text)
    }
    assert without == NOT_COUNTED.keys()


def test_a_copy_never_goes_back():
    """merchant.changed comes in any order; the local directory keeps the highest version."""
    (keep,) = (sql for sql in statements() if changes(sql) & COPIED)
    assert re.search(r"WHERE [^;]*\bparty\.version < newer\.version$", keep.text), keep.text
