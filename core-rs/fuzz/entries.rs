//! Every entry of the core that takes bytes from outside, one function each: none may panic, whatever it is given.
//!
//! Shared by the libFuzzer targets (fuzz_targets/) and by the stable test `core-rs/core/tests/bytes.rs`.

use std::sync::Arc;

use invochain_core::contract::{
    BatchCreateInvoicesRequest, BatchReserveStockRequest, CreateInvoiceRequest,
};
use invochain_core::gst::explain::explain;
use invochain_core::gst::gstin::{check_char, Gstin};
use invochain_core::gst::tables::TableName;
use invochain_core::gst::{
    check, check_under, inv01, neutral, vector, Context, Date, Malformed, Mode, PathForm, Policy,
    Read, Tables,
};
use invochain_core::money::{Decimal, DecimalField};
use invochain_core::request::{self, Asked, Known, Profile};
use invochain_core::wire::Message;
use serde_json::Value;

pub type Entry = fn(&[u8]);

pub const ENTRIES: &[(&str, Entry)] = &[
    ("neutral", neutral_json),
    ("inv01", inv01_json),
    ("vector", vector_json),
    ("gstin", gstin),
    ("decimal", decimal),
    ("table", table),
    ("request", create_request),
];

fn context(mode: Mode) -> Context<'static> {
    let today = Date::new(2026, 11, 22);
    Context {
        mode,
        today,
        tables: Tables::builtin(),
        form: PathForm::Api,
        number_by_server: false,
    }
}

fn judge<'v>(value: &'v Value, read: fn(&'v Value) -> Result<Read<'v>, Malformed>) {
    let Ok(Read { document, prior }) = read(value) else {
        return;
    };
    for mode in [Mode::Compute, Mode::Strict, Mode::Nic] {
        let _ = check_under(Policy::Review, &document, &context(mode), prior.clone());
        if let Ok(computed) = check(&document, &context(mode), prior.clone()) {
            assert_eq!(computed.lines.len(), document.lines.len());
            assert!(computed.totals.total_paise >= 0);
            explain(&document, &context(mode), prior.clone())
                .expect("what is lawful can be explained");
        }
    }
}

pub fn neutral_json(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        judge(&value, neutral::read);
    }
}

pub fn inv01_json(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        judge(&value, inv01::read);
    }
}

pub fn vector_json(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = vector::answer(&value, Tables::builtin());
    }
}

pub fn gstin(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(Gstin::Registered { .. }) = Gstin::read(text, Tables::builtin()) {
        assert_eq!(check_char(&text[..14]), text.chars().last());
    }
    let _ = check_char(text);
}

pub fn decimal(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let fields = [
        DecimalField::QUANTITY,
        DecimalField::ITEM,
        DecimalField::ROUND_OFF,
        DecimalField::CRORE,
    ];
    for field in fields {
        if let Ok(value) = field.read(text) {
            let printed = Decimal(i128::from(value), field.decimals).to_string();
            assert_eq!(field.read(&printed), Ok(value));
        }
    }
}

pub fn table(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for name in TableName::ALL {
        let _ = Tables::builtin().with(name, text);
    }
}

pub fn create_request(bytes: &[u8]) {
    let _ = BatchCreateInvoicesRequest::decode(bytes);
    let _ = BatchReserveStockRequest::decode(bytes);
    let mut request = CreateInvoiceRequest::default();
    if let Ok(is_canonical) = request.merge(bytes) {
        let again = request.encode();
        assert_eq!(is_canonical, again == bytes);
        assert_eq!(
            CreateInvoiceRequest::decode(&again).map(|request| request.encode()),
            Ok(again.clone())
        );
        let print = |bytes| request::read(bytes, &mut CreateInvoiceRequest::default()).ok();
        assert_eq!(print(bytes), print(&again));
    }
    let seller = Profile {
        gstin: "27AAPFU0939F1ZV".into(),
        state: "27".into(),
        taxpayer_type: 1,
        ..Profile::default()
    };
    for review in [false, true] {
        let seller = Arc::new(Profile {
            review,
            ..seller.clone()
        });
        let asked = Asked {
            merchant_id: [7; 16],
            key: "0123456789abcdef",
            today: Date::new(2026, 11, 22).expect("a day"),
            tables: Tables::builtin(),
            seller: &seller,
        };
        let _ = request::draft(bytes, &asked, |_| Known::No);
        let _ = request::draft(bytes, &asked, |_| Known::Yes(seller.clone()));
    }
}
