"""Settings that cannot work are refused at the start."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from invochain import core
from invochain.chassis.settings import Settings


def test_a_batch_is_no_larger_than_what_the_inventory_takes_in_one_call(monkeypatch):
    """A batch asks for all its holds at once: one more than a call may ask for is refused by name, with the limit."""
    monkeypatch.setenv("INVOCHAIN_BATCH_ITEMS_MAX", str(core.HOLDS_MAX))
    assert Settings().batch_items_max == core.HOLDS_MAX

    monkeypatch.setenv("INVOCHAIN_BATCH_ITEMS_MAX", str(core.HOLDS_MAX + 1))
    with pytest.raises(ValidationError, match=f"batch_items_max\\n.* less than or equal to {core.HOLDS_MAX} "):
        Settings()
