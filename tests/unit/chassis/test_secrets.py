"""The secrets folder: made once, private, safe to make by many at once, keys that rotate without refusing anyone."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from invochain.chassis import clock, secrets
from invochain.chassis.secrets import SERVICES, SecretsUnusable


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _ensure_and_tell(folder: Path, results: multiprocessing.Queue) -> None:
    secrets.ensure(folder)
    loaded = secrets.load(folder)
    results.put((loaded.audit_mac_key, loaded.token_keys[0].kid, sorted(loaded.service_keys)))


class TestEnsure:
    def test_everything_a_process_needs_is_made_and_nobody_else_may_read_it(self, tmp_path: Path):
        """Keys of services, of tokens and of MACs are there, each file 0600 in a folder 0700."""
        secrets.ensure(tmp_path / "secrets")

        loaded = secrets.load(tmp_path / "secrets")
        assert {name for name, _ in loaded.service_keys.values()} == set(SERVICES) == set(loaded.own_keys)
        assert len({loaded.audit_mac_key, loaded.cache_mac_key, loaded.page_token_key}) == 3
        assert {32} == {len(key) for key in loaded.mac_keys.values()}
        assert len(loaded.token_keys) == 1
        assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
        assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").iterdir()}

    def test_a_second_time_changes_nothing(self, tmp_path: Path):
        """What is there stays to the byte; only what is missing is made."""
        secrets.ensure(tmp_path)
        before = _contents(tmp_path)
        (tmp_path / "cache-mac.key").unlink()

        secrets.ensure(tmp_path)

        after = _contents(tmp_path)
        assert before.keys() == after.keys()
        assert {"cache-mac.key"} == {name for name in before if before[name] != after[name]}

    def test_processes_that_make_it_at_once_agree(self, tmp_path: Path):
        """Eight processes start on an empty folder; all hold the same keys afterwards and no half file is left."""
        spawn = multiprocessing.get_context("spawn")
        results = spawn.Queue()
        rivals = [spawn.Process(target=_ensure_and_tell, args=(tmp_path / "s", results)) for _ in range(8)]
        for rival in rivals:
            rival.start()

        seen = [results.get(timeout=60) for _ in rivals]
        for rival in rivals:
            rival.join(60)

        assert all(answer == seen[0] for answer in seen)
        assert not [file for file in (tmp_path / "s").iterdir() if file.name.startswith(".") and file.name != ".lock"]

    def test_keys_written_by_the_supervisor_as_hexadecimal_are_kept(self, tmp_path: Path):
        """A MAC key of 64 hexadecimal digits that is there already is the key."""
        key = tmp_path / "audit-mac.key"
        key.write_text("ab" * 32 + "\n")
        key.chmod(0o600)

        secrets.ensure(tmp_path)

        assert secrets.load(tmp_path).audit_mac_key == b"\xab" * 32

    def test_a_service_whose_private_key_lives_elsewhere_stays_known(self, tmp_path: Path):
        """In production each service has its own key alone; the public list keeps the others."""
        secrets.ensure(tmp_path)
        before = set(secrets.load(tmp_path).service_keys)
        (tmp_path / "service-invoice.jwk.json").unlink()

        loaded = secrets.load(tmp_path)
        assert before == set(loaded.service_keys)
        with pytest.raises(SecretsUnusable, match="service-invoice"):
            loaded.own_key("invoice")


class TestLoad:
    @pytest.mark.parametrize(
        "name", ["audit-mac.key", "token-keys.json", "service-merchant.jwk.json", "service-keys.json"]
    )
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_file_open_to_others_is_refused_by_name(self, tmp_path: Path, name: str, mode: int):
        """A key that others could read or write is no secret; the message names file and remedy, not the key."""
        secrets.ensure(tmp_path)
        (tmp_path / name).chmod(mode)

        with pytest.raises(SecretsUnusable, match=rf"{name} is open to others.*chmod 600"):
            secrets.load(tmp_path)

    @pytest.mark.parametrize(
        "name, text",
        [
            ("audit-mac.key", "abc"),
            ("token-keys.json", "{"),
            ("token-keys.json", '{"keys": [{"kty": "oct", "k": "c2VjcmV0LXRleHQ", "kid": "x"}]}'),
            ("service-merchant.jwk.json", "[]"),
        ],
    )
    def test_a_damaged_file_is_refused_without_showing_what_it_holds(self, tmp_path: Path, name: str, text: str):
        """The message says which file; its content stays out of logs."""
        secrets.ensure(tmp_path)
        (tmp_path / name).write_text(text)

        with pytest.raises(SecretsUnusable, match=name) as refused:
            secrets.load(tmp_path)
        assert "c2VjcmV0" not in str(refused.value)

    def test_a_missing_secret_is_missed_by_whoever_asks_for_it(self, tmp_path: Path):
        """A folder may hold only what its process needs."""
        secrets.ensure(tmp_path)
        (tmp_path / "page-token.key").unlink()

        loaded = secrets.load(tmp_path)

        assert loaded.cache_mac_key
        with pytest.raises(SecretsUnusable, match=r"page-token\.key is missing; `invochain keys make`"):
            _ = loaded.page_token_key

    def test_there_is_no_folder(self, tmp_path: Path):
        """The line says what makes it."""
        with pytest.raises(SecretsUnusable, match="invochain keys make"):
            secrets.load(tmp_path / "nowhere")


class TestRotation:
    def test_a_new_key_is_published_before_it_signs_and_the_old_one_verifies_until_its_tokens_end(self, tmp_path: Path):
        """Between the two moments every verifier learns the new key, so nobody is refused."""
        secrets.ensure(tmp_path)
        old = secrets.load(tmp_path).token_keys[0]

        new = secrets.rotate(tmp_path)

        loaded, now = secrets.load(tmp_path), clock.now()
        assert [old.kid, new.kid] == [key.kid for key in loaded.token_keys]
        assert old.kid == loaded.signing_key(now).kid
        signs = now + dt.timedelta(seconds=secrets.PUBLISH_S)
        assert new.kid == loaded.signing_key(signs).kid
        kept = loaded.token_keys[0]
        assert kept.verifies(signs + dt.timedelta(minutes=15, seconds=30))
        assert not kept.verifies(signs + dt.timedelta(seconds=secrets.OVERLAP_S + 1))

    def test_keys_that_are_over_are_dropped_at_the_next_rotation(self, tmp_path: Path):
        """The file does not grow for ever."""
        secrets.ensure(tmp_path)
        first = secrets.rotate(tmp_path, at_once=True)
        document = json.loads((tmp_path / "token-keys.json").read_text())
        for entry in document["keys"]:
            if entry["kid"] != first.kid:
                entry["verify_until"] = "2020-01-01T00:00:00+00:00"
        (tmp_path / "token-keys.json").write_text(json.dumps(document))

        second = secrets.rotate(tmp_path)

        assert [first.kid, second.kid] == [key.kid for key in secrets.read_token_keys(tmp_path)]

    def test_rotations_at_once_all_count(self, tmp_path: Path):
        """Whoever changes the file reads it first, and nobody between: no key is lost."""
        secrets.ensure(tmp_path)
        with ThreadPoolExecutor(8) as pool:
            fresh = list(pool.map(lambda _: secrets.rotate(tmp_path).kid, range(16)))

        assert set(fresh) < {key.kid for key in secrets.read_token_keys(tmp_path)}
        assert len(secrets.read_token_keys(tmp_path)) == 17

    def test_a_revoked_key_goes_at_once_and_the_last_one_is_replaced(self, tmp_path: Path):
        """After a leak nothing verifies by the key; signing goes on with a new one."""
        secrets.ensure(tmp_path)
        leaked = secrets.load(tmp_path).token_keys[0]
        stamp = secrets.token_keys_stamp(tmp_path)

        fresh = secrets.revoke(tmp_path, leaked.kid)

        assert fresh is not None
        assert [fresh.kid] == [key.kid for key in secrets.read_token_keys(tmp_path)]
        assert fresh.kid == secrets.load(tmp_path).signing_key(clock.now()).kid
        assert stamp != secrets.token_keys_stamp(tmp_path)
        with pytest.raises(KeyError):
            secrets.revoke(tmp_path, leaked.kid)
