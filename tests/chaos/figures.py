"""What the experiments of a session counted and measured: a line each, a table at the end, and the same as JSON.

`results/figures.json` and `results/summary.txt` (beside this file, not checked in) are of the last session that ran an
experiment to its verdict. Duplicates, lost and orphans must be 0 in all of them; an experiment that failed before its
verdict has no line, and is named as failed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Measured:
    """A time in seconds beside its bound."""

    what: str
    took_s: float
    bound_s: float

    def __str__(self) -> str:
        took = f"{self.took_s:.1f} s" if self.took_s >= 1 else f"{1_000 * self.took_s:.1f} ms"
        return f"{self.what} {took} of {self.bound_s:g} s"


@dataclass
class Run:
    """One experiment with a verdict. `unknown`: answers after which a client asked again, by their text."""

    experiment: str
    full: bool
    faults: dict[str, int]
    sent: int
    acknowledged: int
    moves: int
    replays: int
    unknown: dict[str, int]
    duplicates: int
    lost: int
    orphans: int
    measured: list[Measured]
    notes: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        return sum(self.faults.values())

    def __str__(self) -> str:
        faults = ", ".join(f"{what} {times}" for what, times in self.faults.items())
        told = ", ".join(f"{text} {times}" for text, times in sorted(self.unknown.items())) or "none"
        times = "; ".join([*map(str, self.measured), *self.notes]) or "no bound"
        return (
            f"{self.experiment}: {faults}; sent {self.sent}, acknowledged {self.acknowledged} and {self.moves} moves, "
            f"replays {self.replays}, unknown ({told}); duplicates {self.duplicates}, lost {self.lost}, "
            f"orphans {self.orphans}; {times}"
        )


@dataclass
class Figures:
    """Of a session. `headlines`: figures that are of no experiment's line, by name."""

    runs: list[Run] = field(default_factory=list)
    headlines: dict[str, str] = field(default_factory=dict)

    def summary(self, failed: Sequence[str]) -> list[str]:
        """Lines for people; `failed`: tests that did not pass."""
        names = [f"{run.experiment}{'' if run.full else ' (short)'}" for run in self.runs]
        width = max(map(len, names))
        columns = ("injected", "sent", "acknowledged", "moves", "replays", "unknown", "duplicates", "lost", "orphans")
        lines = [f"{'experiment':<{width}}  {'  '.join(columns)}"]
        total = dict.fromkeys(columns, 0)
        for name, run in zip(names, self.runs, strict=True):
            row = {column: getattr(run, column) for column in columns if column != "unknown"}
            row["unknown"] = sum(run.unknown.values())
            lines.append(f"{name:<{width}}  {'  '.join(f'{row[c]:>{len(c)}}' for c in columns)}")
            total = {column: total[column] + row[column] for column in columns}
        lines.append(f"{'together':<{width}}  {'  '.join(f'{total[c]:>{len(c)}}' for c in columns)}")
        lines += ["", "times against their bounds"]
        for name, run in zip(names, self.runs, strict=True):
            lines += [f"{name:<{width}}  {'; '.join([*map(str, run.measured), *run.notes])}"]
        if self.headlines:
            most = max(map(len, self.headlines))
            lines += ["", *(f"{name:<{most}}  {text}" for name, text in self.headlines.items())]
        lines += ["", f"{len(self.runs)} experiments with a verdict; failed: {', '.join(failed) or 'none'}"]
        return lines

    def keep(self, failed: Sequence[str]) -> list[str]:
        """Writes both files; returns the lines."""
        lines = self.summary(failed)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "summary.txt").write_text("\n".join(lines) + "\n")
        told = {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "runs": [asdict(run) | {"injected": run.injected} for run in self.runs],
            "headlines": self.headlines,
            "failed": list(failed),
        }
        (RESULTS / "figures.json").write_text(json.dumps(told, indent=2) + "\n")
        return lines
