"""How a client asks: over gRPC or over REST. One request, one answer, never repeated in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import grpc
import httpx
from google.protobuf.json_format import MessageToDict

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.chaos.load import REPEAT
from tests.kit.market import Market, Refused, Trader

# Longer than the gateway's own 5 s, so that it is always the gateway that gives up first.
REST_TIMEOUT_S = 8.0
MOVES = {"accept": "AcceptInvoice", "reject": "RejectInvoice", "cancel": "CancelInvoice"}
# The state that a move leads to, and who may make it.
LEADS_TO = {"accept": "ACCEPTED", "reject": "REJECTED", "cancel": "CANCELLED"}


@dataclass(frozen=True)
class Answer:
    """What a client read. `text`: `issued <id>`, `moved <state>`, a reason, or a code with its reason."""

    text: str
    final: bool
    replayed: bool = False

    @property
    def done(self) -> bool:
        return self.text.startswith(("issued ", "moved "))


class Door(Protocol):
    """What traffic goes through."""

    async def create(self, request: pb.CreateInvoiceRequest, who: Trader, key: str) -> Answer: ...

    async def move(self, move: str, invoice_id: str, who: Trader, key: str) -> Answer: ...


class GrpcDoor:
    """The invoice service itself."""

    def __init__(self, market: Market) -> None:
        self._market = market

    async def create(self, request: pb.CreateInvoiceRequest, who: Trader, key: str) -> Answer:
        return await self._call(
            self._market.invoices.CreateInvoice, request, who, key, lambda i: f"issued {i.invoice_id}"
        )

    async def move(self, move: str, invoice_id: str, who: Trader, key: str) -> Answer:
        name = MOVES[move]
        request = getattr(pb, f"{name}Request")(invoice_id=invoice_id)
        if move != "accept":
            request.reason = "a mistake"
        method = getattr(self._market.invoices, name)
        return await self._call(method, request, who, key, lambda i: f"moved {pb.InvoiceState.Name(i.state)}")

    async def _call(self, method, request, who: Trader, key: str, say) -> Answer:
        metadata = (("authorization", f"Bearer {who.token}"), ("idempotency-key", key))
        call = method(request, metadata=metadata, timeout=10)
        try:
            invoice = await call
            replayed = ("x-idempotent-replayed", "true") in tuple(await call.initial_metadata())
        except grpc.aio.AioRpcError as error:
            refused = Refused.of(error)
            if refused.code in REPEAT:
                return Answer(f"{refused.code} {refused.reason}", final=False)
            return Answer(refused.reason, final=True, replayed=refused.replayed)
        return Answer(say(invoice), final=True, replayed=replayed)


class RestDoor:
    """The gateway. Use as a context."""

    def __init__(self, address: str) -> None:
        limits = httpx.Limits(max_connections=200)
        self._client = httpx.AsyncClient(base_url=f"http://{address}", timeout=REST_TIMEOUT_S, limits=limits)

    async def __aenter__(self) -> RestDoor:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def create(self, request: pb.CreateInvoiceRequest, who: Trader, key: str) -> Answer:
        body = MessageToDict(request.invoice, preserving_proto_field_name=True)
        return await self._post("/v1/invoices", body, who, key, lambda i: f"issued {i['invoice_id']}")

    async def move(self, move: str, invoice_id: str, who: Trader, key: str) -> Answer:
        body = {} if move == "accept" else {"reason": "a mistake"}
        return await self._post(f"/v1/invoices/{invoice_id}:{move}", body, who, key, lambda i: f"moved {i['state']}")

    async def _post(self, path: str, body: dict, who: Trader, key: str, say) -> Answer:
        headers = {"Authorization": f"Bearer {who.token}", "Idempotency-Key": key}
        try:
            response = await self._client.post(path, json=body, headers=headers)
        except httpx.TransportError as lost:
            return Answer(f"UNAVAILABLE {type(lost).__name__}", final=False)
        replayed = response.headers.get("X-Idempotent-Replayed") == "true"
        told = response.json()
        if response.status_code < 300:
            return Answer(say(told), final=True, replayed=replayed)
        if told["retryable"]:
            return Answer(f"{response.status_code} {told['code']}", final=False)
        return Answer(told["code"], final=True, replayed=replayed)
