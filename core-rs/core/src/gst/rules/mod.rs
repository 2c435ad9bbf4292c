//! The rules as values: code, rule number, law, phase and check. They are kept with the noun they speak of and listed
//! once, in order of precedence; the same list is run and printed.
//!
//! To add a rule: one `Rule` in the file of its noun, one line in a list below, its reason in `reason_codes.csv`, and
//! cases in `tests/vectors/gst/`.

pub mod document;
pub mod line;
pub mod line_figures;
pub mod note;
pub mod number;
pub mod party;
pub mod place_of_supply;
pub mod totals;

use super::document::{Document, Line};
use super::facts::{Facts, LineFacts};
use super::figures::{LineFigures, TotalsFigures};
use super::outcome::Violation;
use super::Context;

/// All violations of one phase are reported together; a phase with violations stops the later ones (RULES G52).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Enumerations, lengths, number and date syntax, required fields.
    Structure = 1,
    /// Identity, places, dates against each other, codes, rates.
    Semantics = 2,
    Arithmetic = 3,
}

/// What a structural check sees: the document as it came.
#[derive(Clone, Copy)]
pub struct Paper<'d, 'a, 't> {
    pub document: &'d Document<'a>,
    pub context: &'d Context<'t>,
}

/// What a rule looks at. A check finds nothing in a lawful document, and says where and what in an unlawful one.
#[derive(Clone, Copy)]
pub enum Check {
    Structure(fn(&Paper<'_, '_, '_>, &mut Found)),
    StructureOfLine(fn(&Paper<'_, '_, '_>, usize, &Line<'_>, &mut Found)),
    Semantics(fn(&Facts<'_, '_, '_>, &mut Found)),
    SemanticsOfLine(fn(&Facts<'_, '_, '_>, &LineFacts<'_, '_>, &mut Found)),
    LineFigures(fn(&Facts<'_, '_, '_>, &LineFigures<'_, '_>, &mut Found)),
    Totals(fn(&Facts<'_, '_, '_>, &TotalsFigures, &mut Found)),
    /// Found by whoever reads the text, before there is a document: handed to the engine as `prior`.
    Reader,
}

/// One rule of law.
#[derive(Clone, Copy)]
pub struct Rule {
    /// The reason code (reason_codes.csv).
    pub code: &'static str,
    /// The number in RULES.md.
    pub number: &'static str,
    /// What it rests on.
    pub law: &'static str,
    pub phase: Phase,
    /// May a document be issued for review although it breaks this? Only semantics, and only where every figure can
    /// still be told.
    pub waivable: bool,
    pub check: Check,
}

impl Rule {
    const fn new(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        phase: Phase,
        check: Check,
    ) -> Rule {
        Rule {
            code,
            number,
            law,
            phase,
            waivable: matches!(phase, Phase::Semantics),
            check,
        }
    }

    pub(super) const fn structure(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Paper<'_, '_, '_>, &mut Found),
    ) -> Rule {
        Rule::new(code, number, law, Phase::Structure, Check::Structure(check))
    }

    pub(super) const fn structure_of_line(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Paper<'_, '_, '_>, usize, &Line<'_>, &mut Found),
    ) -> Rule {
        Rule::new(
            code,
            number,
            law,
            Phase::Structure,
            Check::StructureOfLine(check),
        )
    }

    pub(super) const fn semantics(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Facts<'_, '_, '_>, &mut Found),
    ) -> Rule {
        Rule::new(code, number, law, Phase::Semantics, Check::Semantics(check))
    }

    pub(super) const fn semantics_of_line(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Facts<'_, '_, '_>, &LineFacts<'_, '_>, &mut Found),
    ) -> Rule {
        Rule::new(
            code,
            number,
            law,
            Phase::Semantics,
            Check::SemanticsOfLine(check),
        )
    }

    pub(super) const fn line_figures(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Facts<'_, '_, '_>, &LineFigures<'_, '_>, &mut Found),
    ) -> Rule {
        Rule::new(
            code,
            number,
            law,
            Phase::Arithmetic,
            Check::LineFigures(check),
        )
    }

    pub(super) const fn totals(
        code: &'static str,
        number: &'static str,
        law: &'static str,
        check: fn(&Facts<'_, '_, '_>, &TotalsFigures, &mut Found),
    ) -> Rule {
        Rule::new(code, number, law, Phase::Arithmetic, Check::Totals(check))
    }

    pub(super) const fn of_reader(
        code: &'static str,
        number: &'static str,
        law: &'static str,
    ) -> Rule {
        Rule::new(code, number, law, Phase::Structure, Check::Reader)
    }

    /// Without this no figure of the document could be told, so no policy waives it.
    pub(super) const fn never_waived(mut self) -> Rule {
        self.waivable = false;
        self
    }
}

/// What was found wrong so far, and which rule says so.
#[derive(Default)]
pub struct Found {
    violations: Vec<Violation>,
    waivable: Vec<bool>,
}

impl Found {
    pub(super) fn starting_with(prior: Vec<Violation>) -> Found {
        let waivable = prior.iter().map(|_| false).collect();
        Found {
            violations: prior,
            waivable,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.violations.is_empty()
    }

    #[cold]
    #[inline(never)]
    pub(super) fn at(&mut self, path: &str, found: impl Into<String>, wanted: impl Into<String>) {
        let (found, wanted) = (found.into(), wanted.into());
        self.violations.push(Violation {
            code: "",
            path: path.to_owned(),
            found,
            wanted,
            law: "",
        });
    }

    #[cold]
    #[inline(never)]
    pub(super) fn on_line(
        &mut self,
        index: usize,
        field: &str,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        self.at(&format!("items[{index}].{field}"), found, wanted);
    }

    /// A required field of a line is missing, unless its reader has already said what is wrong with it.
    #[cold]
    #[inline(never)]
    pub(super) fn missing_on_line(&mut self, index: usize, field: &str, wanted: &str) {
        let path = format!("items[{index}].{field}");
        if !self
            .violations
            .iter()
            .any(|violation| violation.path == path)
        {
            self.at(&path, "", wanted);
        }
    }

    /// Names the rule behind whatever its check has just found.
    #[inline]
    fn stamp(&mut self, rule: &Rule) {
        if self.violations.len() != self.waivable.len() {
            self.stamp_new(rule);
        }
    }

    #[cold]
    #[inline(never)]
    fn stamp_new(&mut self, rule: &Rule) {
        for violation in &mut self.violations[self.waivable.len()..] {
            violation.code = rule.code;
            violation.law = rule.law;
        }
        self.waivable.resize(self.violations.len(), rule.waivable);
    }

    /// Everything found, parted into what no policy waives and what REVIEW does.
    pub(super) fn parted(self) -> (Vec<Violation>, Vec<Violation>) {
        let (mut firm, mut waivable) = (Vec::new(), Vec::new());
        for (violation, is_waivable) in self.violations.into_iter().zip(self.waivable) {
            if is_waivable {
                waivable.push(violation)
            } else {
                firm.push(violation)
            }
        }
        (firm, waivable)
    }

    pub(super) fn into_violations(self) -> Vec<Violation> {
        self.violations
    }
}

/// A list of rules that is run (as plain calls, each inlined) and printed.
macro_rules! in_order {
    (
        $(#[$meta:meta])*
        $list:ident: fn $run:ident $parameters:tt = $kind:ident $arguments:tt => $found:ident in [$($rule:path),+ $(,)?]
    ) => {
        $(#[$meta])*
        pub const $list: &[Rule] = &[$($rule),+];

        #[inline]
        pub(super) fn $run $parameters {
            $({
                const RULE: Rule = $rule;
                if let Check::$kind(check) = RULE.check {
                    check $arguments;
                    $found.stamp(&RULE);
                }
            })+
        }
    };
}

in_order! {
    /// Phase 1, the document.
    STRUCTURE: fn judge_structure(paper: &Paper<'_, '_, '_>, found: &mut Found) = Structure(paper, found) => found in [
        document::DOC_TYPE_INVALID,
        document::SUPPLY_TYPE_INVALID,
        document::DOC_NUMBER_REQUIRED,
        document::DOC_NUMBER_TOO_LONG,
        document::DOC_NUMBER_CHARSET,
        document::DOC_NUMBER_LEADING_CHAR,
        document::DATE_INVALID,
        number::NEGATIVE_AMOUNT,
        number::AMOUNT_OUT_OF_RANGE,
        number::ROUND_OFF_OUT_OF_RANGE,
        totals::ROUND_OFF_MODE_INVALID,
        line::ITEMS_EMPTY,
        line::ITEMS_TOO_MANY,
        line::ITEM_SL_DUPLICATE,
    ]
}

in_order! {
    /// Phase 1, each line.
    STRUCTURE_OF_LINE: fn judge_structure_of_line(paper: &Paper<'_, '_, '_>, index: usize, line: &Line<'_>, found: &mut Found) = StructureOfLine(paper, index, line, found) => found in [
        line::ITEM_SL_INVALID,
        line::HSN_FORMAT_INVALID,
        line::QTY_REQUIRED,
        line::UQC_REQUIRED,
        line::UNIT_PRICE_REQUIRED,
        line::GST_RATE_REQUIRED,
        number::LINE_NEGATIVE_AMOUNT,
        number::LINE_AMOUNT_OUT_OF_RANGE,
    ]
}

in_order! {
    /// Phase 2, the document.
    SEMANTICS: fn judge_semantics(facts: &Facts<'_, '_, '_>, found: &mut Found) = Semantics(facts, found) => found in [
        party::GSTIN_REQUIRED,
        party::GSTIN_LENGTH_INVALID,
        party::GSTIN_FORMAT_INVALID,
        party::GSTIN_STATE_INVALID,
        party::GSTIN_CHECKSUM_INVALID,
        party::GSTIN_URP_NOT_ALLOWED,
        party::GSTIN_KIND_NOT_ALLOWED,
        party::BUYER_MUST_BE_URP,
        party::STATE_GSTIN_MISMATCH,
        party::STATE_CODE_WITHDRAWN,
        party::SELLER_BUYER_SAME,
        party::ECOMMERCE_GSTIN_NOT_TCS,
        document::DATE_IN_FUTURE,
        document::DATE_BEFORE_GST,
        note::ORIGINAL_REQUIRED,
        note::ORIGINAL_DATE_INVALID,
        note::ORIGINAL_NOT_ALLOWED,
        note::ORIGINAL_AFTER_NOTE,
        note::CREDIT_NOTE_TIME_BARRED,
        place_of_supply::POS_REQUIRED,
        place_of_supply::POS_MUST_BE_96,
        place_of_supply::POS_96_NOT_ALLOWED,
        place_of_supply::POS_WITHDRAWN,
        place_of_supply::POS_INVALID,
        place_of_supply::BUYER_STATE_MUST_BE_96,
        party::BUYER_NOT_SEZ,
        party::BUYER_SEZ_NOT_ALLOWED,
        place_of_supply::IGST_ON_INTRA_POS_MISMATCH,
        place_of_supply::IGST_ON_INTRA_REQUIRES_RCM,
        document::REVERSE_CHARGE_NOT_ALLOWED,
        document::EXCLUDE_TAX_NOT_ALLOWED,
    ]
}

in_order! {
    /// Phase 2, each line.
    SEMANTICS_OF_LINE: fn judge_semantics_of_line(facts: &Facts<'_, '_, '_>, line: &LineFacts<'_, '_>, found: &mut Found) = SemanticsOfLine(facts, line, found) => found in [
        line::HSN_TOO_SHORT,
        line::HSN_SERVICE_MISMATCH,
        line::QTY_NOT_POSITIVE,
        line::GROSS_REQUIRED,
        line::UQC_INVALID,
        line::GST_RATE_UNKNOWN,
        line::GST_RATE_NOT_IN_FORCE,
        line::GST_RATE_HSN_MISMATCH,
        line::CESS_NOT_IN_FORCE,
        line::CESS_HSN_NOT_LIABLE,
        line::RSP_REQUIRED,
        line::RSP_NOT_APPLICABLE,
    ]
}

in_order! {
    /// Phase 3, each line.
    LINE_FIGURES: fn judge_line_figures(facts: &Facts<'_, '_, '_>, line: &LineFigures<'_, '_>, found: &mut Found) = LineFigures(facts, line, found) => found in [
        line_figures::AMOUNT_OVERFLOW,
        line_figures::GROSS_MISMATCH,
        line_figures::DISCOUNT_EXCEEDS_GROSS,
        line_figures::TAXABLE_MISMATCH,
        line_figures::TAX_ON_WITHOUT_PAYMENT,
        line_figures::IGST_NOT_ALLOWED_INTRA,
        line_figures::CGST_SGST_NOT_ALLOWED_INTER,
        line_figures::TAX_AMOUNT_MISMATCH,
        line_figures::CGST_SGST_UNEQUAL,
        line_figures::CESS_AMOUNT_MISMATCH,
        line_figures::STATE_CESS_AMOUNT_MISMATCH,
        line_figures::LINE_TOTAL_MISMATCH,
    ]
}

in_order! {
    /// Phase 3, the document.
    TOTALS: fn judge_totals(facts: &Facts<'_, '_, '_>, figures: &TotalsFigures, found: &mut Found) = Totals(facts, figures, found) => found in [
        totals::AMOUNT_OVERFLOW,
        totals::TOTAL_TAXABLE_MISMATCH,
        totals::TOTAL_TAX_MISMATCH,
        totals::TOTAL_CESS_MISMATCH,
        totals::TOTAL_STATE_CESS_MISMATCH,
        totals::DISCOUNT_EXCEEDS_TOTAL,
        totals::ROUND_OFF_MISMATCH,
        totals::NEGATIVE_TOTAL,
        totals::DOCUMENT_TOTAL_MISMATCH,
        note::CREDIT_EXCEEDS_ORIGINAL,
    ]
}

/// Found by readers of text: in front of everything, for what cannot be read is not judged further.
pub const OF_READERS: &[Rule] = &[number::NUMBER_FORMAT_INVALID, number::PRECISION_EXCEEDED];

/// Every rule in order of precedence, phase by phase.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [
        OF_READERS,
        STRUCTURE,
        STRUCTURE_OF_LINE,
        SEMANTICS,
        SEMANTICS_OF_LINE,
        LINE_FIGURES,
        TOTALS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gst::Tables;

    #[test]
    fn every_rule_has_its_reason_and_every_reason_of_documents_its_rule() {
        let reasons = &Tables::builtin().reasons;
        let of_rules: BTreeSet<&str> = all().map(|rule| rule.code).collect();
        for rule in all() {
            let reason = reasons
                .get(rule.code)
                .unwrap_or_else(|| panic!("no reason {}", rule.code));
            assert_eq!(reason.rule, rule.number, "{}", rule.code);
            assert!(!rule.law.is_empty());
            // RULES G70 moves the date of the original to phase 2; G49 counts to phase 3 alone.
            if rule.code != "DATE_INVALID" {
                assert_eq!(
                    reason.phase,
                    (rule.phase as u8).to_string(),
                    "{}",
                    rule.code
                );
            }
        }
        let elsewhere = [
            "DOC_NUMBER_DUPLICATE",
            "EINVOICE_REPORT_WINDOW_CLOSED",
            "CANCEL_WINDOW_CLOSED",
            "CANCEL_BLOCKED_BY_EWB",
            "IRN_ALREADY_CANCELLED",
        ];
        for reason in reasons.rows() {
            let code = reason.code.as_str();
            assert!(
                of_rules.contains(code) != elsewhere.contains(&code),
                "{code}"
            );
        }
    }

    #[test]
    fn structure_and_arithmetic_are_never_waived() {
        for rule in all() {
            assert!(
                !rule.waivable || rule.phase == Phase::Semantics,
                "{}",
                rule.code
            );
        }
    }
}
