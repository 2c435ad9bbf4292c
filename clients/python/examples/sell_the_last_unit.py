"""Who gets the last unit when many sell it at once?

Eight threads invoice the same unit, each with a key of its own. One gets it; the others are told what is free.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from example_kit import promised, register, the_stack

from invochain_client import Client, line
from invochain_client.errors import InsufficientStock
from invochain_client.types import Invoice, Party

SKU = "LAMP-1"
SELLERS = 8


def main() -> None:
    with Client(the_stack()) as anyone:
        shop, _ = register(anyone, "Last Lamp Company")
        _, buying = register(anyone, "Collectors United")
        shop.stock.adjust(SKU, "ADD", 1, reason="the last one", hsn="940511", unit="NOS")
        invoice = Invoice(
            supply_type="B2B",
            buyer=Party(gstin=buying.gstin, legal_name=buying.legal_name, place_of_supply=buying.gstin[:2]),
            lines=[line("Lamp", sku=SKU, hsn="940511", quantity=1, price="24999.00", gst_rate=18)],
        )

        def sell(_: int) -> str | InsufficientStock:
            try:
                return shop.invoices.create(invoice).message.number
            except InsufficientStock as short:
                return short

        with ThreadPoolExecutor(SELLERS) as threads:
            results = list(threads.map(sell, range(SELLERS)))
        numbers = [result for result in results if isinstance(result, str)]
        short = [result for result in results if isinstance(result, InsufficientStock)]
        promised(f"one of {SELLERS} sold it: {', '.join(numbers)}", len(numbers) == 1)
        promised(f"{len(short)} were told: {short[0].asked} asked, {short[0].free} free", len(short) == SELLERS - 1)
        promised("each of them by SKU", all((one.sku, one.asked, one.free) == (SKU, 1, 0) for one in short))
        stock = shop.stock.get(SKU)
        promised("one unit is reserved, none is free", (stock.reserved_milli, stock.free_milli) == (1_000, 0))
        promised("there is one invoice", len(list(shop.invoices.list())) == 1)


if __name__ == "__main__":
    main()
