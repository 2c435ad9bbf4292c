//! Every reason code with its rule, phase, paths, the codes of the e-invoice system it maps to, and its meaning.

use super::sheet::{self, TableFault};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: String,
    pub rule: String,
    /// 1 structure, 2 semantics, 3 arithmetic; `-` for checks outside documents.
    pub phase: String,
    pub path: String,
    /// Codes of the e-invoice system (NIC), separated by blanks; may be empty.
    pub nic_codes: String,
    pub meaning: String,
}

#[derive(Clone, Debug)]
pub struct ReasonTable {
    /// Sorted by code.
    rows: Vec<Reason>,
}

impl ReasonTable {
    const HEADER: &'static str = "code,rule,phase,path,nic_codes,meaning";

    pub(super) fn parse(text: &str) -> Result<ReasonTable, TableFault> {
        let mut rows = sheet::rows(
            "reason_codes",
            Self::HEADER,
            text,
            |row, earlier: &[Reason]| {
                let code = row.text(0);
                let is_code = !code.is_empty()
                    && code
                        .bytes()
                        .all(|c| c.is_ascii_uppercase() || c == b'_' || c.is_ascii_digit());
                if !is_code || earlier.iter().any(|reason| reason.code == code) {
                    return Err(
                        row.fault(code, "a code of capital letters, digits and _, each once")
                    );
                }
                if !["1", "2", "3", "-"].contains(&row.text(2)) {
                    return Err(row.fault(row.text(2), "1, 2, 3 or -"));
                }
                Ok(Reason {
                    code: code.to_owned(),
                    rule: row.required(1, "the rule")?.to_owned(),
                    phase: row.text(2).to_owned(),
                    path: row.required(3, "the paths")?.to_owned(),
                    nic_codes: row.text(4).to_owned(),
                    meaning: row.required(5, "the meaning")?.to_owned(),
                })
            },
        )?;
        rows.sort_by(|a, b| a.code.cmp(&b.code));
        Ok(ReasonTable { rows })
    }

    pub fn rows(&self) -> &[Reason] {
        &self.rows
    }

    pub fn get(&self, code: &str) -> Option<&Reason> {
        let at = self
            .rows
            .binary_search_by(|reason| reason.code.as_str().cmp(code))
            .ok()?;
        self.rows.get(at)
    }

    /// Our code for a validation number of the e-invoice system; `None` passes through as `NIC_<code>` (RULES G60).
    pub fn from_nic(&self, nic: &str) -> Option<&Reason> {
        self.rows
            .iter()
            .find(|reason| reason.nic_codes.split_whitespace().any(|code| code == nic))
    }
}
