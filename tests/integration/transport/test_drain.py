"""The end of a process: NOT_SERVING first, no new calls, an answer for those under way, nothing left behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc
import pytest

from invochain.chassis.server import Server
from tests.integration.transport.probe import SERVICE, Doorkeeper, Probe, Wire, fails, until


async def test_calls_under_way_are_answered_and_new_ones_refused(wire: Wire):
    """The drain waits for what was taken; whoever comes now is told to go elsewhere."""
    waiting = [asyncio.ensure_future(wire.method("Wait")(b"%d" % number)) for number in range(10)]
    await until(lambda: wire.seen.under_way == 10)
    draining = asyncio.create_task(wire.server.drain(30))
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{wire.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as late:
        async with asyncio.timeout(20):
            # The port is closed a moment after the drain began.
            while True:
                error = await fails(late.unary_unary(f"/{SERVICE}/Keyed")(b"", timeout=5))
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    break
    assert not draining.done()
    wire.probe.gate.set()
    assert [b"%d" % number for number in range(10)] == await asyncio.gather(*waiting)
    await draining


async def test_what_does_not_end_in_time_is_cut_off(wire: Wire):
    """The caller hears UNAVAILABLE or CANCELLED; the method is cancelled."""
    waiting = asyncio.ensure_future(wire.method("Wait")(b""))
    await until(lambda: wire.seen.under_way == 1)
    async with asyncio.timeout(15):
        await wire.server.drain(0.2)
    assert (await fails(waiting)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    await until(lambda: wire.seen.cancelled == 1)


async def test_a_drain_of_an_idle_server_takes_no_time(wire: Wire):
    """It may also be asked for twice."""
    await wire.method("Echo")(b"")
    async with asyncio.timeout(10):
        await wire.server.drain(30)
        await wire.server.drain(30)


@pytest.mark.parametrize("transport", ["tonic"])
async def test_a_connection_that_never_says_a_word_holds_up_no_drain(wire: Wire):
    """On grpcio it does, for as long as the drain may take."""
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    await wire.method("Echo")(b"")
    async with asyncio.timeout(10):
        await wire.server.drain(30)
        assert b"" == await reader.read()
    writer.close()


async def test_the_port_is_free_again(wire: Wire, transport: str):
    """Another server may listen there at once."""
    await wire.method("Echo")(b"")
    await wire.server.drain(1)
    server, probe = Server("probe", Doorkeeper(), transport=transport), Probe()
    server.add(probe)
    assert wire.port == await server.start(f"127.0.0.1:{wire.port}")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{wire.port}") as channel:
        assert b"x" == await channel.unary_unary(f"/{SERVICE}/Echo")(b"x", timeout=20, wait_for_ready=True)
    await server.drain(1)


async def test_a_port_that_is_taken_is_refused(wire: Wire, transport: str):
    """Unless both say that they share it."""
    server = Server("probe", None, transport=transport)
    with pytest.raises((OSError, RuntimeError)):
        await server.start(f"127.0.0.1:{wire.port}")
    first, second = (Server("probe", None, transport=transport, reuse_port=True) for _ in range(2))
    port = await first.start("127.0.0.1:0")
    assert port == await second.start(f"127.0.0.1:{port}")
    await asyncio.gather(first.drain(1), second.drain(1))


async def test_the_tonic_thread_ends_with_the_drain():
    """No thread is left."""
    server = Server("probe", None, transport="tonic")
    before = _threads()
    await server.start("127.0.0.1:0")
    await until(lambda: before + 1 == _threads())
    await server.drain(1)
    assert before == _threads()


def _threads() -> int:
    """Threads of this process that are the transport's: those that Python does not know."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return names.count("transport")


async def test_an_interpreter_that_ends_in_the_middle_ends():
    """A process that leaves without draining, with a call under way, neither hangs nor crashes."""
    program = """
import asyncio, grpc
from invochain.chassis.server import Server
from tests.integration.transport.probe import Doorkeeper, Probe

async def main():
    server = Server("probe", Doorkeeper(), transport="tonic")
    probe = Probe()
    server.add(probe)
    port = await server.start("127.0.0.1:0")
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    asyncio.ensure_future(channel.unary_unary("/probe.v1.Probe/Wait")(b""))
    while not probe.seen.under_way:
        await asyncio.sleep(0.01)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert 0 == process.returncode, said
