"""Channels to our own services, over TLS where the settings name the authority of their certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from invochain.chassis.settings import settings

Options = Sequence[tuple[str, Any]]


def credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials | None:
    """For calls to servers whose certificates are of `ca`, showing our own if there is one; None: plain text.

    Raises OSError: a file cannot be read.
    """
    if ca is None:
        return None
    ours = (key.read_bytes(), cert.read_bytes()) if key and cert else (None, None)
    return grpc.ssl_channel_credentials(ca.read_bytes(), *ours)


def channel(kind: Any, address: str, secure: grpc.ChannelCredentials | None, options: Options = ()) -> Any:
    """A channel to the server at host:port. `kind`: grpc.aio, or grpc for code without a loop; `secure`: over TLS."""
    if secure is None:
        return kind.insecure_channel(address, options=options)
    return kind.secure_channel(address, secure, options=options)


def open_channel(address: str, options: Options = ()) -> Any:
    """A channel for this loop to the service at host:port."""
    return channel(grpc.aio, address, _ours(), options)


def blocking_channel(address: str) -> Any:
    """The same for code without a loop."""
    return channel(grpc, address, _ours())


def _ours() -> grpc.ChannelCredentials | None:
    config = settings()
    return credentials(config.tls_ca_file, config.tls_cert_file, config.tls_key_file)
