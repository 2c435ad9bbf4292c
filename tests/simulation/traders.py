"""Clients of one seed: they repeat what they got no answer to, some with another body, some end their key; then they
accept, reject and cancel. Each writes down what it was told for good."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.chassis import clock
from invochain.chassis.call import Call, Principal
from invochain.durable.decisions import FINAL_CODES
from invochain.errors import Refusal
from invochain.invoice.invoice import ACCEPT, CANCEL, CREATE, DECLINE_EDIT, REJECT, REQUEST_EDIT
from invochain.invoice.move_invoice import move_invoices, wish
from invochain.invoice.operations import cancel_operation, get_operation
from tests.kit.market import Refused
from tests.simulation.shop import Door, Shop
from tests.simulation.world import Died

TRIES = 7
GIVE_UP_S = 6.0
UNITS = 4
# What a client is told: an invoice and its number, or a reason.
Told = tuple[str, ...]
REQUESTS: dict[str, Any] = {
    "accept": (ACCEPT, pb.AcceptInvoiceRequest, {}),
    "reject": (REJECT, pb.RejectInvoiceRequest, {"reason": "not ordered"}),
    "request_edit": (REQUEST_EDIT, pb.RequestEditRequest, {"reason": "another price"}),
    "decline_edit": (DECLINE_EDIT, pb.DeclineEditRequest, {}),
    "cancel": (CANCEL, pb.CancelInvoiceRequest, {}),
}


@dataclass(frozen=True)
class Merchant:
    """Who trades."""

    merchant_id: bytes
    gstin: str

    @property
    def principal(self) -> Principal:
        return Principal(self.merchant_id, self.gstin, self.merchant_id, frozenset({"OWNER"}))


@dataclass
class Trade:
    """The keys of one seed, what was asked with them, and what was told."""

    shop: Shop
    seller: Merchant
    buyer: Merchant
    # Makes keys, SKUs and numbers this run's own.
    mark: str
    told: dict[str, set[Told]] = field(default_factory=lambda: defaultdict(set))
    keys: list[str] = field(default_factory=list)
    sent: int = 0

    @property
    def skus(self) -> list[str]:
        return [f"{self.mark}-A", f"{self.mark}-B"]

    async def run(self) -> None:
        """All clients, until each has its answer or has given up."""
        dice = self.shop.world.dice
        clients = []
        for number in range(dice.randint(2, 3)):
            key = f"{self.mark}-{number}-{'k' * 16}"
            self.keys.append(key)
            body = self._body(dice.choice((0, 0, 0, 1)))
            clients += [self._creates(key, body) for _ in range(dice.randint(1, 3))]
            if dice.random() < 0.25:
                clients.append(self._creates(key, self._body(0, rupees=77)))
            if dice.random() < 0.2:
                clients.append(self._ends(key))
        await asyncio.gather(*clients)

    def _body(self, numbered: int, rupees: int = 100) -> bytes:
        dice = self.shop.world.dice
        skus = dice.choice((self.skus, self.skus[:1], self.skus[1:], []))
        lines = [
            pb.InvoiceLine(
                sku=sku,
                description="Bolt",
                hsn="731815",
                quantity_milli=dice.randint(1, 2) * 1_000,
                unit="NOS",
                unit_price_milli=rupees * 1_000,
                gst_rate_milli=18_000,
            )
            for sku in skus or [""]
        ]
        buyer = pb.Party(gstin=self.buyer.gstin, place_of_supply="27", legal_name="The buyer")
        invoice = pb.Invoice(supply_type="B2B", buyer=buyer, lines=lines)
        if numbered:
            # The same for all of this seed, so that only one can have it.
            invoice.number = f"N{self.mark}"
        return pb.CreateInvoiceRequest(invoice=invoice).SerializeToString()

    async def _creates(self, key: str, body: bytes) -> None:
        told = await self._insists(lambda door: self._create(door, key, body), key)
        if told and told[0] == "ok" and self.shop.world.dice.random() < 0.7:
            await self._moves(told[1])

    async def _create(self, door: Door, key: str, body: bytes) -> Told:
        call = self._call(self.seller, key, body)
        issued = pb.Invoice.FromString(await door.creating.submit(call))
        asked = pb.CreateInvoiceRequest.FromString(body).invoice
        lines = [
            [(line.sku, line.quantity_milli, line.unit_price_milli) for line in one.lines] for one in (asked, issued)
        ]
        assert lines[0] == lines[1], "told another body's invoice"
        return self._issued(issued)

    async def _ends(self, key: str) -> None:
        request = pb.CancelOperationRequest(operation=CREATE, key=key)

        async def end(door: Door) -> Told:
            return self._read(await cancel_operation(door.room, self._call(self.seller, key), request))

        await asyncio.sleep(self.shop.world.dice.uniform(0, 20))
        await self._insists(end, key)

    async def ask(self, key: str) -> Told:
        """What GetOperation says of a key, at the end."""
        request = pb.GetOperationRequest(operation=CREATE, key=key)
        door = self.shop.door()
        task = self.shop.world.start(door.process, get_operation(door.room, self._call(self.seller, key), request))
        return self._read(await task)

    async def _moves(self, invoice_id: str) -> None:
        """The buyer and the seller do what they like, at once."""
        dice = self.shop.world.dice
        chosen = dice.sample(list(REQUESTS), dice.randint(1, 3))
        await asyncio.gather(*(self._move(action, invoice_id) for action in chosen))

    async def _move(self, action: str, invoice_id: str) -> None:
        move, message, fields = REQUESTS[action]
        who = self.buyer if move.by_buyer else self.seller
        key = f"{action}-{invoice_id}"
        request = message(invoice_id=invoice_id, **fields)

        async def once(door: Door) -> Told:
            call = self._call(who, key)
            await move_invoices(door.room, [wish(call, move, request)])
            return ("ok", pb.InvoiceState.Name(pb.Invoice.FromString(await call.answer).state))

        await asyncio.sleep(self.shop.world.dice.uniform(0, 5))
        await self._insists(once, key)

    async def _insists(self, ask: Any, key: str) -> Told | None:
        """Asks until there is an answer for good; what is unknown is asked again, with the same key."""
        world = self.shop.world
        await asyncio.sleep(world.dice.uniform(0, 2))
        for _ in range(TRIES):
            self.sent += 1
            door = self.shop.door()
            task = world.start(door.process, self._served(door, ask))
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    told = await asyncio.shield(task)
            except (TimeoutError, Died):
                told = None
            if told and world.happens(world.chances.drop):
                world.note("lost: answer to the client")
                told = None
            if told and told[0] != "again":
                what = key.partition("-kk")[0] if "-kk" in key else key.partition("-")[0]
                world.note(f"told: {what} {told[0]} {told[-1] if told[0] != 'ok' else ''}")
                if told[0] != "other body":
                    self.told[key].add(told)
                return told
            await asyncio.sleep(world.dice.uniform(0.1, 4))
        return None

    async def _served(self, door: Door, ask: Any) -> Told:
        """One request in its process; what it is told, in a few words."""
        door.process.go_on()
        try:
            told: Told = await ask(door)
        except Refusal as refusal:
            # Who died while it was made up tells nobody.
            door.process.go_on()
            if refusal.reason == "KEY_REUSED_WITH_DIFFERENT_PAYLOAD":
                return ("other body", refusal.reason)
            # Nothing here is wrong with a request, and nothing that goes wrong is unexpected.
            assert refusal.code.name not in ("INVALID_ARGUMENT", "INTERNAL"), refusal
            # PROTOCOL 13: final codes are for ever, all others say "again, with the same key".
            return ("refused" if refusal.code in FINAL_CODES else "again", refusal.reason)
        door.process.go_on()
        return told

    def _call(self, who: Merchant, key: str, raw: bytes = b"") -> Call:
        return Call("simulated", who.principal, raw, clock.monotonic() + 4.8, key, arrived=clock.monotonic())

    def _read(self, operation: pb.Operation) -> Told:
        if operation.state == pb.SUCCEEDED:
            return self._issued(operation.invoice)
        if operation.state == pb.FAILED:
            return ("refused", Refused.of_status(operation.error).reason)
        return ("again", pb.OperationState.Name(operation.state))

    @staticmethod
    def _issued(invoice: pb.Invoice) -> Told:
        return ("ok", invoice.invoice_id, invoice.number)

    def rids(self) -> list[bytes]:
        return [core.request_id(self.seller.merchant_id, CREATE, key) for key in self.keys]
