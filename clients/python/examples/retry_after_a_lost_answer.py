"""What if the answer is lost on the way?

The line to the invoice service breaks as its answer comes. The client repeats the call with the same key and gets the
answer of the first attempt: one invoice, stock taken once. Where nobody repeats it, the key still tells what became
of it.
"""

from __future__ import annotations

from example_kit import losing_answers, promised, register, the_stack

from invochain_client import Client, OutcomeUnknown, Timing, line
from invochain_client.types import Invoice, Merchant, Party

SKU = "LAMP-2"


def lamp_for(buyer: Merchant) -> Invoice:
    """An invoice of one lamp."""
    return Invoice(
        supply_type="B2B",
        buyer=Party(gstin=buyer.gstin, legal_name=buyer.legal_name, place_of_supply=buyer.gstin[:2]),
        lines=[line("Lamp", sku=SKU, hsn="940511", quantity=1, price="1499.50", gst_rate=18)],
    )


def the_client_repeats(addresses: dict[str, str]) -> None:
    with losing_answers(addresses["invoice"]) as broken, Client({**addresses, "invoice": broken}) as anyone:
        seller, _ = register(anyone, "Lamps by Night")
        _, buyer = register(anyone, "Readers of Books")
        seller.stock.adjust(SKU, "ADD", 10, reason="opening stock", hsn="940511", unit="NOS")

        issued = seller.invoices.create(lamp_for(buyer))
        promised(f"{issued.message.number} came at attempt {issued.attempts}", issued.attempts > 1)
        promised("that attempt found it done", issued.replayed)
        promised("there is one invoice", [one.number for one in seller.invoices.list()] == [issued.message.number])
        promised("one lamp is reserved", seller.stock.get(SKU).reserved_milli == 1_000)


def nobody_repeats(addresses: dict[str, str]) -> None:
    once = Timing(attempts_max=1)
    with (
        losing_answers(addresses["invoice"]) as broken,
        Client({**addresses, "invoice": broken}, timing=once) as anyone,
    ):
        seller, _ = register(anyone, "Lamps by Day")
        _, buyer = register(anyone, "Readers of Newspapers")
        seller.stock.adjust(SKU, "ADD", 10, reason="opening stock", hsn="940511", unit="NOS")

        try:
            seller.invoices.create(lamp_for(buyer))
        except OutcomeUnknown as unknown:
            promised(f"told that {unknown.operation} is unknown", unknown.operation == "invoice.create")
            found = unknown.resolve()
            promised(f"the key tells: {found.message.number}", found.replayed and found.key == unknown.key)
        else:
            promised("an answer that is lost is not an answer", False)
        promised("one lamp is reserved", seller.stock.get(SKU).reserved_milli == 1_000)


if __name__ == "__main__":
    stack = the_stack()
    the_client_repeats(stack)
    nobody_repeats(stack)
