"""The law's tables in force: those built into the core, or newer ones from a folder, without a rebuild.

A file is named like its table (`rate_slabs.csv`, `state_codes.csv`, `uqc_codes.csv`, `special_goods.csv`,
`reason_codes.csv`) and begins with `# as of YYYY-MM-DD`. A bad file is refused whole, with the line, and with it the
start of the service: an invoice is never taxed by half a table.
"""

from __future__ import annotations

from pathlib import Path

from invochain import core
from invochain.chassis.telemetry import log


class TableRefused(Exception):
    """A table file that cannot be used; the message names the file and the line."""


def load(folder: Path | None) -> None:
    """Puts the tables of the folder in force in this process; no folder: those built in. Raises TableRefused."""
    if folder is None:
        return
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise TableRefused(f"{folder}: found no .csv file; INVOCHAIN_GST_TABLES_DIR names a folder of tables")
    for file in files:
        try:
            as_of = core.gst_replace_table(file.stem, file.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as fault:
            raise TableRefused(f"{file}: {fault}") from None
        log("invoice").info("table_in_force", table=file.stem, as_of=as_of)
