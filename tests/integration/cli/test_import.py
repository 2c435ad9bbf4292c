"""`invochain import FILE` as a user runs it, against real processes: killed, resumed, corrected, never twice."""

from __future__ import annotations

import asyncio
import csv
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGKILL

import pytest
from google.protobuf import json_format

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from tests.kit.processes import open_processes

WITHIN_S = 120


@pytest.fixture(scope="module")
async def stack(templates, market_valkey, tmp_path_factory):
    """The processes of this file, and a market over their doors."""
    async with AsyncExitStack() as stack:
        yield await open_processes(stack, templates, market_valkey, tmp_path_factory.mktemp("processes"))


@pytest.fixture
async def traders(stack):
    _, market = stack
    return await market.register(), await market.register()


async def start(stack, seller, file: Path, *options: str) -> asyncio.subprocess.Process:
    processes, _ = stack
    address = f"127.0.0.1:{processes.ports['invoice']}"
    return await asyncio.create_subprocess_exec(
        *("invochain", "import", str(file), "--source", "test", "--address", address, *options),
        env={"PATH": os.environ["PATH"], "HOME": str(file.parent), "INVOCHAIN_TOKEN": seller.token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(stack, seller, file: Path, *options: str) -> tuple[int, str, str]:
    """The exit code, what it said, and what it complained of."""
    process = await start(stack, seller, file, *options)
    async with asyncio.timeout(WITHIN_S):
        said, complained = await process.communicate()
    return process.returncode or 0, said.decode(), complained.decode()


def line(market, buyer, **more) -> str:
    invoice = market.invoice(buyer, market.line(sku=""), **more).invoice
    return json.dumps(json_format.MessageToDict(invoice, preserving_proto_field_name=True))


async def issued(market, seller) -> int:
    rows = await market.sql(
        "invoice", "SELECT count(*) FROM invoice WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
    )
    return int(rows[0]["count"])


def offset(file: Path) -> int:
    try:
        return int(json.loads(file.with_name(f"{file.name}.import.json").read_text())["offset"])
    except FileNotFoundError:
        return 0


async def test_killed_on_both_sides_it_goes_on_where_it_stopped_and_issues_each_once(stack, traders, tmp_path):
    """Given 3,000 invoices, the import is killed with -9, then the service under the second one, then the third ends
    it: 3,000 invoices, none twice, and the last run did not begin anew."""
    processes, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    file.write_text("".join(line(market, buyer, notes=str(n)) + "\n" for n in range(3_000)))

    first = await start(stack, seller, file)
    async with asyncio.timeout(WITHIN_S):
        while not offset(file):
            assert first.returncode is None, "void: it ended before it was killed"
            await asyncio.sleep(0.005)
    first.kill()
    assert await first.wait() == -SIGKILL, "void: it ended before it was killed"
    stopped_at = offset(file)
    assert 0 < stopped_at < 3_000, "void: it was done already"

    second = asyncio.create_task(run(stack, seller, file))
    async with asyncio.timeout(WITHIN_S):
        while offset(file) == stopped_at:
            await asyncio.sleep(0.005)
    await processes.kill9("invoice")
    assert offset(file) < 3_000, "void: it was done already"
    await processes.start("invoice")
    code, said, complained = await second

    assert (code, complained) == (0, "")
    assert await issued(market, seller) == 3_000
    assert said.endswith(" 0 refused\n")
    counts = json.loads(file.with_name("sales.jsonl.import.json").read_text())
    assert counts["issued"] + counts["replayed"] == 3_000
    assert counts["consistency_token"]
    assert await run(stack, seller, file) == (0, said, "")
    assert await issued(market, seller) == 3_000


async def test_what_is_refused_is_reported_by_line_and_corrected_without_issuing_the_rest_again(
    stack, traders, tmp_path
):
    """A wrong HSN, a float, broken JSON and two right ones; corrected and run from the start: five invoices."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    good = [line(market, buyer, notes=str(n)) for n in range(2)]
    wrong = json.loads(line(market, buyer))
    wrong["lines"][0]["hsn"] = "7318AB"
    unlike = good[0].replace('"10000"', "10.5")
    assert unlike != good[0]
    file.write_text("\n".join([good[0], json.dumps(wrong), unlike, "{", good[1]]) + "\n")

    code, said, _ = await run(stack, seller, file)

    with open(file.with_name("sales.jsonl.refused.csv"), newline="") as report:
        told = [(int(row["line"]), row["reason"], row["code"]) for row in csv.DictReader(report)]
    assert (code, said.splitlines()[0]) == (1, "2 issued, 0 issued before, 3 refused")
    assert told == [
        (2, "VALIDATION_FAILED", "HSN_FORMAT_INVALID"),
        (3, "UNREADABLE", "UNREADABLE"),
        (4, "UNREADABLE", "UNREADABLE"),
    ]

    wrong["lines"][0]["hsn"] = "731815"
    file.write_text("\n".join([good[0], json.dumps(wrong), good[0], good[0], good[1]]) + "\n")
    changed = await run(stack, seller, file)
    assert (changed[0], "--from-start" in changed[2]) == (1, True)

    assert (await run(stack, seller, file, "--from-start"))[:2] == (0, "3 issued, 2 issued before, 0 refused\n")
    assert await issued(market, seller) == 5


@pytest.mark.parametrize("lines", [1, 2, 5], ids=["shorter", "as long", "longer"])
async def test_another_file_of_the_same_name_is_never_taken_for_the_one_that_is_done(stack, traders, tmp_path, lines):
    """Yesterday's file is imported; today's has its name. Nothing is skipped in silence, whatever its length."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    file.write_text("".join(line(market, buyer, notes=f"yesterday {n}") + "\n" for n in range(2)))
    assert (await run(stack, seller, file))[0] == 0
    file.write_text("\n" * (lines > 2) + "".join(line(market, buyer, notes=f"today {n}") + "\n" for n in range(lines)))

    code, _, complained = await run(stack, seller, file)

    assert (code, "--from-start" in complained) == (1, True)
    assert (await run(stack, seller, file, "--from-start", "--source", "today"))[0] == 0
    assert await issued(market, seller) == 2 + lines


async def test_a_csv_is_imported(stack, traders, tmp_path):
    """Two lines of one invoice and one of another; the figures are the law's."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.csv"
    columns = "invoice,supply_type,buyer.gstin,buyer.place_of_supply,buyer.legal_name"
    columns += ",line.description,line.hsn,line.quantity,line.unit,line.unit_price,line.gst_rate"
    head = f"B2B,{buyer.gstin},27,The buyer"
    file.write_text(
        f"{columns}\n1,{head},Bolt,731815,10,NOS,1000,18\n1,{head},Nut,731816,1.5,NOS,0.33,18\n"
        f"2,{head},Bolt,731815,1,NOS,99.99,18\n"
    )

    assert await run(stack, seller, file) == (0, "2 issued, 0 issued before, 0 refused\n", "")

    rows = await market.sql(
        "invoice",
        "SELECT total_paise FROM invoice WHERE merchant_id = $1::text::uuid ORDER BY number",
        seller.merchant.merchant_id,
    )
    # 10,000.00 + 0.50 and 9 % twice of each line; 99.99 and 9.00 twice.
    assert [row["total_paise"] for row in rows] == [1_000_050 + 2 * (90_000 + 5), 9_999 + 2 * 900]


async def test_an_invoice_of_a_csv_is_issued_whole_or_not_at_all(stack, traders, tmp_path):
    """A stray comma in the second of three rows, then an invoice whose rows stand apart: only the others are issued."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.csv"
    columns = "invoice,supply_type,buyer.gstin,buyer.place_of_supply,buyer.legal_name,notes"
    columns += ",line.description,line.hsn,line.quantity,line.unit,line.unit_price,line.gst_rate"
    rows = [
        f"{name},B2B,{buyer.gstin},27,The buyer,{name},Bolt,731815,1,NOS,1000,18"
        for name in ("1", "7", "7", "7", "2", "8", "3", "8")
    ]
    rows[2] = rows[2].replace("1000", "1,000")
    file.write_text("\n".join([columns, *rows]) + "\n")

    code, said, _ = await run(stack, seller, file)

    with open(file.with_name("sales.csv.refused.csv"), newline="") as report:
        told = [(int(row["line"]), row["description"].split(";")[0]) for row in csv.DictReader(report)]
    assert (code, said.splitlines()[0]) == (1, "3 issued, 0 issued before, 3 refused")
    assert told == [
        (3, "line 4: found 13 cells"),
        (7, "invoice 8 stands in more than one place"),
        (9, "invoice 8 stands in more than one place"),
    ]
    found = await market.sql(
        "invoice", "SELECT document FROM invoice WHERE merchant_id = $1::text::uuid", seller.merchant.merchant_id
    )
    assert sorted(pb.Invoice.FromString(row["document"]).notes for row in found) == ["1", "2", "3"]


async def test_more_unreadable_lines_than_a_window_holds_stop_nothing(stack, traders, tmp_path):
    """2,500 lines of nonsense, each reported, and the invoice behind them is issued."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    file.write_text("{\n" * 2_500 + line(market, buyer) + "\n")

    code, said, _ = await run(stack, seller, file)

    assert (code, said.splitlines()[0]) == (1, "1 issued, 0 issued before, 2500 refused")
    with open(file.with_name("sales.jsonl.refused.csv"), newline="") as report:
        assert [int(row["line"]) for row in csv.DictReader(report)] == list(range(1, 2_501))


async def test_large_invoices_are_imported_and_one_that_is_too_large_is_said(stack, traders, tmp_path):
    """120 of 45 KB, more than 4 MiB a hundred, and one of 5 MB between them; then once more, found by their keys."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    large = market.line(sku="", description="ब" * 290)

    def row(lines: int, notes: str) -> str:
        invoice = market.invoice(buyer, *[large] * lines, notes=notes).invoice
        return json.dumps(json_format.MessageToDict(invoice, preserving_proto_field_name=True), ensure_ascii=False)

    rows = [row(50, f"{n}") for n in range(120)]
    rows.insert(60, row(5_500, "too large"))
    file.write_text("\n".join(rows) + "\n")

    for options, said in ((), "120 issued, 0 issued before"), (("--from-start",), "0 issued, 120 issued before"):
        code, told, _ = await run(stack, seller, file, *options)
        assert (code, told.splitlines()[0]) == (1, f"{said}, 1 refused")
        with open(file.with_name("sales.jsonl.refused.csv"), newline="") as report:
            assert [(row["line"], row["reason"]) for row in csv.DictReader(report)] == [("61", "TOO_LARGE")]
    assert await issued(market, seller) == 120


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("invoice,colour\n1,red\n", (), "'colour' is no field of an invoice"),
        (None, (), "No such file"),
        ("supply_type\nB2B\n", ("--address", "127.0.0.1:1", "--patience", "1"), "no progress for 1 s"),
    ],
)
async def test_what_cannot_be_imported_is_said_in_one_line(stack, traders, tmp_path, text, options, words):
    """A header with an unknown column, a file that is not there, a service that does not answer."""
    file = tmp_path / "sales.csv"
    if text is not None:
        file.write_text(text)

    code, _, complained = await run(stack, traders[0], file, *options)

    assert code == 1
    assert words in complained
    assert "Traceback" not in complained


async def test_a_token_that_is_refused_is_said(stack, traders, tmp_path):
    """Nothing is issued, and the import can go on with another token."""
    _, market = stack
    seller, buyer = traders
    file = tmp_path / "sales.jsonl"
    file.write_text(line(market, buyer) + "\n")
    seller.token += "x"

    code, _, complained = await run(stack, seller, file)

    assert (code, "the access token is refused" in complained) == (1, True)
