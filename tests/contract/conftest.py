"""The gateway, as it is built, in front of the services of a market."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kit.market import Market, Trader, fresh_key

BINARY = Path(__file__).resolve().parents[2] / "services" / "gateway" / "bin" / "invochain-gateway"
# It opens its port within a tenth of a second; a machine under load gets more.
OPEN_WITHIN_S = 20


@dataclass
class Rest:
    """A client of the gateway, and the market behind it."""

    market: Market
    http: httpx.AsyncClient
    log: list[dict[str, Any]]

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        who: Trader | None = None,
        key: str | None = "",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> httpx.Response:
        """One request. An empty key is a fresh one, None sends none; a text body is sent as it is."""
        sent = dict(headers or {})
        if who:
            sent["authorization"] = f"Bearer {who.token}"
        if key is not None and method != "GET":
            sent["idempotency-key"] = key or fresh_key()
        if body is not None:
            sent.setdefault("content-type", "application/json")
        content = body if body is None or isinstance(body, str) else json.dumps(body)
        return await self.http.request(method, path, content=content, headers=sent, params=query or None)


@pytest.fixture
async def rest(market: Market) -> AsyncIterator[Rest]:
    """The built gateway on a free port, without limits, in front of the three services."""
    assert BINARY.exists(), "the gateway is not built; run: make build"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("INVOCHAIN_")},
        "INVOCHAIN_GATEWAY_ADDRESS": "127.0.0.1:0",
        "INVOCHAIN_GATEWAY_IP_LIMIT": "0",
        "INVOCHAIN_GATEWAY_AUTH_LIMIT": "0",
        **{f"INVOCHAIN_{room.upper()}_ADDRESS": getattr(market.settings, f"{room}_address") for room in market.running},
    }
    child = await asyncio.create_subprocess_exec(str(BINARY), stdout=asyncio.subprocess.PIPE, env=environment)
    log: list[dict[str, Any]] = []
    opened = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert child.stdout
        async for line in child.stdout:
            event = json.loads(line)
            log.append(event)
            if event["event"] == "serving" and not opened.done():
                opened.set_result(event["address"])

    reader = asyncio.create_task(read())
    try:
        address = await asyncio.wait_for(opened, OPEN_WITHIN_S)
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10, trust_env=False) as http:
            yield Rest(market, http, log)
    finally:
        if child.returncode is None:
            child.terminate()
        code = await asyncio.wait_for(child.wait(), OPEN_WITHIN_S)
        await reader
    assert code == 0, f"the gateway ended with {code}"
