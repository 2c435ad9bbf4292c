//! What the engine answers: the figures of a lawful document, or everything that is wrong with it.

use super::document::Date;

/// One broken rule. Together with its siblings it says everything that is wrong in one phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason code of core-rs/core/data/reason_codes.csv.
    pub code: &'static str,
    /// Where: neutral (`items[0].cgst`) or the field path of the API (`invoice.lines[0].cgst_paise`), as the context asks.
    pub path: String,
    /// What was found, in words a person reads: amounts as `118.00`; empty where nothing was given.
    pub found: String,
    /// What would have been right.
    pub wanted: String,
    /// The section, rule, notification or NIC validation it rests on.
    pub law: &'static str,
}

/// Which tax heads a supply carries (RULES G24, G27).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SupplySplit {
    /// IGST on the whole rate.
    #[default]
    Integrated,
    /// CGST and SGST, half each.
    CentralAndState,
    /// CGST and UTGST, half each; UTGST is carried in the sgst fields.
    CentralAndUnionTerritory,
}

/// The figures of a lawful document. In `nic` an accepted claim is the figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Computed {
    pub inter_state: bool,
    pub split: SupplySplit,
    /// The day that decided rates and cess (RULES G17).
    pub tax_date: Option<Date>,
    pub lines: Vec<ComputedLine>,
    pub totals: ComputedTotals,
}

/// One line, in paise; the order of fields is the order in which overflow is reported (RULES G49).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComputedLine {
    pub gross_paise: i64,
    pub taxable_paise: i64,
    pub igst_paise: i64,
    pub cgst_paise: i64,
    pub sgst_paise: i64,
    pub cess_paise: i64,
    pub cess_nonadvol_paise: i64,
    pub state_cess_paise: i64,
    pub state_cess_nonadvol_paise: i64,
    pub other_charges_paise: i64,
    pub total_paise: i64,
}

/// The document, in paise. `cess_paise` and `state_cess_paise` include the non-ad-valorem part (RULES G45).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComputedTotals {
    pub taxable_paise: i64,
    pub igst_paise: i64,
    pub cgst_paise: i64,
    pub sgst_paise: i64,
    pub cess_paise: i64,
    pub state_cess_paise: i64,
    pub discount_paise: i64,
    pub other_charges_paise: i64,
    pub round_off_paise: i64,
    pub total_paise: i64,
}
