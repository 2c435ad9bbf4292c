"""What chaos tests share: the report at the end of a file, and one InvoChain with a link between any two of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.chaos.experiment import Field, open_field
from tests.chaos.figures import Figures, Run
from tests.kit.market import ROOMS, make_templates
from tests.kit.servers import PostgresServer, ValkeyServer

LINKS = (
    "client>gateway",
    "gateway>invoice",
    "invoice>inventory",
    "invoice>invoice-database",
    "inventory>inventory-database",
    "workers>broker-database",
    "invoice>redis",
)
# Rooms whose database server may be killed: each has one of its own. The short form's broker is cut off by its link.
OWN_SERVERS = {False: ("inventory", "invoice"), True: ("inventory", "invoice", "broker")}


FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of all experiments, in one place to copy from."""
    figures = config.stash[FIGURES]
    if not figures.runs:
        return
    ended = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    terminalreporter.section("chaos")
    for line in figures.keep([one.nodeid for one in ended]):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Figures:
    """What all experiments of this session have counted."""
    return request.config.stash[FIGURES]


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, figures: Figures) -> Iterator[list[str | Run]]:
    """Lines that are printed when the file is done, whatever pytest captures; those of experiments also at the end."""
    lines: list[str | Run] = []
    yield lines
    figures.runs += [line for line in lines if isinstance(line, Run)]
    plugins = request.config.pluginmanager
    reporter = plugins.getplugin("terminalreporter")
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(str(line))


@pytest.fixture(
    scope="session", params=[pytest.param(False, id="short"), pytest.param(True, id="full", marks=pytest.mark.long)]
)
async def linked(
    request: pytest.FixtureRequest,
    templates: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Field]:
    """One stack for all experiments of a form: servers that may be killed, links, the gateway."""
    async with AsyncExitStack() as stack:
        servers, own = dict.fromkeys(ROOMS, templates), OWN_SERVERS[request.param]
        for room in own:
            servers[room] = await stack.enter_async_context(PostgresServer())
        await asyncio.gather(*(make_templates(servers[room], (room,)) for room in own))
        valkey = await stack.enter_async_context(ValkeyServer())
        field = await stack.enter_async_context(
            open_field(
                servers,
                valkey,
                tmp_path_factory.mktemp("linked"),
                [],
                gateway=True,
                links=LINKS,
                # The short form waits less for what is lost, and its bounds are lower.
                INVOCHAIN_ABORT_AFTER_MS=30_000 if request.param else 4_000,
                INVOCHAIN_GATEWAY_DEADLINE="5s" if request.param else "2s",
                INVOCHAIN_BREAKER_OPEN_MS=30_000 if request.param else 3_000,
                INVOCHAIN_REUSE_PORT="true",
            )
        )
        field.full = request.param
        yield field


@pytest.fixture
def field(linked: Field, report: list[str | Run]) -> Field:
    """The shared stack, reporting to this file."""
    linked.report = report
    return linked
