"""`invochain operator add` and `invochain keys`: what is done by whoever holds the machine, not by an RPC."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.chassis import secrets
from invochain.cli import app
from tests.integration.merchant.conftest import Account, Office, fresh_email


@pytest.fixture
def command(merchant_dsn: str, monkeypatch: pytest.MonkeyPatch):
    """Runs `invochain ...` with this database, outside of the test's event loop."""
    import asyncio

    monkeypatch.setenv("INVOCHAIN_MERCHANT_DATABASE_URL", merchant_dsn)
    monkeypatch.setenv("INVOCHAIN_PASSWORD_MEMORY_KIB", "64")
    monkeypatch.setenv("INVOCHAIN_PASSWORD_PASSES", "1")

    async def run(*arguments: str, stdin: str = "") -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, arguments, input=stdin)

    return run


class TestOperatorAdd:
    async def test_an_operator_is_added_and_signs_in(self, office: Office, asha: Account, command):
        """By the password from standard input; the token belongs to no merchant and opens the operator's doors."""
        email, password = fresh_email(), "an operator's password"
        done = await command(
            "operator", "add", "--email", email.upper(), "--name", "Ops", "--password-stdin", stdin=password + "\n"
        )
        assert (done.exit_code, password in done.output) == (0, False)
        assert email in done.output

        pair, _ = await office.call("SignIn", pb.SignInRequest(email=email, password=password))
        request = pb.GetMerchantRequest(merchant_id=asha.merchant.merchant_id)
        read, _ = await office.call("GetMerchant", request, token=pair.access_token)
        assert read == asha.merchant
        again, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=pair.refresh_token))
        assert again.access_token

    async def test_the_password_is_asked_for_twice_and_not_shown(self, office: Office, command):
        """Without --password-stdin; two different ones are asked again."""
        answers = "an operator's password\n" * 2
        done = await command("operator", "add", "--email", fresh_email(), "--name", "Ops", stdin=answers)
        assert done.exit_code == 0
        assert "an operator's password" not in done.output

    async def test_what_is_wrong_is_said_line_by_line(self, command):
        """Exit code 1, every broken rule, nothing stored."""
        done = await command("operator", "add", "--email", "ops", "--name", "", "--password-stdin", stdin="short\n")
        assert done.exit_code == 1
        assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["email", "name", "password"]

    async def test_an_email_that_is_taken_is_refused(self, asha: Account, command):
        """An owner does not become an operator by accident."""
        done = await command(
            "operator", "add", "--email", asha.user.email, "--name", "Ops", "--password-stdin", stdin="x" * 12
        )
        assert (done.exit_code, "registered already" in done.stderr) == (1, True)

    async def test_without_a_database_the_line_says_what_to_do(self, command, monkeypatch, tmp_path: Path):
        """No setting and no running stack; or a database that does not answer."""
        arguments = ("operator", "add", "--email", "ops@example.in", "--name", "Ops", "--password-stdin")
        monkeypatch.setenv("INVOCHAIN_MERCHANT_DATABASE_URL", "postgresql://merchant@127.0.0.1:1/merchant")
        done = await command(*arguments, stdin="x" * 12)
        assert (done.exit_code, "did not answer" in done.stderr) == (1, True)
        monkeypatch.delenv("INVOCHAIN_MERCHANT_DATABASE_URL")
        monkeypatch.setenv("INVOCHAIN_DATA_DIR", str(tmp_path))
        done = await command(*arguments, stdin="x" * 12)
        assert (done.exit_code, "invochain up" in done.stderr) == (1, True)


class TestKeys:
    async def test_keys_are_made_listed_rotated_and_revoked(self, command, tmp_path: Path):
        """Each step says what it did; revoking the last key makes another."""
        folder = ("--secrets-dir", str(tmp_path / "s"))
        assert (await command("keys", "make", *folder)).exit_code == 0
        first = secrets.read_token_keys(tmp_path / "s")[0].kid
        listed = (await command("keys", "list", *folder)).output
        assert first in listed
        assert "signs" in listed

        assert (await command("keys", "rotate", *folder)).exit_code == 0
        second = secrets.read_token_keys(tmp_path / "s")[1].kid
        lines = (await command("keys", "list", *folder)).output.splitlines()
        assert [line.split()[0] for line in lines] == [first, second]
        assert lines[0].endswith("signs")
        assert "signs from" in lines[1]

        done = await command("keys", "revoke", first, *folder)
        assert (done.exit_code, "signs in its place" in done.output) == (0, True)
        assert first not in (await command("keys", "list", *folder)).output

    async def test_an_unknown_key_and_a_missing_folder_are_one_line(self, command, tmp_path: Path):
        """Exit code 1 and the remedy."""
        folder = ("--secrets-dir", str(tmp_path))
        done = await command("keys", "list", *folder)
        assert (done.exit_code, "invochain keys make" in done.stderr) == (1, True)
        await command("keys", "make", *folder)
        done = await command("keys", "revoke", str(uuid.uuid4()), *folder)
        assert (done.exit_code, "invochain keys list" in done.stderr) == (1, True)
