"""Newer tables of law from a folder: in force at once, or refused whole with the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from invochain import core
from invochain.invoice import law_tables

RATES = Path(__file__).parents[3] / "core-rs" / "core" / "data" / "rate_slabs.csv"

# The date comes before the table, the bad line after it.
LAST_LINE = f"line {len(RATES.read_text().splitlines()) + 2}: "


@pytest.fixture(autouse=True)
def built_in_again() -> Iterator[None]:
    yield
    core.gst_builtin_tables()


def rate_is_lawful(rate: str) -> bool:
    vector = {"kind": "rate", "input": {"rate": rate, "date": "2026-11-22", "hsn": "610910"}}
    return bool(json.loads(core.gst_vector(json.dumps(vector)))["ok"])


def test_a_newer_table_is_in_force_without_a_rebuild(tmp_path):
    """A rate that the law gains tomorrow is one line in a dated file."""
    text = "# as of 2026-12-01\n" + RATES.read_text() + "13000,2026-11-01,,SPECIAL,,made up for this test\n"
    (tmp_path / "rate_slabs.csv").write_text(text)
    assert not rate_is_lawful("13")

    law_tables.load(tmp_path)

    assert rate_is_lawful("13")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rate_slabs.csv", "# as of 2026-12-01\n" + RATES.read_text() + "13000,soon,,SPECIAL,,x\n", LAST_LINE),
        ("rate_slabs.csv", RATES.read_text(), "as of"),
        ("rates.csv", "# as of 2026-12-01\nx\n", "rates"),
    ],
    ids=["a bad line", "no date", "no such table"],
)
def test_a_bad_table_is_refused_whole(tmp_path, name, text, words):
    """The message names the file and what is wrong; what was in force stays."""
    (tmp_path / name).write_text(text)
    with pytest.raises(law_tables.TableRefused, match=words) as refused:
        law_tables.load(tmp_path)
    assert name in str(refused.value)
    assert rate_is_lawful("18")


def test_an_empty_folder_is_refused(tmp_path):
    """A folder named by mistake must not pass for the law."""
    with pytest.raises(law_tables.TableRefused, match=r"no \.csv file"):
        law_tables.load(tmp_path)
    law_tables.load(None)
