"""The two clients: AsyncClient is awaited, Client blocks. They open channels, sign in, and hold the resources."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import grpc

from invochain_client.blocking import run_now
from invochain_client.calling import Caller, traceparent
from invochain_client.invoices import AsyncInvoices, Invoices
from invochain_client.merchants import AsyncMerchants, Merchants
from invochain_client.retrying import Timing
from invochain_client.session import Session, User
from invochain_client.stock import AsyncReservations, AsyncStock, Inventory, Reservations
from invochain_client.wire import Addresses, AsyncWire, BlockingWire

ROOMS = ("merchant", "inventory", "invoice")


class AsyncClient:
    """InvoChain for one user, awaited. `async with` closes it.

        async with AsyncClient({"merchant": …, "inventory": …, "invoice": …}, email=…, password=…) as client:
            issued = await client.invoices.create(invoice)

    `address`: host:port of the service of each name, or one host:port where all three answer. Without `email` and
    `password` only what needs no user works; `as_user` makes a client with one on the same channels. `tls`: True,
    False, or gRPC channel credentials; not given, it is plaintext to this machine and TLS to any other. `trace`: gives
    the W3C traceparent of the caller, if there is one (default: the context variable `traceparent`).
    """

    def __init__(
        self,
        address: str | Mapping[str, str],
        *,
        email: str = "",
        password: str = "",
        tls: bool | grpc.ChannelCredentials | None = None,
        timing: Timing | None = None,
        trace: Callable[[], str | None] = traceparent.get,
    ) -> None:
        wire = AsyncWire(addresses(address, tls))
        self._use(Caller(wire, timing or Timing(), None, trace), email, password)

    def _use(self, caller: Caller, email: str, password: str) -> None:
        self._caller = caller
        caller.session = _session(caller, email, password)
        self.merchants = AsyncMerchants(caller)
        self.stock = AsyncStock(caller)
        self.reservations = AsyncReservations(caller)
        self.invoices = AsyncInvoices(caller)

    @classmethod
    def from_stack(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        email: str = "",
        password: str = "",
        timing: Timing | None = None,
    ) -> Self:
        """A client of the stack on this machine (`make run`); `path` is its stack.json or data folder.

        Not given: that of INVOCHAIN_DATA_DIR, else the usual data folder.
        """
        return cls(stack_addresses(path), email=email, password=password, timing=timing)

    def as_user(self, email: str, password: str) -> Self:
        """The same services as another user. Shares this client's channels: they close with it."""
        other = object.__new__(type(self))
        other._use(_sharing(self._caller), email, password)
        return other

    async def close(self) -> None:
        await self._caller.wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Client:
    """InvoChain for one user, blocking; any number of threads may share it. `with` closes it.

        with Client({"merchant": …, "inventory": …, "invoice": …}, email=…, password=…) as client:
            issued = client.invoices.create(invoice)

    The arguments are those of AsyncClient, and so are the methods.
    """

    def __init__(
        self,
        address: str | Mapping[str, str],
        *,
        email: str = "",
        password: str = "",
        tls: bool | grpc.ChannelCredentials | None = None,
        timing: Timing | None = None,
        trace: Callable[[], str | None] = traceparent.get,
    ) -> None:
        wire = BlockingWire(addresses(address, tls))
        self._use(Caller(wire, timing or Timing(), None, trace), email, password)

    def _use(self, caller: Caller, email: str, password: str) -> None:
        self._caller = caller
        caller.session = _session(caller, email, password)
        self.merchants = Merchants(AsyncMerchants(caller))
        self.stock = Inventory(AsyncStock(caller))
        self.reservations = Reservations(AsyncReservations(caller))
        self.invoices = Invoices(AsyncInvoices(caller))

    @classmethod
    def from_stack(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        email: str = "",
        password: str = "",
        timing: Timing | None = None,
    ) -> Self:
        """A client of the stack on this machine (`make run`); `path` is its stack.json or data folder.

        Not given: that of INVOCHAIN_DATA_DIR, else the usual data folder.
        """
        return cls(stack_addresses(path), email=email, password=password, timing=timing)

    def as_user(self, email: str, password: str) -> Self:
        """The same services as another user. Shares this client's channels: they close with it."""
        other = object.__new__(type(self))
        other._use(_sharing(self._caller), email, password)
        return other

    def close(self) -> None:
        run_now(self._caller.wire.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def addresses(address: str | Mapping[str, str], tls: bool | grpc.ChannelCredentials | None) -> Addresses:
    """Where each service is and how to speak to it. Raises ValueError naming what is missing."""
    given = dict.fromkeys(ROOMS, address) if isinstance(address, str) else dict(address)
    wrong = [f"no address for {room}" for room in ROOMS if not given.get(room)]
    wrong += [f"there is no service {name!r}" for name in given if name not in ROOMS]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; wanted is host:port for {', '.join(ROOMS)}, or one for all")
    if isinstance(tls, grpc.ChannelCredentials):
        return Addresses(given, tls)
    if tls is None:
        tls = not all(_is_here(one) for one in given.values())
    return Addresses(given, grpc.ssl_channel_credentials() if tls else None)


def stack_addresses(path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """The services' addresses from stack.json. Raises RuntimeError when no stack is ready there."""
    file = Path(path) if path is not None else _data_folder()
    if file.is_dir() or not file.name.endswith(".json"):
        file /= "stack.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RuntimeError(f"there is no {file}; start a stack with `make run`, or name its stack.json") from None
    if told.get("state") != "ready":
        raise RuntimeError(f"the stack of {file} is {told.get('state')}, not ready; start it with `make run`")
    return {room: told["addresses"][room] for room in ROOMS}


def _data_folder() -> Path:
    """As `invochain up` chooses it."""
    if chosen := os.environ.get("INVOCHAIN_DATA_DIR"):
        return Path(chosen).expanduser()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/invochain")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "invochain"


def _is_here(address: str) -> bool:
    """Whether an address is this machine's own."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _session(caller: Caller, email: str, password: str) -> Session | None:
    if bool(email) != bool(password):
        raise ValueError(f"found {'no password' if email else 'no email'}; both are wanted, or neither")
    return Session(caller.wire, User(email, password), caller.timing) if email else None


def _sharing(caller: Caller) -> Caller:
    return Caller(caller.wire, caller.timing, None, caller.trace, caller.budgets, caller.draw)
