"""The state file of a stack, `stack.json`: where everything listens, which processes run, how to connect.

Read by the demo, the tests and the commands of `invochain`, which thereby find the running stack without settings.
It holds database passwords, so only its owner may read it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from invochain.supervisor.errors import CannotStart
from invochain.supervisor.folder import LOCK, default_data_folder

FILE = "stack.json"


class StackState(BaseModel):
    """What a supervisor tells others. Fields a reader does not know are passed over."""

    model_config = ConfigDict(extra="ignore")

    format: Literal[1] = 1
    state: Literal["starting", "ready", "stopping", "stopped"]
    # The supervisor's process id.
    pid: int
    data_folder: Path
    ephemeral: bool = False
    # host:port by unit name: merchant, inventory, invoice, workers, gateway, postgres, valkey.
    addresses: dict[str, str] = Field(default_factory=dict)
    # http://host:port/metrics by unit name.
    metrics: dict[str, str] = Field(default_factory=dict)
    # Process ids of the units that run at this moment.
    pids: dict[str, int] = Field(default_factory=dict)
    # Every port by its purpose; the next start on this folder takes the same ones when they are free.
    ports: dict[str, int] = Field(default_factory=dict)
    # The INVOCHAIN_* settings the processes were started with.
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def gateway_url(self) -> str:
        return f"http://{self.addresses['gateway']}"

    def write(self) -> None:
        """Replace the state file as a whole: a reader sees the old state or the new one."""
        half = self.data_folder / f".{FILE}.half"
        half.unlink(missing_ok=True)
        with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(self.model_dump_json(indent=2) + "\n")
        half.replace(self.data_folder / FILE)


def read_state(data_folder: Path) -> StackState | None:
    """The last state written to a data folder, None when there is none or it cannot be understood."""
    try:
        return StackState.model_validate_json((data_folder / FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def running_stack(data_folder: Path | None = None) -> StackState:
    """The stack that runs on a data folder (default: INVOCHAIN_DATA_DIR, else the usual one).

    Raises CannotStart when none does, or it is not ready.
    """
    folder = (data_folder or chosen_data_folder()).expanduser().resolve()
    state = read_state(folder)
    if state is None or state.state != "ready" or not _is_locked(folder):
        raise CannotStart(
            f"no InvoChain stack is ready on the data folder {folder}",
            "start one with `make run` or `invochain up`, or name its folder with --data-dir or INVOCHAIN_DATA_DIR",
        )
    return state


def use_running_stack(data_folder: Path | None = None) -> StackState:
    """Take over the settings of the running stack, so that this process talks to what that one runs.

    What the caller's own environment sets stays as it is.
    """
    state = running_stack(data_folder)
    for name, value in state.environment.items():
        os.environ.setdefault(name, value)
    return state


def chosen_data_folder() -> Path:
    """INVOCHAIN_DATA_DIR, else the usual folder of this user."""
    chosen = os.environ.get("INVOCHAIN_DATA_DIR", "")
    return Path(chosen) if chosen else default_data_folder()


def _is_locked(folder: Path) -> bool:
    try:
        with open(folder / LOCK, encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
