"""`invochain up` as people run it: the whole stack, from the command to the last process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from invochain.supervisor.ports import LOOPBACK, is_free
from invochain.supervisor.rooms import DATABASES, SERVICES
from invochain.supervisor.stack import REPLICAS, url_setting
from invochain.supervisor.state import StackState, read_state, running_stack
from tests.kit.servers import PostgresServer, ValkeyServer

UNITS = {"postgres", "valkey", *SERVICES, "workers", "gateway"}
# Generous: the machine may be busy with other tests. A healthy start takes a few seconds.
WITHIN_S = 90.0
pytestmark = pytest.mark.timeout(300)


def until(what: Callable[[], object], said: str) -> object:
    """Poll `what` until it is true; fails with `said` when it is not in time."""
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S:g} s: {said}")


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Up:
    """One `invochain up`, with what it says in a file."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder = folder
        self.output = folder.parent / f"up-{time.monotonic_ns()}.txt"
        settings = {name: value for name, value in os.environ.items() if not name.startswith("INVOCHAIN_")}
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from invochain.cli import main; main()", "up", *options],
                env={**settings, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def state(self) -> StackState:
        state = read_state(self.folder)
        assert state is not None, self.said
        return state

    def ready(self) -> StackState:
        def look() -> StackState | None:
            assert self.process.poll() is None, self.said
            state = read_state(self.folder)
            return state if state and state.pid == self.process.pid and state.state == "ready" else None

        state = until(look, "the stack is ready")
        assert isinstance(state, StackState)
        return state

    def hears(self, words: str) -> None:
        until(lambda: words in self.said, f"{words!r} in:\n{self.said}")

    def ended(self) -> int:
        return self.process.wait(WITHIN_S)

    def ctrl_c(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def up() -> Iterator[Callable[..., Up]]:
    """Starts stacks on one data folder and kills what a test left running."""
    started: list[Up] = []
    # Not below pytest's own folder: the databases' account cannot pass through that when we are root.
    with tempfile.TemporaryDirectory(prefix="ic-up-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        data = Path(folder, "data with a space")

        def start(*options: str, **environment: str) -> Up:
            started.append(Up(data, "--data-dir", str(data), *options, **environment))
            return started[-1]

        yield start
        state = read_state(data)
        for one in started:
            one.kill()
        pids = state.pids.values() if state else ()
        until(lambda: not any(map(alive, pids)), f"the children of the killed stack are gone: {pids}")


def fetch(url: str) -> int:
    """The status of a page; no proxy, whatever the environment says."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return int(answer.status)


async def ask(url: str, *statements: str) -> object:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


class TestUp:
    async def test_a_life_from_start_to_start(self, up: Callable[..., Up]):
        """Healthy, told to others, refused to a second supervisor, stopped in order; data and ports are there again."""
        first = up()
        state = first.ready()
        assert set(state.pids) == UNITS
        assert all(map(alive, state.pids.values()))
        assert 200 == fetch(f"{state.gateway_url}/readyz")
        for url in state.metrics.values():
            assert 200 == fetch(url)
        assert running_stack(first.folder).environment == state.environment
        database = state.environment[url_setting("invoice")]
        await ask(database, "CREATE TABLE kept_by_a_test AS SELECT 7 AS lucky", "SELECT 1")

        second = up()
        assert 1 == second.ended()
        assert f"already in use by `invochain up` with process id {first.process.pid}" in second.said
        assert "--ephemeral" in second.said

        assert 0 == first.ctrl_c()
        assert not any(map(alive, state.pids.values()))
        stopped = [line.split("] ")[1].split()[0] for line in first.said.splitlines() if " stopped after" in line]
        assert {"gateway", "workers"} == set(stopped[:2])
        assert set(SERVICES) == set(stopped[2:5])
        assert {"postgres", "valkey"} == set(stopped[5:])
        assert "stopped" == first.state.state
        assert {} == first.state.environment, "a stopped stack leaves no passwords in its state file"

        third = up()
        again = third.ready()
        assert state.ports == again.ports
        assert 7 == await ask(again.environment[url_setting("invoice")], "SELECT lucky FROM kept_by_a_test")

    def test_a_crashed_service_comes_back_and_it_is_said(self, up: Callable[..., Up]):
        """A process that dies, for whatever reason, is started again; so is the database under all of them."""
        stack = up()
        before = stack.ready().pids

        for name in ("inventory", "postgres"):
            os.kill(before[name], signal.SIGKILL)
            stack.hears(f"{name:<10} was ended by SIGKILL; starting it again in 0.2 s")
            stack.hears(f"{name:<10} ready again")
            assert stack.state.pids[name] != before[name]

        until(lambda: fetch_quietly(f"{stack.state.gateway_url}/readyz") == 200, "the gateway finds everybody again")
        assert before["merchant"] == stack.state.pids["merchant"]

    def test_nothing_outlives_a_supervisor_that_was_killed(self, up: Callable[..., Up]):
        """SIGKILL to the supervisor ends all its children, and the next start finds nothing in its way."""
        first = up()
        state = first.ready()

        first.kill()

        until(lambda: not any(map(alive, state.pids.values())), "all children have ended")
        assert state.ports == up().ready().ports

    def test_ctrl_c_while_it_starts_leaves_nothing_running(self, up: Callable[..., Up]):
        """A start that is broken off is a stop, at any moment."""
        stack = up()
        stack.hears("postgres   ready")
        pid = stack.state.pids["postgres"]

        assert 0 == stack.ctrl_c()

        assert not alive(pid)
        assert "Traceback" not in stack.said

    def test_a_chosen_port_that_is_taken_is_refused(self, up: Callable[..., Up]):
        """What was asked for by name is not replaced in silence."""
        with socket.create_server((LOOPBACK, 0)) as server:
            port = server.getsockname()[1]
            stack = up("--gateway-port", str(port))
            assert 1 == stack.ended()

        assert f"port {port} for gateway is in use\nchoose another one: --port gateway=NUMBER" in stack.said

    def test_a_unit_that_cannot_start_ends_it_all(self, up: Callable[..., Up]):
        """Exit code 1, the reason last, and nobody left behind."""
        stack = up(INVOCHAIN_GATEWAY_BIN="/bin/false")
        assert 1 == stack.ended()

        assert "gateway ended with exit code 1 before it was ready" in stack.said
        assert {} == stack.state.pids
        assert is_free(stack.state.ports["postgres"])

    async def test_servers_of_the_users_own_are_used_and_none_is_started(self, up: Callable[..., Up]):
        """With all INVOCHAIN_*_URL set, the stack is services, workers and gateway."""
        async with PostgresServer() as postgres, ValkeyServer() as valkey:
            own = {url_setting(name): await postgres.make_database(name) for name in DATABASES}
            stack = up(**own, INVOCHAIN_REDIS_URL=valkey.url)
            state = stack.ready()

            assert set(state.pids) == UNITS - {"postgres", "valkey"}
            assert own.items() <= state.environment.items()
            assert 0 == stack.ctrl_c()

    async def test_a_read_replica_comes_with_the_stack_and_goes_with_it(self, up: Callable[..., Up]):
        """It follows, is told to the invoice service and kept alive; a start without it lets go of its log."""
        first = up("--replica")
        state = first.ready()
        assert set(state.pids) == UNITS | {"replica"}
        here = state.environment[REPLICAS]
        assert await ask(here, "SELECT pg_is_in_recovery()")
        until(lambda: "replica_in_rotation" in page(state.metrics["invoice"]), "the invoice service watches it")
        until(lambda: 'replica="invoice-replica-1"} 1.0' in page(state.metrics["invoice"]), "it is in rotation")

        os.kill(state.pids["replica"], signal.SIGKILL)
        first.hears("replica    ready again")
        assert await ask(here, "SELECT pg_is_in_recovery()")
        assert 0 == first.ctrl_c()

        second = up()
        state = second.ready()
        assert set(state.pids) == UNITS
        assert REPLICAS not in state.environment
        assert 0 == await ask(state.environment[url_setting("invoice")], "SELECT count(*) FROM pg_replication_slots")

    def test_a_replica_of_a_users_own_database_is_theirs_to_start(self, up: Callable[..., Up]):
        """Two wishes that do not go together are refused, with both ways out."""
        stack = up("--replica", **{url_setting("invoice"): "postgresql://somebody@127.0.0.1:1/invoice"})
        assert 1 == stack.ended()
        assert f"name its replicas in {REPLICAS}, or leave --replica out" in stack.said

    def test_a_throw_away_stack_leaves_no_folder(self, tmp_path: Path):
        """--ephemeral takes random ports and a temporary folder, and removes it at the end."""
        stack = Up(tmp_path / "unused", "--ephemeral", TMPDIR=tempfile.gettempdir())
        try:
            stack.hears("all healthy")
            folder = Path(stack.said.split("data folder ")[1].split(";")[0].splitlines()[0])
            state = json.loads((folder / "stack.json").read_text())
            assert state["ephemeral"]
            assert 0 == stack.ctrl_c()
        finally:
            stack.kill()

        assert not folder.exists()
        assert not any(map(alive, state["pids"].values()))


def page(url: str) -> str:
    """The text of a page."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def fetch_quietly(url: str) -> int:
    with contextlib.suppress(OSError):
        return fetch(url)
    return 0
