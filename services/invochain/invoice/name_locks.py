"""Names that must not change under a transaction: advisory locks by bucket, so that a batch of any size takes a bounded
number of them. Shared by whoever writes an invoice, exclusive where a series is made or a buyer is linked: so these see
every invoice that is being written."""

from __future__ import annotations

import zlib

from invochain.invoice.work import Work

LOCK_BUCKETS = 1_024
NUMBERS_OF_MERCHANT, INVOICES_OF_GSTIN = 1, 2


def bucket(name: bytes) -> int:
    """The advisory lock that stands for a name."""
    return zlib.crc32(name) % LOCK_BUCKETS


def names_of(work: Work, at: list[int]) -> list[tuple[int, int]]:
    """What must not change under us: the series of whoever brings his own number, the buyers we take for unknown."""
    drafts = work.drafts
    names = {
        (NUMBERS_OF_MERCHANT, bucket(merchant))
        for merchant, number in zip(drafts.merchant_ids(at), drafts.numbers(at), strict=True)
        if number
    }
    buyers = zip(drafts.buyer_gstins(at), drafts.buyer_merchant_ids(at), strict=True)
    names.update((INVOICES_OF_GSTIN, bucket(gstin.encode())) for gstin, known in buyers if known is None and gstin)
    return sorted(names)
