"""The service as a process: starts, serves, says nothing it must not say, fails closed, stops in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.chassis import secrets
from invochain.chassis.migrate import migrate
from invochain.chassis.postgres import Postgres
from invochain.chassis.settings import Settings
from invochain.merchant import service
from invochain.merchant.settings import MerchantSettings
from invochain.supervisor.ports import free_port
from tests.integration.merchant.conftest import PASSWORD, Account, Office, fresh_email, registration
from tests.kit.servers import PostgresServer

START_S = 30


@asynccontextmanager
async def served(dsn: str, secrets_dir: Path, log: Path) -> AsyncIterator[tuple[Office, asyncio.subprocess.Process]]:
    """`invochain serve merchant` as a child, ready to be called."""
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "INVOCHAIN_MERCHANT_DATABASE_URL": dsn,
        "INVOCHAIN_MERCHANT_ADDRESS": address,
        "INVOCHAIN_SECRETS_DIR": str(secrets_dir),
        "INVOCHAIN_PASSWORD_MEMORY_KIB": "64",
        "INVOCHAIN_PASSWORD_PASSES": "1",
    }
    command = (sys.executable, "-c", "from invochain.cli import main; main()", "serve", "merchant")
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=out, stderr=out)
    beside = await Postgres.connect(dsn, name="test", size=2)
    office = Office(address, secrets.load(secrets_dir), beside, dsn)
    try:
        await asyncio.wait_for(office._channel.channel_ready(), START_S)
        yield office, child
    finally:
        await office.close()
        await beside.close()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_no_log_line_shows_a_gstin_a_token_or_a_password(merchant_dsn: str, secrets_dir: Path, tmp_path: Path):
    """Every method is called, rightly and wrongly; each line is one JSON object, and none of the canaries is in it."""
    log = tmp_path / "merchant.log"
    async with served(merchant_dsn, secrets_dir, log) as (office, child):
        request = registration(legal_name="Canary Traders\u2028Limited")
        request.owner.password = "canary password 7731"
        key = f"canary-key-{uuid.uuid4()}"
        answer, _ = await office.call("RegisterMerchant", request, key=key)
        await office.call("RegisterMerchant", request, key=key)
        await office.refused("RegisterMerchant", registration(gstin=request.merchant.gstin))
        account = await office.sign_in(Account(answer.merchant, answer.owner), request.owner.password)
        await office.refused("SignIn", pb.SignInRequest(email=request.owner.email, password="canary guess 4410"))
        pair, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=account.refresh))
        await office.refused("RefreshToken", pb.RefreshTokenRequest(refresh_token=account.refresh))
        await office.call("GetMerchant", pb.GetMerchantRequest(), token=account.access)
        await office.refused("GetMerchant", pb.GetMerchantRequest(), token=account.access[:-8] + "canary77")
        phone = pb.UpdateMerchantRequest(
            merchant=pb.Merchant(phone="0209977553"), update_mask=FieldMask(paths=["phone"])
        )
        await office.call("UpdateMerchant", phone, token=account.access)
        user = pb.NewUser(email=fresh_email(), name="Ravi Canary", password=PASSWORD, roles=[pb.VIEWER])
        await office.call("AddUser", pb.AddUserRequest(user=user), token=account.access)
        lookup = pb.LookupMerchantsRequest(gstins=[request.merchant.gstin])
        await office.call("LookupMerchants", lookup, service="invoice")
        await office.refused("RegisterMerchant", registration(gstin="27AAPFU0939F1ZA"))
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 20) == 0

    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert sum(line["event"] == "call" for line in lines) >= 13
    assert {line["event"] for line in lines} >= {"serving", "call", "refresh_token_reused", "draining", "stopped"}
    secret = [
        request.merchant.gstin, request.merchant.gstin[2:12], "27AAPFU0939F1ZA", request.owner.password, PASSWORD,
        "canary guess", account.access, account.access.split(".")[2], account.refresh, pair.access_token,
        pair.refresh_token, "canary77", key, request.owner.email, user.email, "0209977553", "Canary",
    ]  # fmt: skip
    assert [canary for canary in secret if canary in text] == []


async def test_without_its_database_nobody_signs_in_and_with_it_again_they_do(secrets_dir: Path, tmp_path: Path):
    """PostgreSQL is killed and started again under the running service: UNAVAILABLE between, a token afterwards."""
    async with PostgresServer() as server:
        dsn = await server.make_database("merchant")
        await migrate(dsn, "merchant")
        async with served(dsn, secrets_dir, tmp_path / "merchant.log") as (office, _):
            asha = await office.register()
            await server.kill9()

            for method, request in (
                ("SignIn", pb.SignInRequest(email=asha.user.email, password=PASSWORD)),
                ("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh)),
                ("RegisterMerchant", registration()),
            ):
                refused = await office.refused(method, request)
                assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")

            await server.start()
            deadline = asyncio.get_running_loop().time() + START_S
            while True:
                try:
                    await office.sign_in(asha)
                    break
                except grpc.aio.AioRpcError as refused:
                    assert refused.code() == grpc.StatusCode.UNAVAILABLE
                    assert asyncio.get_running_loop().time() < deadline
            await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh))


class TestStart:
    async def test_a_folder_without_a_signing_key_does_not_start(self, merchant_dsn: str, tmp_path: Path):
        """A service that could sign nobody in says so at once, with the remedy."""
        secrets.ensure(tmp_path / "s")
        (tmp_path / "s" / "token-keys.json").unlink()
        settings = Settings(merchant_database_url=merchant_dsn, secrets_dir=tmp_path / "s")
        with pytest.raises(secrets.SecretsUnusable, match=r"token-keys\.json is missing; `invochain keys make`"):
            await service.start(settings)

    def test_production_refuses_weak_hashes(self):
        """A test's setting must not reach real accounts."""
        with pytest.raises(ValueError, match="production wants at least 19456 and 2"):
            MerchantSettings(environment="production", password_memory_kib=64, password_passes=1)
        MerchantSettings(environment="production")
