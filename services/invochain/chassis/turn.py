"""What a turn of the event loop has to tell of its calls: counts, times and log lines, told together when it ends.

Hundreds of calls end in one turn, and each told by itself would cost more than its answer: a lock a figure, a write a
line. All of it is out before the answers of that turn leave.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter, defaultdict
from json.encoder import encode_basestring_ascii as quoted

import prometheus_client

from invochain.chassis import clock
from invochain.chassis.telemetry import shown, write


def observe_all(histogram: prometheus_client.Histogram, values: list[float]) -> None:
    """As `histogram.observe` for each of them: one addition a bucket.

    prometheus-client has no such thing; a test holds both ways to be equal.
    """
    histogram._sum.inc(sum(values))
    for place, count in Counter(bisect_left(histogram._upper_bounds, value) for value in values).items():
        histogram._buckets[place].inc(count)


class Turn:
    """The present turn of a process's event loop."""

    def __init__(self) -> None:
        self._begun = False
        self._counts: Counter[prometheus_client.Counter] = Counter()
        self._times: defaultdict[prometheus_client.Histogram, list[float]] = defaultdict(list)
        self._lines: list[str] = []

    def count(self, counter: prometheus_client.Counter) -> None:
        """One more."""
        self._begin()
        self._counts[counter] += 1

    def observe(self, histogram: prometheus_client.Histogram, value: float) -> None:
        """One more, of that value."""
        self._begin()
        self._times[histogram].append(value)

    def log(self, room: str, line: str) -> None:
        """A line of level info. `line`: the members of its JSON object beside room, process, level and time, which must
        need no escaping or be `quoted`."""
        self._begin()
        self._lines.append(f'{{"room": "{room}", {line}, "process": "{shown.process}", "level": "info"')

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        self._begun = False
        counts, self._counts = self._counts, Counter()
        times, self._times = self._times, defaultdict(list)
        lines, self._lines = self._lines, []
        for counter, count in counts.items():
            counter.inc(count)
        for histogram, values in times.items():
            observe_all(histogram, values)
        if lines:
            ended = f', "time": "{clock.now():%Y-%m-%dT%H:%M:%S.%fZ}"}}'
            write(f"{ended}\n".join(lines) + ended)


turn = Turn()

__all__ = ["Turn", "observe_all", "quoted", "turn"]
