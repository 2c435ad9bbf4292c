//! HSN codes (goods) and SAC (services, chapter 99) as numbers, so that a prefix is a division and not a text search.

/// A code of 4, 6 or 8 digits, not all zero (RULES G30).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsn {
    number: u32,
    digits: u8,
}

/// The leading digits a table row speaks of: 2 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HsnPrefix(Hsn);

const TEN_TO: [u32; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

#[inline]
fn number(text: &str) -> Option<u32> {
    // Eight digits cannot pass u32, and whoever calls allows no more.
    debug_assert!(text.len() <= 8);
    let (mut number, mut all_digits) = (0_u32, true);
    for c in text.bytes() {
        let digit = c.wrapping_sub(b'0');
        all_digits &= digit < 10;
        number = number.wrapping_mul(10).wrapping_add(u32::from(digit));
    }
    all_digits.then_some(number)
}

impl Hsn {
    #[inline]
    pub fn parse(text: &str) -> Option<Hsn> {
        let digits = match text.len() {
            4 => 4,
            6 => 6,
            8 => 8,
            _ => return None,
        };
        match number(text) {
            Some(number) if number != 0 => Some(Hsn { number, digits }),
            _ => None,
        }
    }

    pub fn digits(self) -> u8 {
        self.digits
    }

    /// Services are chapter 99, and only they (RULES G31).
    #[inline]
    pub fn is_service(self) -> bool {
        self.leading(2) == 99
    }

    #[inline]
    fn leading(self, digits: u8) -> u32 {
        self.number / TEN_TO[usize::from(self.digits - digits)]
    }

    /// One starts with the other: a short code on the document may stand for the goods of a longer row (RULES G33).
    #[inline]
    pub fn matches(self, prefix: HsnPrefix) -> bool {
        let shared = self.digits.min(prefix.0.digits);
        self.leading(shared) == prefix.0.leading(shared)
    }

    /// The code is at least as long as the prefix and starts with it: how exceptions are read.
    #[inline]
    pub fn starts_with(self, prefix: HsnPrefix) -> bool {
        self.digits >= prefix.0.digits && self.matches(prefix)
    }
}

impl HsnPrefix {
    pub fn parse(text: &str) -> Option<HsnPrefix> {
        let digits = u8::try_from(text.len())
            .ok()
            .filter(|n| (2..=8).contains(n))?;
        Some(HsnPrefix(Hsn {
            number: number(text)?,
            digits,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_four_six_or_eight_digits_and_is_not_zero() {
        for (text, good) in [
            ("6109", true),
            ("610910", true),
            ("61091000", true),
            ("0101", true),
            ("0000", false),
            ("00000000", false),
            ("61091", false),
            ("610", false),
            ("", false),
            ("61O9", false),
            ("６", false),
            ("610910001", false),
        ] {
            assert_eq!(Hsn::parse(text).is_some(), good, "{text}");
        }
        assert!(Hsn::parse("998314").expect("a code").is_service());
        assert!(!Hsn::parse("009983").expect("a code").is_service());
    }

    #[test]
    fn a_prefix_matches_either_way_but_an_exception_only_forwards() {
        for (code, prefix, matches, starts) in [
            ("24022090", "2402", true, true),
            ("2402", "24022090", true, false),
            ("2403", "2402", false, false),
            ("0240", "24", false, false),
            ("240319", "24031921", true, false),
            ("24031921", "24031921", true, true),
            ("24031929", "24031921", false, false),
        ] {
            let (code, prefix) = (
                Hsn::parse(code).expect("code"),
                HsnPrefix::parse(prefix).expect("prefix"),
            );
            assert_eq!(
                (code.matches(prefix), code.starts_with(prefix)),
                (matches, starts),
                "{code:?} {prefix:?}"
            );
        }
    }
}
