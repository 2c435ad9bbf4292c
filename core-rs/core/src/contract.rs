//! The messages of `proto/` that the core reads or writes, field by field.
//!
//! `tests/contract/test_wire_numbers.py` holds names and numbers to the contract: a field that is missing here would be
//! refused as unknown.

use crate::messages;
use crate::wire::Texts;

messages! {
    /// google.type.Date
    struct CivilDate { 1 year: i32, 2 month: i32, 3 day: i32 }

    /// google.protobuf.Timestamp
    struct Timestamp { 1 seconds: i64, 2 nanos: i32 }

    struct PostalAddress { 1 line1: &'a str, 2 line2: &'a str, 3 location: &'a str, 4 pin_code: &'a str }

    struct Party {
        1 gstin: &'a str, 2 state: &'a str, 3 place_of_supply: &'a str, 4 taxpayer_type: i32, 5 legal_name: &'a str,
        6 trade_name: &'a str, 7 address: Option<PostalAddress<'a>>, 8 phone: &'a str, 9 email: &'a str,
        10 annual_turnover_paise: i64,
    }

    struct OriginalDocument {
        1 number: &'a str, 2 invoice_date: Option<CivilDate<'a>>, 3 creditable_paise: Option<i64>,
        4 value_paise: Option<i64>,
    }

    struct InvoiceLine {
        1 serial_number: &'a str, 2 sku: &'a str, 3 description: &'a str, 4 is_service: bool, 5 hsn: &'a str,
        6 quantity_milli: Option<i64>, 7 unit: &'a str, 8 unit_price_milli: Option<i64>, 9 gst_rate_milli: Option<i32>,
        10 discount_paise: Option<i64>, 11 gross_paise: Option<i64>, 12 taxable_paise: Option<i64>,
        13 igst_paise: Option<i64>, 14 cgst_paise: Option<i64>, 15 sgst_paise: Option<i64>, 16 total_paise: Option<i64>,
        17 cess_rate_milli: Option<i32>, 18 cess_per_unit_milli: Option<i64>, 19 cess_paise: Option<i64>,
        20 cess_nonadvol_paise: Option<i64>, 21 state_cess_rate_milli: Option<i32>, 22 state_cess_paise: Option<i64>,
        23 state_cess_nonadvol_paise: Option<i64>, 24 other_charges_paise: Option<i64>, 25 rsp_paise: Option<i64>,
    }

    struct Totals {
        1 taxable_paise: Option<i64>, 2 igst_paise: Option<i64>, 3 cgst_paise: Option<i64>, 4 sgst_paise: Option<i64>,
        5 cess_paise: Option<i64>, 6 state_cess_paise: Option<i64>, 7 total_paise: Option<i64>,
        8 discount_paise: Option<i64>, 9 other_charges_paise: Option<i64>, 10 round_off_paise: Option<i64>,
        11 round_off_mode: i32,
    }

    struct Violation { 1 field: &'a str, 2 code: &'a str, 3 description: &'a str }

    /// Fields 1 to 29 are the document, those from 30 the server's.
    struct Invoice {
        1 number: &'a str, 2 doc_type: i32, 3 supply_type: i32, 4 invoice_date: Option<CivilDate<'a>>,
        5 seller: Option<Party<'a>>, 6 buyer: Option<Party<'a>>, 7 lines: Vec<InvoiceLine<'a>>,
        8 totals: Option<Totals<'a>>, 9 reverse_charge: bool, 10 igst_on_intra: bool, 11 exclude_tax_from_total: bool,
        12 tax_point_date: Option<CivilDate<'a>>, 13 ecommerce_gstin: &'a str, 14 original: Option<OriginalDocument<'a>>,
        15 series: &'a str, 16 due_date: Option<CivilDate<'a>>, 17 notes: &'a str, 18 ship_to: Option<Party<'a>>,
        19 dispatch_from: Option<Party<'a>>,
        30 invoice_id: &'a str, 31 merchant_id: &'a str, 32 buyer_merchant_id: &'a str, 33 state: i32, 34 version: i64,
        35 etag: &'a str, 36 financial_year: &'a str, 37 inter_state: bool, 38 create_time: Option<Timestamp<'a>>,
        39 update_time: Option<Timestamp<'a>>, 40 allowed_actions: Texts<'a>, 41 compliance_status: i32,
        42 violations: Vec<Violation<'a>>, 43 state_reason: &'a str,
    }

    struct CreateInvoiceRequest { 1 invoice: Option<Invoice<'a>> }

    struct BatchCreateInvoicesItem { 1 invoice: &'a [u8], 2 idempotency_key: &'a str }

    struct BatchCreateInvoicesRequest { 1 items: Vec<BatchCreateInvoicesItem<'a>>, 2 all_or_nothing: bool }

    struct ImportInvoicesItem { 1 invoice: &'a [u8], 2 idempotency_key: &'a str, 3 offset: i64 }

    struct ImportInvoicesRequest { 1 items: Vec<ImportInvoicesItem<'a>> }

    struct StockHold { 1 reservation_id: &'a str, 2 fingerprint: &'a [u8], 3 rid: &'a str, 4 attempt: i32 }

    struct ReservationItem { 1 sku: &'a str, 2 quantity_milli: i64, 3 unit: &'a str }

    struct ReserveStockRequest {
        1 items: Vec<ReservationItem<'a>>, 2 ttl_seconds: i32, 3 reservation_id: &'a str, 4 merchant_id: &'a str,
        5 resolver: i32, 6 rid: &'a str, 7 attempt: i32, 8 fingerprint: &'a [u8],
    }

    struct BatchReserveStockRequest { 1 requests: Vec<ReserveStockRequest<'a>> }

    struct ReserveStockResult { 1 reservation_id: &'a str, 2 state: i32, 3 error: &'a [u8] }

    struct BatchReserveStockResponse { 1 results: Vec<ReserveStockResult<'a>> }

    struct ReservationRef {
        1 reservation_id: &'a str, 2 merchant_id: &'a str, 3 fingerprint: &'a [u8], 4 resolver: i32, 5 rid: &'a str,
        6 attempt: i32,
    }

    struct ConfirmReservationsRequest { 1 reservations: Vec<ReservationRef<'a>> }

    struct SettleResult { 1 reservation_id: &'a str, 2 state: i32, 3 error: &'a [u8] }
}
