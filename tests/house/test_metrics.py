"""Metrics that several processes of a service share must say what one figure of them means."""

from __future__ import annotations

from prometheus_client import Gauge

from invochain.chassis import telemetry


def test_every_gauge_of_the_services_says_how_processes_are_added_up():
    """A counter adds up by itself; of a gauge, only the modes of the living forget what the dead had under way."""
    gauges = [metric for metric in vars(telemetry).values() if isinstance(metric, Gauge)]
    assert gauges
    assert not [gauge._name for gauge in gauges if not gauge._multiprocess_mode.startswith("live")]
