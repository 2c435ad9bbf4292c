"""Limits, both ways; bytes that are no gRPC. A caller that breaks a rule hears of it, and nobody else does."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress

import grpc
import pytest

from invochain.chassis.server import Server
from tests.integration.transport.probe import GOOD, KIB, SERVICE, Doorkeeper, Probe, Wire, until

MIB = KIB * KIB
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


SETTINGS = frame(4, 0, 0)
PASSED_OVER = ("data before headers", "an even stream")


def headers_of(method: str) -> bytes:
    """The headers of a call as an HPACK block, without a token."""
    return b"\x83\x86" + b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in (
            (b":path", f"/{SERVICE}/{method}".encode()),
            (b":authority", b"a"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )


class TestMessages:
    async def test_a_request_of_the_limit_and_one_byte_more(self, wire: Wire):
        """4 MiB are taken."""
        assert 4 * MIB == len(await wire.method("Echo")(bytes(4 * MIB), timeout=60))
        error = await wire.refused("Echo", bytes(4 * MIB + 1), timeout=60)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()
        assert 1 == len(wire.seen.calls)

    async def test_what_anybody_may_send_is_small(self, wire: Wire):
        """64 KiB where no token is wanted: strangers cannot make us hold megabytes."""
        wire.probe.gate.set()
        assert 64 * KIB == len(await wire.method("Wait")(bytes(64 * KIB), timeout=60))
        error = await wire.refused("Wait", bytes(64 * KIB + 1), timeout=60)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()

    async def test_a_caller_who_is_let_in_may_send_the_limit_at_once(self, wire: Wire):
        """4 MiB with a token that was never seen before: the request waits for the look at it, and then comes."""
        metadata = [GOOD, ("idempotency-key", "k" * 16)]
        assert 4 * MIB == len(await wire.method("Collect")(bytes(4 * MIB), metadata=metadata, timeout=60))

    async def test_a_stranger_is_refused_before_his_request_is_read(self, transport: str):
        """Only the headers have come, and the answer is there; grpcio reads all of a request first. A stream is refused
        before it is read on both."""
        server, probe = Server("probe", Doorkeeper(), transport=transport), Probe()
        server.add(probe)
        port = await server.start("127.0.0.1:0")
        for method in ("Private", *(("Keyed", "Collect", "ForIssuers", "ForServices") if transport == "tonic" else ())):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(PREFACE + SETTINGS + frame(1, 4, 1, headers_of(method)))
            # Trailers (END_STREAM) to stream 1, and not one byte of a message was sent.
            async with asyncio.timeout(30):
                while True:
                    head = await reader.readexactly(9)
                    body = await reader.readexactly(int.from_bytes(head[:3]))
                    if (1, 1) == (head[3], int.from_bytes(head[5:])):
                        break
            assert head[4] & 1, f"{method}: {body!r}"
            writer.close()
        assert [] == probe.seen.calls == probe.seen.collected
        await server.drain(0.5)

    async def test_an_answer_of_the_limit_and_one_byte_more(self, wire: Wire):
        """16 MiB are sent."""
        assert 16 * MIB == len(await wire.method("Sized")(b"%d" % (16 * MIB), timeout=60))
        error = await wire.refused("Sized", b"%d" % (16 * MIB + 1), timeout=60)
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()

    async def test_a_compressed_request_is_refused(self, wire: Wire):
        """4 KiB of gzip may be 4 MiB of zeros: nothing is unpacked, and the caller is told to send it plain."""
        call = wire.method("Echo")(bytes(MIB), compression=grpc.Compression.Gzip, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert grpc.StatusCode.UNIMPLEMENTED == refused.value.code()
        assert [] == wire.seen.calls


class TestMetadata:
    async def test_metadata_below_and_above_the_limit(self, wire: Wire):
        """12 KiB are taken, 24 KiB are not; the connection goes on."""
        assert b"" == await wire.method("Echo")(b"", metadata=[("x-long", "a" * 12 * KIB)])
        error = await wire.refused("Echo", metadata=[("x-long", "a" * 24 * KIB)])
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == error.code()
        assert b"" == await wire.method("Echo")(b"")

    async def test_very_much_metadata_do_not_reach_a_method(self, wire: Wire):
        await wire.refused("Echo", metadata=[("x-long", "a" * 200 * KIB)])
        assert [] == wire.seen.calls
        async with grpc.aio.insecure_channel(f"127.0.0.1:{wire.port}") as other:
            assert b"" == await other.unary_unary(f"/{SERVICE}/Echo")(b"", timeout=20, wait_for_ready=True)


class TestStreams:
    async def test_a_connection_has_a_thousand_calls_under_way(self, wire: Wire):
        """Those above wait at the caller; when the others are answered they come."""
        waiting = [asyncio.ensure_future(wire.method("Wait")(b"")) for _ in range(1_050)]
        # The handlers' own budget ends them in 4.8 s: all of them must be there before.
        await until(lambda: wire.seen.under_way_max == 1_000)
        wire.probe.gate.set()
        assert 1_050 == len(await asyncio.gather(*waiting))
        assert 1_000 == wire.seen.under_way_max


class TestHostileBytes:
    """Over plain sockets: the connection ends, and the server lives."""

    @pytest.mark.parametrize(
        "said",
        [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
            bytes(1_000),
            PREFACE + b"\xff" * 1_000,
            PREFACE + SETTINGS + frame(0, 0, 1, b"data of a stream that is not open"),
            PREFACE + SETTINGS + frame(1, 4, 1, b"\xff\xff\xff headers that do not unpack"),
            PREFACE + SETTINGS + frame(1, 4, 2, b"\x82"),
            PREFACE + SETTINGS + frame(8, 0, 0, struct.pack(">I", 0)),
            PREFACE + SETTINGS + frame(6, 0, 0, b"short"),
            PREFACE + SETTINGS + struct.pack(">I", 1 << 23)[1:] + bytes([0, 0, 0, 0, 0, 1]) + bytes(100),
        ],
        ids=[
            "HTTP/1.1",
            "TLS hello",
            "zeros",
            "no frames",
            "data before headers",
            "HPACK that does not read",
            "an even stream",
            "a window update of nothing",
            "a short ping",
            "a frame of 8 MiB",
        ],
    )
    async def test_bytes_that_are_no_grpc_end_their_connection(
        self, wire: Wire, transport: str, said: bytes, request: pytest.FixtureRequest
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        # grpcio passes over frames of streams that cannot be; what must not happen is that somebody else suffers.
        passed_over = transport == "grpcio" and request.node.callspec.id.endswith(PASSED_OVER)
        with suppress(ConnectionError):
            writer.write(said)
            await writer.drain()
            async with asyncio.timeout(30):
                while not passed_over and await reader.read(64 * KIB):
                    pass
        writer.close()
        assert b"still here" == await wire.method("Echo")(b"still here", timeout=20)

    async def test_a_message_that_breaks_off_is_no_message(self, wire: Wire):
        """Five bytes say that a hundred follow; the connection ends after ten. No method sees it."""
        for end in (True, False):
            _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
            data = frame(0, int(end), 1, b"\x00" + struct.pack(">I", 100) + b"0123456789")
            writer.write(PREFACE + SETTINGS + frame(1, 4, 1, headers_of("Echo")) + data)
            await writer.drain()
            writer.close()
        assert b"still here" == await wire.method("Echo")(b"still here", timeout=20)
        assert 1 == len(wire.seen.calls)

    async def test_half_a_hundred_connections_that_say_nothing(self, wire: Wire):
        """They hold nobody up."""
        idle = [await asyncio.open_connection("127.0.0.1", wire.port) for _ in range(50)]
        assert b"served" == await wire.method("Echo")(b"served", timeout=20)
        for _, writer in idle:
            writer.close()
