"""Messages both ways: order, ends, backpressure, limits, deadlines."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.integration.transport.probe import GOOD, KIB, SERVICE, Wire, fails, until
from tests.kit.market import Refused


async def test_each_message_is_answered_while_the_stream_is_open(wire: Wire):
    """Both sides talk in turn; the caller's half close ends the method's loop and then the call, with OK."""
    stream = wire.stream("Talk")
    for number in range(20):
        await stream.write(b"%d" % number)
        assert b"%d" % number == await stream.read()
    await stream.done_writing()
    assert grpc.aio.EOF is await stream.read()
    assert grpc.StatusCode.OK == await stream.code()
    assert ["half closed"] == wire.seen.ended


async def test_many_messages_keep_their_order(wire: Wire):
    """10,000 written ahead come back as they were sent."""
    sent = [b"%d" % number for number in range(10_000)]

    async def messages():
        for message in sent:
            yield message

    stream = wire.stream("Talk", request_iterator=messages())
    assert sent == [message async for message in stream]


async def test_the_initial_metadata_come_before_the_first_answer(wire: Wire):
    stream = wire.stream("Talk")
    initial = dict(tuple(await stream.initial_metadata()))
    assert initial["x-request-id"]
    await stream.done_writing()
    assert grpc.StatusCode.OK == await stream.code()


async def test_half_close_then_one_answer(wire: Wire):
    """A method that reads to the end first answers after the caller has said that there is no more."""
    call = wire.channel.stream_stream(
        f"/{SERVICE}/Count",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )()
    for _ in range(5):
        await call.write(HealthCheckRequest(service="a"))
    await call.done_writing()
    assert 5 == (await call.read()).status


async def test_an_empty_stream_is_a_stream(wire: Wire):
    stream = wire.stream("Talk")
    await stream.done_writing()
    assert grpc.aio.EOF is await stream.read()
    assert grpc.StatusCode.OK == await stream.code()


async def test_a_refusal_ends_the_stream_after_the_answers_before_it(wire: Wire):
    """What was answered arrives; then the status with its details, as in a single call."""
    stream = wire.stream("Talk", timeout=20)
    await stream.write(b"one")
    await stream.write(b"refuse")
    assert b"one" == await stream.read()
    told = Refused.of(await fails(stream.read()))
    assert ("INVALID_ARGUMENT", "VALIDATION_FAILED") == (told.code, told.reason)
    assert {("a.field", "A_CODE")} == told.broken


async def test_a_stream_wants_a_token_too(wire: Wire):
    """Refused before the method begins; let in with a token."""
    assert grpc.StatusCode.UNAUTHENTICATED == (await fails(wire.stream("Private", timeout=20).read())).code()
    stream = wire.stream("Private", metadata=[GOOD], timeout=20)
    assert b"m" * 16 == await stream.read()


async def test_a_message_that_does_not_read_is_refused_by_name(wire: Wire):
    stream = wire.stream("Count", timeout=20)
    await stream.write(b"\xff\xff")
    told = Refused.of(await fails(stream.read()))
    assert "MALFORMED_REQUEST" == told.reason


async def test_a_message_over_the_limit_ends_the_stream(wire: Wire):
    """4 MiB may come; one byte more may not."""
    stream = wire.stream("Talk", timeout=60)
    await stream.write(bytes(4 * KIB * KIB))
    assert 4 * KIB * KIB == len(await stream.read())
    await stream.write(bytes(4 * KIB * KIB + 1))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == (await fails(stream.read())).code()


async def test_a_caller_that_does_not_read_stops_the_writer(wire: Wire):
    """64 MiB are to be sent: what is not read waits at the method's `yield`, not in memory."""
    stream = wire.stream("Flood", timeout=60)
    await stream.write(b"go")
    await stream.read()
    written = -1
    # It has stopped when half a second passes without another message.
    while written != wire.seen.written:
        written = wire.seen.written
        await asyncio.sleep(0.5)
    assert written < 500
    count = 1
    while await stream.read() is not grpc.aio.EOF:
        count += 1
    assert 1_000 == count == wire.seen.written


async def test_a_method_that_does_not_read_stops_the_caller(wire: Wire):
    """The caller's writes wait until the method asks for more."""
    stream = wire.stream("Reluctant", timeout=60)
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(1_000):
            await stream.write(bytes(64 * KIB))
            written += 1
        await stream.done_writing()

    writing = asyncio.create_task(write())
    await until(lambda: wire.seen.read)
    before = -1
    while before != written:
        before = written
        await asyncio.sleep(0.5)
    assert before < 500
    wire.probe.gate.set()
    assert b"1000" == await stream.read()
    await writing


async def test_the_caller_that_cancels_ends_the_method(wire: Wire, transport: str):
    """Not by a half close: a method that acts on the end of a stream must not act on a cancel. On grpcio it may look so
    at times, where the C core reports both alike.
    """
    stream = wire.stream("Talk")
    await stream.write(b"one")
    await stream.read()
    stream.cancel()
    await until(lambda: wire.seen.ended)
    cancelled = wire.seen.ended[0] in ("CancelledError", "GeneratorExit")
    assert cancelled or (transport == "grpcio" and "half closed" == wire.seen.ended[0])


async def test_the_deadline_ends_the_method(wire: Wire):
    stream = wire.stream("Talk", timeout=0.5)
    await stream.write(b"one")
    await stream.read()
    assert grpc.StatusCode.DEADLINE_EXCEEDED == (await fails(stream.read())).code()
    await until(lambda: wire.seen.ended)


async def test_a_caller_that_says_nothing_is_let_go(wire: Wire):
    """After `idle_s` without a message the stream ends, so that forgotten ones do not add up."""
    stream = wire.stream("Impatient", timeout=20)
    await stream.write(b"one")
    assert b"one" == await stream.read()
    error = await fails(stream.read())
    status = status_pb2.Status.FromString(dict(tuple(error.trailing_metadata()))["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert "DEADLINE_TOO_SHORT" == info.reason


async def test_a_drain_ends_streams_that_wait_and_says_so(wire: Wire):
    """A stream whose method waits for its caller ends with SHUTTING_DOWN at once, not when the drain's time is over."""
    stream = wire.stream("Talk", timeout=60)
    await stream.write(b"one")
    await stream.read()
    async with asyncio.timeout(10):
        await asyncio.gather(wire.server.drain(30), fails(stream.read()))
    assert ["ShuttingDown"] == wire.seen.ended
    assert "SHUTTING_DOWN" == Refused.of(await fails(stream.read())).reason


@pytest.mark.parametrize("streams", [100])
async def test_many_streams_at_once(wire: Wire, streams: int):
    """Each has its own messages."""

    async def one(number: int) -> None:
        stream = wire.stream("Talk", timeout=60)
        for turn in range(5):
            message = b"%d-%d" % (number, turn)
            await stream.write(message)
            assert message == await stream.read()
        await stream.done_writing()
        with contextlib.suppress(asyncio.CancelledError):
            assert grpc.StatusCode.OK == await stream.code()

    await asyncio.gather(*(one(number) for number in range(streams)))
