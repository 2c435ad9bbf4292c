"""What `invochain doctor` looks at: each finding says what is there, and the command that mends what is not.

Nothing is changed, nothing is started; servers of the user's own are asked, one short connection each.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from invochain.chassis.replica import POSITION, split_urls
from invochain.supervisor import binaries
from invochain.supervisor.account import first_closed_folder, unprivileged_account
from invochain.supervisor.errors import CannotStart
from invochain.supervisor.ports import is_free
from invochain.supervisor.rooms import DATABASES
from invochain.supervisor.stack import REPLICAS, USUAL_PORTS, gateway_binary, url_setting
from invochain.supervisor.state import chosen_data_folder, running_stack

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
OLDEST_GO, OLDEST_RUST = (1, 24), (1, 85)
# A new cluster takes about 60 MiB, its write-ahead log up to 1 GiB.
DISK_NEEDED_BYTES, DISK_WANTED_BYTES = 256 * 1024**2, 2 * 1024**3
# A deadlock must be found well within the statement time-out of 2 s (PROTOCOL section 9).
DEADLOCK_TIMEOUT_MS_MAX = 100
ASKED_WITHIN_S = 5.0


class Level(enum.Enum):
    """How bad a finding is. NEEDED alone makes `invochain up` impossible."""

    GOOD = "ok"
    ADVICE = "advice"
    NEEDED = "missing"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is a command or the next step; empty when all is well."""

    level: Level
    subject: str
    found: str
    remedy: str = ""


def good(subject: str, found: str) -> Finding:
    return Finding(Level.GOOD, subject, found)


async def examine(data_folder: Path | None = None) -> list[Finding]:
    """Look at everything, in the order in which a newcomer would run into it."""
    folder = (data_folder or chosen_data_folder()).expanduser().resolve()
    looks: list[Callable[[], Iterable[Finding]]] = [
        _python,
        _core,
        _contract,
        _gateway,
        _servers,
        _build_tools,
        lambda: _data(folder),
        lambda: _ports(folder),
    ]
    findings = [finding for look in looks for finding in look()]
    return [*findings, *await _own_servers()]


def _python() -> Iterable[Finding]:
    here = sys.version_info[:2]
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if OLDEST_PYTHON <= here <= NEWEST_PYTHON:
        yield good("Python", found)
    else:
        yield Finding(Level.NEEDED, "Python", f"{found}; 3.11 to 3.13 is wanted", "PYTHON=python3.11 make setup")


def _core() -> Iterable[Finding]:
    if importlib.util.find_spec("invochain._core") is None:
        yield Finding(Level.NEEDED, "Rust core", "not built", "make build")
        return
    try:
        importlib.import_module("invochain.core")
    except ImportError as error:
        yield Finding(Level.NEEDED, "Rust core", f"does not fit the Python code: {error}", "make build")
    else:
        yield good("Rust core", "built")


def _contract() -> Iterable[Finding]:
    try:
        importlib.import_module("invochain.api.invoice.v1.invoice_service_pb2_grpc")
    except (ImportError, RuntimeError) as error:
        yield Finding(Level.NEEDED, "generated code", str(error).splitlines()[0], "make proto")
    else:
        yield good("generated code", "there")


def _gateway() -> Iterable[Finding]:
    binary = gateway_binary()
    if os.access(binary, os.X_OK):
        yield good("gateway", str(binary))
    else:
        yield Finding(Level.NEEDED, "gateway", f"no program at {binary}", "make build")


def _servers() -> Iterable[Finding]:
    wanted: list[tuple[str, Callable[[], binaries.ServerFiles], bool]] = [
        ("PostgreSQL", binaries.postgres_files, all(os.environ.get(url_setting(name)) for name in DATABASES)),
        ("Valkey", binaries.valkey_files, bool(os.environ.get("INVOCHAIN_REDIS_URL"))),
    ]
    for subject, find, own in wanted:
        if own:
            yield good(subject, "a server of your own is used")
            continue
        try:
            files = find()
        except (CannotStart, OSError, subprocess.SubprocessError) as error:
            remedy = error.remedy if isinstance(error, CannotStart) else "make setup"
            yield Finding(Level.NEEDED, subject, str(error).splitlines()[0], remedy)
        else:
            yield good(subject, f"{files.version} in {files.folder}")


def _build_tools() -> Iterable[Finding]:
    yield _tool("Go", ["go", "env", "GOVERSION"], OLDEST_GO, "make setup")
    yield _tool("Rust", ["rustc", "--version"], OLDEST_RUST, "make setup")
    linker = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if linker:
        yield good("C linker", linker)
    else:
        yield Finding(Level.ADVICE, "C linker", "none; builds of the core need one", "apt-get install gcc libc6-dev")


def _tool(subject: str, command: list[str], oldest: tuple[int, int], remedy: str) -> Finding:
    """A tool that only builds need; found as `make` finds it, in .cache/bin first."""
    ours = Path(__file__).resolve().parents[3] / ".cache" / "bin"
    path = os.pathsep.join([str(ours), os.environ.get("PATH", "")])
    program = shutil.which(command[0], path=path)
    wanted = ".".join(map(str, oldest))
    if program is None:
        return Finding(Level.ADVICE, subject, f"not found; builds need {wanted} or newer", remedy)
    try:
        said = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=ASKED_WITHIN_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(Level.ADVICE, subject, f"{program} does not run: {error}", remedy)
    version = re.search(r"(\d+)\.(\d+)[.\d]*", said.stdout)
    if version is None or (int(version[1]), int(version[2])) < oldest:
        return Finding(Level.ADVICE, subject, f"{said.stdout.strip()}; builds need {wanted} or newer", remedy)
    return good(subject, f"{version[0]} at {program}")


def _data(folder: Path) -> Iterable[Finding]:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        account = unprivileged_account()
    except CannotStart as error:
        yield Finding(Level.NEEDED, "account of the databases", error.found, error.remedy)
        account = None
    else:
        yield good("account of the databases", account.name if account else "yourself")
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            Level.NEEDED, "data folder", f"{there} is not yours to write to", "choose another one with --data-dir"
        )
    elif account and (closed := first_closed_folder(folder / "postgres", account)) and closed != folder:
        yield Finding(
            Level.NEEDED,
            "data folder",
            f"{closed} is closed to {account.name!r}, whom the databases run as",
            "choose another one with --data-dir, such as /var/lib/invochain",
        )
    else:
        yield good("data folder", str(folder))
    free = shutil.disk_usage(there).free
    found = f"{free // 1024**2:,} MiB free on the disk of {there}"
    if free < DISK_NEEDED_BYTES:
        yield Finding(Level.NEEDED, "disk", found, "free some, or choose another folder with --data-dir")
    elif free < DISK_WANTED_BYTES:
        yield Finding(Level.ADVICE, "disk", found, "the write-ahead log alone may take 1 GiB; free some")
    else:
        yield good("disk", found)


def _ports(folder: Path) -> Iterable[Finding]:
    try:
        state = running_stack(folder)
    except CannotStart:
        pass
    else:
        replica = f", read replica at {state.addresses['replica']}" if "replica" in state.addresses else ""
        yield good("stack", f"runs on this folder, process id {state.pid}, REST at {state.gateway_url}{replica}")
        return
    used = [f"{port} ({purpose})" for purpose, port in USUAL_PORTS.items() if not is_free(port)]
    if used:
        remedy = "`invochain up` takes other ones and prints them; choose with --port NAME=NUMBER"
        yield Finding(Level.ADVICE, "ports", f"in use: {', '.join(used)}", remedy)
    else:
        yield good("ports", f"{', '.join(map(str, USUAL_PORTS.values()))} are free")


async def _own_servers() -> list[Finding]:
    """The servers named by INVOCHAIN_*_URL, asked side by side."""
    asks: list[Awaitable[list[Finding]]] = [
        _own_postgres(name, url) for name in DATABASES if (url := os.environ.get(url_setting(name), ""))
    ]
    asks += [_own_replica(number, url) for number, url in enumerate(split_urls(os.environ.get(REPLICAS, "")), 1)]
    if url := os.environ.get("INVOCHAIN_REDIS_URL", ""):
        asks.append(_own_redis(url))
    return [finding for findings in await asyncio.gather(*asks) for finding in findings]


async def _own_postgres(name: str, url: str) -> list[Finding]:
    import asyncpg

    subject = f"your {name} database"
    try:
        connection = await asyncpg.connect(url, timeout=ASKED_WITHIN_S)
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        # The URL holds a password, so it is not repeated here.
        remedy = f"check {url_setting(name)} and that the server runs"
        return [Finding(Level.NEEDED, subject, f"cannot connect: {type(error).__name__}: {error}", remedy)]
    try:
        major = connection.get_server_version().major
        deadlock_ms = await connection.fetchval(
            "SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'", timeout=ASKED_WITHIN_S
        )
    finally:
        await connection.close(timeout=ASKED_WITHIN_S)
    findings = [good(subject, f"PostgreSQL {major} answers")]
    if major < binaries.OLDEST_POSTGRES:
        found = f"PostgreSQL {major}; {binaries.OLDEST_POSTGRES} or newer is wanted"
        findings = [Finding(Level.NEEDED, subject, found, "upgrade the server")]
    if deadlock_ms > DEADLOCK_TIMEOUT_MS_MAX:
        findings.append(
            Finding(
                Level.ADVICE,
                subject,
                f"deadlock_timeout is {deadlock_ms} ms; {DEADLOCK_TIMEOUT_MS_MAX} ms finds a deadlock in time",
                "as superuser: ALTER SYSTEM SET deadlock_timeout = '100ms'; SELECT pg_reload_conf();",
            )
        )
    return findings


async def _own_replica(number: int, url: str) -> list[Finding]:
    """A read replica that is away or late costs speed only: advice, never a lack."""
    import asyncpg

    subject = f"your read replica {number}"
    primary_url = os.environ.get(url_setting("invoice"), "")
    try:
        here = await _position(url)
        primary = await _position(primary_url) if primary_url else None
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        found = f"cannot connect: {type(error).__name__}; the primary answers its reads"
        return [Finding(Level.ADVICE, subject, found, f"check {REPLICAS} and that the server runs")]
    if not here["replica"]:
        return [Finding(Level.ADVICE, subject, "is no streaming replica; it answers nobody", f"check {REPLICAS}")]
    if primary is not None and here["cluster"] != primary["cluster"]:
        found = "follows another cluster than the invoice database's; it answers nobody"
        return [Finding(Level.ADVICE, subject, found, f"check {REPLICAS}")]
    return [good(subject, "follows its primary")]


async def _position(url: str) -> Mapping[str, object]:
    import asyncpg

    connection = await asyncpg.connect(url, timeout=ASKED_WITHIN_S)
    try:
        row = await connection.fetchrow(POSITION.text, timeout=ASKED_WITHIN_S)
        return dict(row.items()) if row else {}
    finally:
        await connection.close(timeout=ASKED_WITHIN_S)


async def _own_redis(url: str) -> list[Finding]:
    import redis.asyncio as redis

    subject = "your Redis"
    client = redis.Redis.from_url(
        url, socket_timeout=ASKED_WITHIN_S, socket_connect_timeout=ASKED_WITHIN_S, retry_on_error=[]
    )
    try:
        info = await client.info("server")
    except (redis.RedisError, OSError, ValueError) as error:
        remedy = "check INVOCHAIN_REDIS_URL and that the server runs"
        return [Finding(Level.NEEDED, subject, f"cannot connect: {type(error).__name__}: {error}", remedy)]
    finally:
        await client.aclose()
    return [good(subject, f"{info.get('valkey_version') or info.get('redis_version')} answers")]
