//! The GST engine: every rule at once, with the reason and the law, in whole paise.
//!
//! A decoder (protobuf, neutral JSON, INV-01) makes a [`Document`]; [`check`] answers with its figures or with all
//! violations of the first phase that has any. Nothing here reads a clock: today comes in through the [`Context`].
//! Source: RULES.md (core-rs/core/data/RULES.md), rules G1 to G70.

pub mod date;
pub mod document;
pub mod explain;
pub mod facts;
pub mod figures;
pub mod gstin;
pub mod hsn;
pub mod inv01;
pub mod irn;
pub mod neutral;
pub mod outcome;
pub mod paths;
pub mod period;
mod reading;
pub mod returns;
pub mod rules;
pub mod tables;
pub mod vector;

pub use date::Date;
pub use document::{
    Buyer, DocType, Document, Given, Line, LineClaims, Original, RoundOffMode, Seller, SupplyType,
    TaxpayerType, Totals, TotalsClaims,
};
pub use neutral::Read;
pub use outcome::{Computed, ComputedLine, ComputedTotals, SupplySplit, Violation};
pub use reading::Malformed;
pub use tables::Tables;

use facts::{Facts, LineFacts};
use figures::{LineFigures, TotalsFigures};
use rules::{Found, Paper};

/// What claims (derived figures in the input) mean (RULES G51).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Claims are ignored; everything is computed.
    Compute,
    /// A claim must equal the computed figure to the paisa: what the API uses.
    #[default]
    Strict,
    /// For documents made elsewhere: a claim inside the band of the e-invoice system is accepted and carried on.
    Nic,
}

/// How violations name fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathForm {
    /// `items[0].qty`, as in the vectors.
    #[default]
    Neutral,
    /// `invoice.lines[0].quantity_milli`, as in the API.
    Api,
}

/// Everything the engine needs beside the document.
#[derive(Clone, Copy, Debug)]
pub struct Context<'t> {
    pub mode: Mode,
    /// Today in India; `None` skips the check for dates in the future (RULES G16).
    pub today: Option<Date>,
    pub tables: &'t Tables,
    pub form: PathForm,
    /// The server will give the number: an empty one is not refused. A given one is checked as ever.
    pub number_by_server: bool,
}

/// Whether an unlawful document is refused, or issued for review (RULES G52; PROTOCOL names the states).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    #[default]
    Enforce,
    /// Semantic violations (phase 2) are waived and listed; structure, arithmetic and overflow never are.
    Review,
}

/// Checks one document and computes its figures.
///
/// `prior` are phase-1 violations the decoder already found (a number it could not read, say), with neutral paths;
/// they join phase 1, and the field they name is not called missing. Errors: all violations of the first phase that
/// has any, in order of precedence. A valid document allocates nothing but the vector of lines.
/// Source: RULES G1 to G52, G70.
pub fn check(
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
) -> Result<Computed, Vec<Violation>> {
    let mut computed = Computed::default();
    check_into(document, context, prior, &mut computed)?;
    Ok(computed)
}

/// Like [`check`], into a `Computed` whose memory is used again: nothing is allocated for a valid document.
/// After an error `into` holds no meaning.
pub fn check_into(
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
    into: &mut Computed,
) -> Result<(), Vec<Violation>> {
    let waived = check_waiving(false, document, context, prior, into)?;
    debug_assert!(waived.is_empty());
    Ok(())
}

/// Like [`check`], but under [`Policy::Review`] violations of phase 2 that leave every figure certain come beside the
/// figures instead of refusing.
pub fn check_under(
    policy: Policy,
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
) -> Result<(Computed, Vec<Violation>), Vec<Violation>> {
    let mut computed = Computed::default();
    let waived = check_waiving(
        policy == Policy::Review,
        document,
        context,
        prior,
        &mut computed,
    )?;
    Ok((computed, waived))
}

/// The three phases in order (RULES G52). Answers with what was waived.
fn check_waiving(
    may_waive: bool,
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
    into: &mut Computed,
) -> Result<Vec<Violation>, Vec<Violation>> {
    let refused = |violations| Err(in_form(violations, context.form));

    let found = structure(document, context, prior);
    let facts = match Facts::of(document, context) {
        Some(facts) if found.is_empty() => facts,
        _ => return refused(found.into_violations()),
    };

    let found = semantics(&facts);
    let mut waived = Vec::new();
    if !found.is_empty() {
        let (firm, waivable) = found.parted();
        if !may_waive || !firm.is_empty() {
            // Parting keeps the order within each part; a refusal tells both.
            return refused(firm.into_iter().chain(waivable).collect());
        }
        waived = in_form(waivable, context.form);
    }

    let found = arithmetic(&facts, into);
    if !found.is_empty() {
        return refused(found.into_violations());
    }
    into.inter_state = facts.inter_state;
    into.split = facts.split();
    into.tax_date = Some(facts.tax_date);
    Ok(waived)
}

#[inline]
fn structure(document: &Document<'_>, context: &Context<'_>, prior: Vec<Violation>) -> Found {
    let mut found = Found::starting_with(prior);
    let paper = Paper { document, context };
    rules::judge_structure(&paper, &mut found);
    for (index, line) in document.lines.iter().enumerate() {
        rules::judge_structure_of_line(&paper, index, line, &mut found);
    }
    found
}

#[inline]
fn semantics(facts: &Facts<'_, '_, '_>) -> Found {
    let mut found = Found::default();
    rules::judge_semantics(facts, &mut found);
    for (index, line) in facts.document.lines.iter().enumerate() {
        if let Some(line) = LineFacts::of(facts, index, line) {
            rules::judge_semantics_of_line(facts, &line, &mut found);
        }
    }
    found
}

/// Forms the figures and holds the claims against them; totals are formed only if every line came to an end.
#[inline]
fn arithmetic(facts: &Facts<'_, '_, '_>, into: &mut Computed) -> Found {
    let mut found = Found::default();
    let mut all_formed = true;
    into.lines.clear();
    into.lines.reserve(facts.document.lines.len());
    for (index, line) in facts.document.lines.iter().enumerate() {
        let figures = LineFigures::of(facts, index, line);
        rules::judge_line_figures(facts, &figures, &mut found);
        all_formed &= figures.stop.is_none();
        into.lines.push(figures.computed());
    }
    if all_formed {
        let figures = TotalsFigures::of(facts, &into.lines);
        rules::judge_totals(facts, &figures, &mut found);
        into.totals = figures.computed();
    }
    found
}

fn in_form(violations: Vec<Violation>, form: PathForm) -> Vec<Violation> {
    violations
        .into_iter()
        .map(|violation| Violation {
            path: paths::in_form(violation.path, form),
            ..violation
        })
        .collect()
}
