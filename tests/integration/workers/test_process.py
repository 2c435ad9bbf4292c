"""`invochain run workers` as a process: healthy, useful, and gone when told to."""

import asyncio
import json
import signal
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from invochain.chassis.ids import new_id
from tests.integration.workers.conftest import Source, until

COMMAND = "from invochain.cli import main; main()"


async def start(source: Source, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, "run", "workers", *options),
        env=source.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def line(process: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    """The first log line with this event."""
    async with asyncio.timeout(30):
        while text := await process.stdout.readline():
            if text.startswith(b"{") and (found := json.loads(text)).get("event") == event:
                return found
    raise AssertionError(f"the process ended before it said {event}")


class TestRunWorkers:
    async def test_it_works_says_so_and_stops_in_order(self, source):
        """Health SERVING, events published within a second of their commit, exit 0 on SIGTERM."""
        process = await start(source, "--only", "relay,consumer,purger")
        try:
            said = await line(process, "running")
            assert ["purger:merchant", "purger:broker", "relay:merchant"] == said["workers"]
            async with grpc.aio.insecure_channel(said["health"]) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for service in ("", "live"):
                    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                    assert health_pb2.HealthCheckResponse.SERVING == answer.status
            await source.tell(new_id(), 3)

            async def gone() -> bool:
                return await source.waiting() == 0

            await until(gone, within_s=5)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert 0 == await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def test_a_stop_does_not_wait_for_the_backlog(self, source):
        """Told to end in the middle of 60,000 events, it ends with its round; the next process does the rest."""
        merchants = [new_id() for _ in range(60)]
        for merchant in merchants:
            await source.tell(merchant, 1_000)
        process = await start(source)
        try:
            await line(process, "running")

            async def begun() -> bool:
                return await source.waiting() < 60_000

            await until(begun)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                await line(process, "stopped")
                assert 0 == await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert await source.waiting() > 0

    async def test_an_unknown_worker_is_refused_with_those_there_are(self, source):
        """The command names what it found and what it knows."""
        process = await start(source, "--only", "relay,pigeon")
        said, _ = await process.communicate()

        assert 2 == process.returncode
        assert b"no worker pigeon" in said and b"consumer" in said and b"purger" in said
