//! What a context and a policy change, and what they never do (RULES G51, G52).

use invochain_core::gst::{
    check, check_under, neutral, Context, Date, Mode, PathForm, Policy, Tables, Violation,
};
use serde_json::{json, Value};

fn context() -> Context<'static> {
    Context {
        mode: Mode::Strict,
        today: Date::new(2026, 11, 22),
        tables: Tables::builtin(),
        form: PathForm::Neutral,
        number_by_server: false,
    }
}

fn lawful() -> Value {
    json!({
        "supply_type": "B2B", "doc_type": "INV", "number": "P/1", "date": "2025-10-10",
        "seller": {"gstin": "27AAPFU0939F1ZV", "state": "27"},
        "buyer": {"gstin": "29AABCR1718E1ZL", "state": "29", "pos": "29"},
        "items": [{"sl": "1", "hsn": "610910", "qty": "1", "unit": "NOS", "unit_price": "100", "gst_rate": "18"}],
    })
}

/// The lawful document with the value at a JSON pointer replaced.
fn bent(changes: &[(&str, Value)]) -> Value {
    let mut value = lawful();
    for (pointer, new) in changes {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = value.pointer_mut(parent).expect("a parent");
        parent[key] = new.clone();
    }
    value
}

fn judged(
    value: &Value,
    context: &Context<'_>,
    policy: Policy,
) -> Result<Vec<Violation>, Vec<Violation>> {
    let read = neutral::read(value).expect("a document");
    check_under(policy, &read.document, context, read.prior).map(|(_, waived)| waived)
}

fn codes(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.code).collect()
}

#[test]
fn review_lists_what_it_waives_and_enforce_refuses_it() {
    let value = bent(&[
        ("/seller/gstin", json!("27AAPFU0939F1ZO")),
        ("/items/0/unit", json!("EA")),
    ]);
    let wanted = ["GSTIN_CHECKSUM_INVALID", "UQC_INVALID"];
    assert_eq!(
        codes(&judged(&value, &context(), Policy::Enforce).expect_err("refused")),
        wanted
    );
    assert_eq!(
        codes(&judged(&value, &context(), Policy::Review).expect("issued")),
        wanted
    );
    assert_eq!(
        judged(&lawful(), &context(), Policy::Review),
        Ok(Vec::new())
    );
}

#[test]
fn what_leaves_a_figure_uncertain_is_refused_under_review_with_everything_else_told() {
    for (pointer, found, code) in [
        ("/buyer/pos", json!(""), "POS_REQUIRED"),
        ("/buyer/pos", json!("39"), "POS_INVALID"),
        ("/buyer/pos", json!("96"), "POS_96_NOT_ALLOWED"),
    ] {
        let value = bent(&[(pointer, found), ("/items/0/unit", json!("EA"))]);
        let refused = judged(&value, &context(), Policy::Review).expect_err("refused");
        assert_eq!(codes(&refused), [code, "UQC_INVALID"]);
    }
    let original = json!({"number": "P/0", "date": "2025-10-01"});
    let note = [
        ("/doc_type", json!("CRN")),
        ("/original", original),
        ("/items/0/qty", json!("0")),
    ];
    assert_eq!(
        codes(&judged(&bent(&note), &context(), Policy::Review).expect_err("refused")),
        ["GROSS_REQUIRED"]
    );
}

#[test]
fn structure_and_arithmetic_are_refused_under_review() {
    for (pointer, found, code) in [
        ("/number", json!("0"), "DOC_NUMBER_LEADING_CHAR"),
        ("/items/0/qty", json!("x"), "NUMBER_FORMAT_INVALID"),
        (
            "/items/0/discount",
            json!("100.01"),
            "DISCOUNT_EXCEEDS_GROSS",
        ),
        (
            "/items/0/unit_price",
            json!("999999999999.999"),
            "AMOUNT_OVERFLOW",
        ),
        ("/items/0/igst", json!("18.01"), "TAX_AMOUNT_MISMATCH"),
    ] {
        let refused =
            judged(&bent(&[(pointer, found)]), &context(), Policy::Review).expect_err("refused");
        assert_eq!(codes(&refused), [code]);
    }
}

#[test]
fn a_number_the_server_gives_may_be_absent_but_a_given_one_is_judged() {
    let context = Context {
        number_by_server: true,
        ..context()
    };
    assert_eq!(
        judged(
            &bent(&[("/number", json!(null))]),
            &context,
            Policy::Enforce
        ),
        Ok(Vec::new())
    );
    let refused = judged(
        &bent(&[("/number", json!("-1"))]),
        &context,
        Policy::Enforce,
    )
    .expect_err("refused");
    assert_eq!(codes(&refused), ["DOC_NUMBER_LEADING_CHAR"]);
}

#[test]
fn paths_are_named_as_the_context_asks_in_refusals_and_in_what_is_waived() {
    let context = Context {
        form: PathForm::Api,
        ..context()
    };
    let value = bent(&[
        ("/items/0/unit_price", json!("-1")),
        ("/date", json!("2025-02-30")),
    ]);
    let refused = judged(&value, &context, Policy::Enforce).expect_err("refused");
    let mut paths: Vec<&str> = refused
        .iter()
        .map(|violation| violation.path.as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(
        paths,
        ["invoice.invoice_date", "invoice.lines[0].unit_price_milli"]
    );
    let waived = judged(
        &bent(&[("/items/0/unit", json!("EA"))]),
        &context,
        Policy::Review,
    )
    .expect("issued");
    assert_eq!(waived[0].path, "invoice.lines[0].unit");
    let refused = judged(
        &bent(&[("/items/0/total", json!("1"))]),
        &context,
        Policy::Enforce,
    )
    .expect_err("refused");
    assert_eq!(refused[0].path, "invoice.lines[0].total_paise");
}

#[test]
fn a_violation_says_what_was_found_and_what_is_wanted() {
    for (pointer, value, found, wanted) in [
        ("/totals", json!({"total": "150.00"}), "150.00", "118.00"),
        ("/items/0/igst", json!("18.01"), "18.01", "18.00"),
        (
            "/items/0/gst_rate",
            json!("17"),
            "17",
            "a full rate of the rate table",
        ),
        (
            "/items/0/hsn",
            json!("61091"),
            "61091",
            "4, 6 or 8 digits, not all zero",
        ),
        (
            "/seller/gstin",
            json!("27AAPFU0939F1ZO"),
            "27AAPFU0939F1ZO",
            "the check character V, or other digits",
        ),
        (
            "/number",
            json!("ABCDEFGHIJKLMNOPQ"),
            "17 characters",
            "at most 16 characters",
        ),
        (
            "/date",
            json!("2026-11-23"),
            "2026-11-23",
            "at most 2026-11-22, today in India",
        ),
    ] {
        let refused =
            judged(&bent(&[(pointer, value)]), &context(), Policy::Enforce).expect_err("refused");
        assert_eq!(
            (refused[0].found.as_str(), refused[0].wanted.as_str()),
            (found, wanted)
        );
    }
    let nic = Context {
        mode: Mode::Nic,
        ..context()
    };
    let refused = judged(
        &bent(&[("/items/0/igst", json!("20"))]),
        &nic,
        Policy::Enforce,
    )
    .expect_err("refused");
    assert_eq!(refused[0].wanted, "17.00 to 19.00");
}

#[test]
fn a_decoder_s_findings_come_first_and_silence_the_complaint_that_a_field_is_missing() {
    let read_of = bent(&[
        ("/items/0/qty", json!(1)),
        ("/items/0/gst_rate", json!("1,8")),
    ]);
    let read = neutral::read(&read_of).expect("a document");
    let refused = check(&read.document, &context(), read.prior).expect_err("refused");
    assert_eq!(
        codes(&refused),
        ["NUMBER_FORMAT_INVALID", "NUMBER_FORMAT_INVALID"]
    );
}

#[test]
fn the_split_and_the_tax_date_are_told_with_the_figures() {
    use invochain_core::gst::SupplySplit::{CentralAndState, CentralAndUnionTerritory, Integrated};
    for (state, gstin, pos, split) in [
        ("27", "27AAPFU0939F1ZV", "29", Integrated),
        ("27", "27AAPFU0939F1ZV", "27", CentralAndState),
        ("04", "04AAACI1681G1ZX", "04", CentralAndUnionTerritory),
        ("07", "07AAACI1681G1ZR", "07", CentralAndState),
    ] {
        let value = bent(&[
            ("/seller/gstin", json!(gstin)),
            ("/seller/state", json!(state)),
            ("/buyer/pos", json!(pos)),
            ("/tax_point", json!("2025-10-09")),
        ]);
        let read = neutral::read(&value).expect("a document");
        let computed = check(&read.document, &context(), read.prior).expect("lawful");
        assert_eq!(
            (computed.split, computed.tax_date),
            (split, Date::new(2025, 10, 9))
        );
    }
}

/// A number of a document as an integer off the wire, its path, and its largest lawful value.
type Field = (
    &'static str,
    i64,
    for<'d, 'a> fn(&'d mut invochain_core::gst::Document<'a>) -> &'d mut Option<i64>,
);

const ITEM: i64 = 99_999_999_999_999;
const DOCUMENT: i64 = 9_999_999_999_999_999;
const PRICE: i64 = 999_999_999_999_999;

const FIELDS: &[Field] = &[
    ("items[0].qty", 9_999_999_999_999, |d| {
        &mut d.lines[0].quantity_milli
    }),
    ("items[0].unit_price", PRICE, |d| {
        &mut d.lines[0].unit_price_milli
    }),
    ("items[0].gst_rate", 999_999, |d| {
        &mut d.lines[0].gst_rate_milli
    }),
    ("items[0].discount", ITEM, |d| {
        &mut d.lines[0].discount_paise
    }),
    ("items[0].cess_rate", 999_999, |d| {
        &mut d.lines[0].cess_rate_milli
    }),
    ("items[0].cess_per_unit", PRICE, |d| {
        &mut d.lines[0].cess_per_unit_milli
    }),
    ("items[0].cess_nonadvol", ITEM, |d| {
        &mut d.lines[0].cess_nonadvol_paise
    }),
    ("items[0].state_cess_rate", 999_999, |d| {
        &mut d.lines[0].state_cess_rate_milli
    }),
    ("items[0].state_cess_nonadvol", ITEM, |d| {
        &mut d.lines[0].state_cess_nonadvol_paise
    }),
    ("items[0].other_charges", ITEM, |d| {
        &mut d.lines[0].other_charges_paise
    }),
    ("items[0].rsp", ITEM, |d| &mut d.lines[0].rsp_paise),
    ("items[0].gross", ITEM, |d| {
        &mut d.lines[0].claims.gross_paise
    }),
    ("items[0].taxable", ITEM, |d| {
        &mut d.lines[0].claims.taxable_paise
    }),
    ("items[0].igst", ITEM, |d| &mut d.lines[0].claims.igst_paise),
    ("items[0].cgst", ITEM, |d| &mut d.lines[0].claims.cgst_paise),
    ("items[0].sgst", ITEM, |d| &mut d.lines[0].claims.sgst_paise),
    ("items[0].cess", ITEM, |d| &mut d.lines[0].claims.cess_paise),
    ("items[0].state_cess", ITEM, |d| {
        &mut d.lines[0].claims.state_cess_paise
    }),
    ("items[0].total", ITEM, |d| {
        &mut d.lines[0].claims.total_paise
    }),
    ("totals.discount", DOCUMENT, |d| {
        &mut d.totals.discount_paise
    }),
    ("totals.other_charges", DOCUMENT, |d| {
        &mut d.totals.other_charges_paise
    }),
    ("totals.taxable", DOCUMENT, |d| {
        &mut d.totals.claims.taxable_paise
    }),
    ("totals.igst", DOCUMENT, |d| &mut d.totals.claims.igst_paise),
    ("totals.cgst", DOCUMENT, |d| &mut d.totals.claims.cgst_paise),
    ("totals.sgst", DOCUMENT, |d| &mut d.totals.claims.sgst_paise),
    ("totals.cess", DOCUMENT, |d| &mut d.totals.claims.cess_paise),
    ("totals.state_cess", DOCUMENT, |d| {
        &mut d.totals.claims.state_cess_paise
    }),
    ("totals.total", DOCUMENT, |d| {
        &mut d.totals.claims.total_paise
    }),
    ("original.creditable", DOCUMENT, |d| {
        &mut d
            .original
            .get_or_insert_with(Default::default)
            .creditable_paise
    }),
    ("original.value", DOCUMENT, |d| {
        &mut d.original.get_or_insert_with(Default::default).value_paise
    }),
    ("seller.aato_crore", i64::MAX, |d| &mut d.seller.aato_paise),
];

#[test]
fn an_integer_off_the_wire_is_held_to_the_limits_of_its_field() {
    let value = lawful();
    for &(path, max, field) in FIELDS {
        let told = |number: i64| {
            let mut read = neutral::read(&value).expect("a document");
            *field(&mut read.document) = Some(number);
            let refused = check(&read.document, &context(), Vec::new())
                .err()
                .unwrap_or_default();
            let at_path = refused.iter().find(|violation| violation.path == path);
            at_path
                .map(|violation| violation.code)
                .filter(|code| ["NEGATIVE_AMOUNT", "AMOUNT_OUT_OF_RANGE"].contains(code))
        };
        assert_eq!(told(-1), Some("NEGATIVE_AMOUNT"), "{path}");
        assert_eq!(told(i64::MIN), Some("NEGATIVE_AMOUNT"), "{path}");
        assert_eq!(told(0), None, "{path}");
        assert_eq!(told(max), None, "{path}");
        if let Some(beyond) = max.checked_add(1) {
            assert_eq!(told(beyond), Some("AMOUNT_OUT_OF_RANGE"), "{path}");
        }
    }
}

#[test]
fn a_round_off_off_the_wire_stays_within_a_hundred_rupees() {
    let value = lawful();
    for (paise, wanted) in [
        (10_000, Some("ROUND_OFF_OUT_OF_RANGE")),
        (-10_000, Some("ROUND_OFF_OUT_OF_RANGE")),
        (9_999, None),
        (-9_999, None),
    ] {
        let mut read = neutral::read(&value).expect("a document");
        read.document.totals.round_off_paise = Some(paise);
        let refused = check(&read.document, &context(), Vec::new())
            .err()
            .unwrap_or_default();
        assert_eq!(
            refused.first().map(|violation| violation.code),
            wanted,
            "{paise}"
        );
    }
}

#[test]
fn in_nic_a_claimed_gross_stands_and_is_not_computed() {
    let nic = Context {
        mode: Mode::Nic,
        ..context()
    };
    let far_off = [
        ("/items/0/qty", json!("9999999999")),
        ("/items/0/unit_price", json!("999999999999")),
    ];
    let value = bent(&far_off);
    assert_eq!(
        codes(&judged(&value, &nic, Policy::Enforce).expect_err("refused")),
        ["AMOUNT_OVERFLOW"]
    );
    let mut claimed = value;
    claimed["items"][0]["gross"] = json!("100.00");
    assert_eq!(judged(&claimed, &nic, Policy::Enforce), Ok(Vec::new()));
}

#[test]
fn a_number_is_counted_in_characters_and_a_foreign_letter_is_no_length() {
    for (number, code) in [
        ("ABCDEFGHIJKLMNOÉ", "DOC_NUMBER_CHARSET"),
        ("ÉÉÉÉÉÉÉÉÉÉÉÉ", "DOC_NUMBER_CHARSET"),
        ("ABCDEFGHIJKLMNOPÉ", "DOC_NUMBER_TOO_LONG"),
    ] {
        let refused = judged(
            &bent(&[("/number", json!(number))]),
            &context(),
            Policy::Enforce,
        )
        .expect_err("refused");
        assert_eq!(codes(&refused), [code], "{number}");
    }
}

#[test]
fn a_thousand_lines_and_the_largest_total_are_lawful_and_one_more_is_not() {
    let item = lawful()["items"][0].clone();
    for (lines, refused) in [(1_000, None), (1_001, Some("ITEMS_TOO_MANY"))] {
        let items: Vec<Value> = (1..=lines)
            .map(|serial| {
                let mut item = item.clone();
                item["sl"] = json!(serial.to_string());
                item
            })
            .collect();
        let answer = judged(
            &bent(&[("/items", json!(items))]),
            &context(),
            Policy::Enforce,
        );
        assert_eq!(answer.err().map(|found| found[0].code), refused);
    }
    for (charges, refused) in [
        ("99999999999881.99", None),
        ("99999999999882.00", Some("AMOUNT_OVERFLOW")),
    ] {
        let value = bent(&[("/totals", json!({"other_charges": charges}))]);
        let answer = judged(&value, &context(), Policy::Enforce);
        assert_eq!(
            answer.err().map(|found| found[0].code),
            refused,
            "{charges}"
        );
    }
}

#[test]
fn a_line_that_was_stopped_tells_only_why_it_stopped() {
    let every_claim = [
        "gross",
        "taxable",
        "igst",
        "cgst",
        "sgst",
        "cess",
        "state_cess",
        "total",
    ];
    for (pointer, found, wanted) in [
        (
            "/items/0/unit_price",
            json!("999999999999.999"),
            vec!["AMOUNT_OVERFLOW"],
        ),
        (
            "/items/0/discount",
            json!("100.01"),
            vec!["GROSS_MISMATCH", "DISCOUNT_EXCEEDS_GROSS"],
        ),
    ] {
        let mut value = bent(&[(pointer, found)]);
        for (paise, claim) in every_claim.into_iter().enumerate() {
            value["items"][0][claim] = json!(format!("7.0{paise}"));
        }
        assert_eq!(
            codes(&judged(&value, &context(), Policy::Enforce).expect_err("refused")),
            wanted
        );
    }
}

#[test]
fn one_wrong_number_of_a_line_does_not_make_its_sound_ones_wrong() {
    let value = lawful();
    for wrong in [-1, ITEM + 1] {
        let mut read = neutral::read(&value).expect("a document");
        let line = &mut read.document.lines[0];
        line.discount_paise = Some(0);
        line.other_charges_paise = Some(ITEM);
        line.claims.cess_paise = Some(wrong);
        let refused = check(&read.document, &context(), Vec::new()).expect_err("refused");
        assert_eq!(
            refused
                .iter()
                .map(|violation| violation.path.as_str())
                .collect::<Vec<_>>(),
            ["items[0].cess"]
        );
    }
}

#[test]
fn claims_mean_nothing_in_compute_not_even_in_a_wrong_head() {
    let compute = Context {
        mode: Mode::Compute,
        ..context()
    };
    let claims = [
        ("/items/0/cgst", json!("9.00")),
        ("/items/0/sgst", json!("8.00")),
        ("/items/0/gross", json!("1")),
    ];
    assert_eq!(
        judged(&bent(&claims), &compute, Policy::Enforce),
        Ok(Vec::new())
    );
    let without_payment = [
        ("/supply_type", json!("EXPWOP")),
        ("/items/0/igst", json!("18.00")),
    ];
    let mut value = bent(&without_payment);
    value["buyer"] = json!({"gstin": "URP", "state": "96", "pos": "96"});
    assert_eq!(judged(&value, &compute, Policy::Enforce), Ok(Vec::new()));
}

#[test]
fn a_credit_note_of_the_last_day_is_in_time() {
    let original = json!({"number": "P/0", "date": "2025-03-31"});
    for (date, refused) in [
        ("2025-11-30", None),
        ("2025-12-01", Some("CREDIT_NOTE_TIME_BARRED")),
    ] {
        let note = [
            ("/doc_type", json!("CRN")),
            ("/original", original.clone()),
            ("/date", json!(date)),
        ];
        let answer = judged(&bent(&note), &context(), Policy::Enforce);
        assert_eq!(answer.err().map(|found| found[0].code), refused, "{date}");
    }
}

#[test]
fn who_must_be_unregistered_is_told_what_to_write() {
    for (supply, wanted) in [("B2C", "URP, or no GSTIN"), ("EXPWP", "URP")] {
        let value = bent(&[
            ("/supply_type", json!(supply)),
            ("/buyer/state", json!("96")),
            ("/buyer/pos", json!("96")),
        ]);
        let refused = judged(&value, &context(), Policy::Enforce).expect_err("refused");
        let told = refused
            .iter()
            .find(|violation| violation.code == "BUYER_MUST_BE_URP")
            .expect("told");
        assert_eq!(told.wanted, wanted);
    }
}

#[test]
fn totals_that_were_stopped_compare_no_round_off() {
    let totals = json!({"discount": "118.00", "round_off_mode": "NEAREST_RUPEE", "round_off": "0.50", "total": "1.00"});
    let refused =
        judged(&bent(&[("/totals", totals)]), &context(), Policy::Enforce).expect_err("refused");
    assert_eq!(codes(&refused), ["DISCOUNT_EXCEEDS_TOTAL"]);
}
