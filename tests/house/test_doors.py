"""The building itself: doors that the import linter cannot see, folders that must not be, words that must not leak."""

from __future__ import annotations

import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "services" / "invochain"
SOURCES = [p for p in PACKAGE.rglob("*.py") if "api" not in p.relative_to(PACKAGE).parts[:1]]


def test_only_core_imports_the_compiled_extension():
    """`core.py` is the only Python door to Rust."""
    through = [p.relative_to(ROOT) for p in SOURCES if re.search(r"\b(from|import) invochain\._core\b", p.read_text())]
    assert through == [Path("services/invochain/core.py")]


def test_core_lists_everything_that_the_extension_has():
    """What Rust offers is declared in `_core.pyi` and passed on by `core.py`."""
    from invochain import _core, core

    built = {name for name in dir(_core) if not name.startswith("_")}
    assert built == set(core.__all__)
    declared = set(re.findall(r"^(?:def|class) (\w+)|^([A-Z_]+):", (PACKAGE / "_core.pyi").read_text(), re.MULTILINE))
    assert built <= {name for pair in declared for name in pair}


@pytest.mark.parametrize("crate", ["core", "transport", "python"])
def test_modules_of_a_crate_lie_in_layers(crate):
    """No module of a crate uses one that, by whatever way, uses it: nobody has to read two files at once."""
    source = ROOT / "core-rs" / crate / "src"
    uses: dict[str, set[str]] = {}
    for path in source.rglob("*.rs"):
        module = path.relative_to(source).parts[0].removesuffix(".rs")
        code = re.sub(r"//.*", "", path.read_text())
        named = {first for many in re.findall(r"\bcrate::(\w+|\{[^;]*\});?", code) for first in _first_names(many)}
        uses.setdefault(module, set()).update(named - {module})
    assert len(uses) > 5 and any(uses.values())
    TopologicalSorter({module: used & uses.keys() for module, used in uses.items() if module != "lib"}).prepare()


def _first_names(use: str) -> list[str]:
    """`calls` of `calls`; `calls` and `inbox` of `{calls::{Answer, Slot}, inbox}`."""
    while (flat := re.sub(r"::(\w+|\*|\{[^{}]*\})", "", use)) != use:
        use = flat
    return re.findall(r"\w+", use)


def test_only_the_clock_reads_a_clock():
    """`chassis/clock.py` reads clocks for services; the supervisor and the command line measure their own waiting."""
    reads = re.compile(r"\b(time\.(time|monotonic|time_ns)|datetime\.(now|utcnow|today)|date\.today)\(")
    rooms = [p for p in SOURCES if p.relative_to(PACKAGE).parts[0] not in ("supervisor", "cli")]
    found = {str(p.relative_to(PACKAGE)) for p in rooms if reads.search(p.read_text())}
    # A fresh UUIDv7 is made of the time.
    assert found == {"chassis/clock.py", "chassis/ids.py"}


def test_sockets_are_opened_in_the_chassis_only():
    """No room opens a channel, a pool or a socket of its own."""
    opens = re.compile(r"insecure_channel|secure_channel|create_pool|asyncpg\.connect\(|from_url\(|socket\.socket\(")
    rooms = ("merchant", "inventory", "invoice", "durable", "workers")
    found = [str(p) for p in SOURCES if p.relative_to(PACKAGE).parts[0] in rooms and opens.search(p.read_text())]
    assert found == []


def test_nothing_that_guards_a_write_can_read_a_replica():
    """read_invoice.py alone reads through `room.reader`, which has no transaction; the servicer asks it for tokens."""
    from invochain.chassis.replica import Reader, Rows

    inside = {str(p.relative_to(PACKAGE)): p.read_text() for p in SOURCES}

    def where(pattern: str) -> set[str]:
        return {name for name, text in inside.items() if re.search(pattern, text)}

    assert where(r"\breader\.read\(") == {"invoice/read_invoice.py"}
    assert where(r"room\.reader(?!\.read\()") == {"invoice/servicer.py"}
    assert set(re.findall(r"room\.reader\.?\w*", inside["invoice/servicer.py"])) == {"room.reader.token"}
    assert where(r"chassis\.replica import|chassis import .*\breplica") == {
        "invoice/read_invoice.py",
        "invoice/room.py",
        "invoice/service.py",
        "supervisor/examination.py",  # doctor asks each server what it is
    }
    assert where("replica_urls") == {"chassis/settings.py", "invoice/service.py"}
    offers = {name for kind in (Reader, Rows) for name in dir(kind) if not name.startswith("_")}
    assert offers == {"open", "close", "read", "token", "fetch", "fetchrow", "place"}


def test_no_room_has_a_name_that_says_nothing():
    """A folder is named for its job."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    words = {part for line in listed.splitlines() for part in Path(line).parts[:-1]}
    assert words.isdisjoint({"utils", "util", "common", "helpers", "models", "misc", "lib", "docs", "scripts"})


def test_every_room_has_a_readme():
    """Promise, doors, data, what to read first, one command to try."""
    rooms = [p for p in PACKAGE.iterdir() if p.is_dir() and p.name not in ("api", "__pycache__")]
    top = [ROOT / name for name in ("proto", "core-rs", "services", "clients", "deploy", "benchmarks", "tests")]
    without = [str(p.relative_to(ROOT)) for p in (*rooms, *top) if not (p / "README.md").exists()]
    assert without == []


def test_nothing_committed_names_a_machine_or_a_secret():
    """No path of a machine, no key material."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    forbidden = re.compile(r"(?<![\w.])/(root|home/[a-z]+)/|BEGIN (RSA|EC|OPENSSH) PRIVATE KEY")
    found = []
    for line in listed.splitlines():
        path = ROOT / line
        if path.suffix in (".lock", ".sum", ".binpb", ".svg", ".png") or not path.is_file() or path == Path(__file__):
            continue
        if forbidden.search(path.read_text(errors="ignore")):
            found.append(line)
    assert found == []
