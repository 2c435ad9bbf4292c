//! State codes: who may start a GSTIN, where a supply may take place on which day, and where the local half is UTGST
//! (RULES G3, G8, G21, G27).

use super::sheet::{self, Period, TableFault};
use crate::gst::date::Date;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub code: String,
    pub name: String,
    /// A state or union territory; 96, 99 are none, 97 counts as one.
    pub is_place: bool,
    /// The local half of the tax is UTGST.
    pub utgst: bool,
    pub in_gstin: bool,
    live: Option<Period>,
}

/// How a code stands on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Live,
    /// It was a state and is one no more, or never was under GST (25, 28).
    Withdrawn,
    /// It will be a state later (38 before 2019-10-31).
    NotYet,
    /// No such code, or no place in India (96, 99).
    NoPlace,
}

#[derive(Clone, Debug)]
pub struct StateTable {
    /// By the number of the code.
    states: Vec<Option<State>>,
}

#[inline]
fn index(code: &str) -> Option<usize> {
    match code.as_bytes() {
        &[tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            Some(usize::from(tens - b'0') * 10 + usize::from(ones - b'0'))
        }
        _ => None,
    }
}

impl StateTable {
    const HEADER: &'static str = "code,name,type,utgst,in_gstin,pos_valid_from,pos_valid_to,note";

    pub(super) fn parse(text: &str) -> Result<StateTable, TableFault> {
        let rows = sheet::rows(
            "state_codes",
            Self::HEADER,
            text,
            |row, earlier: &[State]| {
                let code = row.text(0);
                if index(code).is_none() || earlier.iter().any(|state| state.code == code) {
                    return Err(row.fault(code, "a two-digit code, each once"));
                }
                let is_place = match row.text(2) {
                    "STATE" | "UT" | "OTHER" => true,
                    "FOREIGN" | "CENTRE" => false,
                    other => return Err(row.fault(other, "STATE, UT, OTHER, FOREIGN or CENTRE")),
                };
                let live = if row.text(5) == "NEVER" {
                    None
                } else {
                    Some(row.period(5, 6)?)
                };
                Ok(State {
                    code: code.to_owned(),
                    name: row.required(1, "a name")?.to_owned(),
                    is_place,
                    utgst: row.yes_no(3)?,
                    in_gstin: row.yes_no(4)?,
                    live,
                })
            },
        )?;
        let mut states = vec![None; 100];
        for state in rows {
            if let Some(at) = index(&state.code) {
                states[at] = Some(state);
            }
        }
        Ok(StateTable { states })
    }

    pub fn rows(&self) -> impl Iterator<Item = &State> {
        self.states.iter().flatten()
    }

    #[inline]
    pub fn get(&self, code: &str) -> Option<&State> {
        self.states[index(code)?].as_ref()
    }

    /// How the code stands on this day; days before GST look at its first day.
    #[inline]
    pub fn liveness(&self, code: &str, day: Date) -> Liveness {
        let day = day.max(Date::GST_BEGAN);
        match self.get(code) {
            Some(state) if state.is_place => match state.live {
                Some(period) if period.holds(day) => Liveness::Live,
                Some(period) if day < period.first => Liveness::NotYet,
                _ => Liveness::Withdrawn,
            },
            _ => Liveness::NoPlace,
        }
    }
}
