"""Loopback ports that nobody listens on."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
# Below the range the kernel takes for outgoing connections (32768 and up on Linux): a port from there may be lent to
# somebody's connection between the moment we find it free and the moment a restarted server wants it back.
RANGE = range(20_000, 32_000)
TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(preferred: tuple[int, ...] = (), taken: set[int] | None = None) -> int:
    """The first preferred port that is free, else a random one; never one of `taken`, to which it is added."""
    taken = set() if taken is None else taken
    candidates = [*preferred, *random.sample(RANGE, TRIES)]
    for port in candidates:
        if port not in taken and is_free(port):
            taken.add(port)
            return port
    raise OSError(f"no free loopback port among {TRIES} tried between {RANGE.start} and {RANGE.stop - 1}")
