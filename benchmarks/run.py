"""`make bench`: the main job under load, on an embedded stack of its own, each figure beside a floor of the same run.

The floor is an empty grpc.aio handler that takes and gives the same messages (floor.py), on the same machine in the
same minutes. Results go to `results/<date>-<commit>.json` and to the terminal. ghz makes the load; it is built by name
into `.cache/bin` if it is not on the machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import http.client
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from invochain import core
from invochain.supervisor.state import StackState, read_state

ROOT = Path(__file__).parents[1]
GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"
SERVICE = "invochain.api.invoice.v1.InvoiceService"
PROTOSET = ROOT / ".cache" / "invoice.protoset"
CONCURRENCIES = (1, 10, 50, 200)
HEALTHY_WITHIN_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="of the open loop")
    parser.add_argument("--calls", type=int, default=4_000, help="of each closed loop")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are reported")
    chosen = parser.parse_args()
    ghz = find_ghz()
    describe()
    with Stack() as stack:
        shop = Shop(stack.state)
        figures = measure(ghz, stack, shop, chosen)
    report(figures)


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


class Stack:
    """`invochain up` on a folder of its own, and the floor beside it."""

    def __enter__(self) -> Stack:
        self._folder = Path(tempfile.mkdtemp(prefix="ic-bench-"))
        # Run as root, the databases are another user's, who must be able to pass through.
        self._folder.chmod(0o711)
        # Everything comes from one address here.
        env = {**os.environ, "INVOCHAIN_GATEWAY_IP_LIMIT": "0", "INVOCHAIN_GATEWAY_AUTH_LIMIT": "0"}
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
            [sys.executable, str(ROOT / "benchmarks" / "floor.py"), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert self._floor.stdout is not None
        return self._floor.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_floor"):
            self._floor.terminate()
            self._floor.wait()
        self._up.send_signal(signal.SIGINT)
        self._up.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Shop:
    """A seller with stock and a buyer."""

    SKUS = 1_000

    def __init__(self, state: StackState) -> None:
        self._gateway = state.addresses["gateway"]
        self.seller, self.seller_token = self._register("27")
        self.buyer, self.buyer_token = self._register("29")
        for number in range(self.SKUS):
            body = {"sku": f"SKU-{number}", "adjustment": "ADD", "quantity_milli": str(10**12), "unit": "NOS"}
            self.post("/v1/stock:adjust", body, self.seller_token)

    def _register(self, state: str) -> tuple[str, str]:
        letters = "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        first = f"{state}{letters}CB{secrets.randbelow(10_000):04d}K1Z"
        gstin, email = f"{first}{core.gstin_check_char(first)}", f"bench.{uuid.uuid4().hex[:12]}@example.in"
        password = secrets.token_urlsafe(18)
        address = {"line1": "1 Bazaar Road", "location": "Pune", "pin_code": "411001"}
        merchant = {"gstin": gstin, "legal_name": "Bench Traders", "address": address}
        owner = {"email": email, "name": "Owner", "password": password}
        self.post("/v1/merchants", {"merchant": merchant, "owner": owner})
        return gstin, self.post("/v1/auth:sign_in", {"email": email, "password": password})["access_token"]

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


def measure(ghz: str, stack: Stack, shop: Shop, chosen: argparse.Namespace) -> dict[str, Any]:
    spread = [{"invoice": shop.invoice(f"SKU-{number}")} for number in range(Shop.SKUS)]
    first = shop.post("/v1/invoices", spread[0]["invoice"], shop.seller_token)
    floor = stack.floor(json.dumps(first).encode())
    invoice = stack.state.addresses["invoice"]
    figures: dict[str, Any] = {"closed loop, calls/s": {}}

    def create(address: str, *more: str, data: Any = spread) -> dict[str, Any]:
        return run_ghz(ghz, address, "CreateInvoice", data, shop.seller_token, *more)

    create(invoice, "-n", "500", "-c", "20")
    print("open loop, 100 a second", flush=True)
    figures["CreateInvoice, open loop 100/s"] = latencies(
        create(invoice, "--async", "-r", "100", "-c", "100", "-n", str(100 * chosen.seconds))
    )
    made = [
        shop.post("/v1/invoices", shop.invoice("SKU-1"), shop.seller_token)["invoice_id"]
        for _ in range(100 * chosen.seconds // 4)
    ]
    accept = [{"invoice_id": one} for one in made]
    figures["AcceptInvoice, open loop 100/s"] = latencies(
        run_ghz(
            ghz,
            invoice,
            "AcceptInvoice",
            accept,
            shop.buyer_token,
            "--async",
            "-r",
            "100",
            "-c",
            "100",
            "-n",
            str(len(made)),
        )
    )
    for concurrency in CONCURRENCIES:
        print(f"closed loop, concurrency {concurrency}", flush=True)
        calls = chosen.calls if concurrency > 1 else chosen.calls // 8
        bounds = ("-n", str(calls), "-c", str(concurrency), "--connections", str(min(concurrency, 8)))
        rounds: dict[str, list[float]] = {"spread over 1,000 SKUs": [], "one hot SKU": [], "empty handler": []}
        worst: dict[str, Any] = {}
        for _ in range(chosen.rounds):
            answer = create(invoice, *bounds)
            worst = latencies(answer)
            rounds["spread over 1,000 SKUs"].append(answer["rps"])
            rounds["one hot SKU"].append(create(invoice, *bounds, data=spread[7])["rps"])
            rounds["empty handler"].append(create(floor, *bounds)["rps"])
        medians = {name: sorted(values)[len(values) // 2] for name, values in rounds.items()}
        figures["closed loop, calls/s"][str(concurrency)] = {
            **{name: round(value) for name, value in medians.items()},
            "ratio to the empty handler": round(medians["spread over 1,000 SKUs"] / medians["empty handler"], 2),
            "hot to spread": round(medians["one hot SKU"] / medians["spread over 1,000 SKUs"], 2),
            "last round": worst,
        }
    return figures


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


def report(figures: dict[str, Any], what: str = "") -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    result = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()},
        **figures,
    }
    text = json.dumps(result, indent=2)
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{result['date'][:10]}-{result['commit']}{what and f'-{what}'}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
