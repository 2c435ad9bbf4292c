"""The switch of the kill points: what it takes, what it refuses, and that it is off unless somebody asks for it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from signal import SIGKILL

import pytest
from pydantic import ValidationError

from invochain.chassis import faults
from invochain.chassis.settings import Settings
from invochain.supervisor.rooms import command

PACKAGE = Path(faults.__file__).parents[1]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.arm("")


def test_every_hook_is_listed_and_every_listed_step_has_a_hook():
    """A step that is misspelt would be a fault that never happens."""
    hooks = [
        name for path in PACKAGE.rglob("*.py") for name in re.findall(r'faults\.reach\("(.+?)"\)', path.read_text())
    ]
    # The docstring of faults.py shows one.
    assert sorted(set(hooks)) == sorted(faults.STEPS)


def test_the_form_is_read_whole():
    assert faults.parse("decide.begin:kill:nth=3:after=200") == faults.Fault("decide.begin", "kill", 0, 3, 0.2)
    assert faults.parse("reserve.send:sleep=1500") == faults.Fault("reserve.send", "sleep", 1.5, 1, 0)


@pytest.mark.parametrize("text", ["decide.begin", "decide.begin:explode", "nowhere:kill", "decide.begin:kill:nth=0"])
def test_anything_else_is_refused_by_name(text):
    with pytest.raises(ValueError, match="INVOCHAIN_FAULT"):
        faults.parse(text)


def test_production_does_not_start_with_it():
    """Nor with a shorter abort age, which is for fault tests too."""
    with pytest.raises(ValidationError, match="INVOCHAIN_FAULT"):
        Settings(environment="production", fault="decide.begin:kill")
    with pytest.raises(ValidationError, match="INVOCHAIN_ABORT_AFTER_MS"):
        Settings(environment="production", abort_after_ms=29_999)
    assert Settings(environment="production").task_life_s == 15


async def test_only_the_named_step_fires_and_only_the_nth_time():
    faults.arm("decide.begin:sleep=60000:nth=3")
    await faults.reach("decide.begin")
    await faults.reach("decide.committed")
    await faults.reach("decide.begin")
    # The third one would sleep a minute.
    assert faults._armed is not None and faults._armed.nth == 1


def test_kill_ends_the_process_as_kill_9_does():
    code = "import asyncio; from invochain.chassis import faults as f; f.arm('decide.begin:kill'); "
    program = [*command()[:2], code + "asyncio.run(f.reach('decide.begin')); print('alive')"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, "alive" in ended.stdout) == (-SIGKILL, False)
