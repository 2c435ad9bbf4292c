"""How far an import came, whatever stops it."""

from __future__ import annotations

import csv
import json

import pytest

from invochain.cli.importing import _after
from invochain.cli.importing.progress import FileChanged, Outcome, Progress
from invochain.cli.importing.rows import Reader

REFUSED = Outcome(3, "key-of-line-3", "VALIDATION_FAILED", (("hsn", "HSN_FORMAT_INVALID", "found 'x'"),))


def imported(file) -> Progress:
    """Three lines are done, the last one is refused."""
    progress = Progress.load(file, from_start=False)
    progress.take([Outcome(1, "key-of-line-1", "ISSUED"), Outcome(2, "key-of-line-2", "REPLAYED"), REFUSED])
    return progress


def reported(file) -> list[str]:
    with open(file.with_name(f"{file.name}.refused.csv"), newline="", encoding="utf-8") as report:
        return [row["line"] for row in csv.DictReader(report)]


def test_what_is_done_is_known_to_the_next_run(tmp_path):
    """Counts, line and report."""
    imported(tmp_path / "sales.csv")
    again = Progress.load(tmp_path / "sales.csv", from_start=False)
    assert (again.offset, again.issued, again.replayed, again.refused) == (3, 1, 1, 1)
    assert reported(tmp_path / "sales.csv") == ["3"]


def test_stopped_right_after_it_began_anew_it_begins_anew_the_next_time_too(tmp_path):
    """Corrected lines behind the old offset would be skipped, and their refusals are no longer in the report."""
    file = tmp_path / "sales.csv"
    imported(file)
    Progress.load(file, from_start=True)
    again = Progress.load(file, from_start=False)
    assert (again.offset, again.issued, again.replayed, again.refused) == (0, 0, 0, 0)
    assert reported(file) == []


def test_a_refusal_that_was_reported_and_not_yet_counted_is_reported_once(tmp_path):
    """A kill between the report and the count."""
    file = tmp_path / "sales.csv"
    imported(file)
    with open(file.with_name("sales.csv.refused.csv"), "a", newline="", encoding="utf-8") as report:
        csv.writer(report).writerow((9, "key-of-line-9", "VALIDATION_FAILED", "", "", ""))
    Progress.load(file, from_start=False)
    assert reported(file) == ["3"]


@pytest.mark.parametrize("changed", [False, True])
def test_an_invoice_that_was_changed_under_a_key_of_its_own_is_seen(tmp_path, changed):
    """It is done with what it said before; to skip it in silence would look like an import of what it says now."""
    file = tmp_path / "sales.jsonl"

    def after(notes: str) -> list[int]:
        rows = [
            {"idempotency_key": f"own-key-of-invoice-{n}", "invoice": {"notes": said}}
            for n, said in enumerate((notes, "last"))
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [row.line for row in _after(Reader(file, "", csv=False), Progress.load(file, from_start=False))]

    assert after("first") == [1, 2]
    (row, _) = Reader(file, "", csv=False).rows()
    Progress.load(file, from_start=False).take([Outcome(row.line, row.key, "ISSUED", digest=row.digest)])

    if changed:
        with pytest.raises(FileChanged):
            after("corrected")
    else:
        assert after("first") == [2]
