//! Civil dates as Indian law counts them: a day of the Gregorian calendar in Asia/Kolkata, without a clock or a zone.

use std::fmt;

/// Windows and retention reach some years past the last year that can be written.
const YEAR_MAX: u16 = 10_099;

/// A real calendar day between the years 0001 and 10099: four-digit years are read, reckoning may pass them. Order is the order of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// The day GST began: look-ups for older dates use it (RULES G16).
    pub const GST_BEGAN: Date = Date {
        year: 2017,
        month: 7,
        day: 1,
    };

    /// Later than any day of law or trade: the last day of what has no end.
    pub const END: Date = Date {
        year: 9999,
        month: 12,
        day: 31,
    };

    /// A day, or `None` if the calendar has no such day.
    pub const fn new(year: u16, month: u8, day: u8) -> Option<Date> {
        if year == 0
            || year > YEAR_MAX
            || month == 0
            || month > 12
            || day == 0
            || day > days_in_month(year, month)
        {
            return None;
        }
        Some(Date { year, month, day })
    }

    /// A constant of the law, known to be a real day when the crate is compiled.
    pub(crate) const fn law(year: u16, month: u8, day: u8) -> Date {
        match Date::new(year, month, day) {
            Some(date) => date,
            None => panic!("no such day"),
        }
    }

    /// Reads `YYYY-MM-DD`, ASCII digits only; anything else is `None`.
    #[inline]
    pub fn parse_iso(text: &str) -> Option<Date> {
        let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else {
            return None;
        };
        Date::from_digits([y1, y2, y3, y4], [m1, m2], [d1, d2])
    }

    /// Reads the form of INV-01: `DD/MM/YYYY`.
    pub fn parse_inv01(text: &str) -> Option<Date> {
        let &[d1, d2, b'/', m1, m2, b'/', y1, y2, y3, y4] = text.as_bytes() else {
            return None;
        };
        Date::from_digits([y1, y2, y3, y4], [m1, m2], [d1, d2])
    }

    #[inline]
    fn from_digits(year: [u8; 4], month: [u8; 2], day: [u8; 2]) -> Option<Date> {
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0u16, |n, &c| {
                c.is_ascii_digit().then(|| n * 10 + u16::from(c - b'0'))
            })
        };
        Date::new(
            number(&year)?,
            u8::try_from(number(&month)?).ok()?,
            u8::try_from(number(&day)?).ok()?,
        )
    }

    pub const fn year(self) -> u16 {
        self.year
    }

    pub const fn month(self) -> u8 {
        self.month
    }

    pub const fn day(self) -> u8 {
        self.day
    }

    /// Days since 0001-01-01, which is day 0.
    pub fn day_number(self) -> i32 {
        let years = i32::from(self.year) - 1;
        let before = (1..self.month)
            .map(|m| i32::from(days_in_month(self.year, m)))
            .sum::<i32>();
        years * 365 + years / 4 - years / 100 + years / 400 + before + i32::from(self.day) - 1
    }

    /// The day with this number; `None` outside the calendar.
    pub fn from_day_number(day_number: i32) -> Option<Date> {
        if !(0..=Date::law(YEAR_MAX, 12, 31).day_number()).contains(&day_number) {
            return None;
        }
        let mut year = u16::try_from(day_number / 366 + 1).ok()?;
        while year < YEAR_MAX && Date::new(year + 1, 1, 1)?.day_number() <= day_number {
            year += 1;
        }
        let mut rest = day_number - Date::new(year, 1, 1)?.day_number();
        let mut month = 1;
        while rest >= i32::from(days_in_month(year, month)) {
            rest -= i32::from(days_in_month(year, month));
            month += 1;
        }
        Date::new(year, month, u8::try_from(rest + 1).ok()?)
    }

    /// This many days later (or earlier); `None` outside the calendar.
    pub fn plus_days(self, days: i32) -> Option<Date> {
        Date::from_day_number(self.day_number().checked_add(days)?)
    }

    /// `DD/MM/YYYY`, the form of INV-01 and of the QR payload.
    pub fn inv01(self) -> String {
        format!("{:02}/{:02}/{:04}", self.day, self.month, self.year)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Debug for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const fn is_leap(year: u16) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_in_month(year: u16, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_has_leap_days_where_gregory_put_them() {
        for (text, real) in [
            ("2024-02-29", true),
            ("2025-02-29", false),
            ("2000-02-29", true),
            ("2100-02-29", false),
            ("2025-04-31", false),
            ("2025-13-01", false),
            ("2025-00-10", false),
            ("2025-01-00", false),
            ("0000-01-01", false),
            ("2025-1-01", false),
            (" 2025-01-01", false),
            ("2025-01-0１", false),
        ] {
            assert_eq!(Date::parse_iso(text).is_some(), real, "{text}");
        }
    }

    #[test]
    fn day_numbers_go_there_and_back_and_have_no_gap() {
        let mut date = Date::law(1999, 12, 31);
        for _ in 0..40_000 {
            let next = date.plus_days(1).expect("inside the calendar");
            assert_eq!(next.day_number(), date.day_number() + 1);
            assert!(next > date);
            date = next;
        }
        let last = Date::law(2024, 2, 29);
        assert_eq!((last.year(), last.month(), last.day()), (2024, 2, 29));
        assert_eq!(
            (last.to_string(), last.inv01()),
            ("2024-02-29".into(), "29/02/2024".into())
        );
        assert_eq!(Date::law(1, 1, 1).day_number(), 0);
        assert_eq!(Date::from_day_number(3_652_058), Date::new(9999, 12, 31));
        assert_eq!(Date::law(YEAR_MAX, 12, 31).plus_days(1), None);
        assert_eq!(Date::from_day_number(-1), None);
    }
}
