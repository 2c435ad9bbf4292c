"""The only Python door to the Rust core. Everything here converts and computes; nothing does I/O.

Types and docs of what Rust gives: `_core.pyi`.
"""

from __future__ import annotations

from invochain._core import (
    FINGERPRINT_VERSION,
    event_columns,
    event_id,
    invoice_id,
    movement_id,
    partition,
    request_id,
    reservation_id,
)

__all__ = [
    "FINGERPRINT_VERSION",
    "event_columns",
    "event_id",
    "invoice_id",
    "movement_id",
    "partition",
    "request_id",
    "reservation_id",
]
