//! The figures of returns: GSTR-1 sections, GSTR-3B, the HSN summary (RULES G62 to G68).
//!
//! Sums are signed (credit notes count negative, debit notes positive) and kept in `i128`: a period may hold any number
//! of documents. Negative nets are kept; what the portal shows instead is the portal's affair.

use std::collections::BTreeMap;

use super::date::Date;
use super::document::{DocType, Document, Line, SupplyType, TaxpayerType};
use super::figures::nearest_rupee;
use super::gstin::{Gstin, Kind};
use super::outcome::{Computed, ComputedLine};
use super::tables::Tables;
use crate::money::short_milli_text;

/// Where a document is reported in GSTR-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    pub section: &'static str,
    pub table: &'static str,
    pub typ: Option<&'static str>,
}

impl Section {
    /// `section:typ`, or `section` where there is no type.
    pub fn key(self) -> String {
        match self.typ {
            Some(typ) => format!("{}:{typ}", self.section),
            None => self.section.to_owned(),
        }
    }
}

const fn section(section: &'static str, table: &'static str, typ: Option<&'static str>) -> Section {
    Section {
        section,
        table,
        typ,
    }
}

/// Consumer sales between states above 1 lakh rupees are listed one by one; above 2.5 lakh before August 2024 (RULES G63).
const B2CL_ABOVE_PAISE: i64 = 10_000_000;
const B2CL_ABOVE_PAISE_BEFORE: i64 = 25_000_000;
const B2CL_CHANGE: Date = Date::law(2024, 8, 1);

/// A document whose figures are known, with what returns ask of it.
#[derive(Clone, Copy)]
pub struct Reported<'r, 'a> {
    document: &'r Document<'a>,
    computed: &'r Computed,
    supply: SupplyType,
    doc_type: DocType,
    date: Date,
}

impl<'r, 'a> Reported<'r, 'a> {
    /// `None` if the document was not checked.
    pub fn of(document: &'r Document<'a>, computed: &'r Computed) -> Option<Reported<'r, 'a>> {
        Some(Reported {
            document,
            computed,
            supply: document.supply_type.known()?,
            doc_type: document.doc_type.known()?,
            date: document.date.known()?,
        })
    }

    /// The section of the whole document: `nil` only if every line has rate 0.
    pub fn section(&self) -> Section {
        if self.has_nil_table() && self.document.lines.iter().all(is_nil) {
            self.nil_section()
        } else {
            self.taxed_section()
        }
    }

    /// Table 8 takes the rate-0 lines of these supplies.
    fn has_nil_table(&self) -> bool {
        matches!(
            self.supply,
            SupplyType::B2b | SupplyType::B2c | SupplyType::DeemedExport
        )
    }

    fn nil_section(&self) -> Section {
        let typ = match (self.computed.inter_state, self.supply == SupplyType::B2c) {
            (true, false) => "INTRB2B",
            (false, false) => "INTRAB2B",
            (true, true) => "INTRB2C",
            (false, true) => "INTRAB2C",
        };
        section("nil", "8", Some(typ))
    }

    fn taxed_section(&self) -> Section {
        let is_note = self.doc_type.is_note();
        let registered = |table, typ| {
            if is_note {
                section("cdnr", "9B", Some(typ))
            } else {
                section("b2b", table, Some(typ))
            }
        };
        let exported = |inv_typ, note_typ| {
            if is_note {
                section("cdnur", "9B", Some(note_typ))
            } else {
                section("exp", "6A", Some(inv_typ))
            }
        };
        match self.supply {
            SupplyType::B2b => registered(
                if self.document.reverse_charge {
                    "4B"
                } else {
                    "4A"
                },
                "R",
            ),
            SupplyType::SezWithPayment => registered("6B", "SEWP"),
            SupplyType::SezWithoutPayment => registered("6B", "SEWOP"),
            SupplyType::DeemedExport => registered("6C", "DE"),
            SupplyType::ExportWithPayment => exported("WPAY", "EXPWP"),
            SupplyType::ExportWithoutPayment => exported("WOPAY", "EXPWOP"),
            SupplyType::B2c => match (self.is_large(), is_note) {
                (true, false) => section("b2cl", "5", None),
                (true, true) => section("cdnur", "9B", Some("B2CL")),
                (false, _) => section("b2cs", "7", Some("OE")),
            },
        }
    }

    /// B2C large: inter-state and above the limit; for notes the original's date and value decide.
    fn is_large(&self) -> bool {
        let original = self
            .document
            .original
            .as_ref()
            .filter(|_| self.doc_type.is_note());
        let date = original
            .and_then(|original| original.date.known())
            .unwrap_or(self.date);
        let value = original
            .and_then(|original| original.value_paise)
            .unwrap_or(self.computed.totals.total_paise);
        let limit = if date >= B2CL_CHANGE {
            B2CL_ABOVE_PAISE
        } else {
            B2CL_ABOVE_PAISE_BEFORE
        };
        self.computed.inter_state && value > limit
    }

    fn sign(&self) -> i128 {
        if self.doc_type == DocType::CreditNote {
            -1
        } else {
            1
        }
    }
}

fn is_nil(line: &Line<'_>) -> bool {
    line.gst_rate_milli == Some(0)
}

/// Taxable value and tax heads, in paise, signed. `csamt` is cess and non-ad-valorem cess.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub txval: i128,
    pub iamt: i128,
    pub camt: i128,
    pub samt: i128,
    pub csamt: i128,
}

impl Sums {
    fn add(&mut self, line: &ComputedLine, sign: i128) {
        self.txval += sign * i128::from(line.taxable_paise);
        self.iamt += sign * i128::from(line.igst_paise);
        self.camt += sign * i128::from(line.cgst_paise);
        self.samt += sign * i128::from(line.sgst_paise);
        self.csamt += sign * (i128::from(line.cess_paise) + i128::from(line.cess_nonadvol_paise));
    }
}

/// One section of GSTR-1: how many documents, and their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SectionSums {
    pub count: u64,
    pub sums: Sums,
}

/// A row of table 12. Ordered by side, HSN, unit, and rate as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HsnKey {
    /// `b2b`: registered buyers; `b2c`: consumers and exports.
    pub side: &'static str,
    pub hsn: String,
    /// `NA` for services.
    pub uqc: String,
    pub rate: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HsnSums {
    pub quantity_milli: i128,
    pub sums: Sums,
}

/// The outward part of GSTR-3B (RULES G67).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gstr3b {
    /// 3.1(a): taxed supplies, without those under reverse charge.
    pub osup_det: Sums,
    /// 3.1(b): exports and SEZ.
    pub osup_zero: Sums,
    /// 3.1(c): rate 0.
    pub osup_nil_exmp: Sums,
    /// 3.2: the inter-state part of 3.1(a), by place of supply.
    pub unreg_details: BTreeMap<String, Sums>,
    pub comp_details: BTreeMap<String, Sums>,
    pub uin_details: BTreeMap<String, Sums>,
}

/// What a seller reports for a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReturnSummary {
    /// By `section:typ`.
    pub gstr1_sections: BTreeMap<String, SectionSums>,
    pub gstr3b: Gstr3b,
    pub hsn: BTreeMap<HsnKey, HsnSums>,
}

impl ReturnSummary {
    /// Adds one checked document.
    pub fn add(&mut self, reported: &Reported<'_, '_>, tables: &Tables) {
        let lines = || reported.document.lines.iter().zip(&reported.computed.lines);
        let goes_to_nil = |line: &Line<'_>| reported.has_nil_table() && is_nil(line);
        for (section, wants_nil) in [
            (reported.nil_section(), true),
            (reported.taxed_section(), false),
        ] {
            let mut mine = lines()
                .filter(|(line, _)| goes_to_nil(line) == wants_nil)
                .peekable();
            if mine.peek().is_some() {
                let entry = self.gstr1_sections.entry(section.key()).or_default();
                entry.count += 1;
                mine.for_each(|(_, figures)| entry.sums.add(figures, reported.sign()));
            }
        }
        for (line, figures) in lines() {
            self.gstr3b.add(reported, line, figures, tables);
            self.add_hsn(reported, line, figures);
        }
    }

    fn add_hsn(&mut self, reported: &Reported<'_, '_>, line: &Line<'_>, figures: &ComputedLine) {
        let to_registered = reported.supply.needs_buyer_gstin();
        let key = HsnKey {
            side: if to_registered { "b2b" } else { "b2c" },
            hsn: line.hsn.to_owned(),
            uqc: if line.is_service { "NA" } else { line.unit }.to_owned(),
            rate: short_milli_text(line.gst_rate_milli.unwrap_or(0)),
        };
        let row = self.hsn.entry(key).or_default();
        if !line.is_service {
            row.quantity_milli += reported.sign() * i128::from(line.quantity_milli.unwrap_or(0));
        }
        row.sums.add(figures, reported.sign());
    }
}

impl Gstr3b {
    fn add(
        &mut self,
        reported: &Reported<'_, '_>,
        line: &Line<'_>,
        figures: &ComputedLine,
        tables: &Tables,
    ) {
        let (document, sign) = (reported.document, reported.sign());
        if !reported.has_nil_table() {
            return self.osup_zero.add(figures, sign);
        }
        if is_nil(line) {
            return self.osup_nil_exmp.add(figures, sign);
        }
        if document.reverse_charge {
            return;
        }
        self.osup_det.add(figures, sign);
        if !reported.computed.inter_state {
            return;
        }
        let is_uin = || {
            Gstin::read(document.buyer.gstin, tables)
                .ok()
                .and_then(Gstin::kind)
                == Some(Kind::Uin)
        };
        let details = if reported.supply == SupplyType::B2c {
            &mut self.unreg_details
        } else if document.buyer.taxpayer_type.known() == Some(TaxpayerType::Composition) {
            &mut self.comp_details
        } else if is_uin() {
            &mut self.uin_details
        } else {
            return;
        };
        details
            .entry(document.buyer.pos.to_owned())
            .or_default()
            .add(figures, sign);
    }
}

/// Tax payable in a return, per head, to the rupee, 50 paise up (CGST Act s. 170; RULES G68).
pub fn payable_rupees(paise: i64) -> i64 {
    nearest_rupee(paise) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_payable_is_in_whole_rupees_fifty_paise_up() {
        for (paise, rupees) in [
            (0, 0),
            (49, 0),
            (50, 1),
            (12_349, 123),
            (12_350, 124),
            (-50, 0),
        ] {
            assert_eq!(payable_rupees(paise), rupees, "{paise}");
        }
    }
}
