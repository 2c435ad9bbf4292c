//! Rules of every amount: syntax, sign, precision, range (RULES G36).
//!
//! They hold for each field that is present, in every mode, even where the figure is ignored later (G70). Text is read
//! by [`crate::money::DecimalField`]; integers off the wire are judged here.

use super::{Paper, Rule};
use crate::gst::document::Line;
use crate::money::{
    milli_text, paise_text, DOCUMENT_PAISE_MAX, ITEM_PAISE_MAX, PRICE_MILLI_MAX,
    QUANTITY_MILLI_MAX, RATE_MILLI_MAX, ROUND_OFF_PAISE_MAX,
};

const INV_01: &str = "INV-01 (Notification 60/2020-CT), field types";

pub const NUMBER_FORMAT_INVALID: Rule = Rule::of_reader("NUMBER_FORMAT_INVALID", "G36", INV_01);
pub const PRECISION_EXCEEDED: Rule = Rule::of_reader("PRECISION_EXCEEDED", "G36", INV_01);

/// How a field is printed.
type Print = fn(i64) -> String;

const MILLI: Print = |value| milli_text(value);
const PAISE: Print = |value| paise_text(value);

/// Name, value, largest value and unit of every number on a line.
#[inline(always)]
fn each_of_line(line: &Line<'_>, mut judge: impl FnMut(&'static str, Option<i64>, i64, Print)) {
    judge("qty", line.quantity_milli, QUANTITY_MILLI_MAX, MILLI);
    judge("unit_price", line.unit_price_milli, PRICE_MILLI_MAX, MILLI);
    judge("gst_rate", line.gst_rate_milli, RATE_MILLI_MAX, MILLI);
    judge("discount", line.discount_paise, ITEM_PAISE_MAX, PAISE);
    judge("cess_rate", line.cess_rate_milli, RATE_MILLI_MAX, MILLI);
    judge(
        "cess_per_unit",
        line.cess_per_unit_milli,
        PRICE_MILLI_MAX,
        MILLI,
    );
    judge(
        "cess_nonadvol",
        line.cess_nonadvol_paise,
        ITEM_PAISE_MAX,
        PAISE,
    );
    judge(
        "state_cess_rate",
        line.state_cess_rate_milli,
        RATE_MILLI_MAX,
        MILLI,
    );
    judge(
        "state_cess_nonadvol",
        line.state_cess_nonadvol_paise,
        ITEM_PAISE_MAX,
        PAISE,
    );
    judge(
        "other_charges",
        line.other_charges_paise,
        ITEM_PAISE_MAX,
        PAISE,
    );
    judge("rsp", line.rsp_paise, ITEM_PAISE_MAX, PAISE);
    let claims = &line.claims;
    judge("gross", claims.gross_paise, ITEM_PAISE_MAX, PAISE);
    judge("taxable", claims.taxable_paise, ITEM_PAISE_MAX, PAISE);
    judge("igst", claims.igst_paise, ITEM_PAISE_MAX, PAISE);
    judge("cgst", claims.cgst_paise, ITEM_PAISE_MAX, PAISE);
    judge("sgst", claims.sgst_paise, ITEM_PAISE_MAX, PAISE);
    judge("cess", claims.cess_paise, ITEM_PAISE_MAX, PAISE);
    judge("state_cess", claims.state_cess_paise, ITEM_PAISE_MAX, PAISE);
    judge("total", claims.total_paise, ITEM_PAISE_MAX, PAISE);
}

/// The same for the numbers beside the lines; round-off has a rule of its own.
#[inline(always)]
fn each_of_document(
    paper: &Paper<'_, '_, '_>,
    mut judge: impl FnMut(&'static str, Option<i64>, i64, Print),
) {
    let document = paper.document;
    judge(
        "seller.aato_crore",
        document.seller.aato_paise,
        i64::MAX,
        PAISE,
    );
    if let Some(original) = &document.original {
        judge(
            "original.creditable",
            original.creditable_paise,
            DOCUMENT_PAISE_MAX,
            PAISE,
        );
        judge(
            "original.value",
            original.value_paise,
            DOCUMENT_PAISE_MAX,
            PAISE,
        );
    }
    let totals = &document.totals;
    judge(
        "totals.discount",
        totals.discount_paise,
        DOCUMENT_PAISE_MAX,
        PAISE,
    );
    judge(
        "totals.other_charges",
        totals.other_charges_paise,
        DOCUMENT_PAISE_MAX,
        PAISE,
    );
    let claims = &totals.claims;
    judge(
        "totals.taxable",
        claims.taxable_paise,
        DOCUMENT_PAISE_MAX,
        PAISE,
    );
    judge("totals.igst", claims.igst_paise, DOCUMENT_PAISE_MAX, PAISE);
    judge("totals.cgst", claims.cgst_paise, DOCUMENT_PAISE_MAX, PAISE);
    judge("totals.sgst", claims.sgst_paise, DOCUMENT_PAISE_MAX, PAISE);
    judge("totals.cess", claims.cess_paise, DOCUMENT_PAISE_MAX, PAISE);
    judge(
        "totals.state_cess",
        claims.state_cess_paise,
        DOCUMENT_PAISE_MAX,
        PAISE,
    );
    judge(
        "totals.total",
        claims.total_paise,
        DOCUMENT_PAISE_MAX,
        PAISE,
    );
}

/// Nearly every line passes here, without a branch a field; only then is the number that is wrong looked for.
#[inline]
fn line_is_sound(line: &Line<'_>) -> bool {
    let mut is_wrong = false;
    each_of_line(line, |_, value, max, _| {
        let value = value.unwrap_or(0);
        is_wrong |= (value < 0) | (value > max);
    });
    !is_wrong
}

pub const NEGATIVE_AMOUNT: Rule =
    Rule::structure("NEGATIVE_AMOUNT", "G36", INV_01, |paper, found| {
        each_of_document(paper, |path, value, _, print| {
            if let Some(value) = value.filter(|value| *value < 0) {
                found.at(
                    path,
                    print(value),
                    "0 or more; the type of the document carries the sign",
                );
            }
        });
    });

pub const LINE_NEGATIVE_AMOUNT: Rule =
    Rule::structure_of_line("NEGATIVE_AMOUNT", "G36", INV_01, |_, index, line, found| {
        if line_is_sound(line) {
            return;
        }
        each_of_line(line, |field, value, _, print| {
            if let Some(value) = value.filter(|value| *value < 0) {
                found.on_line(
                    index,
                    field,
                    print(value),
                    "0 or more; the type of the document carries the sign",
                );
            }
        });
    });

pub const AMOUNT_OUT_OF_RANGE: Rule =
    Rule::structure("AMOUNT_OUT_OF_RANGE", "G36", INV_01, |paper, found| {
        each_of_document(paper, |path, value, max, print| {
            if let Some(value) = value.filter(|value| *value > max) {
                found.at(path, print(value), format!("at most {}", print(max)));
            }
        });
    });

pub const LINE_AMOUNT_OUT_OF_RANGE: Rule = Rule::structure_of_line(
    "AMOUNT_OUT_OF_RANGE",
    "G36",
    INV_01,
    |_, index, line, found| {
        if line_is_sound(line) {
            return;
        }
        each_of_line(line, |field, value, max, print| {
            if let Some(value) = value.filter(|value| *value > max) {
                found.on_line(
                    index,
                    field,
                    print(value),
                    format!("at most {}", print(max)),
                );
            }
        });
    },
);

pub const ROUND_OFF_OUT_OF_RANGE: Rule = Rule::structure(
    "ROUND_OFF_OUT_OF_RANGE",
    "G47",
    "INV-01 ValDtls.RndOffAmt",
    |paper, found| {
        let beyond = |value: &i64| !(-ROUND_OFF_PAISE_MAX..=ROUND_OFF_PAISE_MAX).contains(value);
        if let Some(value) = paper.document.totals.round_off_paise.filter(beyond) {
            found.at("totals.round_off", paise_text(value), "-99.99 to 99.99");
        }
    },
);
