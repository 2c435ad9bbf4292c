"""What a turn of the event loop tells of its calls, together."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from invochain.chassis.telemetry import shown
from invochain.chassis.turn import Turn, observe_all, quoted

VALUES = [0.0, 0.1, 0.1000001, 0.25, 3.0, 17.5]


def samples(registry: CollectorRegistry) -> list[tuple[str, dict[str, str], float]]:
    return [
        (one.name, one.labels, one.value)
        for metric in registry.collect()
        for one in metric.samples
        if not one.name.endswith("_created")
    ]


def a_histogram() -> tuple[CollectorRegistry, Histogram]:
    registry = CollectorRegistry()
    return registry, Histogram("seconds", "", ["method"], buckets=(0.1, 0.25, 5), registry=registry).labels(method="m")


def test_all_at_once_are_what_one_by_one_are():
    """A value on a bound, between two and above the last: every bucket and the sum are as by `observe`."""
    registry, together = a_histogram()
    observe_all(together, VALUES)
    other, alone = a_histogram()
    for value in VALUES:
        alone.observe(value)
    assert samples(registry) == samples(other)


async def test_a_turn_tells_all_its_calls_when_it_ends(monkeypatch: pytest.MonkeyPatch):
    """Nothing is told before, nothing twice; a caller's own words cannot break a line or add a member to it."""
    monkeypatch.setattr(shown, "process", "here")
    written: list[str] = []
    monkeypatch.setattr("invochain.chassis.turn.write", written.append)
    registry = CollectorRegistry()
    told, turn = Counter("told", "", registry=registry), Turn()
    for number, words in enumerate(('"}\n{"a": 1', "plain")):
        turn.count(told)
        turn.log("room", f'"n": {number}, "request_id": {quoted(words)}')
    assert not written
    await asyncio.sleep(0)
    (text,) = written
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(one["n"], one["request_id"]) for one in lines] == [(0, '"}\n{"a": 1'), (1, "plain")]
    assert all(one["room"] == "room" and one["process"] == "here" and one["level"] == "info" for one in lines)
    assert all(one["time"].endswith("Z") for one in lines)
    await asyncio.sleep(0)
    assert registry.get_sample_value("told_total") == 2
    assert len(written) == 1
