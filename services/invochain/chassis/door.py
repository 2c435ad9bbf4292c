"""What every door (transport) keeps to: the port by which a server opens one, and limits, the same for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from invochain.chassis.rpc import Rpc

# Bytes of one message: from a caller; to a caller.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
# The same of a method that anybody may call: a stranger makes us hold no more.
OPEN_MESSAGE_BYTES_MAX = 64 * 1024
RESPONSE_BYTES_MAX = 4 * MESSAGE_BYTES_MAX
# Bytes of all metadata of a call, counted as HTTP/2 does: name, value and 32 each.
METADATA_BYTES_MAX = 16 * 1024
# Calls under way on one connection.
STREAMS_MAX = 1_000
# Connections are aged out, so that load spreads over processes that came later; calls under way then have the grace.
CONNECTION_AGE_S = 600
CONNECTION_GRACE_S = 30


def message_bytes_max(wants: Rpc) -> int:
    """Bytes of one message of a caller that a method takes."""
    return wants.message_bytes_max or (OPEN_MESSAGE_BYTES_MAX if wants.public else MESSAGE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM: the server's certificates and key, and the authorities of its callers' certificates, if they need any."""

    certificates: bytes
    key: bytes
    client_authorities: bytes | None = None


class Door(Protocol):
    """A transport that serves the methods it was made with."""

    async def start(self, address: str) -> int:
        """Listens on host:port (port 0: a free one) and returns the port."""

    async def drain(self, within_s: float) -> None:
        """No new calls; returns when those under way are answered, or the time is over and they are cut off."""
