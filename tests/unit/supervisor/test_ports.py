"""Loopback ports: free ones, preferred ones, never the same one twice."""

import socket

import pytest

from invochain.supervisor.ports import LOOPBACK, RANGE, free_port, is_free


class TestFreePort:
    def test_a_port_in_use_is_not_free_and_not_chosen(self):
        """A preferred port that somebody listens on is passed over for another."""
        with socket.create_server((LOOPBACK, 0)) as server:
            used = server.getsockname()[1]
            assert not is_free(used)
            assert used != free_port(preferred=(used,))

    def test_a_preferred_port_that_is_free_is_taken_once(self):
        """The second asker of one start gets another port."""
        wanted, taken = free_port(), set()

        assert wanted == free_port((wanted,), taken)
        assert wanted != free_port((wanted,), taken)

    def test_random_ports_lie_below_the_range_for_outgoing_connections(self):
        """A port from that range may be lent to somebody's connection while its server restarts."""
        for _ in range(20):
            assert free_port() in RANGE

    def test_running_out_of_ports_is_said(self, monkeypatch: pytest.MonkeyPatch):
        """Bounded: it ends with an error, not with an endless search."""
        monkeypatch.setattr("invochain.supervisor.ports.is_free", lambda port: False)
        with pytest.raises(OSError, match="no free loopback port"):
            free_port()
