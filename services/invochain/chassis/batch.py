"""Natural batching: what waited while the batch before it was under way is the next batch. No timer.

A single request is a batch of one, so there is one code path. Source: PROTOCOL section 9.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from functools import partial

from invochain.chassis.call import Call
from invochain.chassis.postgres import PASSING
from invochain.chassis.telemetry import BATCH_ITEMS, BATCH_WAITING, EXPIRED, log
from invochain.errors import BulkheadFull, DeadlineTooShort, DependencyDown, InternalError, Refusal, ShuttingDown

# A batch lives at most this long; T_abort of the resolver (30 s) is longer on purpose (PROTOCOL 8).
TASK_LIFE_S = 15.0
# Requests of a batch together: what a batch asks of another service must fit into one message of 4 MiB.
BATCH_BYTES_MAX = 3 * 1024 * 1024
# Batches a collector may have under way beside its slots, each because it waits for a service that hangs.
STALLED_MAX = 64

_give_up_slot: ContextVar[Callable[[], None] | None] = ContextVar("give_up_slot", default=None)


def let_the_next_begin() -> None:
    """Says that the batch of this task waits for somebody else: those behind it need not. No batch: nothing happens."""
    if give_up := _give_up_slot.get():
        give_up()


_last_step: ContextVar[Callable[[], None] | None] = ContextVar("last_step", default=None)


def let_as_many_begin() -> None:
    """Says that the batch of this task is in its last step: the next one may begin beside it once as many calls wait.

    Fewer would make small batches, and what a batch costs hardly depends on its size. No batch: nothing happens.
    """
    if last_step := _last_step.get():
        last_step()


class Collector:
    """Collects calls and runs them in batches, `slots` of them at a time.

    `run` answers every call it is given, or returns those that it handed to a lane, which answers them later. One that
    is left unanswered is told INTERNAL, and an exception refuses the whole batch. The batch's task is not the
    handler's: a client that hangs up cancels nothing (PROTOCOL 3).
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Call]], Awaitable[Collection[Call] | None]],
        *,
        slots: int,
        items_max: int,
        waiting_max: int,
    ) -> None:
        self._name, self._run = name, run
        self._slots, self._items_max, self._waiting_max = slots, items_max, waiting_max
        self._waiting: deque[Call] = deque()
        self._running: set[asyncio.Task[None]] = set()
        # Those of them that gave up their slot.
        self._stalled: set[asyncio.Task[None]] = set()
        # Those in their last step, with the number of their calls.
        self._ending: dict[asyncio.Task[None], int] = {}
        self._stopped = self._starting = False
        self._expired = EXPIRED.labels(where=name)
        self._items = BATCH_ITEMS.labels(batch=name)
        self._depth = BATCH_WAITING.labels(batch=name)
        self._log = log("chassis")

    async def submit(self, call: Call) -> bytes:
        """Joins the calls that wait and returns this call's answer, or raises its refusal."""
        self.put([call])
        return await asyncio.shield(call.answer)

    def put(self, calls: list[Call]) -> None:
        """Joins the calls that wait; each gets its answer by its own future."""
        if self._stopped:
            raise ShuttingDown()
        if len(self._waiting) + len(calls) > self._waiting_max:
            raise BulkheadFull(self._name)
        self._waiting.extend(calls)
        if not self._starting:
            # At the end of this turn: what came with one wake-up of the transport waits together.
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._starting = False
        self._depth.set(len(self._waiting))
        while self._waiting and self._slot_is_free():
            batch: list[Call] = []
            size = 0
            while self._waiting and len(batch) < self._items_max:
                size += len(self._waiting[0].raw)
                if batch and size > BATCH_BYTES_MAX:
                    break
                call = self._waiting.popleft()
                if call.remaining() <= 0:
                    self._expired.inc()
                    call.refuse(DeadlineTooShort("while it waited for its batch"))
                else:
                    batch.append(call)
            self._depth.set(len(self._waiting))
            if batch:
                task = asyncio.create_task(self._one(batch), name=f"batch:{self._name}")
                self._running.add(task)
                task.add_done_callback(self._finished)

    def _slot_is_free(self) -> bool:
        busy = len(self._running) - len(self._stalled)
        if busy < self._slots:
            return True
        return busy - len(self._ending) < self._slots and len(self._waiting) >= max(self._ending.values())

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._stalled.discard(task)
        self._ending.pop(task, None)
        self._start()

    def _end(self, task: asyncio.Task[None], items: int) -> None:
        # A lane begun by a batch may say so when that batch is long done.
        if task in self._running and task not in self._stalled:
            self._ending[task] = items
            self._start()

    def _stall(self, task: asyncio.Task[None]) -> None:
        if task in self._running and len(self._stalled) < STALLED_MAX:
            # Its last step was not the last: some of its calls began another attempt.
            self._ending.pop(task, None)
            self._stalled.add(task)
            self._start()

    async def _one(self, batch: list[Call]) -> None:
        task = asyncio.current_task()
        assert task is not None
        _give_up_slot.set(partial(self._stall, task))
        _last_step.set(partial(self._end, task, len(batch)))
        self._items.observe(len(batch))
        try:
            async with asyncio.timeout(TASK_LIFE_S):
                handed_over = set(await self._run(batch) or ())
        except TimeoutError:
            _refuse(batch, DeadlineTooShort("while its batch was under way"))
        except Refusal as refusal:
            _refuse(batch, refusal)
        except PASSING:
            _refuse(batch, DependencyDown("the database"))
        except Exception:  # noqa: BLE001 - the border of a batch: what nobody expected is logged and told as unknown
            self._log.exception("batch_failed", batch=self._name, items=len(batch))
            _refuse(batch, None)
        else:
            forgotten = [call for call in batch if not call.answer.done() and call not in handed_over]
            if forgotten:
                self._log.error("batch_left_calls_unanswered", batch=self._name, calls=len(forgotten))
                _refuse(forgotten, None)

    async def drain(self, within_s: float = TASK_LIFE_S) -> None:
        """Takes no more calls and waits until those it has are answered."""
        self._stopped = True
        self._start()
        deadline = asyncio.get_running_loop().time() + within_s
        while (self._running or self._waiting) and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left)


def _refuse(batch: list[Call], refusal: Refusal | None) -> None:
    for call in batch:
        if not call.answer.done():
            call.refuse(refusal or InternalError(call.request_id))
