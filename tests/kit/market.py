"""The three services and the workers in one process, on real PostgreSQL, Valkey and gRPC: a market to trade in.

Databases are copied from migrated templates, so every test has its own. Workers run only where a test asks for them.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.rpc import error_details_pb2, status_pb2

from invochain import core
from invochain.api.inventory.v1 import inventory_service_pb2 as stock_pb
from invochain.api.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.api.merchant.v1 import merchant_service_pb2 as merchant_pb
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.api.operator.v1.operator_service_pb2_grpc import OperatorServiceStub
from invochain.chassis import clock, migrate, secrets
from invochain.chassis.call import Principal
from invochain.chassis.ids import new_id
from invochain.chassis.process import Running
from invochain.chassis.server import Server
from invochain.chassis.settings import Settings
from invochain.chassis.tokens import access_token
from invochain.inventory import service as inventory_service
from invochain.invoice import service as invoice_service
from invochain.merchant import service as merchant_service
from invochain.merchant.settings import MerchantSettings
from invochain.workers import Worker, process, runner
from invochain.workers.rooms import Rooms
from tests.kit.servers import PostgresServer, ReplicaServer, ValkeyServer

ROOMS = ("merchant", "inventory", "invoice", "broker")
PASSWORD = "correct horse battery staple"
# What a password hash costs is not what these tests are about.
QUICK = MerchantSettings(password_memory_kib=64, password_passes=1, password_workers=2)
ADDRESS = merchant_pb.Address(line1="1 Bazaar Road", location="Pune", pin_code="411001")
_numbers = itertools.count(1)


def fresh_gstin(state: str = "27") -> str:
    """A regular registration that no other test has."""
    number = next(_numbers)
    first = f"{state}AAACM{number % 10_000:04d}{chr(65 + number // 10_000)}1Z"
    return first + str(core.gstin_check_char(first))


def fresh_key() -> str:
    return str(uuid.uuid4())


async def make_templates(server: PostgresServer, rooms: Sequence[str] = ROOMS) -> None:
    """One migrated database a room, to copy from."""
    for room in rooms:
        await migrate.migrate(await server.make_database(room), room)


@dataclass
class Refused:
    """A refusal as a client reads it."""

    code: str
    reason: str
    message: str
    facts: dict[str, str]
    broken: set[tuple[str, str]]
    retry_ms: int | None
    replayed: bool

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refused:
        status = status_pb2.Status()
        trailing = list(error.trailing_metadata() or ())
        for name, value in trailing:
            if name == "grpc-status-details-bin":
                status.ParseFromString(value)
        return cls.of_status(status, error.code().name, replayed=("x-idempotent-replayed", "true") in trailing)

    @classmethod
    def of_status(cls, status: status_pb2.Status, code: str = "", *, replayed: bool = False) -> Refused:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry, wait = error_details_pb2.RetryInfo(), None
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
            if detail.Unpack(retry):
                wait = retry.retry_delay.ToMilliseconds()
        broken = {(v.field, v.reason) for v in bad.field_violations}
        return cls(code, info.reason, status.message, dict(info.metadata), broken, wait, replayed)


@dataclass
class Trader:
    """A registered merchant and its owner."""

    merchant: merchant_pb.Merchant
    token: str

    @property
    def gstin(self) -> str:
        return self.merchant.gstin

    @property
    def merchant_id(self) -> bytes:
        return uuid.UUID(self.merchant.merchant_id).bytes


@dataclass
class Market:
    """What tests trade in."""

    settings: Settings
    databases: dict[str, str]
    merchants: MerchantServiceStub
    inventory: InventoryServiceStub
    invoices: InvoiceServiceStub
    stack: AsyncExitStack
    running: dict[str, tuple[Server, Running]] = field(default_factory=dict)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    last_metadata: dict[str, str] = field(default_factory=dict)

    async def call(
        self, method: Any, request: Any, who: Trader | None = None, key: str | None = "", **metadata: str
    ) -> Any:
        """Calls an RPC as a trader's owner; an empty key is a fresh one, None sends none. Raises AioRpcError."""
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        if who:
            sent.append(("authorization", f"Bearer {who.token}"))
        if key is not None:
            sent.append(("idempotency-key", key or fresh_key()))
        pending = method(request, metadata=sent, timeout=10)
        response = await pending
        self.last_metadata = {name: str(value) for name, value in tuple(await pending.initial_metadata())}
        return response

    async def refused(
        self, method: Any, request: Any, who: Trader | None = None, key: str | None = "", **m: str
    ) -> Refused:
        """The refusal of a call that must be refused."""
        try:
            response = await self.call(method, request, who, key, **m)
        except grpc.aio.AioRpcError as error:
            return Refused.of(error)
        raise AssertionError(f"it was not refused: {response}")

    async def register(self, state: str = "27", **merchant: Any) -> Trader:
        """A merchant in a state, with an owner who is signed in."""
        gstin = merchant.pop("gstin", "") or fresh_gstin(state)
        email = f"owner-{uuid.uuid4().hex[:10]}@example.in"
        request = merchant_pb.RegisterMerchantRequest(
            merchant=merchant_pb.Merchant(
                gstin=gstin, legal_name=f"Traders {gstin[5:9]}", **{"address": ADDRESS, **merchant}
            ),
            owner=merchant_pb.NewUser(email=email, name="Owner", password=PASSWORD),
        )
        registered = await self.call(self.merchants.RegisterMerchant, request)
        return Trader(registered.merchant, (await self.sign_in(email)).access_token)

    async def sign_in(self, email: str, password: str = PASSWORD) -> merchant_pb.TokenPair:
        return await self.call(
            self.merchants.SignIn, merchant_pb.SignInRequest(email=email, password=password), key=None
        )

    async def add_user(self, owner: Trader, *roles: str) -> Trader:
        """Another user of the same merchant."""
        email = f"user-{uuid.uuid4().hex[:10]}@example.in"
        user = merchant_pb.NewUser(email=email, name="User", password=PASSWORD, roles=roles)
        await self.call(self.merchants.AddUser, merchant_pb.AddUserRequest(user=user), owner)
        return Trader(owner.merchant, (await self.sign_in(email)).access_token)

    def operator(self) -> Trader:
        """Somebody who runs the platform and belongs to no merchant; their `user_id` is in the token only."""
        key = secrets.load(self.settings.secrets_dir).signing_key(clock.now())
        principal = Principal(user_id=new_id(), roles=frozenset({"OPERATOR"}))
        return Trader(merchant_pb.Merchant(), access_token(key, principal))

    def operators(self, room: str) -> OperatorServiceStub:
        """The operators' door of a service."""
        return OperatorServiceStub(self.channels[room])

    async def stock_up(self, who: Trader, sku: str = "BOLT-M8", units: int = 100, unit: str = "NOS") -> None:
        request = stock_pb.AdjustStockRequest(
            sku=sku, adjustment="ADD", quantity_milli=units * 1_000, reason="test", hsn="731815", unit=unit
        )
        await self.call(self.inventory.AdjustStock, request, who)

    async def stock(self, who: Trader, sku: str = "BOLT-M8") -> tuple[int, int]:
        """Units on hand and reserved."""
        found = await self.call(self.inventory.GetStock, stock_pb.GetStockRequest(sku=sku), who, None)
        return found.on_hand_milli // 1_000, found.reserved_milli // 1_000

    def line(self, units: int = 10, rupees: int = 1_000, sku: str = "BOLT-M8", **more: Any) -> pb.InvoiceLine:
        fields = {
            "sku": sku,
            "description": "Hex bolt M8",
            "hsn": "731815",
            "quantity_milli": units * 1_000,
            "unit": "NOS",
            "unit_price_milli": rupees * 1_000,
            "gst_rate_milli": 18_000,
        }
        return pb.InvoiceLine(**{**fields, **more})

    def invoice(self, buyer: Trader | str, *lines: pb.InvoiceLine, **more: Any) -> pb.CreateInvoiceRequest:
        """A B2B invoice, ten bolts unless lines are given; its number is the server's unless given."""
        gstin = buyer if isinstance(buyer, str) else buyer.gstin
        party = pb.Party(gstin=gstin, place_of_supply=more.pop("pos", gstin[:2]), legal_name="The buyer")
        fields = {"supply_type": "B2B", "buyer": party, "lines": lines or [self.line()]}
        return pb.CreateInvoiceRequest(invoice=pb.Invoice(**{**fields, **more}))

    async def issue(self, seller: Trader, request: pb.CreateInvoiceRequest, key: str = "", **m: str) -> pb.Invoice:
        return await self.call(self.invoices.CreateInvoice, request, seller, key, **m)

    async def sql(self, room: str, text: str, *args: Any) -> list[asyncpg.Record]:
        """Runs SQL in a room's database, as its role."""
        connection = await asyncpg.connect(self.databases[room])
        try:
            return await connection.fetch(text, *args)
        finally:
            await connection.close()

    async def work(self, *kinds: str) -> None:
        """Runs workers beside the test until it ends (none named: all)."""
        stop = asyncio.Event()
        rooms = Rooms(self.settings, stop)
        self.stack.push_async_callback(rooms.close)
        workers: list[Worker] = await process.make(self.settings, rooms, kinds)
        task = asyncio.create_task(runner.run(workers, stop, rooms.leader))

        async def end() -> None:
            stop.set()
            await task

        self.stack.push_async_callback(end)

    async def until(self, true: Callable[[], Awaitable[object]], within_s: float = 20) -> None:
        """Polls a state until it holds."""
        async with asyncio.timeout(within_s):
            while not await true():
                await asyncio.sleep(0.02)


async def open_market(
    stack: AsyncExitStack,
    postgres: PostgresServer,
    valkey: ValkeyServer | None,
    folder: Path,
    *,
    replica: ReplicaServer | None = None,
    **settings: Any,
) -> Market:
    """Starts the services on databases of their own; with a replica of that server, invoices are read there too."""
    superuser = await asyncpg.connect(postgres.dsn())
    number = next(_numbers)
    databases = {}
    for room in ROOMS:
        name = f"{room}_m{number}"
        await superuser.execute(f"CREATE DATABASE {name} TEMPLATE {room} OWNER {room}")
        databases[room] = postgres.dsn(room, name)

    async def drop() -> None:
        for room in ROOMS:
            await superuser.execute(f"DROP DATABASE IF EXISTS {room}_m{number} WITH (FORCE)")
        await superuser.close()

    stack.push_async_callback(drop)
    if replica is not None:
        settings["invoice_replica_urls"] = replica.dsn("invoice", f"invoice_m{number}")
    secrets.ensure(folder / "secrets")
    given = {f"{room}_database_url": dsn for room, dsn in databases.items()}
    # A breaker that one test has opened is closed again before the next is done.
    settings = {"breaker_open_ms": 1_000, **settings}
    base = Settings(**given, redis_url=valkey.url if valkey else "", secrets_dir=folder / "secrets", **settings)
    market = Market(base, databases, None, None, None, stack)  # type: ignore[arg-type]
    for room, start in (
        ("merchant", lambda config: merchant_service.start(config, QUICK)),
        ("inventory", inventory_service.start),
        ("invoice", invoice_service.start),
    ):
        running = await start(market.settings)
        server = Server(room, running.authenticator)
        for servicer in running.servicers:
            server.add(servicer)
        port = await server.start("127.0.0.1:0")
        market.settings = market.settings.model_copy(update={f"{room}_address": f"127.0.0.1:{port}"})
        market.running[room] = (server, running)

        async def stop(server: Server = server, running: Running = running) -> None:
            await server.drain(2)
            await running.close()

        stack.push_async_callback(stop)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        market.channels[room] = channel
    market.merchants = MerchantServiceStub(market.channels["merchant"])
    market.inventory = InventoryServiceStub(market.channels["inventory"])
    market.invoices = InvoiceServiceStub(market.channels["invoice"])
    return market
