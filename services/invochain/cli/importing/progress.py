"""How far an import came: a small file beside the invoices, and the report of what was refused.

Written when the server has said that it is durable, so a kill at any moment costs nothing: what was sent beyond it is
sent again, and its keys find what was issued.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

KEPT = ("offset", "digest", "issued", "replayed", "refused", "consistency_token")
HEADER = ("line", "idempotency_key", "reason", "field", "code", "description")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one invoice of the file."""

    line: int
    key: str
    # ISSUED, REPLAYED, or the reason of the refusal.
    result: str
    # (field, code, description) of each broken rule; at least one for a refusal.
    broken: tuple[tuple[str, str, str], ...] = ()
    # Of the invoice, as its row has it.
    digest: str = ""


class FileChanged(Exception):
    """What was imported already reads otherwise now."""


@dataclass
class Progress:
    """Counts of the invoices that are durable; `offset` is the line of the last one."""

    path: Path
    report: Path
    offset: int = 0
    # Over the lines, keys and invoices up to there, so that a changed file is seen.
    digest: str = ""
    issued: int = 0
    replayed: int = 0
    refused: int = 0
    # The latest one: a read that brings it as `x-consistency-token` sees all that was issued.
    consistency_token: str = ""
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    @classmethod
    def load(cls, file: Path, *, from_start: bool) -> Progress:
        """Where an earlier import of the file stopped, or the beginning: then what was kept and reported is gone."""
        path, report = file.with_name(f"{file.name}.import.json"), file.with_name(f"{file.name}.refused.csv")
        progress = cls(path, report)
        if from_start:
            # First, so that whoever is stopped now begins anew as well: an offset without its report skips refusals.
            path.unlink(missing_ok=True)
        if path.exists():
            kept = json.loads(path.read_text())
            progress = cls(path, report, **{name: kept[name] for name in KEPT if name in kept})
            progress._cut_report()
        else:
            progress._write_report([])
        return progress

    @property
    def done(self) -> int:
        return self.issued + self.replayed + self.refused

    def passed(self, line: int, key: str, digest: str) -> bool:
        """Reads again over an invoice that is done; whether it is the last one, and all are what they were."""
        self._hash.update(f"{line}:{key}:{digest}\n".encode())
        return line == self.offset and self._hash.hexdigest() == self.digest

    def take(self, outcomes: list[Outcome], consistency_token: str = "") -> None:
        """Keeps what is durable now, in the order of the file, and the token that came with it, if one did."""
        self.consistency_token = consistency_token or self.consistency_token
        refused = [outcome for outcome in outcomes if outcome.broken]
        if refused:
            with open(self.report, "a", newline="", encoding="utf-8") as out:
                csv.writer(out).writerows((o.line, o.key, o.result, *broken) for o in refused for broken in o.broken)
                out.flush()
        for outcome in outcomes:
            self._hash.update(f"{outcome.line}:{outcome.key}:{outcome.digest}\n".encode())
            self.offset = outcome.line
        self.refused += len(refused)
        self.replayed += sum(outcome.result == "REPLAYED" for outcome in outcomes)
        self.issued += sum(outcome.result == "ISSUED" for outcome in outcomes)
        self.digest = self._hash.hexdigest()
        kept = {name: getattr(self, name) for name in KEPT}
        _replace(self.path, json.dumps(kept))

    def _cut_report(self) -> None:
        """Drops refusals that were reported just before a kill, and not yet counted."""
        if not self.report.exists():
            return
        with open(self.report, newline="", encoding="utf-8") as file:
            self._write_report(
                [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= self.offset]
            )

    def _write_report(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows([HEADER, *rows])
        _replace(self.report, text.getvalue())


def _replace(path: Path, text: str) -> None:
    """Writes a file whole, or leaves it as it was."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)
