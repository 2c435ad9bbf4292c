"""A market seen through the Python client: its addresses, merchants made through it, invoices for them."""

from __future__ import annotations

import uuid
from typing import Any

from invochain.chassis.server import Server
from invochain_client import AsyncClient, Client, line
from invochain_client.types import Address, Invoice, Merchant, NewUser, Party
from tests.kit.market import Market, fresh_gstin

PASSWORD = "correct horse battery staple"
SKU = "BOLT-M8"


def addresses(market: Market) -> dict[str, str]:
    return {room: getattr(market.settings, f"{room}_address") for room in ("merchant", "inventory", "invoice")}


def a_merchant(state: str = "27") -> tuple[Merchant, NewUser]:
    """What registers a new one, with its owner."""
    gstin = fresh_gstin(state)
    address = Address(line1="1 Bazaar Road", location="Pune", pin_code="411001")
    merchant = Merchant(gstin=gstin, legal_name=f"Traders {gstin[5:9]}", address=address)
    return merchant, NewUser(email=f"owner-{uuid.uuid4().hex[:10]}@example.in", name="Owner", password=PASSWORD)


def register(anyone: Client) -> tuple[Client, Merchant]:
    """A new merchant and a client of its owner."""
    merchant, owner = a_merchant()
    registered = anyone.merchants.register(merchant, owner)
    return anyone.as_user(owner.email, PASSWORD), registered.message.merchant


async def register_async(anyone: AsyncClient) -> tuple[AsyncClient, Merchant]:
    """The same, awaited."""
    merchant, owner = a_merchant()
    registered = await anyone.merchants.register(merchant, owner)
    return anyone.as_user(owner.email, PASSWORD), registered.message.merchant


def bolts(buyer: Merchant | str, quantity: int = 10, **more: Any) -> Invoice:
    """An invoice of bolts at 1,000.00 and 18 %."""
    gstin = buyer if isinstance(buyer, str) else buyer.gstin
    sold = line("Hex bolt M8", sku=SKU, hsn="731815", quantity=quantity, price="1000.00", gst_rate=18)
    party = Party(gstin=gstin, legal_name="The buyer", place_of_supply=gstin[:2])
    return Invoice(**{"supply_type": "B2B", "buyer": party, "lines": [sold], **more})


async def stop(market: Market, room: str) -> None:
    """The service ends as on SIGTERM; its databases stay."""
    await market.running[room][0].drain(1)


async def start(market: Market, room: str) -> None:
    """The service listens again where it did."""
    _, running = market.running[room]
    server = Server(room, running.authenticator)
    for servicer in running.servicers:
        server.add(servicer)
    await server.start(addresses(market)[room])
    market.running[room] = (server, running)
    market.stack.push_async_callback(server.drain, 2)
