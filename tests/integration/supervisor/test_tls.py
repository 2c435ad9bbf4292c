"""The whole stack over TLS with certificates made here: every process calls every other one so, and shows who it is."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import json_format

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.certificates import Authority
from tests.kit.market import Market, fresh_key
from tests.kit.processes import Processes, open_processes


@dataclass
class Secured:
    """Processes that let nobody in without a certificate of `ours`."""

    processes: Processes
    market: Market
    ours: Authority
    settings: dict[str, str]
    folder: Path

    def client(self, version: ssl.TLSVersion | None = None) -> httpx.AsyncClient:
        context = ssl.create_default_context(cadata=self.ours.pem.decode())
        if version:
            context.maximum_version = version
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.processes.ports['gateway']}", verify=context, timeout=30
        )


@pytest.fixture(scope="module")
async def secured(templates, market_valkey, tmp_path_factory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    ours = Authority("ours")
    pair = ours.issue("stack")
    files = {"ca": ours.pem, "cert": pair.certificate, "key": pair.key}
    for name, pem in files.items():
        (folder / f"{name}.pem").write_bytes(pem)
    settings = {f"INVOCHAIN_TLS_{name.upper()}_FILE": str(folder / f"{name}.pem") for name in files}
    settings["INVOCHAIN_TLS_CLIENT_CA_FILE"] = settings["INVOCHAIN_TLS_CA_FILE"]
    settings |= {f"INVOCHAIN_GATEWAY_{name}_FILE": settings[f"INVOCHAIN_TLS_{name}_FILE"] for name in ("CERT", "KEY")}
    async with AsyncExitStack() as stack:
        processes, market = await open_processes(
            stack, templates, market_valkey, folder, gateway=True, INVOCHAIN_TRANSPORT="tonic", **settings
        )
        yield Secured(processes, market, ours, settings, folder)


async def test_an_invoice_is_issued_and_accepted_over_grpc_and_over_rest(secured: Secured):
    """The main path, once by each door: stock is held by a call from the invoice service, confirmed behind the answer,
    tokens are read by keys that were fetched from the merchant service, and the sale reaches the stock by event."""
    market = secured.market
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller)

    first = await market.issue(seller, market.invoice(buyer, market.line(units=10)))
    accepted = await market.call(
        market.invoices.AcceptInvoice, pb.AcceptInvoiceRequest(invoice_id=first.invoice_id), buyer
    )
    assert pb.ACCEPTED == accepted.state

    body = json_format.MessageToDict(
        market.invoice(buyer, market.line(units=10)).invoice, preserving_proto_field_name=True
    )
    async with secured.client() as rest:

        async def post(path: str, token: str, **said: object) -> httpx.Response:
            headers = {"authorization": f"Bearer {token}", "idempotency-key": fresh_key()}
            return await rest.post(path, json=said, headers=headers)

        made = await post("/v1/invoices", seller.token, **body)
        assert 201 == made.status_code, made.text
        done = await post(f"/v1/invoices/{made.json()['invoice_id']}:accept", buyer.token)
        assert (200, "ACCEPTED") == (done.status_code, done.json()["state"]), done.text

    async def sold() -> bool:
        return await market.stock(seller) == (80, 0)

    await market.until(sold, within_s=60)


async def test_a_service_lets_nobody_in_without_a_certificate(secured: Secured):
    """In plain text, over TLS without one, or with another authority's: the handshake fails."""
    address = f"127.0.0.1:{secured.processes.ports['invoice']}"
    other = Authority("other").issue("stranger")
    plain = grpc.aio.insecure_channel(address)
    nobody = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(secured.ours.pem))
    stranger = grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(secured.ours.pem, other.key, other.certificate)
    )
    for channel in (plain, nobody, stranger):
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
            assert grpc.StatusCode.UNAVAILABLE == refused.value.code()


async def test_the_gateway_speaks_nothing_older_than_tls_1_3(secured: Secured):
    async with secured.client() as rest:
        assert 200 == (await rest.get("/healthz")).status_code
    async with secured.client(version=ssl.TLSVersion.TLSv1_2) as old:
        with pytest.raises(httpx.ConnectError):
            await old.get("/healthz")


async def test_the_command_line_calls_over_tls(secured: Secured):
    """By the same variables: what is refused is refused by the service, not by the wire."""
    process = await asyncio.create_subprocess_exec(
        *("invochain", "call", "InvoiceService/GetInvoice", "--address"),
        f"127.0.0.1:{secured.processes.ports['invoice']}",
        env={"PATH": os.environ["PATH"], "HOME": str(secured.folder), **secured.settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, complained = await process.communicate()
    assert 1 == process.returncode
    assert b"UNAUTHENTICATED" in complained, complained
