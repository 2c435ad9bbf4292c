//! Registration numbers: kind, state, check character, and the PAN inside (RULES G1 to G5).

use super::tables::Tables;

/// Marks an unregistered or foreign party.
pub const URP: &str = "URP";
const LENGTH: usize = 15;

/// What a registration is, by its shape; the first that fits names it (RULES G2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tax deductor.
    Tds,
    /// E-commerce operator collecting tax.
    Tcs,
    /// Online service supplier abroad.
    Oidar,
    /// Non-resident taxable person.
    Nri,
    /// UN body, embassy, other notified person.
    Uin,
    /// Regular, composition, SEZ, casual, input service distributor.
    Regular,
    /// Government department.
    Govt,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Tds => "TDS",
            Kind::Tcs => "TCS",
            Kind::Oidar => "OIDAR",
            Kind::Nri => "NRI",
            Kind::Uin => "UIN",
            Kind::Regular => "REGULAR",
            Kind::Govt => "GOVT",
        }
    }
}

/// Why a text is no GSTIN: the first fault in the order the rules list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Required,
    Length,
    Format,
    State,
    Checksum,
}

impl Fault {
    pub const fn code(self) -> &'static str {
        match self {
            Fault::Required => "GSTIN_REQUIRED",
            Fault::Length => "GSTIN_LENGTH_INVALID",
            Fault::Format => "GSTIN_FORMAT_INVALID",
            Fault::State => "GSTIN_STATE_INVALID",
            Fault::Checksum => "GSTIN_CHECKSUM_INVALID",
        }
    }
}

/// A text that passed: either the marker `URP`, or a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gstin<'a> {
    Unregistered,
    Registered { kind: Kind, text: &'a str },
}

impl<'a> Gstin<'a> {
    /// Reads a GSTIN or `URP`. Nothing is trimmed, no case is folded. Errors: the first fault (RULES G1 to G4).
    #[inline]
    pub fn read(text: &'a str, tables: &Tables) -> Result<Gstin<'a>, Fault> {
        if text == URP {
            return Ok(Gstin::Unregistered);
        }
        let Some((bytes, kind)) = shaped(text) else {
            return Err(match text.chars().count() {
                0 => Fault::Required,
                LENGTH => Fault::Format,
                _ => Fault::Length,
            });
        };
        if !tables
            .states
            .get(&text[..2])
            .is_some_and(|state| state.in_gstin)
        {
            return Err(Fault::State);
        }
        if check_value(&bytes[..LENGTH - 1]) != Some(VALUE[usize::from(bytes[LENGTH - 1])]) {
            return Err(Fault::Checksum);
        }
        Ok(Gstin::Registered { kind, text })
    }

    pub fn kind(self) -> Option<Kind> {
        match self {
            Gstin::Unregistered => None,
            Gstin::Registered { kind, .. } => Some(kind),
        }
    }

    /// The two digits of the state.
    pub fn state(self) -> Option<&'a str> {
        match self {
            Gstin::Unregistered => None,
            Gstin::Registered { text, .. } => Some(&text[..2]),
        }
    }

    /// The permanent account number, of REGULAR and TCS registrations (RULES G5).
    pub fn pan(self) -> Option<&'a str> {
        match self {
            Gstin::Registered {
                kind: Kind::Regular | Kind::Tcs,
                text,
            } => Some(&text[2..12]),
            _ => None,
        }
    }
}

/// Who holds a PAN, by its fourth letter; an unknown letter is no error (RULES G5).
pub fn pan_holder(pan: &str) -> &'static str {
    match pan.as_bytes().get(3) {
        Some(b'A') => "AOP",
        Some(b'B') => "BOI",
        Some(b'C') => "COMPANY",
        Some(b'F') => "FIRM",
        Some(b'G') => "GOVERNMENT",
        Some(b'H') => "HUF",
        Some(b'J') => "ARTIFICIAL_PERSON",
        Some(b'L') => "LOCAL_AUTHORITY",
        Some(b'P') => "INDIVIDUAL",
        Some(b'T') => "TRUST",
        _ => "UNKNOWN",
    }
}

/// The fifteenth character for the first fourteen; `None` if they are not 14 of 0-9 and A-Z (RULES G4).
pub fn check_char(first14: &str) -> Option<char> {
    if first14.len() != LENGTH - 1 {
        return None;
    }
    let value = check_value(first14.as_bytes())?;
    Some(char::from(ALPHABET[usize::from(value)]))
}

const ALPHABET: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NO_VALUE: u8 = 0xff;

/// The value of each byte: 0-9, then A=10 to Z=35.
const VALUE: [u8; 256] = {
    let mut table = [NO_VALUE; 256];
    let mut value = 0;
    while value < 36 {
        table[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    table
};

/// Twice a value, quotient and remainder by 36 added. Once the value itself is its own remainder.
const DOUBLED: [u8; 36] = {
    let mut table = [0; 36];
    let mut value = 0;
    while value < 36 {
        table[value as usize] = value * 2 / 36 + value * 2 % 36;
        value += 1;
    }
    table
};

/// Weights 1, 2, 1, 2 ... from the left; quotient plus remainder by 36 of each product; 36 less the sum, modulo 36.
#[inline]
fn check_value(first14: &[u8]) -> Option<u8> {
    let mut sum = 0_u32;
    for (place, &byte) in first14.iter().enumerate() {
        let value = VALUE[usize::from(byte)];
        if value == NO_VALUE {
            return None;
        }
        sum += u32::from(if place % 2 == 0 {
            value
        } else {
            DOUBLED[usize::from(value)]
        });
    }
    u8::try_from((36 - sum % 36) % 36).ok()
}

const DIGIT: u8 = 1;
const LETTER: u8 = 2;
const NOT_ZERO: u8 = 4;
const ANY: u8 = DIGIT | LETTER;

/// What each byte is, as a set of the bits above. `NOT_ZERO` is 1-9 and A-Z.
const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 36 {
        let byte = ALPHABET[at] as usize;
        table[byte] = if at < 10 { DIGIT } else { LETTER };
        if at > 0 {
            table[byte] |= NOT_ZERO;
        }
        at += 1;
    }
    table
};

type Shape = [u8; LENGTH];

/// `d` digit, `L` letter, `1` one of 1-9A-Z, `x` any of 0-9A-Z; the fourteenth is judged by [`kind_of`].
const fn shape(pattern: &[u8; LENGTH]) -> Shape {
    let mut out = [ANY; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        out[at] = match pattern[at] {
            b'd' => DIGIT,
            b'L' => LETTER,
            b'1' => NOT_ZERO,
            _ => ANY,
        };
        at += 1;
    }
    out
}

const TDS: Shape = shape(b"ddLLLLxddddL1xx");
const REGULAR: Shape = shape(b"ddLLLLLddddL1xx");
const OIDAR: Shape = shape(b"ddddLLLdddddLxx");
const NRI: Shape = shape(b"ddddLLLdddddLxx");
const GOVT: Shape = shape(b"ddLLLLdddddLdxd");

#[inline]
fn fits(text: &[u8; LENGTH], shape: &Shape) -> bool {
    text.iter()
        .zip(shape)
        .all(|(&byte, &class)| CLASS[usize::from(byte)] & class != 0)
}

/// Fifteen ASCII characters in the shape of a registration.
#[inline]
fn shaped(text: &str) -> Option<(&[u8; LENGTH], Kind)> {
    let bytes = <&[u8; LENGTH]>::try_from(text.as_bytes()).ok()?;
    Some((bytes, kind_of(bytes)?))
}

/// The fourteenth character leaves at most two shapes; they are tried in the order of the rule.
#[inline]
fn kind_of(text: &[u8; LENGTH]) -> Option<Kind> {
    match text[13] {
        b'D' if fits(text, &TDS) => Some(Kind::Tds),
        b'C' if fits(text, &REGULAR) => Some(Kind::Tcs),
        b'S' if fits(text, &OIDAR) && &text[..2] == b"99" && text[12] == b'O' => Some(Kind::Oidar),
        b'R' if fits(text, &NRI) && text[12] == b'N' => Some(Kind::Nri),
        b'N' if fits(text, &NRI) && matches!(text[12], b'U' | b'O') => Some(Kind::Uin),
        b'Z' | b'1'..=b'9' | b'A' | b'B' | b'D'..=b'J' if fits(text, &REGULAR) => {
            Some(Kind::Regular)
        }
        b'Z' if fits(text, &GOVT) => Some(Kind::Govt),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Kind>, Fault> {
        Gstin::read(text, Tables::builtin()).map(Gstin::kind)
    }

    /// A registration of this shape with its check character.
    fn sealed(first14: &str) -> String {
        format!(
            "{first14}{}",
            check_char(first14).expect("fourteen characters")
        )
    }

    #[test]
    fn every_kind_is_known_by_its_shape() {
        for (first14, kind) in [
            ("27MUMA12345B1D", Kind::Tds),
            ("27MUMAX2345B1D", Kind::Tds),
            ("29AABCF8078M1C", Kind::Tcs),
            ("9917USA00056OS", Kind::Oidar),
            ("0717USA00034NR", Kind::Nri),
            ("0717USA00012UN", Kind::Uin),
            ("0717USA00012ON", Kind::Uin),
            ("27AAPFU0939F1Z", Kind::Regular),
            ("27AAPFU0939FB1", Kind::Regular),
            ("27AAPFU0939F1J", Kind::Regular),
        ] {
            assert_eq!(read(&sealed(first14)), Ok(Some(kind)), "{first14}");
        }
        let department = (b'A'..=b'Z')
            .map(|letter| format!("27MUMA12345{}1Z", char::from(letter)))
            .map(|first14| sealed(&first14))
            .find(|text| text.as_bytes()[14].is_ascii_digit());
        assert_eq!(
            department.map(|text| read(&text)),
            Some(Ok(Some(Kind::Govt)))
        );
    }

    #[test]
    fn shapes_that_no_registration_has_are_refused() {
        for first14 in [
            "27AAPFU0939F0Z",
            "27AAPFU0939F1K",
            "27AAPFU0939F10",
            "27AAPFU0939F1Y",
            "27AAPF10939F1C",
            "9817USA00056OS",
            "9917USA00056AS",
            "0717USA00034AR",
            "0717USA00012AN",
            "27MUMA12345BAZ",
        ] {
            assert_eq!(read(&sealed(first14)), Err(Fault::Format), "{first14}");
        }
    }

    #[test]
    fn every_single_wrong_character_is_seen() {
        let right = "27AAPFU0939F1ZV";
        for place in 0..15 {
            for other in ALPHABET {
                let mut text = right.as_bytes().to_vec();
                if text[place] == *other {
                    continue;
                }
                text[place] = *other;
                let text = String::from_utf8(text).expect("ASCII");
                assert!(read(&text).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn length_counts_characters_and_only_ascii_fits() {
        assert_eq!(read("27AAPFU0939F1Zé"), Err(Fault::Format));
        assert_eq!(read("27AAPFU0939F1é"), Err(Fault::Length));
        assert_eq!(read(""), Err(Fault::Required));
        assert_eq!(read("urp"), Err(Fault::Length));
        assert_eq!(check_char("27AAPFU0939f1Z"), None);
        assert_eq!(check_char("27AAPFU0939F1"), None);
    }

    #[test]
    fn the_pan_is_told_for_those_who_have_one() {
        let tables = Tables::builtin();
        let regular = Gstin::read("27AAPFU0939F1ZV", tables).expect("valid");
        assert_eq!(
            (regular.pan(), regular.state()),
            (Some("AAPFU0939F"), Some("27"))
        );
        assert_eq!(pan_holder("AAPFU0939F"), "FIRM");
        for (letter, holder) in [
            ('A', "AOP"),
            ('B', "BOI"),
            ('C', "COMPANY"),
            ('G', "GOVERNMENT"),
            ('H', "HUF"),
            ('J', "ARTIFICIAL_PERSON"),
            ('L', "LOCAL_AUTHORITY"),
            ('P', "INDIVIDUAL"),
            ('T', "TRUST"),
            ('X', "UNKNOWN"),
        ] {
            assert_eq!(pan_holder(&format!("AAA{letter}U0939F")), holder);
        }
        let embassy = Gstin::read("0717USA00012UN8", tables).expect("valid");
        assert_eq!((embassy.pan(), embassy.state()), (None, Some("07")));
        assert_eq!(
            (Gstin::Unregistered.pan(), Gstin::Unregistered.state()),
            (None, None)
        );
    }
}
