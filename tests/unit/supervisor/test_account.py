"""Whom the databases run as: never root, and never an account we made."""

import os

import pytest

from invochain.supervisor.account import unprivileged_account
from invochain.supervisor.errors import CannotStart


class TestUnprivilegedAccount:
    def test_an_ordinary_user_stays_itself(self, monkeypatch: pytest.MonkeyPatch):
        """There is nothing to drop."""
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert unprivileged_account() is None

    def test_root_is_not_an_answer(self, monkeypatch: pytest.MonkeyPatch):
        """PostgreSQL would refuse it a second later, with a worse message."""
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("INVOCHAIN_RUN_AS", "root")
        with pytest.raises(CannotStart, match="is root"):
            unprivileged_account()

    def test_a_chosen_account_that_is_missing_is_named_with_the_command_that_makes_it(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        """Another account is not taken in silence: the data would belong to somebody nobody chose."""
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("INVOCHAIN_RUN_AS", "no-such-account")
        with pytest.raises(CannotStart, match=r"'no-such-account'\n.*useradd --system"):
            unprivileged_account()

    def test_root_gets_an_account_that_is_there(self, monkeypatch: pytest.MonkeyPatch):
        """`invochain` when the operator made it, else `nobody`, which every machine has."""
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.delenv("INVOCHAIN_RUN_AS", raising=False)
        account = unprivileged_account()

        assert account is not None
        assert account.uid != 0
        assert account.name in ("invochain", "nobody")
