"""Where a client connects to, and how it is spoken to."""

from __future__ import annotations

import json

import pytest
from example_kit import check_character, made_up_gstin

from invochain import core
from invochain_client import AsyncClient, Client, Timing
from invochain_client.client import addresses, stack_addresses

HERE = {"merchant": "127.0.0.1:7001", "inventory": "localhost:7002", "invoice": "[::1]:7003"}


class TestAddresses:
    def test_are_one_a_service_or_one_for_all(self):
        """A mapping by service, or one address behind which all three answer."""
        assert dict(addresses(HERE, None).of) == HERE
        assert set(addresses("127.0.0.1:7000", None).of.values()) == {"127.0.0.1:7000"}

    def test_name_all_that_is_wrong_with_them(self):
        """What is missing and what is unknown, at once."""
        with pytest.raises(ValueError, match=r"no address for inventory; no address for invoice; .*'stock'"):
            addresses({"merchant": "127.0.0.1:7001", "stock": "x"}, None)

    @pytest.mark.parametrize(
        ("address", "tls", "secure"),
        [
            (HERE, None, False),
            ("unix:/run/invochain.sock", None, False),
            ("10.0.0.7:7001", None, True),
            ({**HERE, "invoice": "invochain.example.in:443"}, None, True),
            ("10.0.0.7:7001", False, False),
            (HERE, True, True),
        ],
    )
    def test_are_spoken_to_in_plaintext_only_here_unless_said_so(self, address, tls, secure):
        """A password never leaves this machine in the clear by an oversight."""
        assert (addresses(address, tls).credentials is not None) is secure


class TestTheStackOnThisMachine:
    def test_is_found_by_its_file_its_folder_or_the_environment(self, tmp_path, monkeypatch):
        """stack.json, the data folder it is in, or INVOCHAIN_DATA_DIR."""
        file = tmp_path / "stack.json"
        file.write_text(json.dumps({"state": "ready", "addresses": {**HERE, "gateway": "127.0.0.1:8080"}}))
        monkeypatch.setenv("INVOCHAIN_DATA_DIR", str(tmp_path))

        assert stack_addresses(file) == stack_addresses(tmp_path) == stack_addresses() == HERE

    def test_that_is_not_ready_is_refused_in_words(self, tmp_path):
        """Which file, in which state, and the command that mends it."""
        (tmp_path / "stack.json").write_text(json.dumps({"state": "starting", "addresses": {}}))

        with pytest.raises(RuntimeError, match=r"stack\.json is starting, not ready; start it with `make run`"):
            Client.from_stack(tmp_path)


class TestAClient:
    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_wants_both_email_and_password_or_neither(self, kind):
        """Half of who somebody is, is a mistake."""
        with pytest.raises(ValueError, match="found no password"):
            kind(HERE, email="owner@example.in")
        kind(HERE)

    def test_that_is_closed_says_so(self):
        """A call after close() is an error in words, not a hang."""
        client = Client(HERE)
        client.close()

        with pytest.raises(RuntimeError, match="closed"):
            client.invoices.get("an-invoice")

    def test_refuses_times_that_are_none(self):
        """Every time above 0, all wrong ones at once."""
        with pytest.raises(ValueError, match=r"attempt_s is 0; .*|attempt_s is 0, call_s is -1"):
            Timing(attempt_s=0, call_s=-1)


def test_made_up_gstins_are_right():
    """The examples' check character is the law's."""
    for state in ("07", "27", "29") * 20:
        gstin = made_up_gstin(state)
        assert (len(gstin), check_character(gstin[:14])) == (15, core.gstin_check_char(gstin[:14]))
