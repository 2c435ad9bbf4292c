"""The one place that reads a clock, so that a test can hold it still."""

from __future__ import annotations

import datetime as dt
import time

# India has one zone and no summer time (Indian Standard Time, UTC+5:30).
IST = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")


def now() -> dt.datetime:
    """The present instant, UTC, microseconds."""
    return dt.datetime.now(dt.UTC)


def today_ist() -> dt.date:
    """The civil date in India."""
    return dt.datetime.now(IST).date()


def monotonic() -> float:
    """Seconds that never step; for ages, deadlines and intervals only."""
    return time.monotonic()
