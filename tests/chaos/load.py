"""A seeded load and its client log: what was asked, what was answered, and how often it had to be asked again.

Every client repeats with the same key until it has a final answer. Patient ones begin to repeat only when the gate is
opened: what a crash left behind is then settled by the resolver, not by their retry.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.market import Market, Refused, Trader

SKUS = ("BOLT-M8", "NUT-M8", "WASHER-M8")
UNITS = 100_000
# What a client has to repeat; every other code is final (PROTOCOL 13).
REPEAT = {"ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED"}
KEY_REUSED = "KEY_REUSED_WITH_DIFFERENT_PAYLOAD"
CANCELLED = "CANCELLED_BY_CLIENT"
# What a kind of ask may be told in the end; any may be told CANCELLED where its client cancels.
EXPECTED = {
    "sale": ("issued", KEY_REUSED),
    "no stock": ("issued",),
    "too much": ("INSUFFICIENT_STOCK",),
    "number taken": ("DOC_NUMBER_DUPLICATE",),
}


@dataclass(frozen=True)
class Ask:
    """One client's wish: a key with a body."""

    key: str
    body: Any
    kind: str
    patient: bool


@dataclass
class ClientLog:
    """Every answer a client saw, in order; kept as JSON lines for the case that something is wrong."""

    path: Path
    sent: int = 0
    # (key, body) -> final answers: an invoice id, or a reason.
    final: dict[tuple[str, bytes], list[str]] = field(default_factory=lambda: defaultdict(list))
    unknown: int = 0
    # The same by what was told, and final answers that were told again.
    unknown_by: Counter[str] = field(default_factory=Counter)
    replayed: int = 0
    started: float = field(default_factory=time.monotonic)

    def note(self, key: str, body: bytes, answer: str, *, final: bool) -> None:
        if final:
            self.final[key, body].append(answer)
        else:
            self.unknown += 1
            self.unknown_by[answer] += 1
        with self.path.open("a") as out:
            at = round(time.monotonic() - self.started, 3)
            out.write(json.dumps({"at": at, "key": key, "final": final, "answer": answer}) + "\n")

    @property
    def acknowledged(self) -> dict[str, str]:
        """Key -> invoice id of what clients were told is issued."""
        return {
            key: a.removeprefix("issued ") for (key, _), told in self.final.items() for a in told if a[:7] == "issued "
        }

    def disagreements(self) -> list[str]:
        """I17: per key all final answers are equal. Of two bodies with one key one is told that the key is used."""
        found = []
        of_key: dict[str, set[str]] = defaultdict(set)
        for (key, _), answers in self.final.items():
            if len(set(answers)) > 1:
                found.append(f"{key}: one body, {sorted(set(answers))}")
            of_key[key] |= set(answers) - {KEY_REUSED}
        return found + [f"{key}: {sorted(answers)}" for key, answers in of_key.items() if len(answers) > 1]


def plan(market: Market, buyer: Trader, taken: str, seed: str, count: int, *, all_patient: bool) -> list[Ask]:
    """`count` asks: 10 % are duplicates, 2 % a used key with another body, 8 % each ask for too much or a taken number.

    `taken`: a document number that is given already.
    """
    chance = random.Random(seed)
    duplicates, others = max(1, count // 10), max(1, count // 50)
    refused = max(2, count // 12)
    originals = count - duplicates - others
    kinds = ["too much"] * refused + ["number taken"] * refused + ["no stock"] * max(1, count // 20)
    kinds += ["sale"] * (originals - len(kinds))
    chance.shuffle(kinds)
    asks = []
    for kind in kinds:
        key = f"key-{chance.getrandbits(96):024x}"
        patient = all_patient or chance.random() < 0.5
        asks.append(Ask(key, _body(market, buyer, taken, kind, chance), kind, patient))
    sales = [ask for ask in asks if ask.kind == "sale"]
    for ask in chance.sample(asks, duplicates):
        # Close behind, so that both are often under way at once.
        asks.insert(asks.index(ask) + chance.randrange(1, 4), Ask(ask.key, ask.body, "duplicate", ask.patient))
    for ask in chance.sample(sales, others):
        other = Ask(ask.key, _body(market, buyer, taken, "sale", chance, units=7), "other body", ask.patient)
        asks.insert(asks.index(ask) + chance.randrange(1, 4), other)
    return asks


def _body(market: Market, buyer: Trader, taken: str, kind: str, chance: random.Random, units: int = 0) -> Any:
    if kind == "no stock":
        return market.invoice(buyer, market.line(1, sku=""))
    units = units or chance.randint(1, 5)
    skus = sorted(chance.sample(SKUS, chance.randint(1, 3)))
    if kind == "too much":
        return market.invoice(buyer, market.line(UNITS * 2, 1, sku=skus[0]))
    more = {"number": taken} if kind == "number taken" else {}
    return market.invoice(buyer, *(market.line(units, 10, sku=sku) for sku in skus), **more)


class Load:
    """Clients that ask, and ask again."""

    def __init__(self, market: Market, seller: Trader, log: ClientLog, seed: str) -> None:
        self._market, self._seller, self.log = market, seller, log
        self._chance = random.Random(seed)
        # Opened when patient clients may ask again.
        self.gate = asyncio.Event()
        self.open: set[str] = set()

    async def run(self, asks: Iterable[Ask], clients: int) -> None:
        """All asks, by so many clients at once, until each has its final answer."""
        waiting = deque(asks)

        async def client() -> None:
            while waiting:
                await self._create(waiting.popleft())

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def _create(self, ask: Ask) -> None:
        body = ask.body.SerializeToString()
        self.open.add(ask.key)
        create = self._market.invoices.CreateInvoice
        answer = await self.until_final(create, ask.body, self._seller, ask.key, body, patient=ask.patient)
        self.open.discard(ask.key)
        expected = EXPECTED.get(ask.kind, ("issued", "INSUFFICIENT_STOCK", "DOC_NUMBER_DUPLICATE", KEY_REUSED))
        if answer.split()[0] not in (*expected, CANCELLED):
            raise AssertionError(f"{ask.key} ({ask.kind}) was answered {answer}")

    async def until_final(
        self, method: Any, request: Any, who: Trader, key: str, body: bytes, *, patient: bool = False
    ) -> str:
        """The final answer to one key: `issued <id>` (or `moved <state>`), or a reason."""
        while True:
            self.log.sent += 1
            try:
                invoice = await self._market.call(method, request, who, key)
            except grpc.aio.AioRpcError as error:
                refused = Refused.of(error)
                if refused.code not in REPEAT:
                    self.log.replayed += refused.replayed
                    self.log.note(key, body, refused.reason, final=True)
                    return refused.reason
                self.log.note(key, body, f"{refused.code} {refused.reason}", final=False)
            else:
                self.log.replayed += self._market.last_metadata.get("x-idempotent-replayed") == "true"
                created = method is self._market.invoices.CreateInvoice
                answer = f"issued {invoice.invoice_id}" if created else f"moved {pb.InvoiceState.Name(invoice.state)}"
                self.log.note(key, body, answer, final=True)
                return answer
            if patient:
                await self.gate.wait()
            # A client's back-off with jitter (PROTOCOL 13).
            await asyncio.sleep(self._chance.uniform(0.05, 0.25))

    async def ask_again(self, asks: Iterable[Ask], clients: int) -> None:
        """Every key once more, after all is over: the answers join the log, where they must be the same."""
        self.gate.set()
        await self.run([Ask(a.key, a.body, "again", False) for a in asks], clients)

    async def cancel_what_is_open(self) -> list[str]:
        """CancelOperation for every key without a final answer; the keys that were ended for good."""
        ended = []
        for key in sorted(self.open):
            request = pb.CancelOperationRequest(operation="invoice.create", key=key)
            operation = await self._market.call(self._market.invoices.CancelOperation, request, self._seller, None)
            if operation.state == pb.FAILED and Refused.of_status(operation.error).reason == CANCELLED:
                ended.append(key)
        return ended
