"""Traffic that does not stop for a fault: clients that issue, accept, reject and cancel until they are told to end.

Seeded: what is asked, in which order, and how often it is asked twice, comes from the seed; only which invoice a move
meets depends on what was issued by then. Of all asks 10 % are duplicates, 2 % a used key with another body; every
fifth is a move, of which some meet a rival. Every client repeats with the same key until its answer is final.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.chaos.doors import LEADS_TO, Answer, Door
from tests.chaos.load import CANCELLED, EXPECTED, Ask, ClientLog, _body
from tests.kit.market import Market, Trader

CLIENTS = 20
# Bounded, whatever happens: a run asks no more than this.
ASKS_MAX = 6_000
# A pause between two asks of a client; with it 20 clients ask about a hundred times a second.
THINK_S = (0.05, 0.25)
REFUSED_MOVES = ("INVALID_STATE", "KEY_REUSED_WITH_DIFFERENT_PAYLOAD")


@dataclass(frozen=True)
class Move:
    """A wish to accept, reject or cancel an invoice."""

    key: str
    move: str
    invoice_id: str


class Traffic:
    """The clients of one seller and one buyer. `start`, faults, `end`."""

    def __init__(
        self,
        market: Market,
        door: Door,
        seller: Trader,
        buyer: Trader,
        log: ClientLog,
        seed: str,
        *,
        clients: int = CLIENTS,
        think_s: tuple[float, float] = THINK_S,
    ) -> None:
        self._market, self._door, self._seller, self._buyer = market, door, seller, buyer
        self.log, self._clients, self._think_s = log, clients, think_s
        self._plan, self._pace = random.Random(seed), random.Random(f"{seed} pace")
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        # Issued and not moved yet; asked lately, to be asked again.
        self._to_move: deque[str] = deque()
        self._lately: deque[Ask | Move] = deque(maxlen=60)
        self.asks: dict[str, Ask] = {}
        self.unknown: Counter[str] = Counter()
        self.replayed = 0
        # Of these, asks whose own first try had no answer.
        self.replayed_unknown = 0
        # When each answer that says done came, by the monotonic clock, and how long its try took; and the moves told
        # done, by invoice.
        self.done_at: list[float] = []
        self.took: list[float] = []
        self.moved: dict[str, set[str]] = defaultdict(set)
        # Every try that has ended, whatever it was told: when, and how long it took.
        self.tries: list[tuple[float, float]] = []

    def start(self) -> None:
        wishes = self._wishes()
        self._tasks = [asyncio.create_task(self._client(wishes), name=f"client {n}") for n in range(self._clients)]

    async def end(self, within_s: float) -> None:
        """No new asks; waits until every client has its final answer. Raises what a client raised."""
        self._ending = True
        try:
            async with asyncio.timeout(within_s):
                await asyncio.gather(*self._tasks)
        except TimeoutError:
            raise AssertionError(
                f"after {within_s:g} s clients still wait for a final answer: {self.unknown}"
            ) from None
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def done(self, count: int, within_s: float) -> float:
        """Waits until so many more asks are done (issued or moved); seconds waited."""
        begun, there = time.monotonic(), len(self.done_at)
        await self._until(lambda: len(self.done_at) >= there + count, within_s, f"{count} more asks done")
        return time.monotonic() - begun

    async def tried(self, count: int, within_s: float) -> None:
        """Waits until so many more tries have ended, whatever they were told."""
        there = len(self.tries)
        await self._until(lambda: len(self.tries) >= there + count, within_s, f"{count} more tries ended")

    def slowest_s(self, since: float) -> float:
        """The longest try that ended since then; for the report."""
        return max((took for at, took in self.tries if at >= since), default=0.0)

    def p95_ms(self, since: float) -> float:
        """The 95th percentile of the tries that were done since then; for the report, no test asserts it."""
        took = sorted(took for at, took in zip(self.done_at, self.took, strict=True) if at >= since)
        return 1_000 * took[len(took) * 95 // 100] if took else 0.0

    async def unanswered(self, count: int, within_s: float) -> None:
        """Waits until clients were told so many more times that the outcome is unknown."""
        there = self.log.unknown
        await self._until(lambda: self.log.unknown >= there + count, within_s, f"{count} more unknown answers")

    async def _until(self, true: Callable[[], bool], within_s: float, what: str) -> None:
        begun = time.monotonic()
        while not true():
            for task in self._tasks:
                if task.done() and not task.cancelled() and (failure := task.exception()):
                    raise failure
            if time.monotonic() - begun > within_s:
                raise AssertionError(f"no {what} within {within_s:g} s; unknown so far: {dict(self.unknown)}")
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------ what is asked

    def _wishes(self) -> Iterator[Ask | Move]:
        """The plan. Bodies are made here, so that they come from the seed alone."""
        chance = self._plan
        for number in range(ASKS_MAX):
            dice, key = chance.random(), f"ask-{number:05d}-{chance.getrandbits(64):016x}"
            lately = self._lately[chance.randrange(len(self._lately))] if self._lately else None
            if dice < 0.10 and lately is not None:
                yield lately
                continue
            if dice < 0.12 and isinstance(lately, Ask):
                body = _body(self._market, self._buyer, "", "sale", chance, units=7)
                yield Ask(lately.key, body, "other body", False)
                continue
            if dice < 0.32 and self._to_move:
                move = chance.choices(("accept", "reject", "cancel"), (6, 2, 2))[0]
                # One in ten stays, for a rival's move to meet.
                invoice_id = self._to_move[0] if chance.random() < 0.1 else self._to_move.popleft()
                wish: Ask | Move = Move(key, move, invoice_id)
            else:
                kind = chance.choices(("sale", "no stock", "too much", "number taken"), (84, 6, 6, 4))[0]
                wish = Ask(key, _body(self._market, self._buyer, "TAKEN/1", kind, chance), kind, False)
                self.asks[key] = wish
            self._lately.append(wish)
            yield wish

    async def _client(self, wishes: Iterator[Ask | Move]) -> None:
        for wish in wishes:
            await (self._create(wish) if isinstance(wish, Ask) else self._move(wish))
            if self._ending:
                return
            await asyncio.sleep(self._pace.uniform(*self._think_s))

    async def _create(self, ask: Ask) -> None:
        answer = await self._until_final(
            ask.key, ask.body.SerializeToString(), lambda: self._door.create(ask.body, self._seller, ask.key)
        )
        expected = (*EXPECTED["sale"], "INSUFFICIENT_STOCK", "DOC_NUMBER_DUPLICATE", CANCELLED)
        wanted = EXPECTED.get(ask.kind, expected)
        # A key whose other body came first is used up for this one.
        assert answer.text.split()[0] in (*wanted, *EXPECTED["sale"][1:]), f"{ask.key} ({ask.kind}): {answer.text}"
        if answer.text.startswith("issued ") and not answer.replayed:
            self._to_move.append(answer.text.removeprefix("issued "))

    async def _move(self, wish: Move) -> None:
        who = self._seller if wish.move == "cancel" else self._buyer
        answer = await self._until_final(
            wish.key,
            f"{wish.move} {wish.invoice_id}".encode(),
            lambda: self._door.move(wish.move, wish.invoice_id, who, wish.key),
        )
        if answer.done:
            assert answer.text == f"moved {LEADS_TO[wish.move]}", f"{wish}: {answer.text}"
            self.moved[wish.invoice_id].add(LEADS_TO[wish.move])
        else:
            assert answer.text in REFUSED_MOVES, f"{wish}: {answer.text}"

    async def _until_final(self, key: str, body: bytes, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        tries = 0
        while True:
            self.log.sent += 1
            tries += 1
            began = time.monotonic()
            answer = await ask()
            self.tries.append((time.monotonic(), time.monotonic() - began))
            self.log.note(key, body, answer.text, final=answer.final)
            if answer.final:
                self.replayed += answer.replayed
                self.replayed_unknown += answer.replayed and tries > 1
                if answer.done:
                    self.done_at.append(time.monotonic())
                    self.took.append(self.done_at[-1] - began)
                return answer
            self.unknown[answer.text] += 1
            # A client's back-off with jitter (PROTOCOL 13).
            await asyncio.sleep(self._pace.uniform(0.05, 0.25))

    async def ask_again(self) -> None:
        """Every creation once more, after all is over: the answers join the log, where they must be the same."""
        waiting = deque(self.asks.values())

        async def client() -> None:
            while waiting:
                ask: Any = waiting.popleft()
                await self._create(ask)

        await asyncio.gather(*(client() for _ in range(self._clients)))
