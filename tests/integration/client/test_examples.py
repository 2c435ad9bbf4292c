"""The examples do what they promise against real services, as programs of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.kit.market import Market

CLIENT = Path(__file__).resolve().parents[3] / "clients" / "python"
EXAMPLES = ("issue_and_accept", "sell_the_last_unit", "retry_after_a_lost_answer")


async def run_example(name: str, stack: Path) -> tuple[int, str]:
    """The exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENT / "examples" / f"{name}.py"),
        "--stack",
        str(stack),
        env={**os.environ, "PYTHONPATH": str(CLIENT / "src")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.fixture
async def stack(market: Market, tmp_path: Path) -> Path:
    """A stack.json that leads to the market."""
    await market.work()
    addresses = {room: getattr(market.settings, f"{room}_address") for room in ("merchant", "inventory", "invoice")}
    file = tmp_path / "stack.json"
    file.write_text(json.dumps({"state": "ready", "addresses": addresses}))
    return file


class TestAnExample:
    @pytest.mark.parametrize("name", EXAMPLES)
    async def test_ends_with_all_its_promises_kept(self, stack, name):
        """Exit code 0, and not one line that says NOT."""
        code, said = await run_example(name, stack)

        assert (code, "NOT " in said) == (0, False), said
        assert said.count("ok ") >= 4

    async def test_says_where_it_looked_when_no_stack_is_there(self, tmp_path):
        """Without a stack it ends with a line that names the file and the command, not with a traceback."""
        code, said = await run_example("issue_and_accept", tmp_path)

        assert code == 1
        assert "make run" in said and str(tmp_path) in said and "Traceback" not in said
