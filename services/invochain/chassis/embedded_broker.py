"""The broker that needs no broker: the contract of chassis/broker.py over a PostgreSQL database of its own.

The head row of a partition is held until COMMIT by whoever appends to it, so records become visible in the order of
their offsets and a reader that asks for "after offset n" never skips one. Partitions are divided among the members of a
group by advisory locks. NOTIFY wakes the readers: it makes COMMITs queue behind each other, which costs nothing here,
where a few relays append whole batches, and would cost much in the services' own databases.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import asyncpg

from invochain import core
from invochain.chassis import clock
from invochain.chassis.broker import (
    Acked,
    BehindFailed,
    Delivered,
    NotAcked,
    PartitionsLost,
    Record,
    Unread,
    check,
)
from invochain.chassis.postgres import CommitUnknown, Postgres, Sql
from invochain.chassis.session import Session, Share
from invochain.errors import Refusal

# Most members a group can have work for. A topic keeps the number it was made with: a key never moves.
PARTITIONS = 8
# Waiting for a connection or a head row longer than this is a failed publication; the relay comes again.
WAIT_S = 2.0
# How often a reader looks even though nobody woke it: a notification is lost with its connection.
LOOK_S = 1.0
CHANNEL = "invochain_broker"
# A type that is kept beside its record, and told to those who wait; any other is kept as an empty one.
PLAIN_TYPE = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
# More types of one publication are not told one by one: everyone looks.
TYPES_TOLD_MAX = 50
# Whatever a lost or refusing database may raise. InternalClientError: asyncpg, when a connection is lost in the very
# moment in which it goes back to its pool. Whether COMMIT went through or not, the relay publishes again.
UNPUBLISHED = (
    *(Refusal, CommitUnknown, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
    *(OSError, TimeoutError),
)


class EmbeddedBroker:
    """Publishes into, and reads from, the database `broker`."""

    def __init__(self, postgres: Postgres, dsn: str, *, partitions: int = PARTITIONS) -> None:
        self._postgres, self._dsn, self._new_topic_partitions = postgres, dsn, partitions
        self._topics: dict[str, int] = {}

    @classmethod
    async def connect(cls, dsn: str, *, size: int = 4, partitions: int = PARTITIONS) -> EmbeddedBroker:
        """Opens a pool of `size` connections for publishing; each consumer has one more of its own."""
        return cls(await Postgres.connect(dsn, name="broker", size=size, required=False), dsn, partitions=partitions)

    async def close(self) -> None:
        await self._postgres.close()

    async def publish(self, topic: str, records: Sequence[Record]) -> list[Acked | NotAcked]:
        outcomes: list[Acked | NotAcked | None] = [None] * len(records)
        too_late: set[bytes] = set()
        sound: list[int] = []
        for index, record in enumerate(records):
            if record.key in too_late:
                outcomes[index] = NotAcked(BehindFailed(f"key {record.key!r}"))
            elif wrong := check(record):
                outcomes[index] = NotAcked(wrong)
                too_late.add(record.key)
            else:
                sound.append(index)
        if sound:
            try:
                places = await self._append(topic, [records[index] for index in sound])
            except UNPUBLISHED as failed:
                for index in sound:
                    outcomes[index] = NotAcked(failed)
            else:
                for index, place in zip(sound, places, strict=True):
                    outcomes[index] = place
        return [outcome for outcome in outcomes if outcome is not None]

    async def _append(self, topic: str, records: list[Record]) -> list[Acked]:
        count = await self.partitions_of(topic)
        partitions = [zlib.crc32(record.key) % count for record in records]
        types = [_type_of(record) for record in records]
        # The records of each partition, and of each record how many of them come before it.
        grown = dict.fromkeys(sorted(set(partitions)), 0)
        places = []
        for partition in partitions:
            places.append(grown[partition])
            grown[partition] += 1
        # One statement is its own transaction, and one round trip where four were. Cut off in its COMMIT it may have
        # written what it does not acknowledge, as a lost connection may.
        async with self._postgres.reading(wait_s=WAIT_S) as tx:
            rows = await tx.fetch(
                APPEND,
                topic,
                list(grown),
                list(grown.values()),
                partitions,
                places,
                [record.key for record in records],
                [record.value for record in records],
                core.header_texts([record.headers for record in records]),
                types,
                CHANNEL,
                _told(topic, set(types)),
            )
        first = {row["partition"]: row["next_offset"] for row in rows}
        return [Acked(partition, first[partition] + nth) for partition, nth in zip(partitions, places, strict=True)]

    async def partitions_of(self, topic: str) -> int:
        """How many partitions a topic has; the first who asks makes it."""
        if topic not in self._topics:
            async with self._postgres.transaction(wait_s=WAIT_S) as tx:
                await tx.execute(MAKE_TOPIC, topic, self._new_topic_partitions)
            async with self._postgres.reading(wait_s=WAIT_S) as tx:
                self._topics[topic] = await tx.fetchval(COUNT_PARTITIONS, topic)
        return self._topics[topic]

    def consumer(self, group: str, topic: str, types: Collection[str] | None = None) -> EmbeddedConsumer:
        return EmbeddedConsumer(self, self._dsn, group, topic, types)

    async def unread(self, topic: str, older_than_ms: int, after: tuple[str, int, int], at_most: int) -> list[Unread]:
        async with self._postgres.reading(wait_s=WAIT_S) as tx:
            rows = await tx.fetch(UNREAD, topic, older_than_ms, *after, at_most)
        return [Unread(row["consumer_group"], _delivered(topic, row), row["age_ms"]) for row in rows]

    async def purge(self, older_than_s: float, records_max: int) -> int:
        """Deletes records older than the retention that every group has read; returns how many. Bounded: call again.

        What a group has still to read is kept for it, however old. A group that is gone for good is removed by name
        (`forget_group`).
        """
        async with self._postgres.transaction(wait_s=WAIT_S) as tx:
            return await tx.count(PURGE, older_than_s, records_max)

    async def forget_group(self, group: str) -> None:
        """Drops a consumer group: nothing is kept for it any longer."""
        async with self._postgres.transaction(wait_s=WAIT_S) as tx:
            await tx.execute(FORGET_GROUP, group)


class EmbeddedConsumer:
    """One member of a group, with a connection of its own whose locks are its partitions."""

    def __init__(self, broker: EmbeddedBroker, dsn: str, group: str, topic: str, types: Collection[str] | None) -> None:
        self._broker, self._group, self._topic = broker, group, topic
        self._types = None if types is None else sorted(types)
        self._session = Session(dsn, "broker", on_open=self._listen)
        self._share: Share | None = None
        self._wake = asyncio.Event()
        # Next offset to read, of the partitions that we hold.
        self._positions: dict[int, int] = {}
        # Those of them that have only passed by what is not for us since they were committed.
        self._passed: dict[int, int] = {}
        self._first = 0

    async def _listen(self, connection: asyncpg.Connection) -> None:
        # A new session holds no lock: whatever was read through the old one may be somebody else's by now.
        self._positions.clear()
        self._passed.clear()
        await connection.add_listener(CHANNEL, self._heard)

    def _heard(self, _connection: Any, _pid: int, _channel: str, told: object) -> None:
        topic, *types = str(told).split()
        if topic == self._topic and (self._types is None or not types or not set(types).isdisjoint(self._types)):
            self._wake.set()

    async def poll(self, records_max: int, wait_s: float, skip: Collection[int] = ()) -> list[Delivered]:
        until = clock.monotonic() + wait_s
        while True:
            await self._take_partitions()
            self._wake.clear()
            found, to_the_end = await self._read(records_max, skip)
            if found:
                return found
            await self._commit_passed()
            left = until - clock.monotonic()
            if left <= 0:
                return found
            if not to_the_end:
                continue
            try:
                # Not wait_for: before Python 3.12 that makes a task each time.
                async with asyncio.timeout(min(left, LOOK_S)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _take_partitions(self) -> None:
        if self._share is None:
            count = await self._broker.partitions_of(self._topic)
            self._share = Share(self._session, f"{self._group} {self._topic}", range(count))
        mine = await self._share.balance()
        for gone in set(self._positions) - set(mine):
            del self._positions[gone]
            self._passed.pop(gone, None)
        if new := sorted(set(mine) - set(self._positions)):
            async with self._session.use() as tx:
                await tx.execute(JOIN_GROUP, self._group, self._topic, new)
                for row in await tx.fetch(POSITIONS, self._group, self._topic, new):
                    self._positions[row["partition"]] = row["next_offset"]

    async def _read(self, records_max: int, skip: Collection[int]) -> tuple[list[Delivered], bool]:
        """The next records that are for us, and whether all partitions were read to their ends."""
        async with self._session.use() as tx:
            # Looked up now that the session is open: one that was opened anew has no partitions, and no right to read.
            wanted = {p: offset for p, offset in self._positions.items() if p not in skip}
            if not wanted:
                return [], True
            # Another partition comes first each time, so that a busy one does not starve the others.
            self._first = (self._first + 1) % len(wanted)
            order = [*wanted][self._first :] + [*wanted][: self._first]
            rows = await tx.fetch(READ, self._topic, order, [wanted[p] for p in order], records_max, self._types)
        found = []
        for row in rows:
            partition = row["partition"]
            if row["log_offset"] is None:
                self._positions[partition] = self._passed[partition] = row["head"]
            else:
                found.append(_delivered(self._topic, row))
                self._positions[partition] = row["log_offset"] + 1
        return found, len(rows) < records_max

    async def _commit_passed(self) -> None:
        """Moves the group behind what was not for it, so that the purge may take it. Only when nothing is to be done,
        and without haste: who does not know of it passes by the same records again."""
        if not self._passed:
            return
        try:
            await self.commit(self._passed)
        except PartitionsLost:
            # Their new owner does it.
            self._passed.clear()

    async def commit(self, positions: Mapping[int, int]) -> None:
        async with self._session.use() as tx:
            # The statement runs in the session that holds the locks: if it is gone, so is the right to commit.
            if lost := [
                p for p in positions if p not in self._positions or self._share is None or p not in self._share.mine
            ]:
                raise PartitionsLost(f"{self._group}: {self._topic} partitions {lost}")
            await tx.execute(COMMIT_POSITIONS, self._group, self._topic, list(positions), list(positions.values()))
            for partition in list(positions):
                self._passed.pop(partition, None)

    def rewind(self, positions: Mapping[int, int]) -> None:
        for partition, offset in positions.items():
            if partition in self._positions:
                self._positions[partition] = offset

    async def close(self) -> None:
        await self._session.close()


def _type_of(record: Record) -> str:
    """The type that is kept beside a record."""
    for name, value in record.headers:
        if name == "ce_type":
            return _plain(value)
    return ""


@lru_cache(maxsize=256)
def _plain(type_: str) -> str:
    return type_ if PLAIN_TYPE.fullmatch(type_) else ""


def _told(topic: str, types: set[str]) -> str:
    """What wakes those who wait: the topic, and the types if each of them is known."""
    return topic if "" in types or len(types) > TYPES_TOLD_MAX else " ".join((topic, *sorted(types)))


def _delivered(topic: str, row: asyncpg.Record) -> Delivered:
    headers = tuple((name, value) for name, value in json.loads(row["headers"]))
    record = Record(bytes(row["key"]), bytes(row["value"]), headers)
    return Delivered(topic, row["partition"], row["log_offset"], record)


MAKE_TOPIC = Sql(
    "broker_make_topic",
    """
INSERT INTO topic_partition (topic, partition)
SELECT $1, n FROM generate_series(0, $2::int - 1) AS n
WHERE NOT EXISTS (SELECT FROM topic_partition WHERE topic = $1)
ON CONFLICT DO NOTHING
""",
)

COUNT_PARTITIONS = Sql("broker_count_partitions", "SELECT count(*)::int FROM topic_partition WHERE topic = $1")

# The heads are locked in their order, so that two who append never wait for each other.
APPEND = Sql(
    "broker_append",
    """
WITH head AS (
    SELECT partition, next_offset FROM topic_partition
    WHERE topic = $1 AND partition = ANY ($2::smallint[])
    ORDER BY partition
    FOR NO KEY UPDATE
), moved AS (
    UPDATE topic_partition SET next_offset = head.next_offset + grown.records
    FROM head JOIN unnest($2::smallint[], $3::bigint[]) AS grown (partition, records) USING (partition)
    WHERE topic_partition.topic = $1 AND topic_partition.partition = head.partition
), appended AS (
    INSERT INTO log_record (topic, partition, log_offset, key, value, headers, type)
    SELECT $1, head.partition, head.next_offset + n.nth, n.key, n.value, n.headers::json, n.type
    FROM unnest($4::smallint[], $5::bigint[], $6::bytea[], $7::bytea[], $8::text[], $9::text[])
        AS n (partition, nth, key, value, headers, type)
    JOIN head USING (partition)
)
SELECT partition, next_offset, pg_notify($10, $11) FROM head
""",
)

# A group's rows are there from its first look, so that the purge keeps for it what it has not read.
JOIN_GROUP = Sql(
    "broker_join_group",
    """
INSERT INTO group_position (consumer_group, topic, partition)
SELECT $1, $2, n FROM unnest($3::smallint[]) AS n
ON CONFLICT DO NOTHING
""",
)

POSITIONS = Sql(
    "broker_positions",
    """
SELECT partition, next_offset FROM group_position
WHERE consumer_group = $1 AND topic = $2 AND partition = ANY($3::smallint[])
""",
)

# A partition that has grown gives the records that are wanted, in their order; if there is none, one row that says
# where it ended when we looked. Whoever appends holds its head row until COMMIT, so nothing comes below that later.
READ = Sql(
    "broker_read",
    """
SELECT wanted.partition, head.next_offset AS head, r.log_offset, r.key, r.value, r.headers
FROM unnest($2::smallint[], $3::bigint[]) AS wanted (partition, next_offset)
JOIN topic_partition AS head
    ON head.topic = $1 AND head.partition = wanted.partition AND head.next_offset > wanted.next_offset
LEFT JOIN LATERAL (
    SELECT log_offset, key, value, headers
    FROM log_record
    WHERE topic = $1 AND log_record.partition = wanted.partition AND log_offset >= wanted.next_offset
        AND ($5::text[] IS NULL OR type = ANY ($5) OR type = '')
    ORDER BY log_offset
    LIMIT $4
) AS r ON true
LIMIT $4
""",
)

UNREAD = Sql(
    "broker_unread",
    """
SELECT r.*
FROM group_position AS g
CROSS JOIN LATERAL (
    SELECT g.consumer_group, partition, log_offset, key, value, headers,
        floor(extract(epoch FROM now() - append_time) * 1000)::bigint AS age_ms
    FROM log_record
    WHERE topic = $1 AND log_record.partition = g.partition AND log_offset >= g.next_offset
        AND append_time <= now() - $2::bigint * interval '1 millisecond'
        AND (g.consumer_group, g.partition, log_offset) > ($3::text, $4::smallint, $5::bigint)
    ORDER BY log_offset
    LIMIT $6
) AS r
WHERE g.topic = $1 AND g.consumer_group >= $3
ORDER BY r.consumer_group, r.partition, r.log_offset
LIMIT $6
""",
)

COMMIT_POSITIONS = Sql(
    "broker_commit_positions",
    """
UPDATE group_position AS g SET next_offset = n.next_offset, update_time = now()
FROM unnest($3::smallint[], $4::bigint[]) AS n (partition, next_offset)
WHERE g.consumer_group = $1 AND g.topic = $2 AND g.partition = n.partition AND g.next_offset < n.next_offset
""",
)

PURGE = Sql(
    "broker_purge",
    """
DELETE FROM log_record
USING (
    SELECT head.topic, head.partition, oldest.log_offset
    FROM topic_partition AS head
    CROSS JOIN LATERAL (
        SELECT coalesce(min(next_offset), head.next_offset) AS read_to FROM group_position AS g
        WHERE g.topic = head.topic AND g.partition = head.partition
    ) AS groups
    CROSS JOIN LATERAL (
        SELECT log_offset, append_time FROM log_record AS r
        WHERE r.topic = head.topic AND r.partition = head.partition AND r.log_offset < groups.read_to
        ORDER BY log_offset
        LIMIT $2
    ) AS oldest
    WHERE oldest.append_time < now() - make_interval(secs => $1)
    LIMIT $2
) AS old
WHERE log_record.topic = old.topic AND log_record.partition = old.partition
  AND log_record.log_offset = old.log_offset
""",
)

FORGET_GROUP = Sql("broker_forget_group", "DELETE FROM group_position WHERE consumer_group = $1")
