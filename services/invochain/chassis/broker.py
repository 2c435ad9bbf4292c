"""The door to the event broker, whichever it is: topics of partitions, groups with positions, at least once.

What every implementation promises, and tests/integration/chassis/test_broker_conformance.py holds:
- records of one key keep their order; a record is acknowledged only when it is durable;
- each partition is read by one consumer of a group at a time; what was not committed is delivered again;
- a record that cannot be published takes the later records of its key in the same call with it, and no others; if no
  repeat could help, that is said (`Unpublishable`), so that its key can be parked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

# Larger than anything a service accepts (4 MiB), so that only a mistake of ours meets it. A Kafka has to be set alike.
RECORD_BYTES_MAX = 8 * 1024 * 1024

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is published. Headers are CloudEvents in binary mode (API section 11): ce_id, ce_type, traceparent, ..."""

    key: bytes
    value: bytes
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """A record as it comes back: where it lies, and what was published."""

    topic: str
    partition: int
    offset: int
    record: Record


@dataclass(frozen=True, slots=True)
class Acked:
    """The record is durable, at this place."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class NotAcked:
    """The record is to be treated as unpublished; it may have been written all the same. `cause` says why."""

    cause: Exception


class Unpublishable(Exception):
    """It is the record that is wrong, not the broker: no repeat will be acknowledged. Its words name no content."""


class RecordTooLarge(Unpublishable):
    """No broker of ours takes a record of this size."""


class RecordMalformed(Unpublishable):
    """A header, the key or the value is not what goes over the wire: UTF-8 text, bytes."""


class BehindFailed(Exception):
    """An earlier record of the same key was not published."""


def check(record: Record) -> Unpublishable | None:
    """What keeps every broker from taking a record; None: nothing."""
    if not isinstance(record.key, bytes) or not isinstance(record.value, bytes):
        return RecordMalformed("key and value are bytes")
    if (size := len(record.key) + len(record.value)) > RECORD_BYTES_MAX:
        return RecordTooLarge(f"{size} bytes; at most {RECORD_BYTES_MAX} are taken")
    for name, value in record.headers:
        try:
            name.encode()
            value.encode()
        except (AttributeError, UnicodeEncodeError):
            return RecordMalformed(f"header {name!r} is no UTF-8 text")
    return None


class PartitionsLost(Exception):
    """The consumer does not own what it commits: its session ended. What it read is delivered to the next owner."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A record that a group has not done with, and how long it has been at the broker, by the broker's clock."""

    group: str
    delivered: Delivered
    age_ms: int


class Consumer(Protocol):
    """A member of a consumer group on one topic. Used by one task."""

    async def poll(self, records_max: int, wait_s: float, skip: Collection[int] = ()) -> list[Delivered]:
        """The next records of our partitions but those in `skip`, in order in each; waits up to `wait_s` for the first.

        Takes over and gives up partitions as members come and go. Raises DependencyDown.
        """
        ...

    async def commit(self, positions: Mapping[int, int]) -> None:
        """Stores, per partition, the offset to read next. Raises PartitionsLost or DependencyDown: it is not stored."""
        ...

    def rewind(self, positions: Mapping[int, int]) -> None:
        """Reads these partitions again from the offsets given."""
        ...

    async def close(self) -> None:
        """Leaves the group; its partitions are free at once."""
        ...


class Broker(Protocol):
    """Publishes, and lets groups read."""

    async def publish(self, topic: str, records: Sequence[Record]) -> list[Acked | NotAcked]:
        """Appends records and says of each, in their order, whether it is durable. Does not raise when it is down."""
        ...

    def consumer(self, group: str, topic: str, types: Collection[str] | None = None) -> Consumer:
        """A new member of a group. A group that is new reads from the oldest record that is kept.

        With `types` it wants only records of these (`ce_type`): a broker that can pass by the others may do so, and
        then moves the group's position behind them by itself.
        """
        ...

    async def unread(self, topic: str, older_than_ms: int, after: tuple[str, int, int], at_most: int) -> list[Unread]:
        """What the groups of a topic have still to read, by (group, partition, offset), from behind that place.

        It moves no position. Raises DependencyDown.
        """
        ...

    async def close(self) -> None: ...
