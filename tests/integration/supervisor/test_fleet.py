"""Several processes of a service behind one port: one endpoint of figures, crashes mended, one invoice a key."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.supervisor.process import descendants
from tests.kit.market import fresh_key
from tests.kit.processes import RECONNECT, open_processes

WITHIN_S = 60.0
# A connection of its own: the kernel gives each to one process or another.
ALONE = [("grpc.use_local_subchannel_pool", 1)]
# The load on three processes: so many clients at once, and at most so many keys each.
CLIENTS = 12
KEYS_MAX = 1_000
# What a client answers by repeating with the same key.
AGAIN = (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
# Series of counters and histograms.
GROWS = re.compile(r"\w+_(total|count|sum|bucket)(\{|$)")


@pytest.fixture
async def two_of_each(templates, market_valkey, tmp_path):
    """Two processes of every service, and a market over their doors."""
    async with AsyncExitStack() as stack:
        yield await open_processes(stack, templates, market_valkey, tmp_path, INVOCHAIN_SERVICE_WORKERS=2)


def metrics(processes, name: str) -> str:
    url = f"http://127.0.0.1:{processes.ports[name + '-metrics']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def workers(processes, name: str) -> set[str]:
    """The processes behind a port that have figures, by name."""
    return set(re.findall(r'process_resident_memory_bytes\{worker="([^"]+)"\}', metrics(processes, name)))


def children(processes, name: str) -> list[int]:
    return descendants(processes.running[name].pid)


async def eventually(holds) -> None:
    """Looks from a thread: who trades meanwhile goes on."""
    async with asyncio.timeout(WITHIN_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.05)


async def ask_for_keys(processes, times: int) -> None:
    """Calls of the merchant service, each over a connection of its own."""
    for _ in range(times):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{processes.ports['merchant']}", options=ALONE) as channel:
            await MerchantServiceStub(channel).GetJsonWebKeySet(pb.GetJsonWebKeySetRequest(), timeout=10)


async def test_one_endpoint_has_the_figures_of_all_processes_and_a_crash_is_mended(two_of_each):
    """Given two processes, calls over many connections are counted in one place; one that is killed comes back, and
    what it counted is not lost."""
    processes, _ = two_of_each

    def counted() -> int:
        found = re.findall(
            r'grpc_server_handled_total\{code="OK",method="GetJsonWebKeySet"\} ([\d.]+)', metrics(processes, "merchant")
        )
        return int(float(found[0])) if found else 0

    before = counted()
    await ask_for_keys(processes, 20)
    assert counted() == before + 20
    assert workers(processes, "merchant") == {"merchant-1", "merchant-2"}

    first, *_ = old = children(processes, "merchant")
    os.kill(first, signal.SIGKILL)

    await eventually(lambda: len(now := children(processes, "merchant")) == 2 and first not in now)
    await eventually(lambda: len(workers(processes, "merchant")) == 2)
    assert set(children(processes, "merchant")) & set(old), "the other process went on"
    counted_before = counted()
    assert counted_before >= before + 20
    await ask_for_keys(processes, 5)
    assert counted() == counted_before + 5


async def test_a_key_that_reaches_both_processes_at_once_makes_one_invoice(two_of_each):
    """Given the same request over ten connections at once, there is one invoice, and its stock is taken once."""
    processes, market = two_of_each
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller)
    request, key = market.invoice(buyer), fresh_key()

    async def once(channel) -> str:
        stub = InvoiceServiceStub(channel)
        while True:
            try:
                return str((await market.call(stub.CreateInvoice, request, seller, key)).invoice_id)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
                    raise

    async with AsyncExitStack() as stack:
        address = f"127.0.0.1:{processes.ports['invoice']}"
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=ALONE)) for _ in range(10)
        ]
        async with asyncio.timeout(WITHIN_S):
            invoices = await asyncio.gather(*(once(channel) for channel in channels))

    assert len(set(invoices)) == 1
    assert await market.stock(seller) == (100, 10)
    busy = {pid for pid in children(processes, "invoice") if sockets(pid)}
    assert len(busy) == 2, "void: only one process listens"


@pytest.fixture
async def three_of_invoice(templates, market_valkey, tmp_path):
    """Three processes of the invoice service, which may be silent for 4 s, and one of every other."""
    async with AsyncExitStack() as stack:
        processes, market = await open_processes(stack, templates, market_valkey, tmp_path, INVOCHAIN_HUNG_AFTER_S=4)
        processes.own["invoice"] = {"INVOCHAIN_SERVICE_WORKERS": "3"}
        await processes.restart("invoice")
        # Its port is served from the first of them on; the figures, and the watch, come with the last.
        await processes.said("invoice", '"processes": 3', WITHIN_S)
        yield processes, market


async def test_a_fleet_under_load_replaces_who_is_killed_and_who_hangs_and_every_key_has_one_invoice(three_of_invoice):
    """Given three processes and clients that repeat with the same key, one is killed, one hangs, and the last, which
    was only busy, is told to stop: each is replaced, every key has one invoice, counters never go down, and nothing
    that the dead did counts as under way."""
    processes, market = three_of_invoice
    seller, buyer = await market.register(), await market.register()
    await market.stock_up(seller, units=CLIENTS * KEYS_MAX)
    request = market.invoice(buyer, market.line(units=1))
    address, answers, enough = f"127.0.0.1:{processes.ports['invoice']}", {}, asyncio.Event()

    async def create(stub: InvoiceServiceStub, key: str) -> str:
        while True:
            try:
                return str((await market.call(stub.CreateInvoice, request, seller, key)).invoice_id)
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise
            await asyncio.sleep(0.05)

    async def client() -> None:
        async with grpc.aio.insecure_channel(address, options=[*ALONE, *RECONNECT]) as channel:
            for _ in range(KEYS_MAX):
                if enough.is_set():
                    return
                key = fresh_key()
                answers[key] = await create(InvoiceServiceStub(channel), key)

    async def traded(more: int) -> None:
        wanted = len(answers) + more
        await eventually(lambda: len(answers) >= wanted)

    async def replaced(victim: int) -> None:
        await eventually(lambda: len(now := children(processes, "invoice")) == 3 and victim not in now)
        await eventually(lambda: workers(processes, "invoice") == {"invoice-1", "invoice-2", "invoice-3"})
        await traded(50)

    killed, hung, busy = children(processes, "invoice")
    async with asyncio.timeout(3 * WITHIN_S), asyncio.TaskGroup() as group:
        watch = group.create_task(never_down(lambda: counters(processes, "invoice")))
        clients = [group.create_task(client()) for _ in range(CLIENTS)]
        await traded(50)
        os.kill(killed, signal.SIGKILL)
        await replaced(killed)
        os.kill(hung, signal.SIGSTOP)
        await replaced(hung)
        assert busy in children(processes, "invoice"), "it was only busy"
        os.kill(busy, signal.SIGTERM)
        await replaced(busy)
        enough.set()
        await asyncio.gather(*clients)
        watch.cancel()

    assert len(set(answers.values())) == len(answers)
    async with grpc.aio.insecure_channel(address, options=ALONE) as channel:
        again = await asyncio.gather(*(create(InvoiceServiceStub(channel), key) for key in answers))
    assert again == list(answers.values())
    assert (await market.sql("invoice", "SELECT count(*) FROM invoice"))[0]["count"] == len(answers)
    assert await market.stock(seller) == (CLIENTS * KEYS_MAX, len(answers))
    await eventually(lambda: not under_way(processes, "invoice"))


def counters(processes, name: str) -> dict[str, float]:
    """What can only grow, by series; what the kernel counts of one process begins anew with the next."""
    lines = metrics(processes, name).splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith(("#", "process_")))
    return {series: float(value) for series, _, value in samples if GROWS.match(series)}


def under_way(processes, name: str) -> list[str]:
    """The gauges of work in hand that are not at rest."""
    return re.findall(
        r"^(?:pg_connections_active|batch_waiting|bulkhead_in_flight)\{.+\} (?!0\.0$).+$",
        metrics(processes, name),
        re.M,
    )


async def never_down(read: Callable[[], dict[str, float]]) -> None:
    """Reads over and over until it is cancelled; fails when a series has gone down, or is gone."""
    before: dict[str, float] = {}
    while True:
        now = await asyncio.to_thread(read)
        fallen = {series: (value, now.get(series)) for series, value in before.items() if now.get(series, -1) < value}
        assert not fallen
        before = now
        await asyncio.sleep(0.05)


def sockets(pid: int) -> bool:
    """Whether a process holds a listening TCP socket."""
    listening = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    held = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            held.add(os.readlink(entry.path))
        except OSError:
            continue
    return any(f"socket:[{inode}]" in held for inode in listening)


async def test_told_to_stop_all_processes_end_in_good_order(two_of_each):
    """Given SIGTERM to the parent, each process drains and ends; nobody is left."""
    processes, _ = two_of_each
    pids = [processes.running["inventory"].pid, *children(processes, "inventory")]
    assert len(pids) == 3

    assert await processes.running.pop("inventory").stop() == 0

    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


async def test_a_service_whose_process_cannot_start_says_why_and_ends(two_of_each):
    """Given a database that is not there, `serve --workers 2` ends with words and an exit code."""
    processes, _ = two_of_each
    await processes.stop("inventory")
    broken = {**processes.environment, "INVOCHAIN_INVENTORY_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}

    process = await asyncio.create_subprocess_exec(
        *("invochain", "serve", "inventory"),
        env={**broken, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        _, words = await process.communicate()

    assert process.returncode == 1
    assert b"before it was ready" in words
