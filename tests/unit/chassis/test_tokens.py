"""Tokens: ours are believed for as long as they say, everything else is refused in the same words."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from invochain.chassis import clock, secrets, tokens
from invochain.chassis.call import NOBODY, Principal
from invochain.chassis.ids import new_id, to_text
from invochain.chassis.key_set import KEPT_S, KeySet
from invochain.chassis.secrets import Secrets
from invochain.chassis.tokens import Authenticator, ServiceIdentity
from invochain.errors import DependencyDown, TokenExpired, TokenInvalid

MERCHANT, USER = new_id(), new_id()
WHO = Principal(merchant_id=MERCHANT, gstin="27AAPFU0939F1ZV", user_id=USER, roles=frozenset({"OWNER"}))


class Source:
    """Where the keys of a test come from: a list that can change, be slow to ask, or be down."""

    def __init__(self, keys: list[ECKey]) -> None:
        self.keys, self.asked, self.down = keys, 0, False

    async def __call__(self) -> list[dict[str, str]]:
        self.asked += 1
        if self.down:
            raise ConnectionRefusedError
        return [{**key.as_dict(private=False)} for key in self.keys]


class Time:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.at, self.steady = clock.now(), 1_000.0

    def pass_(self, seconds: float) -> None:
        self.at += dt.timedelta(seconds=seconds)
        self.steady += seconds

    def step(self, seconds: float) -> None:
        """The wall clock jumps; nothing has passed."""
        self.at += dt.timedelta(seconds=seconds)


@pytest.fixture
def time_(monkeypatch: pytest.MonkeyPatch) -> Time:
    still = Time()
    monkeypatch.setattr(clock, "now", lambda: still.at)
    monkeypatch.setattr(clock, "monotonic", lambda: still.steady)
    return still


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    folder = tmp_path_factory.mktemp("secrets")
    secrets.ensure(folder)
    return secrets.load(folder)


@pytest.fixture
def source(made: Secrets) -> Source:
    return Source([made.token_keys[0].key])


@pytest.fixture
def gate(made: Secrets, source: Source) -> Authenticator:
    return Authenticator(made, KeySet(source))


def claims(**changed: object) -> dict[str, object]:
    now = int(clock.now().timestamp())
    return {
        "iss": tokens.ISSUER,
        "aud": tokens.AUDIENCE,
        "sub": to_text(USER),
        "merchant_id": to_text(MERCHANT),
        "gstin": "27AAPFU0939F1ZV",
        "roles": ["OWNER"],
        "iat": now,
        "nbf": now,
        "exp": now + 900,
        **changed,
    }


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(key: ECKey, payload: object, **header: object) -> str:
    """A token signed by `key` whatever it says: joserfc would not make most of these."""
    head = {"alg": "ES256", "kid": key.kid, "typ": tokens.ACCESS_TYPE, **header}
    head = {name: value for name, value in head.items() if value is not None}
    body = payload if isinstance(payload, str) else json.dumps(payload)
    return sign_raw(key, json.dumps(head), body)


def sign_raw(key: ECKey, header: str, payload: str) -> str:
    signing_input = f"{b64(header.encode())}.{b64(payload.encode())}"
    algorithm = jws.JWSRegistry.algorithms["ES256"]
    return f"{signing_input}.{b64(algorithm.sign(signing_input.encode(), key))}"


def attacks(key: ECKey, strange: ECKey, service_key: ECKey) -> dict[str, str]:
    """Every forgery by name. `key` is ours, `strange` the attacker's."""
    good = forge(key, claims())
    head, body, signature = good.split(".")
    public = ECKey.import_key(key.as_dict(private=False))
    pem = public.as_pem(private=False)
    point = json.dumps(public.as_dict(private=False)).encode()
    none = b64(json.dumps({"alg": "none", "kid": key.kid, "typ": "at+jwt"}).encode())
    hs256 = b64(json.dumps({"alg": "HS256", "kid": key.kid, "typ": "at+jwt"}).encode())
    rsa_key = RSAKey.import_key(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    now = int(clock.now().timestamp())
    other_body = b64(base64.urlsafe_b64decode(body + "==").replace(b"OWNER", b"OWNES"))
    flipped = signature[:-5] + ("A" if signature[-5] != "A" else "B") + signature[-4:]
    return {
        "nothing": "",
        "words": "not a token",
        "alg none without a signature": f"{none}.{body}.",
        "alg none with the signature": f"{none}.{body}.{signature}",
        "HS256 by the public key as PEM": f"{hs256}.{body}."
        + b64(hmac.digest(pem, f"{hs256}.{body}".encode(), hashlib.sha256)),
        "HS256 by the public key as JWK": f"{hs256}.{body}."
        + b64(hmac.digest(point, f"{hs256}.{body}".encode(), hashlib.sha256)),
        "RS256 by a key of their own": jws.serialize_compact(
            {"alg": "RS256", "kid": key.kid, "typ": "at+jwt"}, json.dumps(claims()), rsa_key, algorithms=["RS256"]
        ),
        "unknown kid": forge(strange, claims()),
        "our kid, their signature": forge(strange, claims(), kid=key.kid),
        "no kid": forge(key, claims(), kid=None),
        "kid is a path": forge(key, claims(), kid="../../../../dev/null"),
        "kid is SQL": forge(key, claims(), kid="' OR 1=1 --"),
        "kid is a number": forge(key, claims(), kid=7),
        "embedded jwk": forge(strange, claims(), jwk=strange.as_dict(private=False)),
        "embedded jwk and our kid": forge(strange, claims(), kid=key.kid, jwk=strange.as_dict(private=False)),
        "jku": forge(key, claims(), jku="https://keys.example/jwks.json"),
        "x5u": forge(key, claims(), x5u="https://keys.example/chain.pem"),
        "crit": forge(key, claims(), crit=["exp"]),
        "payload not encoded": forge(key, claims(), b64=False, crit=["b64"]),
        "no typ": forge(key, claims(), typ=None),
        "typ JWT": forge(key, claims(), typ="JWT"),
        "typ of a service token": forge(key, claims(), typ=tokens.SERVICE_TYPE),
        "a service's key": forge(service_key, claims()),
        "wrong iss": forge(key, claims(iss="someone")),
        "no iss": forge(key, {k: v for k, v in claims().items() if k != "iss"}),
        "wrong aud": forge(key, claims(aud=tokens.SERVICE_AUDIENCE)),
        "aud is a list": forge(key, claims(aud=[tokens.AUDIENCE, "other"])),
        "nbf ahead": forge(key, claims(nbf=now + 120)),
        "exp missing": forge(key, {k: v for k, v in claims().items() if k != "exp"}),
        "exp is a string": forge(key, claims(exp=str(now + 900))),
        "exp is a fraction": forge(key, claims(exp=now + 900.5)),
        "exp is true": forge(key, claims(exp=True)),
        "exp is 1e400": forge(key, json.dumps(claims()).replace(f'"exp": {now + 900}', '"exp": 1e400')),
        "exp for ever": forge(key, claims(exp=2**60)),
        "exp twice": forge(key, json.dumps(claims())[:-1] + f', "exp": {now + 90_000}}}'),
        "merchant_id twice": forge(key, json.dumps(claims())[:-1] + f', "merchant_id": "{to_text(new_id())}"}}'),
        "alg twice": sign_raw(
            key, f'{{"alg": "none", "alg": "ES256", "kid": "{key.kid}", "typ": "at+jwt"}}', json.dumps(claims())
        ),
        "merchant_id is no id": forge(key, claims(merchant_id="1 OR 1=1")),
        "sub is a number": forge(key, claims(sub=5)),
        "roles is a string": forge(key, claims(roles="OWNER")),
        "claims are a list": forge(key, "[]"),
        "claims are deep": forge(key, "[" * 700 + "]" * 700),
        "claims are no JSON": forge(key, "{"),
        "claims are not UTF-8": good.replace(body, b64(b'{"exp": "\xff"}')),
        "1 MB": forge(key, claims(pad="x" * 1_000_000)),
        "a letter of the body changed": f"{head}.{other_body}.{signature}",
        "a letter of the signature changed": f"{head}.{body}.{flipped}",
        "an empty signature": f"{head}.{body}.",
        "a signature of zeros": f"{head}.{body}.{b64(bytes(64))}",
        "padding": good + "=",
        "white space": f" {good}",
        "two tokens": f"{good}, {good}",
        "JSON serialization": json.dumps({"payload": body, "protected": head, "signature": signature}),
    }


ATTACKS = sorted(
    attacks(*(ECKey.generate_key("P-256", {"kid": "k" * 43}, private=True) for _ in range(3))), key=str.lower
)


class TestForgeries:
    @pytest.mark.parametrize("name", ATTACKS)
    async def test_a_forged_token_is_refused_in_constant_words_and_quickly(
        self, gate: Authenticator, source: Source, made: Secrets, name: str
    ):
        """TOKEN_INVALID, the same text for all, in under 5 ms, and no fetch but that of our own set."""
        strange = secrets._new_key()
        token = attacks(made.token_keys[0].key, strange, made.own_keys["merchant"])[name]
        await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        asked = source.asked

        quickest = 1.0
        for _ in range(5):
            started = time.perf_counter()
            with pytest.raises(TokenInvalid) as refused:
                await gate.user(f"Bearer {token}")
            quickest = min(quickest, time.perf_counter() - started)

        assert str(refused.value) == "no valid access token; sign in and send it as `authorization: Bearer ...`"
        assert quickest < 0.005
        assert source.asked == asked

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token {}", "{}", "Bearer  {}"])
    async def test_an_authorization_that_is_no_bearer_is_refused(self, gate: Authenticator, made: Secrets, header: str):
        """Only `Bearer <token>` is taken, with one blank."""
        with pytest.raises(TokenInvalid):
            await gate.user(header.format(tokens.access_token(made.token_keys[0], WHO)))


class TestAccessTokens:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
    async def test_a_token_says_who_calls(self, gate: Authenticator, made: Secrets, scheme: str):
        """Merchant, GSTIN, user and roles come back as they went in."""
        assert await gate.user(f"{scheme} {tokens.access_token(made.token_keys[0], WHO)}") == WHO

    async def test_an_operator_has_no_merchant(self, gate: Authenticator, made: Secrets):
        """The platform's own users belong to nobody."""
        operator = Principal(user_id=USER, roles=frozenset({"OPERATOR"}))
        found = await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], operator)}")
        assert (found, found.merchant_id) == (operator, NOBODY)

    @pytest.mark.parametrize("seen_before", [True, False])
    async def test_it_ends_after_its_quarter_of_an_hour_and_the_leeway(
        self, gate: Authenticator, made: Secrets, time_: Time, seen_before: bool
    ):
        """15 minutes and 30 seconds later it is TOKEN_EXPIRED, also when it was verified and remembered before."""
        bearer = f"Bearer {tokens.access_token(made.token_keys[0], WHO)}"
        if seen_before:
            await gate.user(bearer)

        time_.pass_(15 * 60 + 29)
        assert await gate.user(bearer) == WHO
        time_.pass_(2)
        with pytest.raises(TokenExpired):
            await gate.user(bearer)

    async def test_clocks_may_differ_by_half_a_minute(self, gate: Authenticator, made: Secrets, time_: Time):
        """A token made on a host whose clock is 29 s ahead is good; at 31 s it is not yet valid."""
        bearer = f"Bearer {tokens.access_token(made.token_keys[0], WHO)}"
        time_.step(-29)
        assert await gate.user(bearer) == WHO
        time_.step(-3)
        with pytest.raises(TokenInvalid):
            await gate.user(bearer)

    async def test_what_is_remembered_is_bounded(
        self, gate: Authenticator, made: Secrets, monkeypatch: pytest.MonkeyPatch
    ):
        """Past the bound the token not seen for longest is verified anew."""
        monkeypatch.setattr(tokens, "REMEMBERED_MAX", 3)
        for _ in range(8):
            await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        assert len(gate._users._seen) == 3


class TestKeySet:
    async def test_a_new_key_is_learned_from_the_first_token_it_signs(
        self, gate: Authenticator, source: Source, made: Secrets, time_: Time
    ):
        """An unknown key id asks for the set once more."""
        await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        fresh = secrets._new_token_key(clock.now(), publish_s=0)
        source.keys.append(fresh.key)
        time_.pass_(6)

        assert await gate.user(f"Bearer {tokens.access_token(fresh, WHO)}") == WHO
        assert source.asked == 2

    async def test_a_flood_of_unknown_keys_asks_once_in_five_seconds(
        self, gate: Authenticator, source: Source, made: Secrets, time_: Time
    ):
        """A thousand tokens by strangers make one fetch."""
        await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        time_.pass_(6)
        for number in range(1_000):
            forged = forge(made.token_keys[0].key, claims(), kid=f"{number:043d}")
            with pytest.raises(TokenInvalid):
                await gate.user(f"Bearer {forged}")
        assert source.asked == 2

    async def test_a_revoked_key_is_refused_within_a_minute_even_for_a_token_seen_before(
        self, gate: Authenticator, source: Source, made: Secrets, time_: Time
    ):
        """The remembered answer does not outlive the key."""
        bearer = f"Bearer {tokens.access_token(made.token_keys[0], WHO)}"
        await gate.user(bearer)
        source.keys[:] = [secrets._new_key()]

        time_.pass_(61)
        with pytest.raises(TokenInvalid):
            await gate.user(bearer)

    async def test_behind_the_callers_back_the_set_is_fetched_after_half_a_minute(
        self, gate: Authenticator, source: Source, made: Secrets, time_: Time
    ):
        """The call at 31 s is answered by the old set; its fetch serves the next, and no token is verified twice."""
        bearer = f"Bearer {tokens.access_token(made.token_keys[0], WHO)}"
        await gate.user(bearer)
        remembered = next(iter(gate._users._seen.values()))
        time_.pass_(31)
        await gate.user(bearer)
        while source.asked < 2:
            await asyncio.sleep(0)
        await gate.user(bearer)
        assert next(iter(gate._users._seen.values())) is remembered

    async def test_the_last_good_set_lives_a_quarter_of_an_hour(
        self, gate: Authenticator, source: Source, made: Secrets, time_: Time
    ):
        """While the source is down tokens are believed for 15 minutes, then nothing is: UNAVAILABLE, not invalid."""
        await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        source.down = True
        for _ in range(14):
            time_.pass_(60)
            assert await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}") == WHO

        time_.pass_(KEPT_S - 14 * 60 + 1)
        with pytest.raises(DependencyDown):
            await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")

        source.down = False
        time_.pass_(6)
        assert await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}") == WHO

    async def test_an_empty_set_is_no_set(self, gate: Authenticator, source: Source, made: Secrets, time_: Time):
        """A source that has lost its keys does not take ours away."""
        await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}")
        source.keys.clear()
        time_.pass_(61)
        assert await gate.user(f"Bearer {tokens.access_token(made.token_keys[0], WHO)}") == WHO

    async def test_keys_of_another_kind_in_the_set_are_passed_over(self, made: Secrets):
        """A set may hold keys of a later release; a symmetric one never becomes ours."""
        ours = made.token_keys[0].key.as_dict(private=False)

        async def fetch() -> list[dict[str, object]]:
            return [{"kty": "oct", "k": "c2VjcmV0", "kid": "s" * 43}, {**ours, "alg": "ES384", "kid": "t" * 43}, ours]

        keys = KeySet(fetch)
        assert await keys.get("s" * 43) is None
        assert await keys.get("t" * 43) is None
        assert await keys.get(str(made.token_keys[0].kid)) is not None


class TestServiceTokens:
    async def test_a_service_proves_itself_by_its_own_key(self, gate: Authenticator, made: Secrets):
        """The name in the principal is that of the key."""
        identity = ServiceIdentity("invoice", made)
        assert await gate.service(identity.token()) == Principal(service="invoice")
        assert identity.metadata() == (("x-invochain-service-token", identity.token()),)

    async def test_a_token_is_used_for_a_minute_and_then_made_anew(
        self, gate: Authenticator, made: Secrets, time_: Time
    ):
        """One token serves many calls; with half of its life over there is another."""
        identity = ServiceIdentity("invoice", made)
        first = identity.token()
        assert identity.token() == first
        time_.pass_(61)
        assert identity.token() != first
        time_.pass_(91)
        with pytest.raises(TokenExpired):
            await gate.service(first)

    @pytest.mark.parametrize(
        "changed",
        [
            {"iss": "inventory", "sub": "inventory"},
            {"sub": "inventory"},
            {"aud": tokens.AUDIENCE},
            {"exp": int(time.time()) + 3_600},
            {"exp": int(time.time()) + 10},
        ],
        ids=str,
    )
    async def test_a_service_speaks_for_itself_alone_and_briefly(
        self, gate: Authenticator, made: Secrets, changed: dict[str, object]
    ):
        """Another's name, the users' audience, a life over 5 minutes or under one: refused."""
        key = made.own_keys["invoice"]
        now = int(time.time())
        content = {"iss": "invoice", "sub": "invoice", "aud": tokens.SERVICE_AUDIENCE, "nbf": now, "exp": now + 120}
        assert await gate.service(forge(key, content, typ=tokens.SERVICE_TYPE)) == Principal(service="invoice")
        with pytest.raises(TokenInvalid):
            await gate.service(forge(key, {**content, **changed}, typ=tokens.SERVICE_TYPE))

    async def test_users_and_services_never_pass_for_each_other(self, gate: Authenticator, made: Secrets):
        """Neither door takes the other's token, not even one it has seen at the right door."""
        user, service = tokens.access_token(made.token_keys[0], WHO), ServiceIdentity("invoice", made).token()
        for _ in range(2):
            assert await gate.user(f"Bearer {user}") == WHO
            assert (await gate.service(service)).service == "invoice"
            with pytest.raises(TokenInvalid):
                await gate.user(f"Bearer {service}")
            with pytest.raises(TokenInvalid):
                await gate.service(user)

    async def test_a_key_that_is_not_in_the_list_is_nobodys(self, gate: Authenticator, tmp_path: Path):
        """A service of another stack is a stranger."""
        secrets.ensure(tmp_path)
        with pytest.raises(TokenInvalid):
            await gate.service(ServiceIdentity("invoice", secrets.load(tmp_path)).token())
