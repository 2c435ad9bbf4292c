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


EPOCH = dt.date(1970, 1, 1)


def day_of(days: int) -> dt.date:
    """The civil date so many days after 1970-01-01."""
    return EPOCH + dt.timedelta(days=days)


def micros(instant: dt.datetime) -> int:
    """Microseconds since 1970, UTC; whole, without a float on the way."""
    since = instant - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
