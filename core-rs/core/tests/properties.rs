//! What holds for every document, whatever its figures (RULES G36 to G51, G65).

use invochain_core::gst::document::{
    Buyer, Date, DocType, Document, Given, Line, LineClaims, Original, RoundOffMode, Seller,
    SupplyType, TaxpayerType, Totals, TotalsClaims,
};
use invochain_core::gst::returns::{Reported, ReturnSummary};
use invochain_core::gst::{
    check, check_under, vector, Computed, Context, Mode, PathForm, Policy, Tables,
};
use proptest::prelude::*;

fn context(mode: Mode) -> Context<'static> {
    Context {
        mode,
        today: None,
        tables: Tables::builtin(),
        form: PathForm::Neutral,
        number_by_server: false,
    }
}

fn date(year: u16, month: u8, day: u8) -> Given<'static, Date> {
    Given::Known(Date::new(year, month, day).expect("a day"))
}

/// Serial numbers that outlive the documents.
fn serial(index: usize) -> &'static str {
    const SERIALS: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];
    SERIALS[index]
}

prop_compose! {
    /// A lawful line of goods after the reform of September 2025; quantities and prices up to a crore of paise.
    fn line()(
        quantity_milli in prop_oneof![1..5_000_i64, 1..10_000_000_i64],
        unit_price_milli in prop_oneof![0..2_000_i64, 0..1_000_000_000_i64],
        gst_rate_milli in prop::sample::select(vec![0_i64, 100, 250, 1_500, 3_000, 5_000, 18_000, 40_000]),
        discount_share in 0..=100_i64,
        other_charges_paise in prop::option::of(0..10_000_i64),
        state_cess_rate_milli in prop::option::of(0..3_000_i64),
    ) -> Line<'static> {
        let gross_paise = (quantity_milli * unit_price_milli + 5_000) / 10_000;
        Line {
            hsn: "610910",
            quantity_milli: Some(quantity_milli),
            unit: "NOS",
            unit_price_milli: Some(unit_price_milli),
            gst_rate_milli: Some(gst_rate_milli),
            discount_paise: (discount_share > 50).then_some(gross_paise * discount_share / 100),
            other_charges_paise,
            state_cess_rate_milli,
            ..Line::default()
        }
    }
}

prop_compose! {
    fn document()(
        mut lines in prop::collection::vec(line(), 1..8),
        (supply_type, pos) in prop::sample::select(vec![
            (SupplyType::B2b, "27"), (SupplyType::B2b, "29"), (SupplyType::B2c, "27"), (SupplyType::B2c, "33"),
            (SupplyType::SezWithPayment, "27"), (SupplyType::SezWithoutPayment, "29"),
            (SupplyType::ExportWithPayment, "96"), (SupplyType::ExportWithoutPayment, "96"),
            (SupplyType::DeemedExport, "27"),
        ]),
        is_credit_note in any::<bool>(),
        nearest_rupee in any::<bool>(),
        reverse_charge in any::<bool>(),
    ) -> Document<'static> {
        for (index, line) in lines.iter_mut().enumerate() {
            line.sl = serial(index);
        }
        let has_buyer = supply_type.needs_buyer_gstin();
        Document {
            supply_type: Given::Known(supply_type),
            doc_type: Given::Known(if is_credit_note { DocType::CreditNote } else { DocType::Invoice }),
            number: "P/1",
            date: date(2025, 10, 10),
            reverse_charge: reverse_charge && (supply_type == SupplyType::B2b || supply_type.is_sez()),
            seller: Seller { gstin: "27AAPFU0939F1ZV", state: "27", ..Seller::default() },
            buyer: Buyer {
                gstin: if has_buyer { "29AABCR1718E1ZL" } else { "URP" },
                state: if has_buyer { "29" } else { pos },
                pos,
                taxpayer_type: if supply_type.is_sez() { Given::Known(TaxpayerType::Sez) } else { Given::Absent },
            },
            original: is_credit_note.then(|| Original {
                number: "P/0",
                date: date(2025, 10, 1),
                ..Original::default()
            }),
            lines,
            totals: Totals {
                round_off_mode: if nearest_rupee { Given::Known(RoundOffMode::NearestRupee) } else { Given::Absent },
                ..Totals::default()
            },
            ..Document::default()
        }
    }
}

/// The document with every figure of `computed` as a claim.
fn with_claims(document: &Document<'static>, computed: &Computed) -> Document<'static> {
    let mut claimed = document.clone();
    for (line, figures) in claimed.lines.iter_mut().zip(&computed.lines) {
        line.claims = LineClaims {
            gross_paise: Some(figures.gross_paise),
            taxable_paise: Some(figures.taxable_paise),
            igst_paise: Some(figures.igst_paise),
            cgst_paise: Some(figures.cgst_paise),
            sgst_paise: Some(figures.sgst_paise),
            cess_paise: Some(figures.cess_paise),
            state_cess_paise: Some(figures.state_cess_paise),
            total_paise: Some(figures.total_paise),
        };
    }
    let totals = &computed.totals;
    claimed.totals.claims = TotalsClaims {
        taxable_paise: Some(totals.taxable_paise),
        igst_paise: Some(totals.igst_paise),
        cgst_paise: Some(totals.cgst_paise),
        sgst_paise: Some(totals.sgst_paise),
        cess_paise: Some(totals.cess_paise),
        state_cess_paise: Some(totals.state_cess_paise),
        total_paise: Some(totals.total_paise),
    };
    claimed
}

/// Each claim of a line and of the totals, to be moved by a test.
fn claims_of<'d>(document: &'d mut Document<'static>) -> Vec<&'d mut Option<i64>> {
    let mut out = Vec::new();
    for line in &mut document.lines {
        let c = &mut line.claims;
        out.extend([
            &mut c.gross_paise,
            &mut c.taxable_paise,
            &mut c.igst_paise,
            &mut c.cgst_paise,
        ]);
        out.extend([
            &mut c.sgst_paise,
            &mut c.cess_paise,
            &mut c.state_cess_paise,
            &mut c.total_paise,
        ]);
    }
    let c = &mut document.totals.claims;
    out.extend([
        &mut c.taxable_paise,
        &mut c.igst_paise,
        &mut c.cgst_paise,
        &mut c.sgst_paise,
    ]);
    out.extend([
        &mut c.cess_paise,
        &mut c.state_cess_paise,
        &mut c.total_paise,
    ]);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_lines_add_up_to_the_document_and_to_the_hsn_summary(document in document()) {
        let computed = check(&document, &context(Mode::Compute), Vec::new()).expect("lawful");
        let sum = |of: fn(&invochain_core::gst::ComputedLine) -> i64| computed.lines.iter().map(of).sum::<i64>();
        let totals = &computed.totals;
        prop_assert_eq!(sum(|l| l.taxable_paise), totals.taxable_paise);
        prop_assert_eq!(sum(|l| l.igst_paise), totals.igst_paise);
        prop_assert_eq!(sum(|l| l.cgst_paise), totals.cgst_paise);
        prop_assert_eq!(sum(|l| l.cess_paise + l.cess_nonadvol_paise), totals.cess_paise);
        prop_assert_eq!(sum(|l| l.state_cess_paise + l.state_cess_nonadvol_paise), totals.state_cess_paise);
        prop_assert_eq!(sum(|l| l.total_paise) + totals.round_off_paise, totals.total_paise);

        let mut summary = ReturnSummary::default();
        summary.add(&Reported::of(&document, &computed).expect("checked"), Tables::builtin());
        let sign = if document.doc_type == Given::Known(DocType::CreditNote) { -1 } else { 1 };
        let of_hsn = summary.hsn.values().map(|row| row.sums.txval).sum::<i128>();
        prop_assert_eq!(of_hsn, sign * i128::from(totals.taxable_paise));
        let of_sections = summary.gstr1_sections.values().map(|section| section.sums.iamt).sum::<i128>();
        prop_assert_eq!(of_sections, sign * i128::from(totals.igst_paise));
        let quantity = document.lines.iter().filter_map(|l| l.quantity_milli).sum::<i64>();
        let of_hsn = summary.hsn.values().map(|row| row.quantity_milli).sum::<i128>();
        prop_assert_eq!(of_hsn, sign * i128::from(quantity));
    }

    #[test]
    fn the_halves_are_equal_and_never_stand_beside_integrated_tax(document in document()) {
        let computed = check(&document, &context(Mode::Compute), Vec::new()).expect("lawful");
        for line in &computed.lines {
            prop_assert_eq!(line.cgst_paise, line.sgst_paise);
            prop_assert!(line.igst_paise == 0 || line.cgst_paise == 0);
            prop_assert!(computed.inter_state || line.igst_paise == 0);
        }
    }

    #[test]
    fn strict_and_nic_accept_what_compute_made(document in document()) {
        let computed = check(&document, &context(Mode::Compute), Vec::new()).expect("lawful");
        let claimed = with_claims(&document, &computed);
        for mode in [Mode::Strict, Mode::Nic] {
            prop_assert_eq!(check(&claimed, &context(mode), Vec::new()), Ok(computed.clone()));
        }
    }

    #[test]
    fn a_claim_off_by_a_paisa_is_refused_in_strict_and_ignored_in_compute(
        document in document(), which in any::<prop::sample::Index>(), up in any::<bool>(),
    ) {
        let computed = check(&document, &context(Mode::Compute), Vec::new()).expect("lawful");
        let mut claimed = with_claims(&document, &computed);
        {
            let mut claims = claims_of(&mut claimed);
            let claim = which.get(&claims).unwrap_or(0);
            let moved = if up || claim == 0 { claim + 1 } else { claim - 1 };
            let at = which.index(claims.len());
            *claims[at] = Some(moved);
        }
        prop_assert!(check(&claimed, &context(Mode::Strict), Vec::new()).is_err());
        prop_assert_eq!(check(&claimed, &context(Mode::Compute), Vec::new()), Ok(computed));
    }

    #[test]
    fn permuted_lines_give_permuted_figures(document in document(), turn in any::<prop::sample::Index>()) {
        let computed = check(&document, &context(Mode::Compute), Vec::new()).expect("lawful");
        let by = turn.index(document.lines.len());
        let mut turned = document.clone();
        turned.lines.rotate_left(by);
        let mut expected = computed;
        expected.lines.rotate_left(by);
        prop_assert_eq!(check(&turned, &context(Mode::Compute), Vec::new()), Ok(expected));
    }

    #[test]
    fn review_waives_a_wrong_check_character_and_changes_no_figure(document in document()) {
        let computed = check(&document, &context(Mode::Strict), Vec::new()).expect("lawful");
        let mut wrong = document.clone();
        wrong.seller.gstin = "27AAPFU0939F1ZO";
        let refused = check_under(Policy::Enforce, &wrong, &context(Mode::Strict), Vec::new()).expect_err("refused");
        let (figures, waived) = check_under(Policy::Review, &wrong, &context(Mode::Strict), Vec::new()).expect("waived");
        prop_assert_eq!(&refused, &waived);
        prop_assert_eq!(waived[0].code, "GSTIN_CHECKSUM_INVALID");
        prop_assert_eq!(&figures, &computed);

        wrong.totals.claims.total_paise = Some(figures.totals.total_paise + 1);
        let refused = check_under(Policy::Review, &wrong, &context(Mode::Strict), Vec::new()).expect_err("arithmetic");
        prop_assert_eq!(refused[0].code, "DOCUMENT_TOTAL_MISMATCH");
    }
}

/// Any integer a wire can carry, the limits above all.
fn any_number() -> impl Strategy<Value = Option<i64>> {
    prop::option::of(prop_oneof![
        any::<i64>(),
        0..1_000_000_i64,
        prop::sample::select(vec![
            0,
            -1,
            i64::MAX,
            i64::MIN,
            10_i64.pow(13) - 1,
            10_i64.pow(14) - 1,
            10_i64.pow(15) - 1
        ]),
    ])
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9A-Z]{0,16}",
        prop::sample::select(vec![
            "27",
            "96",
            "URP",
            "27AAPFU0939F1ZV",
            "29AABCR1718E1ZL",
            "610910",
            "24039910",
            "NOS",
            "1"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_document_whatever_its_numbers_and_texts_makes_the_engine_panic(
        texts in prop::collection::vec(any_text(), 12),
        numbers in prop::collection::vec(any_number(), 30),
        types in (0..7_usize, 0..3_usize, 0..4_usize),
        flags in any::<[bool; 5]>(),
        days in any::<[(u16, u8, u8); 3]>(),
        lines in 0..4_usize,
    ) {
        let day = |at: usize| {
            let (year, month, day) = days[at];
            Date::new(2015 + year % 20, 1 + month % 12, 1 + day % 28).map_or(Given::Unknown("x"), Given::Known)
        };
        let line = |at: usize| Line {
            sl: &texts[at % 12],
            is_service: flags[0],
            hsn: &texts[(at + 1) % 12],
            quantity_milli: numbers[at],
            unit: &texts[(at + 2) % 12],
            unit_price_milli: numbers[at + 1],
            gst_rate_milli: if flags[1] { Some(40_000) } else { numbers[at + 2] },
            discount_paise: numbers[at + 3],
            cess_rate_milli: numbers[at + 4],
            cess_per_unit_milli: numbers[at + 5],
            cess_nonadvol_paise: numbers[at + 6],
            state_cess_rate_milli: numbers[at + 7],
            state_cess_nonadvol_paise: numbers[at + 8],
            other_charges_paise: numbers[at + 9],
            rsp_paise: numbers[at + 10],
            claims: LineClaims {
                gross_paise: numbers[at + 11],
                taxable_paise: numbers[at + 12],
                igst_paise: numbers[at + 13],
                ..LineClaims::default()
            },
        };
        let document = Document {
            supply_type: Given::Known(SupplyType::ALL[types.0]),
            doc_type: Given::Known(DocType::ALL[types.1]),
            number: &texts[9],
            date: day(0),
            tax_point: if flags[2] { day(1) } else { Given::Absent },
            reverse_charge: flags[3],
            igst_on_intra: flags[4],
            exclude_tax_from_total: flags[0],
            ecommerce_gstin: &texts[10],
            seller: Seller { gstin: &texts[0], state: &texts[1], aato_paise: numbers[14], ..Seller::default() },
            buyer: Buyer { gstin: &texts[2], state: &texts[3], pos: &texts[4], ..Buyer::default() },
            original: flags[1].then(|| Original {
                number: &texts[5],
                date: day(2),
                creditable_paise: numbers[15],
                value_paise: numbers[16],
            }),
            lines: (0..lines).map(line).collect(),
            totals: Totals {
                discount_paise: numbers[17],
                other_charges_paise: numbers[18],
                round_off_paise: numbers[19],
                round_off_mode: if flags[2] { Given::Known(RoundOffMode::NearestRupee) } else { Given::Absent },
                claims: TotalsClaims { total_paise: numbers[20], ..TotalsClaims::default() },
            },
        };
        for mode in [Mode::Compute, Mode::Strict, Mode::Nic] {
            for policy in [Policy::Enforce, Policy::Review] {
                let _ = check_under(policy, &document, &context(mode), Vec::new());
            }
        }
    }

    #[test]
    fn no_line_within_the_limits_of_its_fields_wraps(
        quantity_milli in 1..10_i64.pow(13),
        unit_price_milli in 0..10_i64.pow(15),
        rsp_paise in 0..10_i64.pow(14),
        state_cess_rate_milli in 0..1_000_000_i64,
        on_retail_price in any::<bool>(),
    ) {
        let line = Line {
            sl: "1",
            hsn: if on_retail_price { "24039910" } else { "220210" },
            quantity_milli: Some(quantity_milli),
            unit: "PAC",
            unit_price_milli: Some(unit_price_milli),
            gst_rate_milli: Some(40_000),
            state_cess_rate_milli: Some(state_cess_rate_milli),
            rsp_paise: on_retail_price.then_some(rsp_paise),
            ..Line::default()
        };
        let document = Document {
            supply_type: Given::Known(SupplyType::B2b),
            doc_type: Given::Known(DocType::Invoice),
            number: "P/1",
            date: date(2026, 3, 1),
            seller: Seller { gstin: "27AAPFU0939F1ZV", state: "27", ..Seller::default() },
            buyer: Buyer { gstin: "29AABCR1718E1ZL", state: "29", pos: "29", ..Buyer::default() },
            lines: vec![line],
            ..Document::default()
        };
        // What the figures must be, by division that rounds down: half up differs by less than one paisa.
        let gross = i128::from(quantity_milli) * i128::from(unit_price_milli) / 10_000;
        match check(&document, &context(Mode::Strict), Vec::new()) {
            Ok(computed) => {
                let figures = computed.lines[0];
                prop_assert!((i128::from(figures.gross_paise) - gross).abs() <= 1);
                let tax = if on_retail_price {
                    i128::from(quantity_milli) * i128::from(rsp_paise) * 40 / 140_000
                } else {
                    i128::from(figures.taxable_paise) * 40 / 100
                };
                prop_assert!((i128::from(figures.igst_paise) - tax).abs() <= 1);
                prop_assert!(figures.total_paise >= figures.taxable_paise);
            }
            Err(violations) => {
                prop_assert_eq!(violations.len(), 1);
                prop_assert_eq!(violations[0].code, "AMOUNT_OVERFLOW");
                prop_assert!(!violations[0].found.starts_with('-'));
            }
        }
    }

    #[test]
    fn any_json_gets_an_answer(text in "\\PC*", path in prop::sample::select(vec!["document", "gstr1_classify", "rate", "irn_cancel", "uniqueness", "qr_payload", "x"])) {
        let input = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
        let _ = vector::answer(&serde_json::json!({"kind": path, "mode": "nic", "input": input}), Tables::builtin());
    }
}
