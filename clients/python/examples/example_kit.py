"""What the examples share: merchants to trade with, a line that loses an answer, and checks that end the program."""

from __future__ import annotations

import argparse
import random
import secrets
import socket
import string
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from invochain_client import Client, stack_addresses
from invochain_client.types import Address, Merchant, NewUser

_CHARACTERS = string.digits + string.ascii_uppercase
# The password of a throw-away merchant: new with every run.
_PASSWORD = secrets.token_urlsafe(24)


def the_stack() -> dict[str, str]:
    """The addresses of the stack on this machine: of `--stack PATH`, else of INVOCHAIN_DATA_DIR, else the usual one."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--stack", help="stack.json of the running stack, or its data folder")
    try:
        return stack_addresses(parser.parse_args().stack)
    except RuntimeError as error:
        sys.exit(f"cannot begin: {error}")


def made_up_gstin(state: str = "27") -> str:
    """A GSTIN that is well-formed and nobody's: state, PAN, registration, Z, check character."""
    letters = "".join(random.choices(string.ascii_uppercase, k=3))
    first = f"{state}{letters}C{random.choice(string.ascii_uppercase)}{random.randrange(10_000):04d}A1Z"
    return first + check_character(first)


def check_character(first: str) -> str:
    """The 15th character: weights 1, 2, 1, 2, …; each product counts as its two digits to the base 36."""
    total = 0
    for position, character in enumerate(first):
        product = _CHARACTERS.index(character) * (1 + position % 2)
        total += product // 36 + product % 36
    return _CHARACTERS[-total % 36]


def register(anyone: Client, name: str, state: str = "27") -> tuple[Client, Merchant]:
    """A new merchant: a client signed in as its owner, and the merchant."""
    email = f"owner-{secrets.token_hex(6)}@example.in"
    address = Address(line1="1 Bazaar Road", location="Pune", pin_code="411001")
    merchant = Merchant(gstin=made_up_gstin(state), legal_name=name, address=address)
    registered = anyone.merchants.register(merchant, NewUser(email=email, name="Owner", password=_PASSWORD))
    return anyone.as_user(email, _PASSWORD), registered.message.merchant


def promised(what: str, true: object) -> None:
    """Ends the program with code 1 if something is not as promised."""
    print(f"{'ok ' if true else 'NOT'} {what}")
    if not true:
        sys.exit(1)


@contextmanager
def losing_answers(address: str, count: int = 1) -> Iterator[str]:
    """The address of a line to the gRPC service at `address` that breaks at the first answer it carries, `count` times.

    The service has done its work by then; the caller sees a broken connection.
    """
    host, port = address.rsplit(":", 1)
    listener = socket.create_server(("127.0.0.1", 0))
    left = [count]

    def carry(source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if answers and left[0] and _begins_an_answer(data):
                    left[0] -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection((host, int(port)))
                except OSError:
                    near.close()
                    continue
                for source, target, answers in ((near, far, False), (far, near, True)):
                    threading.Thread(target=carry, args=(source, target, answers), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _begins_an_answer(data: bytes) -> bool:
    """Whether HTTP/2 frames (length, type, flags, stream, payload) hold a HEADERS frame. Small ones come whole."""
    while len(data) >= 9:
        if data[3] == 1:
            return True
        data = data[9 + int.from_bytes(data[:3], "big") :]
    return False
