"""Puts the generated contract into the wheel, and its sources into the source distribution."""

from __future__ import annotations

import runpy
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ContractHook(BuildHookInterface):
    """A wheel carries `invochain_client.api`; an editable install has it in place."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._half: str | None = None
        generator = runpy.run_path(str(Path(self.root) / "generate.py"))
        if self.target_name == "sdist":
            folder = generator["sources"]()
            for path in generator["wanted"](folder):
                build_data["force_include"][str(folder / path)] = f"proto/{path.as_posix()}"
        elif version == "editable":
            generator["ensure"]()
        else:
            self._half = tempfile.mkdtemp(prefix="invochain-client-")
            made = Path(self._half) / "api"
            generator["generate"](made)
            build_data["force_include"][str(made)] = "invochain_client/api"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._half:
            shutil.rmtree(self._half)
