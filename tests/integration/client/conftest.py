"""The client is no part of the server's package: it is taken from clients/python, generated if need be."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[3] / "clients" / "python"
runpy.run_path(str(CLIENT / "generate.py"))["ensure"]()
for folder in (CLIENT / "src", CLIENT / "examples"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
