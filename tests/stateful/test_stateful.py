"""Whatever clients, workers and misfortune do, in whatever order: every answer and every row is what the books say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from invochain.chassis.call import Call
from invochain.invoice import invoice, move_invoice, resolve_sagas
from invochain.invoice.outcomes import Asked, Outcomes
from tests.kit.servers import PostgresServer, ValkeyServer
from tests.stateful.floor import Floor, open_floor
from tests.stateful.machine import Trade

EXAMPLES, STEPS = 12, 25
LONG_EXAMPLES, LONG_STEPS = 500, 60


@pytest.fixture
async def floor(
    templates: PostgresServer, market_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Floor]:
    """Services on databases of this test, moved from outside: the test itself runs the loop."""
    async with open_floor(templates, market_valkey, tmp_path_factory.mktemp("stateful")) as opened:
        yield opened


def trade(floor: Floor, examples: int, steps: int, *, derandomize: bool = True, shrink: bool = True) -> None:
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        # Not `explain`: it traces every line that runs.
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )
    run_state_machine_as_test(type("Trade", (Trade,), {"floor": floor}), settings=how)


@pytest.mark.timeout(600)
def test_every_answer_and_every_row_is_what_the_books_say(floor):
    """Some examples, the same in every run."""
    trade(floor, EXAMPLES, STEPS)


@pytest.mark.long
@pytest.mark.timeout(3 * 3_600)
def test_every_answer_is_what_the_books_say_however_long_it_goes_on(floor):
    """Many examples, others in every run."""
    trade(floor, LONG_EXAMPLES, LONG_STEPS, derandomize=False)


def releases_what_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver without R2: what no row decides counts as refused."""
    verdict_of = resolve_sagas.verdict_of
    monkeypatch.setattr(resolve_sagas, "verdict_of", lambda hold, row: bool(verdict_of(hold, row)))


def lets_either_side_act(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions without the column of 4.3 that says whose they are."""
    monkeypatch.setattr(
        move_invoice,
        "allowed_actions",
        lambda state, *, seller, buyer: invoice.allowed_actions(state, seller=True, buyer=True),
    )


def replays_whatever_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeat that is not compared with what its key was used for (PROTOCOL 7)."""
    look = Outcomes.look

    async def look_away(self: Outcomes, asked: Sequence[Asked]) -> tuple[list[int], list[Call]]:
        for one in asked:
            one.fingerprint = b"\0" * 32
        return await look(self, asked)

    monkeypatch.setattr(Outcomes, "look", look_away)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broken", [releases_what_is_undecided, lets_either_side_act, replays_whatever_was_asked])
def test_a_broken_rule_is_noticed(floor, monkeypatch, broken):
    """Each rule left out once makes an example fail, among as many as the test above tries."""
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        trade(floor, EXAMPLES, STEPS, shrink=False)
