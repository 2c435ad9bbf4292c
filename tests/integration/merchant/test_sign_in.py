"""SignIn and RefreshToken: who knows the password gets tokens, who guesses waits, who steals ends the family."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import statistics
import time
import uuid

import grpc
import pytest

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.chassis import secrets
from invochain.chassis.call import ANONYMOUS, Call
from invochain.chassis.key_set import KeySet
from invochain.chassis.tokens import Authenticator
from invochain.errors import BulkheadFull
from invochain.merchant.passwords import Passwords
from invochain.merchant.refresh_token import FAMILIES_MAX
from invochain.merchant.retention import purge
from invochain.merchant.settings import MerchantSettings
from invochain.merchant.sign_in import sign_in
from invochain.merchant.slow_down import SlowDown
from invochain.merchant.token_keys import TokenKeys
from tests.integration.merchant.conftest import PASSWORD, QUICK, Account, Office, as_text, fresh_email

# What the service under test was started with.
FREE_PER_ACCOUNT, FREE_PER_ADDRESS = 5, 50

_addresses = (f"203.0.113.{n}" for n in itertools.count(1))


def attempt(email: str, password: str = PASSWORD) -> pb.SignInRequest:
    return pb.SignInRequest(email=email, password=password)


async def who(office: Office, access: str):
    keys = TokenKeys(secrets.load(office.secrets.folder))
    return await Authenticator(office.secrets, KeySet(keys)).user(f"Bearer {access}")


async def wait_is_over(office: Office, email: str) -> None:
    """As if the wait had passed."""
    await office.rows(
        "UPDATE sign_in_attempt SET blocked_until = now() WHERE scope = 'account' AND subject = $1",
        hashlib.sha256(email.encode()).digest(),
    )


class TestSignIn:
    async def test_email_and_password_give_a_pair(self, office: Office, asha: Account):
        """A Bearer token of 15 minutes that says merchant, GSTIN, user and roles, and a refresh token."""
        pair, _ = await office.call("SignIn", attempt(asha.user.email.upper()), key=None)

        assert (pair.token_type, pair.expires_in, len(pair.refresh_token)) == ("Bearer", 900, 64)
        caller = await who(office, pair.access_token)
        assert caller.merchant_id == uuid.UUID(asha.merchant.merchant_id).bytes
        assert caller.user_id == uuid.UUID(asha.user.user_id).bytes
        assert (caller.gstin, caller.roles) == (asha.merchant.gstin, {"OWNER"})

    async def test_a_password_is_the_same_however_its_letters_are_composed(self, office: Office, asha: Account):
        """é typed as one character or as two; in a blank or a capital it is another one."""
        added = pb.NewUser(email=fresh_email(), name="R", password="caf\u00e9 caf\u00e9 caf\u00e9", roles=[pb.VIEWER])
        await office.call("AddUser", pb.AddUserRequest(user=added), token=asha.access)
        await office.call("SignIn", attempt(added.email, "cafe\u0301 cafe\u0301 cafe\u0301"))
        for other in ("cafe cafe cafe", "CAF\u00c9 caf\u00e9 caf\u00e9", "caf\u00e9 caf\u00e9 caf\u00e9 "):
            assert (await office.refused("SignIn", attempt(added.email, other))).reason == "CREDENTIALS_INVALID"

    async def test_a_long_password_is_compared_whole(self, office: Office, asha: Account):
        """Nothing is cut off at 72 bytes."""
        added = pb.NewUser(email=fresh_email(), name="R", password="x" * 127 + "y", roles=[pb.VIEWER])
        await office.call("AddUser", pb.AddUserRequest(user=added), token=asha.access)
        assert (await office.refused("SignIn", attempt(added.email, "x" * 128))).reason == "CREDENTIALS_INVALID"
        await office.call("SignIn", attempt(added.email, added.password))

    async def test_an_unknown_email_and_a_wrong_password_look_alike(self, office: Office, asha: Account):
        """The same code, reason, words and details."""
        wrong = await office.refused("SignIn", attempt(asha.user.email, "not the password"))
        unknown = await office.refused("SignIn", attempt(fresh_email(), "not the password"))
        assert (wrong.code, wrong.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
        assert wrong == unknown

    async def test_they_take_the_same_time(self, office: Office):
        """With a hash that costs 20 ms both cost it: the medians differ by less than half of a hash."""
        config = MerchantSettings(**{**QUICK, "password_memory_kib": 32 * 1024, "password_passes": 1})
        passwords, slow_down = Passwords(config), SlowDown(config)
        asha = await office.register()
        stored = await passwords.hash(PASSWORD)
        await office.rows("UPDATE app_user SET password_hash = $2 WHERE email = $1", asha.user.email, stored)
        keys = TokenKeys(secrets.load(office.secrets.folder))

        async def seconds(email: str) -> float:
            await office.rows("DELETE FROM sign_in_attempt")
            call = Call("SignIn", ANONYMOUS, b"", deadline=time.monotonic() + 10, client_ip="203.0.113.250")
            started = time.perf_counter()
            with pytest.raises(Exception, match="e-mail or password is wrong"):
                await sign_in(office.postgres, passwords, slow_down, keys, call, attempt(email, "not the password"))
            return time.perf_counter() - started

        known, unknown = [], []
        for _ in range(9):
            known.append(await seconds(asha.user.email))
            unknown.append(await seconds("nobody-at-all@example.in"))
        started = time.perf_counter()
        await passwords.verify(stored, PASSWORD)
        hash_s = time.perf_counter() - started
        await passwords.close()
        assert abs(statistics.median(known) - statistics.median(unknown)) < hash_s / 2

    @pytest.mark.parametrize(
        "email, password, paths",
        [("", "", ["email", "password"]), ("", "x", ["email"]), ("a@example.in", "", ["password"])],
    )
    async def test_a_missing_field_is_named(self, office: Office, email: str, password: str, paths: list[str]):
        """Before anything is counted or hashed."""
        refused = await office.refused("SignIn", attempt(email, password))
        assert refused.broken == [(path, "FIELD_REQUIRED") for path in paths]

    @pytest.mark.parametrize("email", ["x" * 300 + "@example.in", "a\0b@example.in", "' OR 1=1 --"])
    async def test_what_cannot_be_an_account_is_none(self, office: Office, email: str):
        """The usual answer, no error of the database."""
        assert (await office.refused("SignIn", attempt(email, "x" * 600))).reason == "CREDENTIALS_INVALID"

    async def test_a_hash_of_yesterdays_strength_is_replaced(self, office: Office, asha: Account):
        """The first sign-in after the setting grew stores the password anew; the next finds it so."""
        weak = Passwords(MerchantSettings(password_memory_kib=16, password_passes=2))
        stored = await weak.hash(PASSWORD)
        await weak.close()
        await office.rows("UPDATE app_user SET password_hash = $2 WHERE email = $1", asha.user.email, stored)
        for _ in range(2):
            await office.sign_in(asha)
        rows = await office.rows("SELECT password_hash FROM app_user WHERE email = $1", asha.user.email)
        assert "m=64,t=1,p=1" in rows[0]["password_hash"]


class TestSlowDown:
    async def test_after_the_free_tries_an_account_waits_and_the_right_password_waits_too(
        self, office: Office, asha: Account
    ):
        """RESOURCE_EXHAUSTED with the wait; nothing is tried meanwhile, so nobody learns anything."""
        address = next(_addresses)
        for _ in range(FREE_PER_ACCOUNT + 1):
            refused = await office.refused("SignIn", attempt(asha.user.email, "a wrong password"), ip=address)
            assert refused.reason == "CREDENTIALS_INVALID"

        for password in ("a wrong password", PASSWORD):
            refused = await office.refused("SignIn", attempt(asha.user.email, password), ip=next(_addresses))
            assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
            assert refused.facts["scope"] == "account"
            assert refused.retry_s == 1

    async def test_the_wait_doubles_up_to_a_minute_and_a_sign_in_ends_it(self, office: Office, asha: Account):
        """1, 2, 4 ... 60, 60 seconds; after the right password tries are free again."""
        waits = []
        for number in range(FREE_PER_ACCOUNT + 9):
            await wait_is_over(office, asha.user.email)
            await office.refused("SignIn", attempt(asha.user.email, "a wrong password"), ip=next(_addresses))
            if number >= FREE_PER_ACCOUNT:
                refused = await office.refused("SignIn", attempt(asha.user.email), ip=next(_addresses))
                waits.append(refused.retry_s)
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]

        await wait_is_over(office, asha.user.email)
        await office.sign_in(asha)
        refused = await office.refused("SignIn", attempt(asha.user.email, "a wrong password"))
        assert refused.reason == "CREDENTIALS_INVALID"
        await office.sign_in(asha)

    async def test_an_unknown_email_waits_like_a_known_one(self, office: Office):
        """Otherwise the wait would tell who has an account."""
        email = fresh_email()
        reasons = [
            (await office.refused("SignIn", attempt(email, "a wrong password"), ip=next(_addresses))).reason
            for _ in range(FREE_PER_ACCOUNT + 2)
        ]
        assert reasons == ["CREDENTIALS_INVALID"] * (FREE_PER_ACCOUNT + 1) + ["RATE_LIMITED"]

    async def test_tries_at_once_are_all_counted(self, office: Office, asha: Account):
        """Thirty guesses in parallel: no more than the free ones and one are looked at."""
        answers = await asyncio.gather(
            *(
                office.refused("SignIn", attempt(asha.user.email, f"guess number {n}"), ip=next(_addresses))
                for n in range(30)
            )
        )
        tried, limited, full = (
            sum(answer.reason == reason for answer in answers)
            for reason in ("CREDENTIALS_INVALID", "RATE_LIMITED", "BULKHEAD_FULL")
        )
        assert tried + limited + full == 30
        # On a machine that is slow, some find no connection within 0.2 s: they were counted and not looked at.
        assert FREE_PER_ACCOUNT + 1 - full <= tried <= FREE_PER_ACCOUNT + 1

    async def test_an_address_that_sprays_one_password_over_many_accounts_waits(self, office: Office, asha: Account):
        """Each account is tried once only; the address is what they have in common. Others sign in meanwhile."""
        address = next(_addresses)
        for _ in range(FREE_PER_ADDRESS + 1):
            await office.refused("SignIn", attempt(fresh_email(), "Password2026!"), ip=address)

        refused = await office.refused("SignIn", attempt(asha.user.email), ip=address)
        assert (refused.reason, refused.facts["scope"]) == ("RATE_LIMITED", "address")
        await office.call("SignIn", attempt(asha.user.email), ip=next(_addresses))

    async def test_those_who_know_their_password_never_wait(self, office: Office, asha: Account):
        """A hundred sign-ins from one address, ten at a time: a sign-in takes its try back."""
        address = next(_addresses)
        for _ in range(20):
            await asyncio.gather(
                *(office.call("SignIn", attempt(asha.user.email), ip=address) for _ in range(FREE_PER_ACCOUNT))
            )

    async def test_those_who_hang_up_are_not_counted_as_guessers(self, office: Office, asha: Account):
        """Sixty right sign-ins, each cancelled a moment later than the one before: the address is charged nothing."""
        address = next(_addresses)
        for n in range(60):
            asked = office.stub.SignIn(
                attempt(asha.user.email), metadata=(("x-forwarded-client-ip", address),), timeout=5
            )
            await asyncio.wait([asyncio.ensure_future(asked.code())], timeout=n * 0.000_25)
            asked.cancel()

        deadline = asyncio.get_running_loop().time() + 10
        while True:
            rows = await office.rows(
                "SELECT failures FROM sign_in_attempt WHERE subject = $1", hashlib.sha256(address.encode()).digest()
            )
            if [row["failures"] for row in rows] == [0]:
                break
            assert asyncio.get_running_loop().time() < deadline, rows
        await office.call("SignIn", attempt(asha.user.email), ip=address)

    async def test_addresses_and_accounts_are_kept_as_hashes(self, office: Office):
        """Nobody's address lies in the table."""
        address, email = next(_addresses), fresh_email()
        await office.refused("SignIn", attempt(email, "a wrong password"), ip=address)
        text = as_text(await office.rows("SELECT * FROM sign_in_attempt"))
        assert address not in text
        assert email not in text


class TestRetention:
    async def test_counts_of_yesterday_are_forgotten_a_bounded_piece_at_a_time(self, office: Office):
        """The purger's hook: old rows go, at most as many as asked for; those of today stay."""
        await office.rows(
            """INSERT INTO sign_in_attempt (scope, subject, failures, last_time, blocked_until)
               SELECT 'account', sha256(n::text::bytea), 3, now() - interval '25 hours', '-infinity'
               FROM generate_series(1, 5) AS n"""
        )
        email = fresh_email()
        await office.refused("SignIn", attempt(email, "a wrong password"), ip=next(_addresses))
        async with office.postgres.transaction() as tx:
            gone = [await purge(tx, 3), await purge(tx, 3), await purge(tx, 3)]
        left = await office.rows(
            "SELECT 1 FROM sign_in_attempt WHERE subject = $1", hashlib.sha256(email.encode()).digest()
        )
        assert (gone, len(left)) == ([3, 2, 0], 1)


class TestBoundedHashing:
    async def test_more_passwords_than_may_wait_are_refused_and_cost_no_try(self, office: Office, asha: Account):
        """BULKHEAD_FULL for those who do not fit; the loop goes on while threads hash."""
        config = MerchantSettings(
            password_memory_kib=32 * 1024, password_passes=3, password_workers=1, password_waiting_max=2
        )
        passwords, slow_down = Passwords(config), SlowDown(config)
        keys = TokenKeys(secrets.load(office.secrets.folder))

        async def one(n: int) -> object:
            call = Call("SignIn", ANONYMOUS, b"", deadline=time.monotonic() + 10, client_ip=f"198.51.100.{n}")
            return await sign_in(office.postgres, passwords, slow_down, keys, call, attempt(f"n{n}@example.in"))

        longest, stop = 0.0, asyncio.Event()

        async def heartbeat() -> None:
            nonlocal longest
            while not stop.is_set():
                started = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - started)

        beat = asyncio.create_task(heartbeat())
        answers = await asyncio.gather(*(one(n) for n in range(8)), return_exceptions=True)
        stop.set()
        await beat
        started = time.perf_counter()
        await passwords.hash(PASSWORD)
        hash_s = time.perf_counter() - started
        await passwords.close()

        full = [n for n, answer in enumerate(answers) if isinstance(answer, BulkheadFull)]
        assert 1 <= len(full) <= 5
        assert longest < max(hash_s, 0.05)
        for n in full:
            rows = await office.rows(
                "SELECT failures FROM sign_in_attempt WHERE subject = $1",
                hashlib.sha256(f"n{n}@example.in".encode()).digest(),
            )
            assert [row["failures"] for row in rows] == [0]


class TestRefreshToken:
    async def test_a_refresh_token_is_exchanged_for_a_new_pair(self, office: Office, asha: Account):
        """Both tokens are new, and the access token opens the same doors."""
        pair, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh), key=None)
        assert pair.refresh_token != asha.refresh
        assert pair.access_token != asha.access
        read, _ = await office.call("GetMerchant", pb.GetMerchantRequest(), token=pair.access_token)
        assert read == asha.merchant

    async def test_a_token_that_comes_again_ends_its_family(self, office: Office, asha: Account):
        """The thief's and the owner's tokens are refused from then on; another sign-in of theirs is not touched."""
        elsewhere, _ = await office.call("SignIn", attempt(asha.user.email))
        second, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh))
        third, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=second.refresh_token))

        for token in (asha.refresh, third.refresh_token, second.refresh_token, asha.refresh):
            refused = await office.refused("RefreshToken", pb.RefreshTokenRequest(refresh_token=token))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
        await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=elsewhere.refresh_token))

    async def test_of_many_exchanges_at_once_one_succeeds_and_the_family_ends(self, office: Office, asha: Account):
        """The row's lock picks one; the others are reuse."""
        answers = await asyncio.gather(
            *(office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh)) for _ in range(6)),
            return_exceptions=True,
        )
        won = [answer[0] for answer in answers if isinstance(answer, tuple)]
        assert len(won) == 1
        after = pb.RefreshTokenRequest(refresh_token=won[0].refresh_token)
        assert (await office.refused("RefreshToken", after)).reason == "TOKEN_EXPIRED"

    async def test_after_thirty_days_it_is_over(self, office: Office, asha: Account):
        """By the database's clock; an exchange begins the thirty days anew, up to half a year in all."""
        rows = await office.rows(
            """SELECT extract(epoch FROM expire_time - create_time)::bigint AS life_s FROM refresh_family
               WHERE user_id = $1""",
            uuid.UUID(asha.user.user_id).bytes,
        )
        assert {row["life_s"] for row in rows} == {30 * 86_400}
        await office.rows(
            "UPDATE refresh_family SET create_time = now() - interval '170 days' WHERE user_id = $1",
            uuid.UUID(asha.user.user_id).bytes,
        )
        pair, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh))
        rows = await office.rows(
            "SELECT expire_time - create_time AS life FROM refresh_family WHERE user_id = $1",
            uuid.UUID(asha.user.user_id).bytes,
        )
        assert {row["life"].days for row in rows} == {180}

        await office.rows(
            "UPDATE refresh_family SET expire_time = now() WHERE user_id = $1", uuid.UUID(asha.user.user_id).bytes
        )
        refused = await office.refused("RefreshToken", pb.RefreshTokenRequest(refresh_token=pair.refresh_token))
        assert refused.reason == "TOKEN_EXPIRED"

    async def test_the_new_token_has_the_roles_of_today(self, office: Office, asha: Account):
        """A role taken away is gone with the next exchange."""
        ravi = await office.colleague(asha, pb.ISSUER, pb.VIEWER)
        await office.rows(
            "UPDATE app_user SET roles = '{VIEWER}' WHERE user_id = $1", uuid.UUID(ravi.user.user_id).bytes
        )
        pair, _ = await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=ravi.refresh))
        assert (await who(office, pair.access_token)).roles == {"VIEWER"}

    @pytest.mark.parametrize("token", ["x", "x" * 64, "!" * 64, "é" * 64, "A" * 64, "x" * 10_000])
    async def test_what_is_not_ours_is_refused(self, office: Office, token: str):
        """Constant words, and no error of the database."""
        refused = await office.refused("RefreshToken", pb.RefreshTokenRequest(refresh_token=token))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    async def test_a_missing_token_is_named(self, office: Office):
        """As any missing field."""
        refused = await office.refused("RefreshToken", pb.RefreshTokenRequest())
        assert refused.broken == [("refresh_token", "FIELD_REQUIRED")]

    async def test_an_access_token_is_no_refresh_token_nor_the_other_way(self, office: Office, asha: Account):
        """Each opens its own door."""
        refused = await office.refused("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.access))
        assert refused.reason == "TOKEN_INVALID"
        refused = await office.refused("GetMerchant", pb.GetMerchantRequest(), token=asha.refresh)
        assert refused.reason == "TOKEN_INVALID"

    async def test_the_database_holds_no_token(self, office: Office, asha: Account):
        """Only the SHA-256 of the present secret."""
        text = as_text(await office.rows("SELECT * FROM refresh_family"))
        assert asha.refresh not in text
        assert asha.refresh[22:] not in text

    async def test_the_oldest_sign_ins_beyond_the_bound_are_signed_out(self, office: Office, asha: Account):
        """A hundred devices a user, not a table that grows for ever."""
        user_id = uuid.UUID(asha.user.user_id).bytes
        await office.rows(
            """INSERT INTO refresh_family (family_id, user_id, secret_hash, create_time, expire_time)
               SELECT gen_random_uuid(), $1, sha256('x'), now() - make_interval(mins => n), now() + interval '1 day'
               FROM generate_series(1, 150) AS n""",
            user_id,
        )
        await office.sign_in(asha)
        rows = await office.rows("SELECT count(*) AS n FROM refresh_family WHERE user_id = $1", user_id)
        assert rows[0]["n"] == FAMILIES_MAX
        await office.call("RefreshToken", pb.RefreshTokenRequest(refresh_token=asha.refresh))
