"""Faults on purpose: `INVOCHAIN_FAULT=step:kill` ends this very process at one instruction of the protocol.

A hook is one line at a row of PROTOCOL 6: `await faults.reach("decide.before_commit")`. Unless the setting names that
step it does nothing. The form is `step:action[:nth=N][:after=MS]`:

    kill      SIGKILL to itself: nothing is closed, flushed or told
    stop      SIGSTOP to itself: connections stay open, nobody answers, until somebody sends SIGCONT
    sleep=MS  the task that reached the step waits; the process goes on

`nth`: the N-th time the step is reached, once (default 1). `after`: that task waits MS first while the others go on,
for what must happen before, for example that an answer leaves. Production refuses to start with it (settings.py).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import dataclass

from invochain.chassis.telemetry import log

# Every hook there is, in the order of PROTOCOL 6.
STEPS = {
    "create.marked": "the request is marked as under way; nothing is reserved (invoice)",
    "reserve.send": "Reserve is about to be sent (invoice)",
    "reserve.arrived": "Reserve has arrived; nothing is done yet (inventory)",
    "reserve.committed": "Reserve is committed; its answer is not sent (inventory)",
    "decide.begin": "stock is held; DECIDE has not begun (invoice)",
    "decide.before_commit": "all of DECIDE is written; COMMIT is not sent (invoice)",
    "decide.committed": "COMMIT is acknowledged; nobody is answered (invoice)",
    "confirm.send": "Confirm is about to be sent (invoice, resolver)",
    "refuse.known": "a refusal is known; its FAILED row is not written (invoice)",
    "release.send": "the negative row is committed; Release is about to be sent (invoice, resolver)",
    "relay.published": "the broker has the events; the outbox rows are not deleted (workers)",
    "consumer.handled": "the effect is committed; the position is not (workers)",
    "replay.delivered": "a parked event went on; it is still parked (workers)",
    "replay.repaired": "what a dead letter asked for is done; the letter is REPLAYING (workers)",
}

_FORM = re.compile(r"(?P<step>[a-z._]+):(?P<action>kill|stop|sleep=(?P<ms>\d+))(?P<options>(?::(?:nth|after)=\d+)*)")


@dataclass(slots=True)
class Fault:
    """What is to happen, where, and the how-many-th time from now."""

    step: str
    action: str
    sleep_s: float
    nth: int
    after_s: float


_armed: Fault | None = None


def parse(text: str) -> Fault:
    """Reads the setting. Raises ValueError, which names what was found and what is wanted."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"INVOCHAIN_FAULT is {text!r}; wanted is step:kill|stop|sleep=MS[:nth=N][:after=MS]")
    if found["step"] not in STEPS:
        raise ValueError(f"INVOCHAIN_FAULT names the step {found['step']!r}; there are {', '.join(STEPS)}")
    options = dict(option.split("=") for option in found["options"].split(":") if option)
    nth = int(options.get("nth", 1))
    if nth < 1:
        raise ValueError("INVOCHAIN_FAULT says nth=0; steps are counted from 1")
    sleep_s, after_s = int(found["ms"] or 0) / 1_000, int(options.get("after", 0)) / 1_000
    return Fault(found["step"], found["action"].partition("=")[0], sleep_s, nth, after_s)


def arm(text: str) -> None:
    """Sets the fault of this process; empty: none."""
    global _armed
    _armed = parse(text) if text else None


async def reach(step: str) -> None:
    """A hook: the process has come to `step`."""
    if _armed is not None:
        await _strike(_armed, step)


async def _strike(fault: Fault, step: str) -> None:
    if step not in STEPS:
        raise AssertionError(f"the hook {step!r} is not listed in faults.STEPS")
    if step != fault.step:
        return
    fault.nth -= 1
    if fault.nth != 0:
        return
    # Said first: whoever reads the log of a killed process sees that it was no accident.
    log("chassis").warning("fault", step=step, action=fault.action)
    await asyncio.sleep(fault.after_s + fault.sleep_s)
    if fault.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
