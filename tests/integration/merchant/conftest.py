"""A merchant service over real gRPC on a real PostgreSQL, and an office that talks to it as clients do."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from invochain import core
from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.chassis import secrets
from invochain.chassis.migrate import migrate
from invochain.chassis.postgres import Postgres
from invochain.chassis.secrets import Secrets
from invochain.chassis.server import Server
from invochain.chassis.settings import Settings
from invochain.chassis.tokens import ServiceIdentity
from invochain.merchant import service
from invochain.merchant.settings import MerchantSettings
from tests.kit.servers import PostgresServer

PASSWORD = "correct horse battery staple"
# What a hash costs is not what these tests are about.
QUICK = {"password_memory_kib": 64, "password_passes": 1, "password_workers": 2}

_numbers = itertools.count(1)


def fresh_gstin(state: str = "27") -> str:
    """A regular registration that no other test has."""
    number = next(_numbers)
    first = f"{state}AAACB{number % 10_000:04d}{chr(65 + number // 10_000)}1Z"
    return first + str(core.gstin_check_char(first))


def fresh_email() -> str:
    return f"user-{next(_numbers)}-{uuid.uuid4().hex[:6]}@example.in"


@dataclass
class Refused:
    """A refusal as a client reads it."""

    code: grpc.StatusCode
    reason: str
    message: str
    facts: dict[str, str]
    # (path, code) of every violation.
    broken: list[tuple[str, str]]
    retry_s: float | None
    raw: str

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Refused:
        status = status_pb2.Status()
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                status.ParseFromString(value)
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        wait = None
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
            if detail.Unpack(retry):
                wait = retry.retry_delay.ToMilliseconds() / 1_000
        return cls(
            error.code(),
            info.reason,
            status.message,
            dict(info.metadata),
            [(violation.field, violation.reason) for violation in bad.field_violations],
            wait,
            f"{error.details()} {status}",
        )


@dataclass
class Account:
    """Somebody with a merchant of their own."""

    merchant: pb.Merchant
    user: pb.User
    access: str = ""
    refresh: str = ""


class Office:
    """The merchant service as clients see it."""

    def __init__(self, address: str, made: Secrets, postgres: Postgres, dsn: str) -> None:
        self.address, self.secrets, self.postgres, self.dsn = address, made, postgres, dsn
        self._channel = grpc.aio.insecure_channel(address)
        self.stub = MerchantServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def call(
        self,
        method: str,
        request: Any,
        *,
        key: str | None = "",
        token: str = "",
        service: str = "",
        ip: str = "",
        **metadata: str,
    ) -> Any:
        """Calls a method and returns (answer, replayed); raises grpc.aio.AioRpcError. `key` None sends none."""
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        if key is not None:
            sent.append(("idempotency-key", key or str(uuid.uuid4())))
        if token:
            sent.append(("authorization", f"Bearer {token}"))
        if service:
            sent.append(("x-invochain-service-token", ServiceIdentity(service, self.secrets).token()))
        if ip:
            sent.append(("x-forwarded-client-ip", ip))
        asked = getattr(self.stub, method)(request, metadata=tuple(sent), timeout=10)
        answer = await asked
        initial = {str(name): value for name, value in await asked.initial_metadata()}
        return answer, initial.get("x-idempotent-replayed") == "true"

    async def refused(self, method: str, request: Any, **how: Any) -> Refused:
        """Calls a method that must be refused."""
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await self.call(method, request, **how)
        return Refused.of(refusal.value)

    async def register(self, **merchant: Any) -> Account:
        """Registers a merchant and signs its owner in."""
        request = registration(**merchant)
        answer, _ = await self.call("RegisterMerchant", request)
        return await self.sign_in(Account(answer.merchant, answer.owner))

    async def sign_in(self, account: Account, password: str = PASSWORD) -> Account:
        pair, _ = await self.call("SignIn", pb.SignInRequest(email=account.user.email, password=password))
        account.access, account.refresh = pair.access_token, pair.refresh_token
        return account

    async def colleague(self, owner: Account, *roles: int) -> Account:
        """Adds a user to the merchant and signs them in."""
        user = pb.NewUser(email=fresh_email(), name="A colleague", password=PASSWORD, roles=roles)
        added, _ = await self.call("AddUser", pb.AddUserRequest(user=user), token=owner.access)
        return await self.sign_in(Account(owner.merchant, added))

    async def rows(self, sql: str, *args: Any) -> list[Any]:
        """What lies in the database, read beside the service."""
        async with self.postgres._connection(5) as connection:
            return list(await connection.fetch(sql, *args))


def registration(**merchant: Any) -> pb.RegisterMerchantRequest:
    """A valid registration, with the given fields of the merchant in place of the usual ones."""
    usual: dict[str, Any] = {
        "gstin": fresh_gstin(),
        "legal_name": "Deccan Bolts Private Limited",
        "address": pb.Address(line1="12 MG Road", location="Pune", pin_code="411001"),
        "annual_turnover_paise": 7_50_00_000_00,
    }
    owner = pb.NewUser(email=fresh_email(), name="Asha Rao", password=PASSWORD)
    return pb.RegisterMerchantRequest(merchant=pb.Merchant(**{**usual, **merchant}), owner=owner)


@pytest.fixture(scope="session")
async def merchant_postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
async def merchant_dsn(merchant_postgres: PostgresServer) -> str:
    """A migrated merchant database of its own role."""
    dsn = await merchant_postgres.make_database("merchant")
    await migrate(dsn, "merchant")
    return dsn


@pytest.fixture(scope="session")
def secrets_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    secrets.ensure(folder)
    return folder


@pytest.fixture(scope="session")
async def office(merchant_dsn: str, secrets_dir: Path) -> AsyncIterator[Office]:
    settings = Settings(merchant_database_url=merchant_dsn, secrets_dir=secrets_dir)
    running = await service.start(settings, MerchantSettings(**QUICK, sign_in_free_per_account=5))
    server = Server("merchant", running.authenticator)
    for servicer in running.servicers:
        server.add(servicer)
    port = await server.start("127.0.0.1:0")
    beside = await Postgres.connect(merchant_dsn, name="test", size=4)
    office = Office(f"127.0.0.1:{port}", secrets.load(secrets_dir), beside, merchant_dsn)
    yield office
    await office.close()
    await server.drain(1)
    await running.close()
    await beside.close()


@pytest.fixture
async def asha(office: Office) -> Account:
    """The owner of a merchant, signed in."""
    return await office.register()


def as_text(rows: list[Any]) -> str:
    """Whole rows as one text, to look for what must not be in them."""
    return json.dumps([[str(value) for value in row.values()] for row in rows])
