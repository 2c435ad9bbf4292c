"""Processes that die, a network that drops, doubles, delays and reorders, and a broker that repeats itself.

All of it from one seed. What runs in it is the services' own code, on real PostgreSQL.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from invochain.chassis import clock
from invochain.chassis.broker import Acked, NotAcked, Record
from invochain.chassis.call import Call, Principal
from invochain.chassis.postgres import POOL_WAIT_S, CommitUnknown, Postgres, Tx
from invochain.chassis.target import UNKNOWN
from invochain.errors import DependencyDown, Refusal, Told
from tests.simulation.virtual_time import VirtualTimeLoop


class Died(BaseException):
    """The process is gone; nothing of it goes on."""


# In whose name a task runs; tasks that it starts inherit it.
here: ContextVar[Process] = ContextVar("process")


@dataclass(eq=False)
class Process:
    """One life of a process."""

    name: str
    alive: bool = True

    def go_on(self) -> None:
        if not self.alive:
            raise Died


@dataclass
class Chances:
    """How often what goes wrong, of 1; all 0: nothing does."""

    drop: float = 0.0
    double: float = 0.0
    late: float = 0.0
    die: float = 0.0
    pause: float = 0.0
    commit_unknown: float = 0.0
    not_acked: float = 0.0
    again: float = 0.0


BAD_DAY = Chances(0.08, 0.15, 0.15, 0.012, 0.15, 0.02, 0.15, 0.2)
CALM = Chances()


@dataclass
class World:
    """What a seed decides, and a record of what happened."""

    loop: VirtualTimeLoop
    dice: random.Random
    chances: Chances
    trace: list[str] = field(default_factory=list)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Messages and other things on their way.
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.dice.random() < chance

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.time():10.3f} {what}")
        kind = what.partition(":")[0]
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def start(self, process: Process, work: Awaitable[Any]) -> asyncio.Task[Any]:
        """Runs work in the name of a process."""

        async def run() -> Any:
            here.set(process)
            return await work

        task = self.loop.create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def reach(self, step: str) -> None:
        """Stands for `faults.reach`: here a process dies, or is held up where no transaction is open."""
        process = here.get()
        process.go_on()
        self.note(f"step: {process.name} {step}")
        if self.happens(self.chances.die):
            self.note(f"death: {process.name} at {step}")
            process.alive = False
            raise Died
        if step != "decide.before_commit" and self.happens(self.chances.pause):
            await asyncio.sleep(self.dice.choice((0.01, 0.3, 2.0)))
            process.go_on()

    async def quiet(self) -> None:
        """Waits until nothing is on its way any more. What is left after a minute waits for a process that is dead."""
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=60)
        for task in set(self.tasks):
            task.cancel()

    async def end(self) -> None:
        """Ends what dead processes left behind."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class OneAtATime(Postgres):
    """A pool of a process: one transaction at a time, the virtual clock stands, COMMIT may stay without an answer."""

    world: World

    @asynccontextmanager
    async def _connection(self, wait_s: float) -> AsyncIterator[Any]:
        here.get().go_on()
        async with self.world.turns:
            here.get().go_on()
            with self.world.loop.real():
                async with super()._connection(wait_s) as connection:
                    yield connection

    @asynccontextmanager
    async def transaction(self, wait_s: float = POOL_WAIT_S, *, lsn: bool = False) -> AsyncIterator[Tx]:
        world = self.world
        unknown = world.happens(world.chances.commit_unknown)
        async with super().transaction(wait_s, lsn=lsn) as tx:
            yield tx
            if unknown and world.happens(0.5):
                world.note("commit unknown: it did not")
                raise CommitUnknown
        if unknown:
            world.note("commit unknown: it did")
            raise CommitUnknown


@dataclass(frozen=True)
class Method:
    """A method of a generated stub, taken apart."""

    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


class Wire:
    """Stands for a gRPC channel, of which generated stubs take their methods."""

    def unary_unary(
        self, path: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Method:
        same = bytes
        return Method(path.rpartition("/")[2], request_serializer or same, response_deserializer or same)


class Network:
    """Stands for `Channel`: brings calls of one process to the servicer of another, or does not."""

    what = "the inventory"

    def __init__(self, world: World, server: Callable[[], tuple[Process, Any]]) -> None:
        self.channel = Wire()
        self._world, self._server = world, server

    async def call(self, method: Method, request: Any, *, timeout_s: float, trace: Any = None) -> Any:
        raw = method.encode(request)
        answer: asyncio.Future[bytes] = self._world.loop.create_future()
        copies = 2 if self._world.happens(self._world.chances.double) else 1
        for _ in range(copies):
            self._world.start(here.get(), self._deliver(method, raw, timeout_s, answer))
        try:
            async with asyncio.timeout(timeout_s):
                told = method.decode(await answer)
        except TimeoutError:
            here.get().go_on()
            raise DependencyDown(self.what) from None
        here.get().go_on()
        return told

    async def _deliver(self, method: Method, raw: bytes, timeout_s: float, answer: asyncio.Future[bytes]) -> None:
        if not await self._travels(f"request {method.name}"):
            return
        process, servicer = self._server()
        here.set(process)
        process.go_on()
        # A copy that is late is executed all the same: nobody told it that its caller has gone.
        principal = Principal(service="invoice")
        call = Call(method.name, principal, raw, clock.monotonic() + timeout_s, arrived=clock.monotonic())
        told: bytes | Refusal
        try:
            # Methods that read the bytes themselves take no message.
            read = [REQUESTS[method.name].FromString(raw)] if method.name in REQUESTS else []
            response = await getattr(servicer, method.name)(call, *read)
            told = response if isinstance(response, bytes) else response.SerializeToString()
        except Refusal as refusal:
            told = DependencyDown(self.what) if refusal.code in UNKNOWN else Told(refusal.to_status())
        process.go_on()
        if await self._travels(f"answer {method.name}") and not answer.done():
            if isinstance(told, Refusal):
                answer.set_exception(told)
            else:
                answer.set_result(told)

    async def _travels(self, what: str) -> bool:
        world = self._world
        if world.happens(world.chances.drop):
            world.note(f"lost: {what}")
            return False
        late = world.happens(world.chances.late)
        await asyncio.sleep(world.dice.choice((0.6, 2.5, 7.0, 20.0)) if late else world.dice.uniform(0.0005, 0.02))
        return True

    async def close(self) -> None:
        """Nothing is open."""


class RepeatingBroker:
    """Stands for the broker: durable in order, sometimes without saying so; what was read may come again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.log: list[tuple[str, Record]] = []

    async def publish(self, topic: str, records: Sequence[Record]) -> list[Acked | NotAcked]:
        await asyncio.sleep(0.001)
        told: list[Acked | NotAcked] = []
        for record in records:
            lost = self._world.happens(self._world.chances.not_acked)
            if not lost or self._world.happens(0.5):
                self.log.append((topic, record))
            told.append(NotAcked(OSError("message timed out")) if lost else Acked(0, len(self.log)))
            if lost:
                self._world.note("lost: acknowledgement of the broker")
        return told


REQUESTS: dict[str, Any] = {}
