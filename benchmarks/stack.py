"""What is measured: an embedded stack with a shop in it, and the empty handler beside it."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invochain import core
from invochain.supervisor.state import StackState, read_state

HEALTHY_WITHIN_S = 120
CHECK_WITHIN_S = 1_800


class Stack:
    """`invochain up` on a folder of its own, and the floor beside it. `settings` are added to its environment.

    A folder that is named (`keep`) is left as it is at the end, and used again as it was found.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, keep: Path | None = None) -> None:
        self._settings, self._keep = dict(settings or {}), keep

    def __enter__(self) -> Stack:
        if self._keep:
            self._keep.mkdir(parents=True, exist_ok=True)
        self._folder = self._keep or Path(tempfile.mkdtemp(prefix="ic-bench-"))
        # Run as root, the databases are another user's, who must be able to pass through.
        self._folder.chmod(0o711)
        # Everything comes from one address here.
        env = {**os.environ, **self._settings, "INVOCHAIN_GATEWAY_IP_LIMIT": "0", "INVOCHAIN_GATEWAY_AUTH_LIMIT": "0"}
        self._up = subprocess.Popen(
            [sys.executable, "-m", "invochain.cli", "up", "--data-dir", str(self._folder / "data")], env=env
        )
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while True:
            state = read_state(self._folder / "data")
            if state is not None and state.state == "ready":
                self.state: StackState = state
                break
            if time.monotonic() > deadline or self._up.poll() is not None:
                raise SystemExit("the stack did not become healthy")
            time.sleep(0.1)
        return self

    def floor(self, answer: bytes) -> str:
        """Starts the empty handler; returns its address."""
        path = self._folder / "answer"
        path.write_bytes(answer)
        self._floor = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("floor.py")), str(path)], stdout=subprocess.PIPE, text=True
        )
        self.floor_pid = self._floor.pid
        assert self._floor.stdout is not None
        return self._floor.stdout.readline().strip()

    def floor_cpu_s(self) -> float:
        """CPU that the empty handler has used."""
        user, system = Path(f"/proc/{self.floor_pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_floor"):
            self._floor.terminate()
            self._floor.wait()
        self._up.send_signal(signal.SIGINT)
        self._up.wait()
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)


class Shop:
    """A seller with stock and a buyer."""

    SKUS = 1_000

    def __init__(self, state: StackState, kept: dict[str, Any] | None = None) -> None:
        """A new one; or, of databases that were kept, what `kept` told of it."""
        self._gateway = state.addresses["gateway"]
        # How each of the two signs in.
        self._credentials: list[dict[str, str]] = []
        if kept:
            self.seller, self.buyer, self._credentials = kept["seller"], kept["buyer"], kept["credentials"]
            self.sign_in()
            return
        self.seller = self._register("27")
        self.buyer = self._register("29")
        self.sign_in()
        for number in range(self.SKUS):
            body = {"sku": f"SKU-{number}", "adjustment": "ADD", "quantity_milli": str(10**12), "unit": "NOS"}
            self.post("/v1/stock:adjust", body, self.seller_token)

    def kept(self) -> dict[str, Any]:
        """What another run needs to be this shop."""
        return {"seller": self.seller, "buyer": self.buyer, "credentials": self._credentials}

    def sign_in(self) -> None:
        """Fresh access tokens: they live 15 minutes."""
        self.seller_token, self.buyer_token = (
            self.post("/v1/auth:sign_in", one)["access_token"] for one in self._credentials
        )

    def _register(self, state: str) -> str:
        letters = "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        first = f"{state}{letters}CB{secrets.randbelow(10_000):04d}K1Z"
        gstin, email = f"{first}{core.gstin_check_char(first)}", f"bench.{uuid.uuid4().hex[:12]}@example.in"
        password = secrets.token_urlsafe(18)
        address = {"line1": "1 Bazaar Road", "location": "Pune", "pin_code": "411001"}
        merchant = {"gstin": gstin, "legal_name": "Bench Traders", "address": address}
        owner = {"email": email, "name": "Owner", "password": password}
        self.post("/v1/merchants", {"merchant": merchant, "owner": owner})
        self._credentials.append({"email": email, "password": password})
        return gstin

    def post(self, path: str, body: Any, token: str = "") -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self._gateway, timeout=20)
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status not in (200, 201):
            raise SystemExit(f"{path} answered {response.status}: {text[:500]!r}")
        return dict(json.loads(text))

    def invoice(self, sku: str, lines: int = 1) -> dict[str, Any]:
        line = {
            "sku": sku,
            "description": "Hex bolt M8",
            "hsn": "731815",
            "quantity_milli": "1000",
            "unit": "NOS",
            "unit_price_milli": "1000000",
            "gst_rate_milli": 18000,
        }
        buyer = {"gstin": self.buyer, "place_of_supply": "29", "legal_name": "Bench Motors"}
        return {"supply_type": "B2B", "buyer": buyer, "lines": [line] * lines}


def check(state: StackState) -> dict[str, Any]:
    """Whether the invariants hold over all that the run wrote."""
    started = time.monotonic()
    try:
        shown = subprocess.run(
            [sys.executable, "-m", "invochain.cli", "check"],
            env={**os.environ, **state.environment},
            capture_output=True,
            text=True,
            timeout=CHECK_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"holds": None, "said": f"it was not done after {CHECK_WITHIN_S:,} s"}
    print(shown.stdout, shown.stderr, sep="", flush=True)
    return {
        "holds": shown.returncode == 0,
        "seconds": round(time.monotonic() - started),
        "said": [line for line in shown.stdout.splitlines() if "VIOLATIONS" in line] or "every invariant holds",
    }
