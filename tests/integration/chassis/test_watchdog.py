"""A process says that its event loop turns, by the protocol of systemd's watchdog, and never waits to be heard."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from invochain.chassis.process import beating, notify

WITHIN_S = 20.0


@pytest.fixture
def door(tmp_path, monkeypatch):
    """The socket of somebody who watches, and wants a word every 40 ms."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(path))
        door.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "40000")
        yield door


def drain(door: socket.socket) -> None:
    door.setblocking(False)
    try:
        while True:
            door.recv(100)
    except BlockingIOError:
        door.settimeout(WITHIN_S)


async def hear(door: socket.socket) -> bytes:
    return await asyncio.to_thread(door.recv, 100)


async def test_it_speaks_again_and_again_and_is_silent_afterwards(door):
    """Given somebody who listens, there are words inside the block and none after it."""
    async with beating():
        assert [await hear(door) for _ in range(5)] == [b"WATCHDOG=1"] * 5
    drain(door)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "watchdog" and not task.cancelling()]


async def test_a_watcher_that_does_not_listen_holds_nobody_up(door):
    """Given a watcher whose queue is full, the event loop turns on; once it listens again, it is spoken to again."""
    door.setblocking(True)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            notify("STATUS=full", socket.MSG_DONTWAIT)
    async with asyncio.timeout(WITHIN_S), beating():
        for _ in range(100):
            await asyncio.sleep(0.001)
        drain(door)
        while await hear(door) != b"WATCHDOG=1":
            pass


async def test_a_watcher_that_has_gone_ends_nobody(door):
    """Given a socket that is not there any more, the block goes on, and speaks to the next who listens there."""
    path = os.environ["NOTIFY_SOCKET"]
    os.unlink(path)
    async with asyncio.timeout(WITHIN_S), beating():
        for _ in range(100):
            await asyncio.sleep(0.001)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heir:
            heir.bind(path)
            heir.settimeout(WITHIN_S)
            assert await hear(heir) == b"WATCHDOG=1"


async def test_words_meant_for_another_process_are_not_said(door, monkeypatch):
    """Given systemd's WATCHDOG_PID of another process, which this one has inherited, it leaves the words to that."""
    monkeypatch.setenv("WATCHDOG_PID", "1")
    async with beating():
        await asyncio.sleep(0)
        notify("STATUS=here")
        assert await hear(door) == b"STATUS=here"
