"""The same protocol on Stateright (tests/model/stateright): two keys over two SKUs, purge, and one restore."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CRATE = Path(__file__).with_name("stateright")
TARGET = ROOT / "target" / "saga-twin"
MUTANTS = re.findall(r'^    \("(\w+)", Mutant::', (CRATE / "src" / "model.rs").read_text(), re.MULTILINE)

# States and transitions. The first two are those of saga_model.py, found by another program.
COUNTS = {
    "one-key-two-handlers": (44_162, 239_028),
    "one-key-three-handlers": (244_238, 1_562_351),
    "two-keys-one-attempt": (360_000, 2_641_500),
    "restore": (107_556, 733_256),
}
# Minutes and gigabytes.
LONG_COUNTS = {
    "two-keys": (3_062_400, 25_251_428),
    "restore-two-handlers": (553_448, 5_058_312),
}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def twin() -> Path:
    """The model checker, built (a cold build takes about 15 s)."""
    assert shutil.which("cargo"), "cargo is missing; `make setup` installs it"
    command = ["cargo", "build", "--locked", "--quiet", "--manifest-path", CRATE / "Cargo.toml", "--target-dir", TARGET]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert built.returncode == 0, built.stderr
    return TARGET / "debug" / "invochain-saga-twin"


def run(twin: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([twin, *args], capture_output=True, text=True, timeout=800, check=False)


@pytest.mark.parametrize(
    ("exploration", "counts"),
    [*COUNTS.items(), *(pytest.param(*long, marks=pytest.mark.long, id=long[0]) for long in LONG_COUNTS.items())],
)
def test_the_protocol_is_safe_and_always_settles(twin, exploration, counts):
    """All reachable states hold the invariants, and from each the repair actors alone settle all stock."""
    checked = run(twin, exploration)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.startswith("{} states, {} transitions, safe; every state settles".format(*counts))


def test_there_are_twenty_mutants():
    """The thirteen of saga_model.py, and seven of what only this model has."""
    assert len(MUTANTS) == 20


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_caught(twin, mutant):
    """A model that cannot fail proves nothing."""
    checked = run(twin, "restore" if mutant.startswith("restore") else "two-keys", mutant)
    assert checked.returncode == 1
    assert "VIOLATION: " in checked.stdout
