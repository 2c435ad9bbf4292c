//! Which rate is in force on which day for which goods (RULES G33).

use super::sheet::{self, Period, TableFault};
use super::slots::Slots;
use crate::gst::date::Date;
use crate::gst::hsn::{Hsn, HsnPrefix};

/// A rate, the days it is in force, and the goods it is kept for (none named: all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRow {
    pub rate_milli: i64,
    pub in_force: Period,
    /// STANDARD, SPECIAL, TRANSITIONAL or NIL.
    pub kind: String,
    pub hsn_prefixes: Vec<HsnPrefix>,
    pub hsn_text: String,
    pub note: String,
}

/// Why a rate is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateFault {
    /// No row has this rate.
    Unknown,
    /// Rows have it, none on this day.
    NotInForce,
    /// It is in force that day, for other goods.
    HsnMismatch,
}

#[derive(Clone, Debug)]
pub struct RateTable {
    /// Sorted by rate, then first day.
    rows: Vec<RateRow>,
    /// Each distinct rate, and where its rows begin and end.
    rates: Slots,
    spans: Vec<(usize, usize)>,
}

impl RateTable {
    const HEADER: &'static str = "rate_milli,valid_from,valid_to,kind,hsn_prefixes,note";

    pub(super) fn parse(text: &str) -> Result<RateTable, TableFault> {
        let mut rows = sheet::rows(
            "rate_slabs",
            Self::HEADER,
            text,
            |row, earlier: &[RateRow]| {
                let kind = row.text(3);
                if !["STANDARD", "SPECIAL", "TRANSITIONAL", "NIL"].contains(&kind) {
                    return Err(row.fault(kind, "STANDARD, SPECIAL, TRANSITIONAL or NIL"));
                }
                let rate = RateRow {
                    rate_milli: row.rate_milli(0)?,
                    in_force: row.period(1, 2)?,
                    kind: kind.to_owned(),
                    hsn_prefixes: row.prefixes(4)?,
                    hsn_text: row.text(4).to_owned(),
                    note: row.text(5).to_owned(),
                };
                let same = |other: &RateRow| {
                    (other.rate_milli, other.in_force.first, &other.hsn_text)
                        == (rate.rate_milli, rate.in_force.first, &rate.hsn_text)
                };
                if earlier.iter().any(same) {
                    return Err(row.fault(row.text(0), "each rate, first day and HSN list once"));
                }
                Ok(rate)
            },
        )?;
        rows.sort_by_key(|row| (row.rate_milli, row.in_force.first));
        let groups = rows.chunk_by(|one, next| one.rate_milli == next.rate_milli);
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for group in groups {
            let start = spans.last().map_or(0, |(_, end)| *end);
            spans.push((start, start + group.len()));
        }
        let rates: Vec<u64> = spans
            .iter()
            .map(|(start, _)| u64::try_from(rows[*start].rate_milli).unwrap_or_default())
            .collect();
        Ok(RateTable {
            rows,
            rates: Slots::of(rates.into_iter()),
            spans,
        })
    }

    pub fn rows(&self) -> &[RateRow] {
        &self.rows
    }

    /// The row that makes this rate lawful on this day for this code; days before GST look at its first day.
    #[inline]
    pub fn look_up(
        &self,
        rate_milli: i64,
        tax_date: Date,
        hsn: Hsn,
    ) -> Result<&RateRow, RateFault> {
        let day = tax_date.max(Date::GST_BEGAN);
        let rate = u64::try_from(rate_milli).ok();
        let Some(group) = rate.and_then(|rate| self.rates.place(rate)) else {
            return Err(RateFault::Unknown);
        };
        let (start, end) = self.spans[group];
        let mut fault = RateFault::NotInForce;
        for row in &self.rows[start..end] {
            if row.in_force.holds(day) {
                if row.hsn_prefixes.is_empty()
                    || row.hsn_prefixes.iter().any(|&prefix| hsn.matches(prefix))
                {
                    return Ok(row);
                }
                fault = RateFault::HsnMismatch;
            }
        }
        Err(fault)
    }
}
