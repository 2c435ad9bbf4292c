"""The messages of the contract, by their names: what the methods take and give.

Amounts are whole paise, `_milli` is a thousandth (of a rupee, a unit, a percent); money.py makes them from decimal
text. What each field means, its range and who sets it is written in proto/. Enum fields take the value's name:
`Invoice(supply_type="B2B")`; read one back with `InvoiceState.Name(invoice.state)`.
"""

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.date_pb2 import Date

from invochain_client.api.inventory.v1.inventory_service_pb2 import (
    Movement,
    MovementKind,
    PendingReservation,
    Reservation,
    ReservationItem,
    ReservationState,
    Stock,
    StockAdjustment,
)
from invochain_client.api.invoice.v1.invoice_service_pb2 import (
    AskGstResponse,
    ComplianceStatus,
    DocumentType,
    Explanation,
    Invoice,
    InvoiceLine,
    InvoiceSide,
    InvoiceState,
    InvoiceView,
    Operation,
    OperationState,
    Party,
    PartyType,
    PostalAddress,
    RoundOffMode,
    SupplyType,
    Totals,
    ValidateInvoiceResponse,
    ValidationMode,
)
from invochain_client.api.merchant.v1.merchant_service_pb2 import (
    Address,
    CompliancePolicy,
    Merchant,
    NewUser,
    RegisterMerchantResponse,
    Role,
    TaxpayerType,
    User,
)

__all__ = [
    "Address",
    "AskGstResponse",
    "CompliancePolicy",
    "ComplianceStatus",
    "Date",
    "DocumentType",
    "Explanation",
    "FieldMask",
    "Invoice",
    "InvoiceLine",
    "InvoiceSide",
    "InvoiceState",
    "InvoiceView",
    "Merchant",
    "Movement",
    "MovementKind",
    "NewUser",
    "Operation",
    "OperationState",
    "Party",
    "PartyType",
    "PendingReservation",
    "PostalAddress",
    "RegisterMerchantResponse",
    "Reservation",
    "ReservationItem",
    "ReservationState",
    "Role",
    "RoundOffMode",
    "Stock",
    "StockAdjustment",
    "SupplyType",
    "TaxpayerType",
    "Totals",
    "User",
    "ValidateInvoiceResponse",
    "ValidationMode",
]
