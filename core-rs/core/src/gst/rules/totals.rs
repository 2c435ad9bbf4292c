//! Rules of what stands under the lines: sums, discount, round-off, total (RULES G45 to G49).

use super::line_figures::wanted;
use super::{Found, Rule};
use crate::gst::document::{Given, RoundOffMode};
use crate::gst::facts::Facts;
use crate::gst::figures::{accepts, Figure, Stop, TotalsFigures};
use crate::gst::Mode;
use crate::money::paise_text;

pub const ROUND_OFF_MODE_INVALID: Rule = Rule::structure(
    "ROUND_OFF_MODE_INVALID",
    "G47",
    "INV-01 ValDtls.RndOffAmt",
    |paper, found| {
        if let Given::Unknown(text) = paper.document.totals.round_off_mode {
            found.at("totals.round_off_mode", text, "NONE or NEAREST_RUPEE");
        }
    },
);

pub const AMOUNT_OVERFLOW: Rule = Rule::totals(
    "AMOUNT_OVERFLOW",
    "G49",
    "INV-01 ValDtls, N(14,2)",
    |_, figures, found| {
        if let Some(Stop::Overflow { field, value }) = figures.stop {
            found.at(
                &format!("totals.{field}"),
                paise_text(value),
                "at most 99999999999999.99",
            );
        }
    },
);

/// Sums are compared unless one of the totals overflowed, which replaces everything else (RULES G49).
#[inline(always)]
fn compare(
    facts: &Facts<'_, '_, '_>,
    figures: &TotalsFigures,
    found: &mut Found,
    (path, claim, figure): (&'static str, Option<i64>, Figure),
) {
    let is_formed = matches!(figures.stop, None | Some(Stop::Discount));
    if is_formed && !accepts(facts.context.mode, figure.ours, claim) {
        found.at(
            path,
            paise_text(claim.unwrap_or(0)),
            wanted(facts.context.mode, figure.ours),
        );
    }
}

pub const TOTAL_TAXABLE_MISMATCH: Rule = Rule::totals(
    "TOTAL_TAXABLE_MISMATCH",
    "G45",
    "INV-01 ValDtls.AssVal; NIC 2182",
    |facts, figures, found| {
        let claim = facts.document.totals.claims.taxable_paise;
        compare(
            facts,
            figures,
            found,
            ("totals.taxable", claim, figures.taxable),
        );
    },
);

pub const TOTAL_TAX_MISMATCH: Rule = Rule::totals(
    "TOTAL_TAX_MISMATCH",
    "G45",
    "INV-01 ValDtls.IgstVal, CgstVal, SgstVal; NIC 2183, 2184, 2185",
    |facts, figures, found| {
        let claims = &facts.document.totals.claims;
        compare(
            facts,
            figures,
            found,
            ("totals.igst", claims.igst_paise, figures.igst),
        );
        compare(
            facts,
            figures,
            found,
            ("totals.cgst", claims.cgst_paise, figures.cgst),
        );
        compare(
            facts,
            figures,
            found,
            ("totals.sgst", claims.sgst_paise, figures.sgst),
        );
    },
);

pub const TOTAL_CESS_MISMATCH: Rule = Rule::totals(
    "TOTAL_CESS_MISMATCH",
    "G45",
    "INV-01 ValDtls.CesVal; NIC 2186, 2188",
    |facts, figures, found| {
        compare(
            facts,
            figures,
            found,
            (
                "totals.cess",
                facts.document.totals.claims.cess_paise,
                figures.cess,
            ),
        );
    },
);

pub const TOTAL_STATE_CESS_MISMATCH: Rule = Rule::totals(
    "TOTAL_STATE_CESS_MISMATCH",
    "G45",
    "INV-01 ValDtls.StCesVal; NIC 2187",
    |facts, figures, found| {
        let claim = facts.document.totals.claims.state_cess_paise;
        compare(
            facts,
            figures,
            found,
            ("totals.state_cess", claim, figures.state_cess),
        );
    },
);

pub const DISCOUNT_EXCEEDS_TOTAL: Rule = Rule::totals(
    "DISCOUNT_EXCEEDS_TOTAL",
    "G46",
    "INV-01 ValDtls.Discount; NIC 2220",
    |_, figures, found| {
        if figures.stop == Some(Stop::Discount) {
            let wanted = format!("less than {}", paise_text(figures.before_discount));
            found.at("totals.discount", paise_text(figures.discount), wanted);
        }
    },
);

pub const ROUND_OFF_MISMATCH: Rule = Rule::totals(
    "ROUND_OFF_MISMATCH",
    "G47",
    "INV-01 ValDtls.RndOffAmt; CGST Act 2017, s. 170 by analogy",
    |facts, figures, found| {
        let totals = &facts.document.totals;
        let is_claim = totals.round_off_mode == Given::Known(RoundOffMode::NearestRupee);
        if let Some(claim) = totals
            .round_off_paise
            .filter(|_| is_claim && figures.stop.is_none())
        {
            if facts.context.mode != Mode::Compute && claim != figures.round_off.ours {
                found.at(
                    "totals.round_off",
                    paise_text(claim),
                    paise_text(figures.round_off.ours),
                );
            }
        }
    },
);

pub const NEGATIVE_TOTAL: Rule = Rule::totals(
    "NEGATIVE_TOTAL",
    "G48",
    "INV-01 ValDtls.TotInvVal",
    |_, figures, found| {
        if let Some(total) = figures.total.filter(|total| total.ours < 0) {
            found.at("totals.total", paise_text(total.ours), "0.00 or more");
        }
    },
);

pub const DOCUMENT_TOTAL_MISMATCH: Rule = Rule::totals(
    "DOCUMENT_TOTAL_MISMATCH",
    "G48",
    "INV-01 ValDtls.TotInvVal; NIC 2189",
    |facts, figures, found| {
        if let Some(total) = figures.total.filter(|total| total.ours >= 0) {
            compare(
                facts,
                figures,
                found,
                (
                    "totals.total",
                    facts.document.totals.claims.total_paise,
                    total,
                ),
            );
        }
    },
);
