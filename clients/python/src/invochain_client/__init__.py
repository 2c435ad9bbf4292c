"""InvoChain from Python: GST invoices, issued exactly once.

from invochain_client import Client, line
from invochain_client.types import Invoice, Party

with Client.from_stack(email=…, password=…) as client:
    bolts = line("Hex bolt M8", sku="BOLT-M8", hsn="731815", quantity=10, price="1000.00", gst_rate=18)
    buyer = Party(gstin=…, legal_name=…, place_of_supply="27")
    issued = client.invoices.create(Invoice(supply_type="B2B", buyer=buyer, lines=[bolts]))
    print(issued.message.number, issued.replayed)
"""

from invochain_client.calling import Answer, fresh_key, traceparent
from invochain_client.client import AsyncClient, Client, stack_addresses
from invochain_client.errors import InvochainError
from invochain_client.invoices import Issued
from invochain_client.money import line, percent_milli, quantity_milli, quantity_text, rupees, rupees_milli, rupees_text
from invochain_client.outcome import OutcomeUnknown
from invochain_client.retrying import Timing
from invochain_client.stock import Settled
from invochain_client.wire import VERSION as __version__

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "InvochainError",
    "Issued",
    "OutcomeUnknown",
    "Settled",
    "Timing",
    "__version__",
    "fresh_key",
    "line",
    "percent_milli",
    "quantity_milli",
    "quantity_text",
    "rupees",
    "rupees_milli",
    "rupees_text",
    "stack_addresses",
    "traceparent",
]
