"""The circuit breaker against a plain reference on a virtual clock, and its figures one by one (PROTOCOL 13)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from invochain.chassis.breaker import Breaker, Permit, State
from invochain.chassis.telemetry import CIRCUIT_STATE, CIRCUIT_TRANSITIONS
from invochain.errors import CircuitOpen, Code

STEP_MS = 50


class Clock:
    """Whole milliseconds; the breaker reads seconds. No timer: a test says when time is looked at."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def breaker(self, target: str = "test", open_s: float = 30.0) -> Breaker:
        return Breaker(
            target,
            open_s=open_s,
            now=lambda: self.ms / 1_000,
            jitter=lambda low, high: (low + high) / 2,
            later=lambda _seconds, _tick: None,
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ask(breaker: Breaker, good: int, bad: int) -> None:
    """One call that ends at once."""
    breaker.ended(breaker.admit(good + bad or 1), good, bad, answered=not bad)


def opened(clock: Clock, target: str = "test") -> Breaker:
    breaker = clock.breaker(target)
    ask(breaker, 0, 10)
    assert breaker.state is State.OPEN
    return breaker


def half_open(clock: Clock) -> Breaker:
    breaker = opened(clock)
    clock.ms += 30_000
    breaker.tick()
    assert breaker.state is State.HALF_OPEN
    return breaker


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [(0, 9, State.CLOSED), (0, 10, State.OPEN), (5, 5, State.OPEN), (6, 5, State.CLOSED), (100, 99, State.CLOSED)],
)
def test_opens_at_ten_items_of_which_half_are_bad(clock, good, bad, state):
    breaker = clock.breaker()
    ask(breaker, good, bad)
    assert breaker.state is state


def test_counts_items_not_calls(clock):
    """One batch of ten that fails is ten that fail; ten refusals of business are nothing."""
    breaker = clock.breaker()
    for _ in range(20):
        ask(breaker, 0, 0)
    assert breaker.state is State.CLOSED
    ask(breaker, 0, 10)
    assert breaker.state is State.OPEN


def test_forgets_after_ten_seconds(clock):
    breaker = clock.breaker()
    ask(breaker, 0, 9)
    clock.ms += 10_000
    ask(breaker, 0, 9)
    assert breaker.state is State.CLOSED


def test_sees_a_hang_before_any_time_out(clock):
    """A batch of ten in flight for 800 ms is bad then; that it times out later is no news."""
    breaker = clock.breaker()
    permit = breaker.admit(10)
    clock.ms += 799
    breaker.tick()
    assert breaker.state is State.CLOSED
    clock.ms += 1
    breaker.tick()
    assert breaker.state is State.OPEN
    breaker.ended(permit, 0, 10, answered=False)
    assert breaker.state is State.OPEN


def test_sees_a_hang_however_busy_it_was_before(clock):
    """Ten thousand good items in the window do not outweigh silence: ten overdue, and nobody answered since."""
    breaker = clock.breaker()
    ask(breaker, 10_000, 0)
    breaker.admit(6)
    clock.ms += 100
    breaker.admit(4)
    clock.ms += 799
    breaker.tick()
    assert breaker.state is State.CLOSED
    clock.ms += 1
    breaker.tick()
    assert breaker.state is State.OPEN


def test_takes_one_slow_batch_for_no_hang_while_others_are_answered(clock):
    """A busy row holds up ten items; the batch behind them is answered, be it with a refusal."""
    breaker = clock.breaker()
    ask(breaker, 100, 0)
    breaker.admit(10)
    clock.ms += 500
    breaker.ended(breaker.admit(1), 0, 0, answered=True)
    clock.ms += 300
    breaker.tick()
    assert breaker.state is State.CLOSED


def test_tries_at_once_who_was_only_late(clock):
    """A stall of a second must not cost thirty: the late answer is the sign, and trials the proof."""
    breaker = clock.breaker()
    permit = breaker.admit(10)
    clock.ms += 800
    breaker.tick()
    assert breaker.state is State.OPEN
    breaker.ended(permit, 10, 0, answered=True)
    assert breaker.state is State.HALF_OPEN
    late = breaker.admit(1)
    breaker.admit(1)
    clock.ms += 800
    breaker.tick()
    assert breaker.state is State.OPEN
    # Slow, not stalled: no second time.
    breaker.ended(late, 1, 0, answered=True)
    assert breaker.state is State.OPEN


def test_an_overdue_call_counts_once(clock):
    """Five that hang and then fail are five, not ten."""
    breaker = clock.breaker()
    permit = breaker.admit(5)
    clock.ms += 900
    breaker.ended(permit, 0, 5, answered=False)
    assert breaker.state is State.CLOSED


def test_a_stopped_process_blames_nobody(clock):
    """Who was stopped for longer than the window finds old calls overdue: they were due outside of it."""
    breaker = clock.breaker()
    breaker.admit(10)
    clock.ms += 40_000
    breaker.tick()
    assert breaker.state is State.CLOSED


def test_open_refuses_with_a_code_that_says_so(clock):
    breaker = opened(clock)
    with pytest.raises(CircuitOpen) as refused:
        breaker.admit()
    assert (refused.value.code, refused.value.reason) == (Code.UNAVAILABLE, "CIRCUIT_OPEN")


def test_pauses_30_seconds_a_tenth_more_or_less(clock):
    """Jittered, so that processes that opened together do not try together."""
    asked = []
    breaker = Breaker(
        "test",
        now=lambda: clock.ms / 1_000,
        jitter=lambda low, high: asked.append((low, high)) or high,
        later=lambda *_: None,
    )
    ask(breaker, 0, 10)
    assert asked == [(0.9, 1.1)]
    clock.ms += 32_999
    breaker.tick()
    assert breaker.state is State.OPEN
    clock.ms += 1
    breaker.tick()
    assert breaker.state is State.HALF_OPEN


def test_half_open_lets_five_calls_through_and_closes_at_four_good(clock):
    breaker = half_open(clock)
    permits = [breaker.admit(50) for _ in range(5)]
    with pytest.raises(CircuitOpen):
        breaker.admit()
    breaker.ended(permits[0], 0, 50, answered=False)
    for permit in permits[1:4]:
        breaker.ended(permit, 50, 0, answered=True)
    assert breaker.state is State.HALF_OPEN
    breaker.ended(permits[4], 50, 0, answered=True)
    assert breaker.state is State.CLOSED


def test_half_open_opens_again_at_the_second_bad_trial(clock):
    breaker = half_open(clock)
    ask(breaker, 0, 1)
    assert breaker.state is State.HALF_OPEN
    ask(breaker, 0, 1)
    assert breaker.state is State.OPEN


def test_a_trial_that_says_nothing_frees_its_place(clock):
    """Business refusals and callers who hang up: tried again, however often."""
    breaker = half_open(clock)
    for _ in range(50):
        ask(breaker, 0, 0)
    assert breaker.state is State.HALF_OPEN


def test_a_trial_that_hangs_frees_its_place_and_counts(clock):
    """Five that are never told the end of: overdue after 800 ms, and the breaker is open again, not stuck."""
    breaker = half_open(clock)
    for _ in range(5):
        breaker.admit()
    clock.ms += 800
    breaker.tick()
    assert breaker.state is State.OPEN


def test_what_was_begun_before_a_change_counts_for_nothing_after_it(clock):
    """Late answers from before the pause are no trials."""
    breaker = clock.breaker()
    early = [breaker.admit(1) for _ in range(8)]
    ask(breaker, 0, 10)
    clock.ms += 30_000
    breaker.tick()
    for permit in early:
        breaker.ended(permit, 1, 0, answered=True)
    assert breaker.state is State.HALF_OPEN


def test_every_change_is_counted_and_shown(clock):
    def changes(to: State) -> float:
        return CIRCUIT_TRANSITIONS.labels(target="seen", to=to.name)._value.get()

    breaker = opened(clock, "seen")
    assert CIRCUIT_STATE.labels(target="seen")._value.get() == 2
    clock.ms += 30_000
    for _ in range(4):
        ask(breaker, 1, 0)
    assert CIRCUIT_STATE.labels(target="seen")._value.get() == 0
    assert [changes(state) for state in (State.OPEN, State.HALF_OPEN, State.CLOSED)] == [1, 1, 1]


@dataclass
class Reference:
    """The rules said once more, without cleverness: all history is kept, and every 50 ms everything is looked at."""

    ms: int
    state: State = State.CLOSED
    since: int = 0
    # (time, good, bad) of this state.
    history: list[tuple[int, int, int]] = field(default_factory=list)
    # Permit -> (begun, items), of this state.
    flying: dict[Permit, tuple[int, int]] = field(default_factory=dict)
    # (overdue at, begun, items); and every answer's time, of this state.
    overdue: list[tuple[int, int, int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    # Calls of the state before, when that ended in silence.
    missed: set[Permit] = field(default_factory=set)
    begun: set[Permit] = field(default_factory=set)

    def turn(self, to: State, missed: set[Permit] | None = None) -> None:
        self.state, self.since, self.history, self.flying = to, self.ms, [], {}
        self.overdue, self.answers, self.missed, self.begun = [], [], missed or set(), set()

    def begin(self, permit: Permit, items: int) -> None:
        self.flying[permit] = (self.ms, items)
        self.begun.add(permit)

    def end(self, permit: Permit, good: int, bad: int, answered: bool) -> None:
        if permit in self.missed and answered:
            self.turn(State.HALF_OPEN)
        elif permit in self.begun:
            if answered:
                self.answers.append(self.ms)
            if self.flying.pop(permit, None):
                self.note(good, bad)

    def look(self) -> None:
        if self.state is State.OPEN and self.ms - self.since >= 30_000:
            self.turn(State.HALF_OPEN)
        for permit, (begun, items) in list(self.flying.items()):
            if permit in self.flying and self.ms - begun >= 800:
                del self.flying[permit]
                self.overdue.append((self.ms, begun, items))
                self.note(0, items)

    def note(self, good: int, bad: int) -> None:
        if not good + bad:
            return
        self.history.append((self.ms, good, bad))
        if self.state is State.HALF_OPEN:
            failed = sum(b >= g for _, g, b in self.history)
            if failed >= 2:
                self.turn(State.OPEN)
            elif len(self.history) - failed >= 4:
                self.turn(State.CLOSED)
        else:
            recent = [(g, b) for at, g, b in self.history if at // 1_000 > self.ms // 1_000 - 10]
            all_bad, everything = sum(b for _, b in recent), sum(g + b for g, b in recent)
            last = max(self.answers, default=0)
            silent = sum(n for at, begun, n in self.overdue if last <= begun and at > self.ms - 10_000)
            if (everything >= 10 and all_bad >= everything / 2) or silent >= 10:
                self.turn(State.OPEN, self.begun if silent >= 10 else None)

    def may_ask(self) -> bool:
        if self.state is State.HALF_OPEN:
            return len(self.flying) + len(self.history) < 5
        return self.state is State.CLOSED


class BreakerMachine(RuleBasedStateMachine):
    """Calls begin, end, hang and are forgotten in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = self.clock.breaker("machine")
        self.reference = Reference(self.clock.ms)
        self.permits: list[tuple[Permit, int]] = []

    @rule(items=st.integers(1, 12))
    def begin(self, items: int) -> None:
        may = self.reference.may_ask()
        try:
            permit = self.breaker.admit(items)
        except CircuitOpen:
            assert not may
            return
        assert may
        self.permits.append((permit, items))
        self.reference.begin(permit, items)

    @precondition(lambda self: self.permits)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        permit, items = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1), "which"))
        good = data.draw(st.integers(0, items), "good")
        bad = data.draw(st.integers(0, items - good), "bad")
        answered = bool(good) or data.draw(st.booleans(), "answered")
        self.breaker.ended(permit, good, bad, answered=answered)
        self.reference.end(permit, good, bad, answered)

    @rule(steps=st.one_of(st.integers(1, 30), st.sampled_from([200, 599, 600, 601])))
    def wait(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.ms += STEP_MS
            self.reference.ms = self.clock.ms
            self.reference.look()
            self.breaker.tick()

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state is self.reference.state


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
