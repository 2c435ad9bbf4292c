"""The only Python door to the Rust core. Everything here converts and computes; nothing does I/O.

Types and docs of what Rust gives: `_core.pyi`.
"""

from __future__ import annotations

from invochain._core import (
    FINGERPRINT_VERSION,
    Directory,
    Drafts,
    change_invoice,
    check_gstin,
    check_invoices,
    event_columns,
    event_id,
    gstin_check_char,
    invoice_id,
    movement_id,
    partition,
    present_invoice,
    present_issued,
    request_id,
    reservation_id,
    reserve_results,
    split_batch,
    state_liveness,
    verify_audit,
)

__all__ = [
    "FINGERPRINT_VERSION",
    "Directory",
    "Drafts",
    "change_invoice",
    "check_gstin",
    "check_invoices",
    "event_columns",
    "event_id",
    "gstin_check_char",
    "invoice_id",
    "movement_id",
    "partition",
    "present_invoice",
    "present_issued",
    "request_id",
    "reservation_id",
    "reserve_results",
    "split_batch",
    "state_liveness",
    "verify_audit",
]
