"""How does an invoice come to be, and what does it do to the stock of seller and buyer?

Registers both, issues 10 x 1,000.00 at 18 %, repeats it with the same key, lets the buyer accept.
"""

from __future__ import annotations

from example_kit import promised, register, the_stack

from invochain_client import Client, fresh_key, line, quantity_milli, quantity_text, rupees, rupees_text
from invochain_client.types import Invoice, InvoiceState, Party

SKU = "BOLT-M8"


def main() -> None:
    with Client(the_stack()) as anyone:
        seller, _ = register(anyone, "Seller and Sons")
        buyer, buying = register(anyone, "Buyer and Daughters")
        seller.stock.adjust(SKU, "ADD", 100, reason="opening stock", hsn="731815", unit="NOS")

        # The key is kept with the order: repeating the call after a crash is then a repeat, not a second invoice.
        key = fresh_key()
        invoice = Invoice(
            supply_type="B2B",
            buyer=Party(gstin=buying.gstin, legal_name=buying.legal_name, place_of_supply=buying.gstin[:2]),
            lines=[line("Hex bolt M8", sku=SKU, hsn="731815", quantity=10, price="1000.00", gst_rate=18)],
        )
        issued = seller.invoices.create(invoice, idempotency_key=key)
        totals = issued.message.totals
        number = issued.message.number
        promised(f"{number} comes to Rs {rupees_text(totals.total_paise)}", totals.total_paise == rupees("11800.00"))
        promised("CGST and SGST are 900.00 each", totals.cgst_paise == totals.sgst_paise == rupees("900.00"))
        held = seller.stock.get(SKU)
        promised("10 of 100 are reserved", (held.on_hand_milli, held.reserved_milli) == (100_000, 10_000))

        again = seller.invoices.create(invoice, idempotency_key=key)
        promised("the same key gives the same answer", again.replayed and again.message == issued.message)

        accepted = buyer.invoices.accept(issued.message.invoice_id)
        promised("the buyer accepted", accepted.message.state == InvoiceState.ACCEPTED)
        # The goods change hands by an event, shortly after.
        sold = seller.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == quantity_milli(90))
        bought = buyer.stock.wait_until(SKU, lambda stock: stock.on_hand_milli == quantity_milli(10))
        here, there = quantity_text(sold.on_hand_milli), quantity_text(bought.on_hand_milli)
        promised(f"the seller has {here} left, the buyer {there}", sold.reserved_milli == 0)
        listed = [one.number for one in buyer.invoices.list(filter="state = ACCEPTED", side="BOUGHT")]
        promised("the buyer finds the invoice among the accepted ones", listed == [number])


if __name__ == "__main__":
    main()
