//! Financial years, and the days that follow from them (RULES G15, G17, G19, G57, G69).

use std::fmt;

use super::date::Date;
use crate::money::CRORE_PAISE;

/// 1 April to 31 March; printed as `2025-26`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FinancialYear {
    start_year: u16,
}

impl FinancialYear {
    #[inline]
    pub fn of(date: Date) -> FinancialYear {
        // The first quarter of a calendar year belongs to the year before; year 1 has no year before it.
        let start_year = if date.month() >= 4 {
            date.year()
        } else {
            date.year() - 1
        };
        FinancialYear { start_year }
    }

    pub fn start_year(self) -> u16 {
        self.start_year
    }

    pub fn first_day(self) -> Date {
        day(self.start_year.max(1), 4, 1)
    }

    pub fn last_day(self) -> Date {
        day(self.start_year + 1, 3, 31)
    }
}

impl fmt::Display for FinancialYear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04}-{:02}",
            self.start_year,
            (self.start_year + 1) % 100
        )
    }
}

/// Days that exist in every year the calendar holds; written years end 96 years before it does.
fn day(year: u16, month: u8, day: u8) -> Date {
    Date::new(year, month, day).unwrap_or(Date::END)
}

/// The last day to declare a credit note: 30 November after the financial year of the supply, or the day the annual
/// return was filed, if earlier (CGST Act s. 34(2); RULES G19).
pub fn credit_note_last_day(supply: Date, annual_return_filed_on: Option<Date>) -> Date {
    let november = day(FinancialYear::of(supply).start_year + 1, 11, 30);
    annual_return_filed_on.map_or(november, |filed| filed.min(november))
}

/// Days an e-invoice may be reported, the document day counted.
const REPORT_DAYS: i32 = 30;

/// The last day to report a document for its IRN; `None` if the turnover class has no limit yet (RULES G57).
pub fn last_report_date(aato_paise: i64, date: Date, report_date: Date) -> Option<Date> {
    let bound_from = match aato_paise {
        aato if aato >= 100 * CRORE_PAISE => Date::law(2023, 11, 1),
        aato if aato >= 10 * CRORE_PAISE => Date::law(2025, 4, 1),
        _ => return None,
    };
    if report_date < bound_from {
        return None;
    }
    date.plus_days(REPORT_DAYS - 1)
}

/// Which side of a rate change a supply falls on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSide {
    Old,
    New,
}

/// Time of supply around a rate change, and whose rate applies (CGST Act s. 14; RULES G17). An event on the day of the
/// change is after it.
pub fn time_of_supply(
    change: Date,
    supply: Date,
    invoice: Date,
    payment: Date,
) -> (Date, RateSide) {
    let is_after = |event: Date| event >= change;
    let after = [supply, invoice, payment]
        .into_iter()
        .filter(|&event| is_after(event))
        .count();
    let side = if after >= 2 {
        RateSide::New
    } else {
        RateSide::Old
    };
    let time = if is_after(invoice) == is_after(payment) {
        invoice.min(payment)
    } else if is_after(invoice) == is_after(supply) {
        // Invoice and payment lie apart: with the supply before the change the one before it counts, else the one after.
        invoice
    } else {
        payment
    };
    (time, side)
}

/// How long a document must be kept (CGST Act s. 36; RULES G69).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// 31 December after the financial year.
    pub annual_return_due: Date,
    /// 72 months after that.
    pub statutory_until: Date,
    /// The later of that and seven years after the end of the financial year.
    pub keep_until: Date,
}

pub fn retention(date: Date) -> Retention {
    let year = FinancialYear::of(date).start_year + 1;
    let annual_return_due = day(year, 12, 31);
    let statutory_until = day(year + 6, 12, 31);
    let keep_until = statutory_until.max(day(year + 7, 3, 31));
    Retention {
        annual_return_due,
        statutory_until,
        keep_until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_turn_on_the_first_of_april() {
        for (date, label) in [
            (Date::law(2025, 3, 31), "2024-25"),
            (Date::law(2025, 4, 1), "2025-26"),
            (Date::law(2099, 6, 1), "2099-00"),
            (Date::law(2000, 1, 1), "1999-00"),
        ] {
            assert_eq!(FinancialYear::of(date).to_string(), label);
        }
        assert_eq!(
            FinancialYear::of(Date::END).last_day(),
            Date::law(10_000, 3, 31)
        );
        assert_eq!(
            FinancialYear::of(Date::law(1, 1, 1)).first_day(),
            Date::law(1, 4, 1)
        );
    }

    #[test]
    fn a_supply_with_everything_on_one_side_takes_the_earlier_of_invoice_and_payment() {
        let (change, early, late) = (
            Date::law(2025, 9, 22),
            Date::law(2025, 9, 1),
            Date::law(2025, 9, 30),
        );
        assert_eq!(
            time_of_supply(change, early, late, change),
            (change, RateSide::New)
        );
        assert_eq!(
            time_of_supply(change, early, early, early),
            (early, RateSide::Old)
        );
        assert_eq!(
            time_of_supply(change, late, late, late),
            (late, RateSide::New)
        );
    }
}
