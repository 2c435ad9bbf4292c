"""Generates the messages and stubs of the contract as `invochain_client.api`.

The sources are ../../proto in a clone, proto/ beside this file in a source distribution. Descriptors keep the
contract's names, only Python's imports are changed: client and server code of one contract live in one process, each
under its own package. Run it (`python generate.py`) to have the package in place; the wheel's build hook calls
`generate`.
"""

from __future__ import annotations

import importlib.resources
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
IN_PLACE = HERE / "src" / "invochain_client" / "api"
# What partners call; events are for consumers of the broker.
WANTED = ("*_service.proto", "errors.proto")


def sources() -> Path:
    """The folder that holds invochain/api/. Raises FileNotFoundError when there is none."""
    for folder in (HERE / "proto", HERE.parents[1] / "proto" if len(HERE.parents) > 1 else HERE):
        if (folder / "invochain" / "api").is_dir():
            return folder
    raise FileNotFoundError(f"no contract: neither {HERE / 'proto'} nor ../../proto holds invochain/api/*.proto")


def wanted(folder: Path) -> list[Path]:
    """The .proto files of the client, relative to `folder`."""
    return sorted(path.relative_to(folder) for pattern in WANTED for path in folder.rglob(pattern))


def generate(target: Path) -> None:
    """Writes the package into the folder `target`, which must not exist yet."""
    import google.rpc
    from grpc_tools import protoc

    folder = sources()
    googleapis = Path(next(iter(google.rpc.__path__))).parents[1]
    wellknown = importlib.resources.files("grpc_tools") / "_proto"
    with importlib.resources.as_file(wellknown) as builtin, tempfile.TemporaryDirectory() as half:
        includes = [f"--proto_path={path}" for path in (folder, googleapis, builtin)]
        outputs = [f"--{kind}_out={half}" for kind in ("python", "pyi", "grpc_python")]
        if code := protoc.main(["protoc", *includes, *outputs, *(str(path) for path in wanted(folder))]):
            raise RuntimeError(f"protoc ended with {code}")
        made = Path(half) / "invochain" / "api"
        for path in made.rglob("*.py*"):
            path.write_text(_rename(path.read_text(encoding="utf-8")), encoding="utf-8")
        for level in (made, *(path for path in made.rglob("*") if path.is_dir())):
            (level / "__init__.py").write_text('"""Generated from the contract; never edited."""\n', encoding="utf-8")
        shutil.copytree(made, target)


def _rename(code: str) -> str:
    """Imports and module names only: the bytes of a descriptor name the contract's own packages."""
    code = re.sub(r"^(from|import) invochain\.api", r"\1 invochain_client.api", code, flags=re.MULTILINE)
    return code.replace("(DESCRIPTOR, 'invochain.api.", "(DESCRIPTOR, 'invochain_client.api.")


def ensure() -> None:
    """Generates in place what is missing or older than its sources; processes that do so at once wait for each other.

    For work on a clone, so POSIX only.
    """
    import fcntl

    with open(IN_PLACE.parent / ".generate.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = sources()
        changed = max(path.stat().st_mtime for path in (Path(__file__), *(folder / name for name in wanted(folder))))
        made = IN_PLACE / "__init__.py"
        if made.exists() and made.stat().st_mtime > changed:
            return
        shutil.rmtree(IN_PLACE, ignore_errors=True)
        generate(IN_PLACE)


if __name__ == "__main__":
    ensure()
    sys.stdout.write(f"the contract is in {IN_PLACE}\n")
