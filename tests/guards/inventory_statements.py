"""Statements of PROTOCOL 4.2: stock rows and the holds on them."""

from __future__ import annotations

from tests.guards.scenarios import scenario
from tests.guards.world import PRINT, World, id_, ids

STATES = {
    "INVOICE": ("PENDING", "HELD", "COMMITTED", "RELEASED", "REVERSED"),
    "NONE": ("PENDING", "COMMITTED", "RELEASED", "EXPIRED"),
}


async def stock(world: World) -> None:
    """Two SKUs each of two merchants."""
    for merchant in "AB":
        for sku in ("S1", "S2"):
            await world.has("stock", merchant_id=merchant, sku=sku)


async def holds(world: World) -> None:
    """A hold in every state, of both resolvers, asked about or not, of A; the same ids of B."""
    for merchant in "AB":
        for resolver, states in STATES.items():
            for state in states:
                for also in ("", " not"):
                    row = {
                        "merchant_id": merchant,
                        "reservation_id": state + also,
                        "resolver": resolver,
                        "state": state,
                    }
                    await world.has("reservation", **row)


def asked(*names: str) -> tuple[list[bytes], list[bytes]]:
    return [id_("A")] * len(names), ids(names)


@scenario("inventory", "stock_lock_free", "stock_lock_waiting")
async def _(world: World, name: str) -> None:
    await stock(world)
    await world.has("stock", merchant_id="B", sku="S3")
    args = ([id_("A")] * 2, ["S1", "S3"])
    assert await world.returned(name, *args, of=("place", "free_milli")) == [(1, 50)]


@scenario("inventory", "stock_lock_kinds")
async def _(world: World, name: str) -> None:
    await stock(world)
    await world.has("stock", merchant_id="B", sku="S3")
    rows = await world.returned(name, [id_("A")] * 2, ["S1", "S3"], of=("merchant_id", "sku"))
    assert rows == [("A", "S1")]


@scenario("inventory", "stock_existing")
async def _(world: World, name: str) -> None:
    await stock(world)
    await world.has("stock", merchant_id="B", sku="S3")
    assert await world.returned(name, [id_("A")] * 2, ["S1", "S3"], of="place") == [1]


@scenario("inventory", "stock_lock_of_reservations")
async def _(world: World, name: str) -> None:
    await stock(world)
    await holds(world)
    assert len(await world.run(name, *asked("PENDING"), "INVOICE")) == 1


@scenario("inventory", "stock_lock_one", "stock_get")
async def _(world: World, name: str) -> None:
    await stock(world)
    assert await world.returned(name, id_("A"), "S1", of="sku") == ["S1"]


@scenario("inventory", "stock_reserve")
async def _(world: World, name: str) -> None:
    await stock(world)
    done = await world.changed("stock", name, [id_("A")], ["S1"], [7])
    assert done == {("A", "S1"): {"reserved_milli": 57}}


@scenario("inventory", "stock_change")
async def _(world: World, name: str) -> None:
    await stock(world)
    done = await world.changed("stock", name, id_("A"), "S1", 7, "", "", "")
    assert done == {("A", "S1"): {"on_hand_milli": 107, "version": 2}}


@scenario("inventory", "stock_free")
async def _(world: World, name: str) -> None:
    await stock(world)
    await holds(world)
    assert await world.changed("stock", name, *asked("PENDING"), "INVOICE") == {("A", "S1"): {"reserved_milli": 45}}


@scenario("inventory", "stock_leave")
async def _(world: World, name: str) -> None:
    await stock(world)
    await holds(world)
    sold = {"reserved_milli": 45, "on_hand_milli": 95, "version": 2}
    assert await world.changed("stock", name, *asked("PENDING"), "INVOICE") == {("A", "S1"): sold}


@scenario("inventory", "stock_receive")
async def _(world: World, name: str) -> None:
    for sku, unit, hsn in (("SAME", "NOS", "7318"), ("OTHER-UNIT", "KGS", "7318"), ("OTHER-HSN", "NOS", "9999")):
        await world.has("stock", merchant_id="A", sku=sku, unit=unit, hsn=hsn)
    skus = ["SAME", "OTHER-UNIT", "OTHER-HSN", "NEW"]
    args = ([id_("A")] * 4, skus, [""] * 4, ["7318"] * 4, ["NOS"] * 4, [5] * 4)
    done = await world.changed("stock", name, *args)
    assert done == {("A", "SAME"): {"on_hand_milli": 105, "version": 2}, ("A", "NEW"): "new"}


@scenario("inventory", "reservation_lock")
async def _(world: World, name: str) -> None:
    await holds(world)
    rows = await world.returned(name, *asked("PENDING"), "INVOICE", of=("merchant_id", "reservation_id", "state"))
    assert rows == [("A", "PENDING", "PENDING")]


@scenario("inventory", "reservation_move")
async def _(world: World, name: str) -> None:
    await holds(world)
    states = STATES["INVOICE"]
    done = await world.changed("reservation", name, *asked(*states), "INVOICE", "COMMITTED")
    assert done == {("A", state, "INVOICE"): {"state": "COMMITTED"} for state in ("PENDING", "HELD")}


@scenario("inventory", "reservation_confirm")
async def _(world: World, name: str) -> None:
    await holds(world)
    await world.has("reservation", merchant_id="A", reservation_id="another body", fingerprint=bytes(32))
    states = (*STATES["INVOICE"], "another body")
    done = await world.changed("reservation", name, *asked(*states), [PRINT] * len(states), len(states))
    assert done == {("A", "PENDING", "INVOICE"): {"state": "HELD"}}


@scenario("inventory", "reservation_due")
async def _(world: World, name: str) -> None:
    for number, (resolver, state) in enumerate((r, s) for r, states in STATES.items() for s in states):
        row = {"reservation_id": f"{number} {resolver} {state}", "resolver": resolver, "state": state}
        await world.has("reservation", merchant_id="A", **row)
    await world.connection.execute("UPDATE reservation SET expire_time = now() WHERE resolver = 'NONE'")
    for name_, days in (("due", -1), ("not due", 1)):
        await world.has("reservation", merchant_id="A", reservation_id=name_, resolver="NONE")
        await world.connection.execute(
            "UPDATE reservation SET expire_time = now() + $1 * interval '1 day' WHERE reservation_id = $2",
            days,
            id_(name_),
        )
    # By time, then by the limit: the one that is due longest.
    assert await world.returned(name, 10, of="reservation_id") == ["5 NONE PENDING", "due"]


@scenario("inventory", "reservation_pending")
async def _(world: World, name: str) -> None:
    for resolver, states in STATES.items():
        for state in states:
            row = {"reservation_id": f"{resolver} {state}", "resolver": resolver, "state": state, "create_time": 60}
            await world.has("reservation", merchant_id="A", **row)
    await world.has("reservation", merchant_id="A", reservation_id="young", create_time=1)
    listed = await world.returned(name, "INVOICE", 10_000, None, None, 10, 1, 0, of="reservation_id")
    assert listed == ["INVOICE PENDING"]
    # The page behind it is empty, and of two partitions one has it.
    (row,) = await world.run(name, "INVOICE", 10_000, None, None, 10, 1, 0)
    behind = ("INVOICE", 10_000, row["create_time"], id_("INVOICE PENDING"), 10, 1, 0)
    assert await world.returned(name, *behind, of="reservation_id") == []
    parts = [
        await world.returned(name, "INVOICE", 10_000, None, None, 10, 2, part, of="reservation_id") for part in (0, 1)
    ]
    assert sorted(map(len, parts)) == [0, 1]


@scenario("inventory", "reservation_pending_of_merchant")
async def _(world: World, name: str) -> None:
    for merchant in "AB":
        for resolver, states in STATES.items():
            for state in states:
                row = {"reservation_id": f"{merchant} {resolver} {state}", "resolver": resolver, "state": state}
                await world.has("reservation", merchant_id=merchant, create_time=60, **row)
    await world.has("reservation", merchant_id="A", reservation_id="young", resolver="NONE", create_time=1)
    listed = await world.returned(name, id_("A"), 10_000, None, None, 10, of="reservation_id")
    assert listed == ["A NONE PENDING"]
    (row,) = await world.run(name, id_("A"), 10_000, None, None, 10)
    behind = (id_("A"), 10_000, row["create_time"], id_("A NONE PENDING"), 10)
    assert await world.returned(name, *behind, of="reservation_id") == []


@scenario("inventory", "reservation_get")
async def _(world: World, name: str) -> None:
    await stock(world)
    for merchant, reservation, resolver in (("A", "mine", "NONE"), ("A", "other", "NONE"), ("B", "mine", "NONE")):
        await world.has("reservation", merchant_id=merchant, reservation_id=reservation, resolver=resolver)
    await world.has("reservation", merchant_id="A", reservation_id="invoice's", resolver="INVOICE")
    await world.has("stock", merchant_id="B", sku="S0", unit="KGS")
    assert await world.returned(name, id_("A"), id_("mine"), of="units") == [["NOS"]]
    assert await world.run(name, id_("A"), id_("invoice's")) == []


@scenario("inventory", "partner_key_refused")
async def _(world: World, name: str) -> None:
    for state in ("OPEN", "ABORTED", "FAILED", "SUCCEEDED"):
        await world.has("decision", merchant_id="A", rid=state, state=state)
    args = ([id_("A")] * 4, ids(["OPEN", "ABORTED", "FAILED", "SUCCEEDED"]))
    assert await world.returned(name, *args, of=("place", "fingerprint")) == [(3, PRINT)]


@scenario("inventory", "purge_reservations")
async def _(world: World, name: str) -> None:
    young = {"state": "RELEASED", "update_time": 1}
    # They sort before the old ones in every part of the key: whichever plan a mutant gets, it meets them first.
    await world.has("reservation", merchant_id="B", reservation_id="recent", resolver="NONE", **young)
    await world.has("reservation", merchant_id="A", reservation_id="RELEASED", resolver="NONE", **young)
    await world.has("reservation", merchant_id="B", reservation_id="RELEASED", resolver="INVOICE", **young)
    for state in STATES["NONE"]:
        row = {"reservation_id": state, "resolver": "NONE", "state": state, "update_time": 100}
        await world.has("reservation", merchant_id="B", **row)
    ended = {("B", state, "NONE"): "gone" for state in ("RELEASED", "EXPIRED")}
    assert await world.changed("reservation", name, 50, 10) == ended
