"""`invochain demo`: the main job, step by step, over REST, each step held to what it must give."""

from __future__ import annotations

import http.client
import json
import os
import secrets as random
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import typer

SKU = "BOLT-M8"
STEP_TIMEOUT_S = 20.0


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


class NotAsPromised(Exception):
    """A step gave something else."""


def demo() -> None:
    """Walk the main job on the running stack; exit 0 only if every step gave what it should."""
    from invochain.supervisor.errors import CannotStart
    from invochain.supervisor.state import running_stack

    try:
        stack = running_stack()
        walk = Walk(stack.addresses["gateway"])
        invoice_id = walk.main_job()
        _audit(invoice_id)
    except (CannotStart, NotAsPromised, OSError) as fault:
        typer.echo(f"  ✗ {fault}", err=True)
        raise typer.Exit(1) from None
    _say_goodbye(stack, walk, invoice_id)


class Walk:
    """The steps, and what they leave behind."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._started = time.monotonic()
        self.seller_token = ""

    def main_job(self) -> str:
        """Register, stock up, issue, repeat, accept, look. Returns the invoice's id."""
        seller, self.seller_token = self._register("27", "Sahyadri Fasteners", "Pune")
        buyer, buyer_token = self._register("27", "Konkan Motors", "Mumbai")
        self.say(f"registered the seller {seller['gstin']} and the buyer {buyer['gstin']}")

        stock = {"sku": SKU, "adjustment": "ADD", "quantity_milli": "100000", "hsn": "731815", "unit": "NOS"}
        self.want(self.call("POST", "/v1/stock:adjust", stock, self.seller_token), on_hand_milli="100000")
        self.say(f"added 100 units of {SKU}")

        line = {
            "sku": SKU,
            "description": "Hex bolt M8",
            "hsn": "731815",
            "quantity_milli": "10000",
            "unit": "NOS",
            "unit_price_milli": "1000000",
            "gst_rate_milli": 18000,
        }
        document: dict[str, Any] = {
            "supply_type": "B2B",
            "buyer": {"gstin": buyer["gstin"], "place_of_supply": "27", "legal_name": buyer["legal_name"]},
            "lines": [line],
        }
        key = str(uuid.uuid4())
        invoice = self.call("POST", "/v1/invoices", document, self.seller_token, key, status=201)
        figures = {"taxable_paise": "1000000", "cgst_paise": "90000", "sgst_paise": "90000", "total_paise": "1180000"}
        self.want(invoice["totals"], igst_paise="0", **figures)
        self.say(f"issued {invoice['number']}: 10 x 1,000.00 at 18 % = 11,800.00 (CGST 900.00 + SGST 900.00)")

        document["buyer"]["place_of_supply"] = "29"
        elsewhere = self.call("POST", "/v1/invoices:validate", {"invoice": document}, self.seller_token)
        self.want(elsewhere["invoice"]["totals"], igst_paise="180000", cgst_paise="0", total_paise="1180000")
        self.say("the same to a place of supply in Karnataka would carry IGST 1,800.00 (a dry run)")
        document["buyer"]["place_of_supply"] = "27"

        again = self.call("POST", "/v1/invoices", document, self.seller_token, key, status=201, replayed=True)
        if again != invoice:
            raise NotAsPromised("the repeat gave another answer")
        self.say("repeated it with the same key: the same answer, X-Idempotent-Replayed: true")

        path = f"/v1/invoices/{invoice['invoice_id']}"
        accepted = self.call("POST", f"{path}:accept", {}, buyer_token)
        self.want(accepted, state="ACCEPTED")
        self.say("the buyer accepted it")

        self._until_stock(self.seller_token, on_hand_milli="90000", reserved_milli="0")
        self._until_stock(buyer_token, on_hand_milli="10000", reserved_milli="0")
        self.say("stock: 90 at the seller, 10 at the buyer")
        return str(invoice["invoice_id"])

    def _register(self, state: str, name: str, city: str) -> tuple[dict[str, Any], str]:
        from invochain import core

        letters = "".join(random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        first = f"{state}{letters}CD{random.randbelow(10_000):04d}K1Z"
        gstin = f"{first}{core.gstin_check_char(first)}"
        email, password = f"owner.{uuid.uuid4().hex[:12]}@example.in", random.token_urlsafe(18)
        address = {"line1": "1 Bazaar Road", "location": city, "pin_code": "411001"}
        body = {
            "merchant": {"gstin": gstin, "legal_name": name, "address": address},
            "owner": {"email": email, "name": "Owner", "password": password},
        }
        merchant = self.call("POST", "/v1/merchants", body, status=201)["merchant"]
        pair = self.call("POST", "/v1/auth:sign_in", {"email": email, "password": password}, key="")
        return merchant, pair["access_token"]

    def _until_stock(self, token: str, **wanted: str) -> None:
        """The sale follows the acceptance by an event: look until it is there."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        found: dict[str, Any] = {}
        while time.monotonic() < deadline:
            found = self.call("GET", f"/v1/stock/{SKU}", None, token, status=(200, 404))
            if all(found.get(name) == value for name, value in wanted.items()):
                return
            time.sleep(0.05)
        self.want(found, **wanted)

    def want(self, found: dict[str, Any], **wanted: str) -> None:
        for name, value in wanted.items():
            if found.get(name) != value:
                raise NotAsPromised(f"{name} is {found.get(name)!r}, {value!r} was promised")

    def call(
        self,
        method: str,
        path: str,
        body: Any,
        token: str = "",
        key: str | None = None,
        *,
        status: int | tuple[int, ...] = 200,
        replayed: bool = False,
    ) -> dict[str, Any]:
        """One REST call; refuses another status or replay header than promised."""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if method == "POST" and key != "":
            headers["Idempotency-Key"] = key or str(uuid.uuid4())
        connection = http.client.HTTPConnection(self._gateway, timeout=STEP_TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status not in (status if isinstance(status, tuple) else (status,)):
            raise NotAsPromised(f"{method} {path} answered {response.status}: {text[:600]}")
        if (response.headers.get("X-Idempotent-Replayed") == "true") != replayed:
            raise NotAsPromised(f"{method} {path}: X-Idempotent-Replayed is not {replayed}")
        return dict(json.loads(text))

    def say(self, what: str) -> None:
        typer.echo(f"  ✓ {what}  ({time.monotonic() - self._started:.1f} s)")


def _audit(invoice_id: str) -> None:
    """`invochain audit show`, as an operator would."""
    typer.echo(f"  $ invochain audit show {invoice_id}")
    shown = subprocess.run(
        [sys.executable, "-m", "invochain.cli", "audit", "show", invoice_id],
        check=False,
        capture_output=True,
        text=True,
    )
    for line in (shown.stdout + shown.stderr).splitlines():
        typer.echo(f"    {line}")
    if shown.returncode != 0:
        raise NotAsPromised("the audit chain does not hold")


def _say_goodbye(stack: Any, walk: Walk, invoice_id: str) -> None:
    token = Path(stack.data_folder) / "demo-token"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(walk.seller_token)
    invochain = Path(sys.executable).with_name("invochain")
    request = json.dumps({"invoice_id": invoice_id})
    typer.echo("\nThe main job is done. Addresses:")
    for name, address in stack.addresses.items():
        typer.echo(f"  {name:<10} {'http://' if name == 'gateway' else ''}{address}")
    typer.echo(f"  API page   {stack.gateway_url}/docs   OpenAPI {stack.gateway_url}/openapi.json")
    typer.echo("\nThe invoice over REST (the seller's token lives 15 minutes):")
    typer.echo(f"  curl -s {stack.gateway_url}/v1/invoices/{invoice_id} -H \"Authorization: Bearer $(cat '{token}')\"")
    typer.echo("\nThe same over gRPC:")
    typer.echo(
        f"  '{invochain}' call InvoiceService/GetInvoice '{request}' --token \"$(cat '{token}')\""
        f" --address {stack.addresses['invoice']}"
    )
    typer.echo("")
