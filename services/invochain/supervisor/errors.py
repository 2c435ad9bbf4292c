"""What the supervisor says when it cannot go on: what was found, and the command or choice that mends it."""

from __future__ import annotations


class CannotStart(Exception):
    """Something the stack needs is missing, in the way, or did not come up.

    `found` is one sentence about this machine; `remedy` is the next step, empty when there is none to give.
    """

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}\n{remedy}" if remedy else found)
        self.found = found
        self.remedy = remedy
