"""The register of scenarios: what one statement does, told so that each of its guards matters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.guards.world import World

Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: dict[str, tuple[str, Scenario]] = {}


def scenario(room: str, *names: str) -> Callable[[Callable[[World, str], Awaitable[None]]], None]:
    """Says what the statements `names` of a room do; the function gets the name, and asserts."""

    def register(tells: Callable[[World, str], Awaitable[None]]) -> None:
        for name in names:
            assert name not in SCENARIOS, f"{name} has two scenarios"

            async def run(world: World, name: str = name) -> None:
                await tells(world, name)

            SCENARIOS[name] = (room, run)

    return register
