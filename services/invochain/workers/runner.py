"""Runs loops side by side: one leader each, errors seen and waited out, an orderly end.

A leader that dies frees its lock with its session; a standby asks for it every second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from invochain.chassis.session import Session
from invochain.chassis.telemetry import LEADER, WORKER_RUNS, log
from invochain.workers import Worker
from invochain.workers.backoff import Backoff

STANDBY_S = 1.0
# Longer than any bounded round should take; a round that hangs is cut off, seen and begun again.
ROUND_S_MAX = 60.0
# Rounds under way when the process is told to end may finish; a service's own drain takes as long (chassis/server.py).
DRAIN_S = 15.0

LeaderSession = Callable[[str], Session]


async def run(workers: Sequence[Worker], stop: asyncio.Event, leader: LeaderSession) -> None:
    """Runs every worker until `stop` is set, then lets the rounds under way finish.

    `leader` gives the session on a room's database that keeps its workers' leader locks. A failing round is logged once
    for each change of its error, counted, and tried again after a pause of up to 5 s. A round that outlives the drain
    is cut off, and its worker named in the log.
    """
    loops = [asyncio.create_task(_loop(worker, stop, leader), name=worker.name) for worker in workers]
    stopped = asyncio.create_task(stop.wait())
    try:
        # A loop ends before `stop` only by a mistake of ours; then the process ends, and is started again.
        await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            for worker, loop in zip(workers, loops, strict=True):
                if getattr(worker, "cut_off_at_stop", False):
                    loop.cancel()
            _, late = await asyncio.wait(loops, timeout=DRAIN_S)
            if late:
                log("workers").warning("cut_off", workers=sorted(loop.get_name() for loop in late), after_s=DRAIN_S)
    finally:
        stopped.cancel()
        for loop in loops:
            loop.cancel()
        ended = await asyncio.gather(*loops, return_exceptions=True)
    for failure in ended:
        if isinstance(failure, BaseException) and not isinstance(failure, asyncio.CancelledError):
            raise failure


async def _loop(worker: Worker, stop: asyncio.Event, leader: LeaderSession) -> None:
    events = log("workers")
    backoff: Backoff[None] = Backoff()
    ok, failed = (WORKER_RUNS.labels(worker=worker.name, outcome=outcome) for outcome in ("ok", "failed"))
    error = ""
    full_round = getattr(worker, "full_round", 1)
    while not stop.is_set():
        try:
            async with asyncio.timeout(ROUND_S_MAX):
                leads = not worker.room or await leader(worker.room).lead(f"worker {worker.name}")
                done = await worker.run_once() if leads else 0
        except Exception as failure:  # noqa: BLE001 - the border of a loop: seen, counted, tried again
            failed.inc()
            said, error = error, f"{type(failure).__name__}: {failure}"
            if said != error:
                events.exception("worker_failed", worker=worker.name)
            await _pause(stop, backoff.failed(None))
            continue
        if worker.room:
            LEADER.labels(worker=worker.name).set(int(leads))
        if leads:
            ok.inc()
            backoff.worked([None])
            if error:
                events.info("worker_recovered", worker=worker.name, after=error)
                error = ""
        await _pause(stop, STANDBY_S if not leads else 0 if done >= full_round else worker.interval_s)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        return await asyncio.sleep(0)
    try:
        # Not wait_for: before Python 3.12 that makes a task each time.
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
    return None
