"""Page tokens: signed, bound to who asked for what, and of a limited life."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invochain.chassis import clock
from invochain.chassis.pages import LIFE_S, Pages, page_size
from invochain.errors import PageTokenMismatch, ValidationFailed

PAGES = Pages(b"k" * 32)
SCOPE = ("ListStock", b"m" * 16, "filter")
CURSORS = st.lists(st.integers(-(2**63), 2**63) | st.text(max_size=40), max_size=4)


@given(CURSORS)
def test_a_cursor_comes_back_as_it_was(cursor: list[str | int]) -> None:
    """For texts and numbers of any kind."""
    assert PAGES.cursor(SCOPE, PAGES.token(SCOPE, cursor)) == cursor


def test_no_token_is_the_first_page() -> None:
    """Nothing to go on after."""
    assert PAGES.cursor(SCOPE, "") is None


@pytest.mark.parametrize("other", [("ListStock", b"m" * 16, "filte", "r"), ("ListStock", b"n" * 16, "filter"), ()])
def test_a_token_is_good_for_its_scope_only(other: tuple[str | bytes, ...]) -> None:
    """Parts of a scope cannot run into each other."""
    with pytest.raises(PageTokenMismatch):
        PAGES.cursor(other, PAGES.token(SCOPE, ["A"]))


def test_another_key_signs_nothing_of_ours() -> None:
    """Nor does a changed, cut, long or foreign token."""
    token = PAGES.token(SCOPE, ["A"])
    with pytest.raises(PageTokenMismatch):
        Pages(b"l" * 32).cursor(SCOPE, token)
    for place in range(0, len(token), 5):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(PageTokenMismatch):
            PAGES.cursor(SCOPE, changed)
    for wrong in (token[:10], token + "A" * 2_000, "ü", "=", token + "="):
        with pytest.raises(PageTokenMismatch):
            PAGES.cursor(SCOPE, wrong)


def test_a_token_ends_after_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one from the future is refused as well."""
    token = PAGES.token(SCOPE, ["A"])
    now = clock.now()
    for seconds, good in ((LIFE_S - 2, True), (LIFE_S + 2, False), (-3_600, False)):
        monkeypatch.setattr(clock, "now", lambda at=now + dt.timedelta(seconds=seconds): at)
        if good:
            assert PAGES.cursor(SCOPE, token) == ["A"]
        else:
            with pytest.raises(PageTokenMismatch):
                PAGES.cursor(SCOPE, token)


def test_page_sizes_are_bounded() -> None:
    """0 means 50, above 500 means 500, negative is refused."""
    assert [page_size(size) for size in (0, 1, 500, 501, 2**31 - 1)] == [50, 1, 500, 500, 500]
    with pytest.raises(ValidationFailed):
        page_size(-1)
