//! The GST engine: every rule at once, with the reason and the law, in whole paise.
//!
//! A decoder (protobuf, neutral JSON, INV-01) makes a [`Document`]; [`check`] answers with its figures or with all
//! violations of the first phase that has any. Nothing here reads a clock: today comes in through the [`Context`].
//! Source: RULES.md (core-rs/core/data/RULES.md), rules G1 to G70.

pub mod date;
pub mod document;
pub mod outcome;
pub mod tables;

pub use date::Date;
pub use document::{
    Buyer, DocType, Document, Given, Line, LineClaims, Original, RoundOffMode, Seller, SupplyType, TaxpayerType, Totals,
    TotalsClaims,
};
pub use outcome::{Computed, ComputedLine, ComputedTotals, SupplySplit, Violation};
pub use tables::Tables;

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
pub fn check(document: &Document<'_>, context: &Context<'_>, prior: Vec<Violation>) -> Result<Computed, Vec<Violation>> {
    let mut computed = Computed::default();
    check_into(document, context, prior, &mut computed)?;
    Ok(computed)
}

/// Like [`check`], into a `Computed` whose memory is used again: nothing is allocated for a valid document.
/// After an error `into` holds no meaning.
pub fn check_into(
    _document: &Document<'_>,
    _context: &Context<'_>,
    _prior: Vec<Violation>,
    _into: &mut Computed,
) -> Result<(), Vec<Violation>> {
    todo!("the engine follows with the next commit")
}

/// Like [`check`], but under [`Policy::Review`] the violations of phase 2 come beside the figures instead of refusing.
pub fn check_under(
    policy: Policy,
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
) -> Result<(Computed, Vec<Violation>), Vec<Violation>> {
    let _ = policy;
    check(document, context, prior).map(|computed| (computed, Vec::new()))
}
