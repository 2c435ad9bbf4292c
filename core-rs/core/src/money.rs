//! Exact amounts: whole paise and thousandths, one rounding function, one reader and one printer.
//!
//! There is no float here and no silent narrowing: products are `i128`, and whoever narrows one compares it with its
//! limit first. Source: RULES G36, G50 and section 7.

use std::fmt;

/// 9 999 999 999.999 units.
pub const QUANTITY_MILLI_MAX: i64 = 10_i64.pow(13) - 1;
/// 999 999 999 999.999 rupees: unit price, and cess per unit.
pub const PRICE_MILLI_MAX: i64 = 10_i64.pow(15) - 1;
/// 999.999 %.
pub const RATE_MILLI_MAX: i64 = 10_i64.pow(6) - 1;
/// 999 999 999 999.99 rupees: every amount of a line.
pub const ITEM_PAISE_MAX: i64 = 10_i64.pow(14) - 1;
/// 99 999 999 999 999.99 rupees: every amount of a document.
pub const DOCUMENT_PAISE_MAX: i64 = 10_i64.pow(16) - 1;
/// 99.99 rupees, either way.
pub const ROUND_OFF_PAISE_MAX: i64 = 9_999;
/// 100 % in thousandths of a percent.
pub const HUNDRED_PERCENT_MILLI: i64 = 100_000;
/// One crore rupees (ten million) in paise.
pub const CRORE_PAISE: i64 = 1_000_000_000;

/// Divides and rounds half up: the only rounding of money there is (RULES G50).
///
/// `numerator` is not negative, `divisor` is positive; twice their sum must fit `i128`, which every product of two or
/// three limits above does (RULES section 7).
#[inline]
pub fn half_up(numerator: i128, divisor: i128) -> i128 {
    debug_assert!(numerator >= 0 && divisor > 0);
    let doubled = 2 * numerator + divisor;
    // Nearly every amount fits a machine word, where a division costs a fraction of the wide one.
    match (u64::try_from(doubled), u64::try_from(2 * divisor)) {
        (Ok(n), Ok(d)) => i128::from(n / d),
        _ => doubled / (2 * divisor),
    }
}

/// Why a text is not the number a field wants; the first fault in this order is the one reported (RULES G36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalFault {
    Format,
    Negative,
    Precision,
    Range,
}

/// What a decimal field holds: how many decimals count, how large it may be, whether a minus is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecimalField {
    pub decimals: u32,
    pub max: i64,
    pub signed: bool,
}

impl DecimalField {
    pub const QUANTITY: DecimalField = DecimalField::of(3, QUANTITY_MILLI_MAX);
    pub const PRICE: DecimalField = DecimalField::of(3, PRICE_MILLI_MAX);
    pub const RATE: DecimalField = DecimalField::of(3, RATE_MILLI_MAX);
    pub const ITEM: DecimalField = DecimalField::of(2, ITEM_PAISE_MAX);
    pub const DOCUMENT: DecimalField = DecimalField::of(2, DOCUMENT_PAISE_MAX);
    pub const ROUND_OFF: DecimalField = DecimalField {
        decimals: 2,
        max: ROUND_OFF_PAISE_MAX,
        signed: true,
    };
    /// Turnover in crore rupees, read into paise: nine decimals of a crore are whole paise.
    pub const CRORE: DecimalField = DecimalField::of(9, i64::MAX);

    const fn of(decimals: u32, max: i64) -> DecimalField {
        DecimalField {
            decimals,
            max,
            signed: false,
        }
    }

    /// Reads `-?(0|[1-9][0-9]*)(\.[0-9]+)?` into units of `10^-decimals`.
    ///
    /// Trailing zeros do not count as precision; `-0` is zero. Texts of any length are read without overflow.
    pub fn read(self, text: &str) -> Result<i64, DecimalFault> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (digits, None),
        };
        let all_digits = |t: &str| !t.is_empty() && t.bytes().all(|c| c.is_ascii_digit());
        if !all_digits(whole)
            || (whole.len() > 1 && whole.starts_with('0'))
            || !fraction.is_none_or(all_digits)
        {
            return Err(DecimalFault::Format);
        }
        let fraction = fraction.unwrap_or("").trim_end_matches('0');
        let is_zero = whole == "0" && fraction.is_empty();
        if negative && !is_zero && !self.signed {
            return Err(DecimalFault::Negative);
        }
        if fraction.len() > self.decimals as usize {
            return Err(DecimalFault::Precision);
        }
        let padding = self.decimals - fraction.len() as u32;
        let magnitude = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|c| i64::from(c - b'0'))
            .chain((0..padding).map(|_| 0))
            .try_fold(0_i64, |n, digit| n.checked_mul(10)?.checked_add(digit));
        match magnitude {
            Some(magnitude) if magnitude <= self.max => {
                Ok(if negative { -magnitude } else { magnitude })
            }
            _ => Err(DecimalFault::Range),
        }
    }
}

/// Prints a count of `10^-decimals` with exactly that many decimals: `Decimal(11_800, 2)` is `118.00`.
#[derive(Clone, Copy)]
pub struct Decimal(pub i128, pub u32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decimal(value, decimals) = *self;
        let unit = 10_u128.pow(decimals);
        let magnitude = value.unsigned_abs();
        let sign = if value < 0 { "-" } else { "" };
        let width = decimals as usize;
        write!(f, "{sign}{}.{:0width$}", magnitude / unit, magnitude % unit)
    }
}

/// `118.00`
pub fn paise_text(paise: impl Into<i128>) -> String {
    Decimal(paise.into(), 2).to_string()
}

/// `1.500`
pub fn milli_text(milli: impl Into<i128>) -> String {
    Decimal(milli.into(), 3).to_string()
}

/// A rate or quantity without trailing zeros: `18`, `0.25`.
pub fn short_milli_text(milli: impl Into<i128>) -> String {
    let text = milli_text(milli);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_of_inv_01() {
        for (field, limit) in [
            (DecimalField::QUANTITY, "9999999999.999"),
            (DecimalField::PRICE, "999999999999.999"),
            (DecimalField::RATE, "999.999"),
            (DecimalField::ITEM, "999999999999.99"),
            (DecimalField::DOCUMENT, "99999999999999.99"),
            (DecimalField::ROUND_OFF, "99.99"),
        ] {
            assert_eq!(field.read(limit), Ok(field.max), "{limit}");
            assert_eq!(
                Decimal(i128::from(field.max), field.decimals).to_string(),
                limit
            );
        }
    }

    #[test]
    fn half_a_unit_goes_up_and_less_stays() {
        for (n, d, wanted) in [
            (0, 1, 0),
            (1, 2, 1),
            (49, 100, 0),
            (50, 100, 1),
            (149, 100, 1),
            (150, 100, 2),
        ] {
            assert_eq!(half_up(n, d), wanted, "{n}/{d}");
        }
    }

    #[test]
    fn wide_and_narrow_division_agree_at_their_border() {
        for shift in -3_i128..=3 {
            let n = (i128::from(u64::MAX) - 10_000) / 2 + shift;
            assert_eq!(half_up(n, 10_000), (2 * n + 10_000) / 20_000);
        }
        let widest = 10_i128.pow(13) * 10_i128.pow(14) * 10_i128.pow(6);
        assert_eq!(half_up(widest, 1), widest);
        let divisor = i128::from(u64::MAX) / 2 + 1;
        assert_eq!(half_up(divisor / 2, divisor), 1);
        assert_eq!(half_up(divisor / 2 - 1, divisor), 0);
    }

    #[test]
    fn a_number_is_read_exactly_or_its_first_fault_is_named() {
        use DecimalFault::{Format, Negative, Precision, Range};
        let item = DecimalField::ITEM;
        for (text, wanted) in [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("-0.00", Ok(0)),
            ("1", Ok(100)),
            ("1.5", Ok(150)),
            ("1.500", Ok(150)),
            ("0.01", Ok(1)),
            ("10.00", Ok(1_000)),
            ("999999999999.99", Ok(ITEM_PAISE_MAX)),
            ("1000000000000", Err(Range)),
            ("99999999999999999999999999999999999999999999", Err(Range)),
            ("0.001", Err(Precision)),
            ("99999999999999999999999999.999", Err(Precision)),
            ("-1", Err(Negative)),
            ("-0.001", Err(Negative)),
            ("", Err(Format)),
            ("-", Err(Format)),
            (".5", Err(Format)),
            ("5.", Err(Format)),
            ("05", Err(Format)),
            ("00", Err(Format)),
            ("+5", Err(Format)),
            ("--5", Err(Format)),
            ("1e3", Err(Format)),
            ("1,000", Err(Format)),
            (" 1", Err(Format)),
            ("1.2.3", Err(Format)),
            ("1.-2", Err(Format)),
            ("１", Err(Format)),
            ("-x", Err(Format)),
        ] {
            assert_eq!(item.read(text), wanted, "{text:?}");
        }
        assert_eq!(DecimalField::ROUND_OFF.read("-99.99"), Ok(-9_999));
        assert_eq!(DecimalField::ROUND_OFF.read("-100"), Err(Range));
        assert_eq!(DecimalField::CRORE.read("5.01"), Ok(5_010_000_000));
        assert_eq!(DecimalField::CRORE.read("9223372036.854775808"), Err(Range));
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for paise in [0, 1, 99, 100, 101, ITEM_PAISE_MAX] {
            assert_eq!(DecimalField::ITEM.read(&paise_text(paise)), Ok(paise));
        }
        assert_eq!(paise_text(-9_999), "-99.99");
        assert_eq!(paise_text(-5), "-0.05");
        assert_eq!(milli_text(1_500), "1.500");
        assert_eq!(short_milli_text(18_000), "18");
        assert_eq!(short_milli_text(250), "0.25");
        assert_eq!(short_milli_text(10_000), "10");
    }
}
