"""TLS with certificates made here: who is let in, by which version; on the tonic door 1.3 and nothing older."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from invochain.chassis.channel import OPTIONS
from invochain.chassis.door import Tls
from invochain.chassis.server import Server
from tests.integration.transport.probe import SERVICE, Doorkeeper, Probe, fails
from tests.kit.certificates import Authority, Pair
from tests.kit.fault_proxy import Link


@dataclass
class Secure:
    """A server over TLS, and the authorities on both sides."""

    port: int
    ours: Authority
    callers: Authority

    async def echo(self, client: Pair | None, *, roots: bytes | None = None) -> bytes:
        credentials = grpc.ssl_channel_credentials(
            roots or self.ours.pem, client.key if client else None, client.certificate if client else None
        )
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials) as channel:
            return await channel.unary_unary(f"/{SERVICE}/Echo")(b"secret", timeout=10)

    async def handshake(self, version: ssl.TLSVersion, client: Pair | None, folder: Path) -> str | None:
        """The version that a plain TLS client gets when it offers one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(cadata=self.ours.pem.decode())
        context.set_alpn_protocols(["h2"])
        if client:
            (folder / "client.pem").write_bytes(client.certificate + client.key)
            context.load_cert_chain(folder / "client.pem")
        _, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        try:
            return writer.get_extra_info("ssl_object").version()
        finally:
            writer.close()


async def _secure(transport: str, *, mutual: bool) -> AsyncIterator[Secure]:
    ours, callers = Authority("ours"), Authority("callers")
    pair = ours.issue("server")
    tls = Tls(pair.certificate, pair.key, callers.pem if mutual else None)
    server, probe = Server("probe", Doorkeeper(), transport=transport, tls=tls), Probe()
    server.add(probe)
    yield Secure(await server.start("127.0.0.1:0"), ours, callers)
    await server.drain(1)


@pytest.fixture
async def secure(transport: str) -> AsyncIterator[Secure]:
    async for made in _secure(transport, mutual=False):
        yield made


@pytest.fixture
async def mutual(transport: str) -> AsyncIterator[Secure]:
    async for made in _secure(transport, mutual=True):
        yield made


async def test_a_call_over_tls(secure: Secure):
    assert b"secret" == await secure.echo(None)


async def test_a_caller_that_does_not_trust_us_stays_away(secure: Secure):
    assert grpc.StatusCode.UNAVAILABLE == (await fails(secure.echo(None, roots=Authority("other").pem))).code()


async def test_a_handshake_that_takes_longer_than_the_pause_between_two_tries(secure: Secure):
    """As between busy machines: what sets the connection up takes 1.6 s, and the channel does not give it up sooner."""
    link = await Link("slow", "127.0.0.1", secure.port).start()
    link.delay(0.4)
    credentials = grpc.ssl_channel_credentials(secure.ours.pem)
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{link.port}", credentials, OPTIONS) as slow:
            echo = slow.unary_unary(f"/{SERVICE}/Echo")
            assert b"secret" == await echo(b"secret", timeout=20, wait_for_ready=True)
    finally:
        await link.close()


async def test_plain_text_is_not_served(secure: Secure):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{secure.port}") as channel:
        error = await fails(channel.unary_unary(f"/{SERVICE}/Echo")(b"", timeout=10))
    assert grpc.StatusCode.UNAVAILABLE == error.code()


async def test_a_caller_with_a_certificate_of_its_authority(mutual: Secure):
    assert b"secret" == await mutual.echo(mutual.callers.issue("partner"))


async def test_a_foreign_certificate_or_none_is_refused(mutual: Secure):
    """Signed by somebody else, signed by the server's own authority, none at all."""
    for client in (Authority("foreign").issue("partner"), mutual.ours.issue("partner"), None):
        assert grpc.StatusCode.UNAVAILABLE == (await fails(mutual.echo(client))).code()


async def test_tls_1_3_is_spoken(secure: Secure, tmp_path: Path):
    assert "TLSv1.3" == await secure.handshake(ssl.TLSVersion.TLSv1_3, None, tmp_path)


async def test_tls_1_2_is_refused(secure: Secure, transport: str, tmp_path: Path):
    """By rustls. The C core of grpcio lets Python set no minimum: whoever needs one takes the other door."""
    if transport == "grpcio":
        assert "TLSv1.2" == await secure.handshake(ssl.TLSVersion.TLSv1_2, None, tmp_path)
        return
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await secure.handshake(ssl.TLSVersion.TLSv1_2, None, tmp_path)


async def test_certificates_that_do_not_read_stop_the_start():
    """The server says so instead of serving without."""
    pair, other = Authority("a").issue("server"), Authority("b").issue("server")
    for tls in (Tls(b"no PEM", pair.key), Tls(pair.certificate, b"no PEM"), Tls(pair.certificate, other.key)):
        with pytest.raises(OSError, match="TLS"):
            await Server("probe", None, transport="tonic", tls=tls).start("127.0.0.1:0")
