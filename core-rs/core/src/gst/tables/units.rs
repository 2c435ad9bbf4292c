//! Unit quantity codes (RULES G32): up to eight capital letters, compared as one number.

use super::sheet::{self, TableFault};
use super::slots::Slots;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub code: String,
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct UnitTable {
    rows: Vec<Unit>,
    packed: Slots,
}

#[inline]
fn packed(code: &str) -> Option<u64> {
    // A leading NUL would vanish in the number.
    if code.len() > 8 || matches!(code.as_bytes().first(), None | Some(0)) {
        return None;
    }
    Some(code.bytes().fold(0, |n, c| n << 8 | u64::from(c)))
}

impl UnitTable {
    const HEADER: &'static str = "code,name,note";

    pub(super) fn parse(text: &str) -> Result<UnitTable, TableFault> {
        let rows = sheet::rows("uqc_codes", Self::HEADER, text, |row, earlier: &[Unit]| {
            let code = row.text(0);
            let is_code = packed(code).is_some() && code.bytes().all(|c| c.is_ascii_uppercase());
            if !is_code || earlier.iter().any(|unit| unit.code == code) {
                return Err(row.fault(code, "1 to 8 capital letters, each code once"));
            }
            Ok(Unit {
                code: code.to_owned(),
                name: row.required(1, "a name")?.to_owned(),
            })
        })?;
        let codes: Vec<u64> = rows.iter().filter_map(|unit| packed(&unit.code)).collect();
        Ok(UnitTable {
            rows,
            packed: Slots::of(codes.into_iter()),
        })
    }

    pub fn rows(&self) -> &[Unit] {
        &self.rows
    }

    /// Upper case only; nothing is trimmed or folded.
    #[inline]
    pub fn knows(&self, code: &str) -> bool {
        packed(code).is_some_and(|code| self.packed.place(code).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_one_to_eight_capitals_and_known_as_written() {
        let table = UnitTable::parse("code,name,note\nNOS,Numbers,\nABCDEFGH,Eight,\nX,One,\n")
            .expect("good");
        for (code, known) in [
            ("NOS", true),
            ("X", true),
            ("ABCDEFGH", true),
            ("nos", false),
            ("NO", false),
            ("", false),
            ("\0NOS", false),
            ("IABCDEFGH", false),
        ] {
            assert_eq!(table.knows(code), known, "{code:?}");
        }
        for bad in ["nos", "ABCDEFGHI", "", "N1", "NOS "] {
            let text = format!("code,name,note\nNOS,Numbers,\n{bad},Bad,\n");
            assert_eq!(UnitTable::parse(&text).expect_err(bad).line, 3, "{bad:?}");
        }
        assert!(UnitTable::parse("code,name,note\nNOS,Numbers,\nNOS,Again,\n").is_err());
    }
}
