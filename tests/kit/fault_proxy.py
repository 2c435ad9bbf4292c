"""A link between two processes that can be slow, silent, torn, or cut exactly at a COMMIT: TCP, through this process.

Own code, not toxiproxy: it needs no download, and it can do what toxiproxy cannot, cut a connection of PostgreSQL
between COMMIT and its answer. Every fault counts what it did in `Link.did`, so that a test can tell a run whose fault
did not happen. `up` is from the caller to the callee, `down` the way back.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

Way = Literal["up", "down"]
BOTH: tuple[Way, ...] = ("up", "down")
CHUNK = 65_536
# A slow link passes what it has in pieces, so that it is quick again as soon as it is healed.
PIECES_A_S = 10
# How asyncpg sends it: the end of a simple query (chassis/postgres.py).
COMMIT = b"COMMIT\x00"


@dataclass(eq=False)
class _Connection:
    """One caller's connection and ours to the callee."""

    caller: asyncio.StreamWriter
    callee: asyncio.StreamWriter
    # Bytes were lost on it: a TCP stream with a hole carries nothing any more.
    dead: bool = False
    answered: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def tear(self) -> None:
        """Both sides see a reset."""
        for writer in (self.caller, self.callee):
            sock: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Link:
    """Forwards to `host:port` from a free port of 127.0.0.1. One fault at a time of each kind; `heal` ends all."""

    def __init__(self, name: str, host: str, port: int, seed: int = 1) -> None:
        self.name, self._target, self._chance = name, (host, port), random.Random(f"{name} {seed}")
        self.did: Counter[str] = Counter()
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        # Kept across restarts of whoever is behind it.
        self.port = 0
        self._free = asyncio.Event()
        self._reset_faults()

    def _reset_faults(self) -> None:
        self._held: frozenset[Way] = frozenset()
        self._lost: frozenset[Way] = frozenset()
        self._delay_s = 0.0
        self._bytes_a_s = 0.0
        self._reset_share = 0.0
        self._instead: tuple[bytes, ...] = ()
        self._cut_after = 0
        self._refusing = False
        self._commits: tuple[int, bool] = (0, False)
        self._free.set()

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        self.heal()
        if self._server is not None:
            self._server.close()
        tasks = [task for connection in self._open for task in connection.tasks]
        for connection in list(self._open):
            connection.tear()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ faults

    def hold(self, ways: Iterable[Way] = BOTH) -> None:
        """Nothing passes; what was sent arrives after healing, as TCP sends again what packet loss has eaten."""
        self._held = frozenset(ways)
        self._free.clear()

    def lose(self, ways: Iterable[Way] = BOTH) -> None:
        """What is sent is gone, and its connection is silent for ever, also after healing: nobody says a reset."""
        self._lost = frozenset(ways)

    def delay(self, seconds: float) -> None:
        """Everything arrives later, each way."""
        self._delay_s = seconds

    def slow(self, bytes_a_s: float) -> None:
        """So many bytes a second pass each way on a connection."""
        self._bytes_a_s = bytes_a_s

    def garble(self, instead: tuple[bytes, ...]) -> None:
        """Instead of each answer one of these arrives."""
        self._instead = instead

    def reset_some(self, share: float) -> None:
        """This share of all answers tears its connection instead of arriving."""
        self._reset_share = share

    def cut_answers_after(self, count: int) -> None:
        """Every connection is torn after `count` more bytes of answers."""
        self._cut_after = count
        for connection in self._open:
            connection.answered = 0

    def cut_at_commit(self, times: int, *, passes: bool) -> None:
        """The next COMMITs of PostgreSQL sessions lose their connection; `passes`: the server gets them first."""
        self._commits = (times, passes)

    def redirect(self, host: str, port: int) -> None:
        """Another server answers at this address, also after healing: all connections are torn, new ones lead there."""
        self._target = (host, port)
        self.reset()

    def reset(self) -> None:
        """All connections are torn now."""
        self.did["resets"] += len(self._open)
        for connection in list(self._open):
            connection.tear()

    def down(self) -> None:
        """All connections are torn, and new ones too."""
        self._refusing = True
        self.reset()

    def heal(self) -> None:
        """The link works again. A connection that has lost bytes stays silent until somebody gives it up."""
        self._reset_faults()

    @property
    def connections(self) -> int:
        return len(self._open)

    # ------------------------------------------------------------ forwarding

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            self.did["refused"] += 1
            writer.transport.abort()
            return
        try:
            callee_reader, callee = await asyncio.open_connection(*self._target, limit=CHUNK)
        except OSError:
            self.did["callee away"] += 1
            writer.transport.abort()
            return
        connection = _Connection(writer, callee)
        self._open.add(connection)
        self.did["connections"] += 1
        connection.tasks = [
            asyncio.create_task(self._pump(connection, "up", reader, callee)),
            asyncio.create_task(self._pump(connection, "down", callee_reader, writer)),
        ]
        try:
            await asyncio.gather(*connection.tasks, return_exceptions=True)
        finally:
            self._open.discard(connection)
            connection.tear()

    async def _pump(
        self, connection: _Connection, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Reads and stamps in one task and writes in another, so that a delay is the same for all that is sent."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    data = b""
                await waiting.put((loop.time(), data))

        reading = asyncio.create_task(read())
        try:
            while True:
                came, data = await waiting.get()
                if not data:
                    # An end is an end only when the bytes before it have passed; a reset would lose them.
                    if way in self._held:
                        await self._free.wait()
                    if not (connection.dead and way == "down"):
                        writer.write_eof()
                    return
                if not await self._pass(connection, way, data, writer, came):
                    connection.tear()
                    return
        except (ConnectionError, RuntimeError):
            connection.tear()
        finally:
            reading.cancel()

    async def _pass(
        self, connection: _Connection, way: Way, data: bytes, writer: asyncio.StreamWriter, came: float
    ) -> bool:
        """Forwards a piece, or does what the faults say; False tears the connection."""
        loop = asyncio.get_running_loop()
        if self._delay_s and (left := came + self._delay_s - loop.time()) > 0:
            self.did["delayed"] += 1
            await asyncio.sleep(left)
        if way in self._held:
            self.did[f"held {way}"] += 1
            await self._free.wait()
        if way in self._lost or connection.dead:
            self.did[f"lost {way}"] += 1
            connection.dead = True
            return True
        while data and self._bytes_a_s:
            self.did["slowed"] += 1
            piece, data = data[: (size := max(int(self._bytes_a_s / PIECES_A_S), 1))], data[size:]
            await asyncio.sleep(len(piece) / self._bytes_a_s)
            writer.write(piece)
            await writer.drain()
            if not data:
                return True
        if way == "down" and self._instead:
            self.did["garbled"] += 1
            data = self._chance.choice(self._instead)
        if way == "down" and self._reset_share and self._chance.random() < self._reset_share:
            self.did["resets"] += 1
            return False
        times, passes = self._commits
        if way == "up" and times and data.endswith(COMMIT):
            self._commits = (times - 1, passes)
            self.did["commits cut"] += 1
            if passes:
                writer.write(data)
                await writer.drain()
                # The end, not a reset: the server must read what is on its way.
                writer.write_eof()
                connection.caller.transport.abort()
                return True
            return False
        if way == "down" and self._cut_after:
            left_bytes = self._cut_after - connection.answered
            connection.answered += len(data)
            if len(data) >= left_bytes:
                self.did["cut"] += 1
                writer.write(data[: max(left_bytes, 0)])
                await writer.drain()
                return False
        writer.write(data)
        await writer.drain()
        return True
