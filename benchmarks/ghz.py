"""The load of single calls: ghz, every call with a key of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"
SERVICE = "invochain.api.invoice.v1.InvoiceService"
PROTOSET = ROOT / ".cache" / "invoice.protoset"


def find_ghz() -> str:
    """ghz on the machine, or built into .cache/bin."""
    own = ROOT / ".cache" / "bin" / "ghz"
    if found := shutil.which("ghz") or (str(own) if own.exists() else ""):
        return found
    print("building ghz (about a minute)", flush=True)
    subprocess.run(["go", "install", GHZ], env={**os.environ, "GOBIN": str(own.parent)}, check=True)
    return str(own)


def describe() -> None:
    """Writes the contract as ghz reads it."""
    source = "invochain/api/invoice/v1/invoice_service.proto"
    paths = ["--proto_path=proto", "--proto_path=third_party/googleapis"]
    made = ["--include_imports", f"--descriptor_set_out={PROTOSET}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *paths, *made, source], cwd=ROOT, check=True)


def run_ghz(ghz: str, address: str, method: str, data: Any, token: str, *more: str) -> dict[str, Any]:
    """One run; its JSON report. Every call has a key of its own."""
    metadata = json.dumps({"authorization": f"Bearer {token}", "idempotency-key": "{{newUUID}}"})
    command = [
        ghz,
        "--insecure",
        "--protoset",
        str(PROTOSET),
        "--call",
        f"{SERVICE}.{method}",
        "-D",
        "/dev/stdin",
        "-m",
        metadata,
        "-t",
        "10s",
    ]
    shown = subprocess.run(
        [*command, "-O", "json", *more, address],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if shown.returncode != 0:
        raise SystemExit(f"ghz: {shown.stderr[:800]}")
    return dict(json.loads(shown.stdout))


def latencies(answer: dict[str, Any]) -> dict[str, Any]:
    at = {entry["percentage"]: round(entry["latency"] / 1e6, 1) for entry in answer["latencyDistribution"] or []}
    return {
        "p50 ms": at.get(50),
        "p95 ms": at.get(95),
        "p99 ms": at.get(99),
        "calls/s": round(answer["rps"]),
        "codes": answer["statusCodeDistribution"],
    }
