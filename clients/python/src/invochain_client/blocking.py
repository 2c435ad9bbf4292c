"""The synchronous face of the asynchronous code: everything is written once, as coroutines over a wire.

Over a blocking wire a coroutine never suspends: what it awaits has happened when it comes back. So it is run by one
`send`, in the caller's own thread; there is no event loop and no thread behind a `Client`.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
_END = object()


def run_now(work: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine that never suspends."""
    try:
        work.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    work.close()
    raise AssertionError("a coroutine waited for an event loop; over a blocking wire nothing may")


def iterate_now(items: AsyncGenerator[R, None]) -> Iterator[R]:
    """Walks an asynchronous generator that never suspends."""

    async def step() -> Any:
        return await anext(items, _END)

    try:
        while (item := run_now(step())) is not _END:
            yield item
    finally:
        run_now(items.aclose())


class Face(Protocol):
    """A synchronous resource: `_behind` is the asynchronous one it shows."""

    @property
    def _behind(self) -> Any: ...


class blocking(Generic[P, R]):
    """`create = blocking(AsyncInvoices.create)`: the same method with the same arguments, returning when it is done."""

    def __init__(self, method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, face: Face, owner: object = None) -> Callable[P, R]:
        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return run_now(self._method(face._behind, *args, **kwargs))

        return call


class iterating(Generic[P, R]):
    """The same for a method that yields: a plain iterator."""

    def __init__(self, method: Callable[Concatenate[Any, P], AsyncGenerator[R, None]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, face: Face, owner: object = None) -> Callable[P, Iterator[R]]:
        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
            return iterate_now(self._method(face._behind, *args, **kwargs))

        return call
