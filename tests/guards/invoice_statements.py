"""Statements of PROTOCOL 4.1 and 4.3: decision rows, invoices, number series."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.guards.scenarios import scenario
from tests.guards.world import PRINT, World, id_, ids, word

STATES = ("OPEN", "ABORTED", "FAILED", "SUCCEEDED")
# Rows that a statement is asked about; their doubles, of which it is not, belong to the same merchant.
ASKED = [f"{state}-{attempt}" for state in STATES for attempt in (1, 2)]
TODAY = (dt.datetime.now(dt.timezone(dt.timedelta(hours=5, minutes=30))).date() - dt.date(1970, 1, 1)).days
NO_LOCKS: tuple[list[int], list[int]] = ([1], [1])


async def decisions(world: World) -> None:
    """Each state and attempt, asked about or not, of merchant A; and the same rids of merchant B."""
    for merchant in "AB":
        for name in ASKED:
            state, attempt = name.split("-")
            for rid in (name, f"not {name}"):
                await world.has("decision", merchant_id=merchant, rid=rid, state=state, attempt=int(attempt))


async def invoices(world: World, **of_a: Any) -> None:
    """`mine` and `other` of A, `theirs` and `mine` of B."""
    await world.has("invoice", merchant_id="A", invoice_id="mine", number="N1", **of_a)
    await world.has("invoice", merchant_id="A", invoice_id="other", number="N2", **of_a)
    await world.has("invoice", merchant_id="B", invoice_id="theirs", number="N1")


def of_a(count: int) -> list[bytes]:
    return [id_("A")] * count


# ---------------------------------------------------------------- 4.1: the decision row


@scenario("invoice", "decide_claim")
async def _(world: World, name: str) -> None:
    await invoices(world)
    await world.has("decision", merchant_id="A", rid="decided")
    asked = ["mine", "theirs", "new", "decided", "on another day", "dated by the client"]
    days = [TODAY, TODAY, TODAY, TODAY, TODAY - 1, TODAY - 1]
    given = [-1, -1, -1, -1, -1, TODAY - 1]
    prints = [PRINT] * len(asked)
    args = (of_a(6), ids(asked), ids(asked), prints, days, given, "invoice.create", 1, *NO_LOCKS)
    # Neither what was decided, nor what is issued though its row was purged, nor what is dated on another day.
    assert await world.returned(name, *args, of="rid") == ["dated by the client", "new", "theirs"]


@scenario("invoice", "decide_claim_again")
async def _(world: World, name: str) -> None:
    await decisions(world)
    asked = (of_a(8), ids(ASKED), [2] * 8)
    for day, given, wanted in ((TODAY, -1, ["OPEN-2"]), (TODAY - 1, -1, []), (TODAY - 1, 0, ["OPEN-2"])):
        assert await world.returned(name, *asked, [day] * 8, [given] * 8, *NO_LOCKS, of="rid") == wanted


@scenario("invoice", "decide_standings")
async def _(world: World, name: str) -> None:
    await invoices(world)
    for merchant, rid in (("A", "mine"), ("A", "other"), ("B", "theirs"), ("B", "new")):
        await world.has("decision", merchant_id=merchant, rid=rid)
    asked = ids(["mine", "theirs", "new"])
    rows = await world.returned(name, of_a(3), asked, asked, of=("rid", "state", "invoice_attempt"))
    assert rows == [("mine", "OPEN", 1), ("new", None, None), ("theirs", None, None)]


@scenario("invoice", "decide_reopen")
async def _(world: World, name: str) -> None:
    await decisions(world)
    done = await world.changed("decision", name, of_a(8), ids(ASKED), [2] * 8)
    assert done == {("A", "ABORTED-2"): {"state": "OPEN", "attempt": 3}}


@scenario("invoice", "decide_insert_negative")
async def _(world: World, name: str) -> None:
    await invoices(world)
    await world.has("decision", merchant_id="A", rid="decided")
    asked = ids(["mine", "theirs", "new", "decided"])
    args = (of_a(4), asked, asked, ["ABORTED"] * 4, [1] * 4, [PRINT] * 4, ["R"] * 4, "invoice.create", 1, [None] * 4)
    assert await world.returned(name, *args, of="rid") == ["new", "theirs"]


@scenario("invoice", "decide_close")
async def _(world: World, name: str) -> None:
    await decisions(world)
    args = (of_a(8), ids(ASKED), [2] * 8, ["ABORTED"] * 8, ["R"] * 8, [b"told"] * 8)
    done = await world.changed("decision", name, *args)
    assert done == {("A", "OPEN-2"): {"state": "ABORTED", "reason": "R", "answer": b"told"}}


@scenario("invoice", "decide_refuse_claimed")
async def _(world: World, name: str) -> None:
    for merchant, rid in (("A", "mine"), ("A", "other"), ("B", "mine")):
        await world.has("decision", merchant_id=merchant, rid=rid, state="SUCCEEDED")
    done = await world.changed("decision", name, of_a(1), ids(["mine"]), ["R"], [b"told"])
    assert done == {("A", "mine"): {"state": "FAILED", "reason": "R", "answer": b"told"}}


@scenario("invoice", "operation_cancel_new")
async def _(world: World, name: str) -> None:
    await invoices(world)
    wanted = {"mine": {}, "theirs": {("A", "theirs"): "new"}, "new": {("A", "new"): "new"}}
    for rid, change in wanted.items():
        args = (id_("A"), id_(rid), id_(rid), "invoice.create", "CANCELLED_BY_CLIENT", b"told")
        assert await world.changed("decision", name, *args) == change


@scenario("invoice", "operation_cancel_open")
async def _(world: World, name: str) -> None:
    await decisions(world)
    end = {"state": "FAILED", "fingerprint": None, "reason": "R", "answer": b"told"}
    for rid in ASKED:
        done = await world.changed("decision", name, id_("A"), id_(rid), "R", b"told")
        assert done == ({("A", rid): end} if rid.startswith(("OPEN", "ABORTED")) else {})


@scenario("invoice", "operation_read")
async def _(world: World, name: str) -> None:
    await invoices(world, document=b"mine")
    for merchant, rid in (("A", "mine"), ("A", "undecided"), ("B", "theirs"), ("B", "nobody's")):
        await world.has("decision", merchant_id=merchant, rid=rid)
    for rid, wanted in (
        ("mine", [("OPEN", b"mine")]),
        ("other", [(None, b"mine")]),
        ("undecided", [("OPEN", None)]),
        ("theirs", []),
        ("nobody's", []),
    ):
        assert await world.returned(name, id_("A"), id_(rid), id_(rid), of=("state", "document")) == wanted


@scenario("invoice", "operation_seller")
async def _(world: World, name: str) -> None:
    await invoices(world, buyer_merchant_id="B")
    for caller, invoice, seller in (
        ("A", "mine", ["A"]),
        ("B", "mine", ["A"]),
        ("B", "theirs", ["B"]),
        ("A", "theirs", []),
    ):
        assert await world.returned(name, id_(caller), id_(invoice), of="merchant_id") == seller


@scenario("invoice", "resolver_abort_later")
async def _(world: World, name: str) -> None:
    await decisions(world)
    done = await world.changed("decision", name, of_a(8), ids(ASKED), [2] * 8, "R")
    assert done == {
        ("A", "OPEN-1"): {"state": "ABORTED", "attempt": 2, "reason": "R"},
        ("A", "ABORTED-1"): {"attempt": 2, "reason": "R"},
    }


@scenario("invoice", "decision_read_one")
async def _(world: World, name: str) -> None:
    await decisions(world)
    assert await world.returned(name, id_("A"), id_("FAILED-2"), of=("state", "attempt")) == [("FAILED", 2)]


@scenario("invoice", "decision_succeed_one")
async def _(world: World, name: str) -> None:
    await decisions(world)
    for rid in ASKED:
        done = await world.changed("decision", name, id_("A"), id_(rid), b"told")
        assert done == ({("A", rid): {"state": "SUCCEEDED", "answer": b"told"}} if rid == "OPEN-1" else {})


# Young rows sort before the old one in every part of the key: whichever plan a mutant gets, it meets them first.


@scenario("invoice", "purge_decisions")
async def _(world: World, name: str) -> None:
    for merchant, rid, age in (("B", "recent", 1), ("A", "old", 1), ("B", "old", 100)):
        await world.has("decision", merchant_id=merchant, rid=rid, update_time=age)
    assert await world.changed("decision", name, 50, 10) == {("B", "old"): "gone"}


@scenario("invoice", "purge_inbox")
async def _(world: World, name: str) -> None:
    for merchant, consumer, event, age in (
        ("B", "d", "recent", 1),
        ("B", "c", "old", 1),
        ("A", "d", "old", 1),
        ("B", "d", "old", 100),
    ):
        await world.has("inbox", merchant_id=merchant, consumer=consumer, event_id=event, create_time=age)
    assert await world.changed("inbox", name, 50, 10) == {("B", "d", "old"): "gone"}


# ---------------------------------------------------------------- 4.3: the invoice and what moves it


@scenario("invoice", "invoice_find")
async def _(world: World, name: str) -> None:
    await invoices(world, buyer_merchant_id="B")
    callers, wanted = ["A", "B", "A", "C"], ["mine", "mine", "theirs", "mine"]
    rows = await world.returned(name, ids(callers), ids(wanted), of=("caller", "merchant_id", "invoice_id"))
    assert rows == [("A", "A", "mine"), ("B", "A", "mine")]


@scenario("invoice", "move_read_decisions")
async def _(world: World, name: str) -> None:
    await decisions(world)
    rows = await world.returned(name, of_a(2), ids(["FAILED-2", "unknown"]), of=("rid", "state"))
    assert rows == [("FAILED-2", "FAILED")]


@scenario("invoice", "move_lock")
async def _(world: World, name: str) -> None:
    await invoices(world)
    asked = (of_a(2), ids(["mine", "theirs"]))
    assert await world.returned(name, *asked, of=("merchant_id", "invoice_id")) == [("A", "mine")]


@scenario("invoice", "move_update")
async def _(world: World, name: str) -> None:
    states = ("ISSUED", "EDIT_REQUESTED", "ACCEPTED", "REJECTED", "CANCELLED")
    asked = [f"{state} {version}" for state in states for version in (1, 2)]
    for place, invoice in enumerate(asked):
        state, version = invoice.split()
        for merchant, also in (("A", ""), ("A", " not"), ("B", "")):
            row = {"state": state, "version": int(version), "number": f"{place}{also}".upper()}
            await world.has("invoice", merchant_id=merchant, invoice_id=invoice + also, **row)
    n = len(asked)
    args = (of_a(n), ids(asked), [1] * n, ["ACCEPTED"] * n, ["why"] * n, [bytes(32)] * n, ["ISSUED,EDIT_REQUESTED"] * n)
    moved = {"state": "ACCEPTED", "reason": "why", "version": 2}
    wanted = {("A", f"{state} 1"): moved for state in ("ISSUED", "EDIT_REQUESTED")}
    assert await world.changed("invoice", name, *args, 0) == wanted


@scenario("invoice", "move_close")
async def _(world: World, name: str) -> None:
    await decisions(world)
    done = await world.changed("decision", name, of_a(8), ids(ASKED), ["FAILED"] * 8, ["R"] * 8, [b"told"] * 8)
    assert done == {("A", "OPEN-1"): {"state": "FAILED", "reason": "R", "answer": b"told"}}


@scenario("invoice", "move_unclaim")
async def _(world: World, name: str) -> None:
    await decisions(world)
    assert await world.changed("decision", name, of_a(8), ids(ASKED)) == {("A", "OPEN-1"): "gone"}


# ---------------------------------------------------------------- 3d: numbers

SERIES = {"merchant_id": "A", "seller_gstin": "G1", "financial_year": "2026-27", "prefix": "INV/2627/"}


async def series(world: World) -> None:
    """The series asked for, and one that differs in each part of the key."""
    await world.has("number_series", **SERIES)
    for part, other in (("merchant_id", "B"), ("seller_gstin", "G2"), ("doc_type", "CRN"), ("prefix", "X/")):
        await world.has("number_series", **{**SERIES, part: other})
    await world.has("number_series", **{**SERIES, "financial_year": "2025-26"})


ASKED_SERIES = ([id_("A")], ["G1"], ["2026-27"], ["INV/2627/"])
THE_SERIES = ("A", "G1", "INV", "2026-27", "INV/2627/")


@scenario("invoice", "series_read", "series_lock", "series_lock_waiting")
async def _(world: World, name: str) -> None:
    await series(world)
    rows = await world.returned(name, *ASKED_SERIES, "INV", of=("merchant_id", "seller_gstin", "last_given"))
    assert rows == [("A", "G1", 7)]


@scenario("invoice", "series_take_numbers")
async def _(world: World, name: str) -> None:
    await series(world)
    assert await world.changed("number_series", name, *ASKED_SERIES, "INV", [3]) == {THE_SERIES: {"last_given": 10}}


@scenario("invoice", "series_make")
async def _(world: World, name: str) -> None:
    used = {"merchant_id": "A", "number": "INV/2627/9"}
    await world.has("invoice", invoice_id="used", **used)
    prefixes = ["INV/2627/", "NEW/"]
    made = await world.changed("number_series", name, of_a(2), ["G1"] * 2, ["2026-27"] * 2, prefixes, "INV")
    assert made == {("A", "G1", "INV", "2026-27", "NEW/"): "new"}
    # A number of another merchant, GSTIN, kind of document or year is in nobody's way.
    for merchant, gstin, kind, year in (
        ("B", "G1", "INV", "2026-27"),
        ("A", "G2", "INV", "2026-27"),
        ("A", "G1", "CRN", "2026-27"),
        ("A", "G1", "INV", "2025-26"),
    ):
        made = await world.changed("number_series", name, [id_(merchant)], [gstin], [year], ["INV/2627/"], kind)
        assert made == {(merchant, gstin, kind, year, "INV/2627/"): "new"}


@scenario("invoice", "invoice_insert")
async def _(world: World, name: str) -> None:
    await series(world)
    await world.has("number_series", **{**SERIES, "merchant_id": "E"})
    await world.has("party", merchant_id="C", gstin="27AAAAA0000A1Z5")
    await world.has("invoice", merchant_id="A", invoice_id="used", number="N1")
    # Number, by the client?, GSTIN, year, buyer: what each is told.
    drafts = {
        "taken": ("n1", True, "G1", "2026-27", ""),
        "of the series, by its counter": ("INV/2627/8", False, "G1", "2026-27", ""),
        "of the series, by the client": ("inv/2627/9", True, "G1", "2026-27", ""),
        "of no series": ("N2", True, "G1", "2026-27", ""),
        "of another GSTIN": ("INV/2627/9", True, "G3", "2026-27", ""),
        "of another year": ("INV/2627/9", True, "G1", "2024-25", ""),
        "to a party": ("N3", True, "G1", "2026-27", "27AAAAA0000A1Z5"),
        "to nobody's party": ("N4", True, "G1", "2026-27", "27BBBBB0000B1Z5"),
    }

    async def inserted(merchants: str, kind: str) -> dict[str, list[tuple[str, str | None]]]:
        """Per merchant: what was issued, and its buyer. All of them ask for the same ids, in one statement."""
        asked = [(merchant, draft) for merchant in merchants for draft in drafts]
        n, made, owners = len(asked), ids(draft for _, draft in asked), ids(merchant for merchant, _ in asked)
        columns = zip(*(drafts[draft] for _, draft in asked), strict=True)
        numbers, by_client, gstins, years, buyers = (list(column) for column in columns)
        names = [f"{merchant}/{draft}" for merchant, draft in asked]
        places = await world.returned(
            name,
            *(1, kind, dt.datetime.now(dt.UTC)),
            *(owners, made, made, [1] * n, [PRINT] * n, numbers, by_client, gstins, years, ["B2B"] * n),
            *([TODAY] * n, buyers, [None] * n, [False] * n),
            *([[0] * n] * 10),
            *([True] * n, ["COMPLIANT"] * n, [b""] * n, [bytes(32)] * n, [bytes(32)] * n, owners, [bytes(16)] * n),
            *(ids(f"event of {one}" for one in names), [0] * n, [b""] * n, [""] * n),
            # One line each, which says whose it is.
            *(list(range(n)), [1] * n, names, [""] * n, ["NOS"] * n, [False] * n, *([[0] * n] * 12)),
            *(0, bytes(32), "invochain.invoice.issued.v1"),
            of="place",
        )
        issued = sorted(asked[place - 1] for place in places)
        for table, column in (
            ("audit_entry", "invoice_id"),
            ("outbox", "aggregate_id"),
            ("invoice_item", "invoice_id"),
        ):
            rows = await world.connection.fetch(f"SELECT merchant_id, {column} FROM {table}")
            there = sorted((word(row["merchant_id"]), word(row[column])) for row in rows)
            assert [row for row in there if row[0] in merchants] == issued, f"{table} of what was not issued"
        rows = await world.connection.fetch("SELECT merchant_id, invoice_id, sku FROM invoice_item")
        assert all(row["sku"] == f"{word(row['merchant_id'])}/{word(row['invoice_id'])}" for row in rows)
        text = "SELECT merchant_id, invoice_id, buyer_merchant_id FROM invoice WHERE doc_type = $1"
        linked = await world.connection.fetch(text, kind)
        buyer_of = {(word(row[0]), word(row[1])): word(row[2]) for row in linked}
        told: dict[str, list[tuple[str, str | None]]] = {merchant: [] for merchant in merchants}
        for merchant, draft in issued:
            told[merchant].append((draft, buyer_of[merchant, draft]))
        return told

    free = sorted((draft, "C" if draft == "to a party" else None) for draft in drafts)
    kept = [one for one in free if one[0] not in ("taken", "of the series, by the client")]
    # Another merchant's series, and one of another kind of document, are in nobody's way.
    assert await inserted("AD", "INV") == {"A": kept, "D": free}
    assert await inserted("E", "DBN") == {"E": free}
