//! The law as data: rates, states, unit codes, special goods and reasons, from CSV; built in, and replaceable while
//! running by a dated file.
//!
//! A replacement starts with the line `# as of YYYY-MM-DD`. A bad file is refused whole, with the line: what was in
//! force stays in force.

mod goods;
mod rates;
mod reasons;
mod sheet;
mod slots;
mod states;
mod units;

use std::sync::OnceLock;

pub use goods::{CessFault, GoodsTable};
pub use rates::{RateFault, RateRow, RateTable};
pub use reasons::{Reason, ReasonTable};
pub use sheet::TableFault;
pub use states::{Liveness, State, StateTable};
pub use units::{Unit, UnitTable};

use super::date::Date;

/// Which table a file holds; named like the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableName {
    Rates,
    States,
    Units,
    Goods,
    Reasons,
}

impl TableName {
    pub const ALL: [TableName; 5] = [
        TableName::Rates,
        TableName::States,
        TableName::Units,
        TableName::Goods,
        TableName::Reasons,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            TableName::Rates => "rate_slabs",
            TableName::States => "state_codes",
            TableName::Units => "uqc_codes",
            TableName::Goods => "special_goods",
            TableName::Reasons => "reason_codes",
        }
    }

    pub fn parse(text: &str) -> Option<TableName> {
        TableName::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
    }

    const fn builtin(self) -> &'static str {
        match self {
            TableName::Rates => include_str!("../../../data/rate_slabs.csv"),
            TableName::States => include_str!("../../../data/state_codes.csv"),
            TableName::Units => include_str!("../../../data/uqc_codes.csv"),
            TableName::Goods => include_str!("../../../data/special_goods.csv"),
            TableName::Reasons => include_str!("../../../data/reason_codes.csv"),
        }
    }
}

/// All tables one check needs. Immutable once parsed; share it freely.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The latest date any of the tables was declared true for.
    pub as_of: Date,
    pub rates: RateTable,
    pub states: StateTable,
    pub units: UnitTable,
    pub goods: GoodsTable,
    pub reasons: ReasonTable,
}

/// State of the law in the built-in tables (RULES, first line).
const BUILTIN_AS_OF: Date = Date::law(2026, 11, 22);

impl Tables {
    /// The tables compiled into the core, parsed once.
    ///
    /// Panics if a built-in table is bad, which a unit test of this file rules out.
    pub fn builtin() -> &'static Tables {
        static BUILTIN: OnceLock<Tables> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            let parse = || -> Result<Tables, TableFault> {
                Ok(Tables {
                    as_of: BUILTIN_AS_OF,
                    rates: RateTable::parse(TableName::Rates.builtin())?,
                    states: StateTable::parse(TableName::States.builtin())?,
                    units: UnitTable::parse(TableName::Units.builtin())?,
                    goods: GoodsTable::parse(TableName::Goods.builtin())?,
                    reasons: ReasonTable::parse(TableName::Reasons.builtin())?,
                })
            };
            parse().expect("the built-in tables are tested")
        })
    }

    /// These tables with one of them replaced by a dated file.
    ///
    /// Errors: the first line that cannot be right, with what was found and wanted; nothing is replaced then.
    pub fn with(&self, name: TableName, text: &str) -> Result<Tables, TableFault> {
        let as_of = sheet::declared_date(name.as_str(), text)?;
        let mut tables = self.clone();
        match name {
            TableName::Rates => tables.rates = RateTable::parse(text)?,
            TableName::States => tables.states = StateTable::parse(text)?,
            TableName::Units => tables.units = UnitTable::parse(text)?,
            TableName::Goods => tables.goods = GoodsTable::parse(text)?,
            TableName::Reasons => tables.reasons = ReasonTable::parse(text)?,
        }
        tables.as_of = tables.as_of.max(as_of);
        Ok(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gst::hsn::Hsn;

    #[test]
    fn the_built_in_tables_are_good() {
        let tables = Tables::builtin();
        assert_eq!(tables.rates.rows().len(), 15);
        assert_eq!(tables.units.rows().len(), 45);
        assert_eq!(tables.states.rows().count(), 41);
        assert_eq!(tables.reasons.rows().len(), 89);
    }

    #[test]
    fn a_new_rate_comes_into_force_by_a_dated_file_and_leaves_the_old_tables_alone() {
        let old = Tables::builtin();
        let text = format!(
            "# as of 2027-01-01\n{}17000,2027-01-01,,STANDARD,,a new slab\n",
            TableName::Rates.builtin()
        );
        let new = old.with(TableName::Rates, &text).expect("a good file");
        let (hsn, day) = (Hsn::parse("6109").expect("a code"), Date::law(2027, 1, 1));
        assert!(new.rates.look_up(17_000, day, hsn).is_ok());
        assert_eq!(
            old.rates.look_up(17_000, day, hsn).err(),
            Some(RateFault::Unknown)
        );
        assert_eq!(new.as_of, day);
    }

    #[test]
    fn a_rate_of_one_day_is_in_force_that_day() {
        let head = "# as of 2027-01-01\nrate_milli,valid_from,valid_to,kind,hsn_prefixes,note\n";
        let text = format!("{head}17000,2027-01-02,2027-01-02,STANDARD,,\n");
        let tables = Tables::builtin()
            .with(TableName::Rates, &text)
            .expect("a good file");
        let (hsn, day) = (Hsn::parse("6109").expect("a code"), |day| {
            Date::law(2027, 1, day)
        });
        assert!(tables.rates.look_up(17_000, day(2), hsn).is_ok());
        for other in [day(1), day(3)] {
            assert_eq!(
                tables.rates.look_up(17_000, other, hsn).err(),
                Some(RateFault::NotInForce)
            );
        }
    }

    #[test]
    fn a_bad_file_is_refused_whole_with_its_line() {
        let rates = TableName::Rates;
        let head = "# as of 2027-01-01\nrate_milli,valid_from,valid_to,kind,hsn_prefixes,note\n0,2017-07-01,,NIL,,\n";
        for (text, line) in [
            (
                "rate_milli,valid_from,valid_to,kind,hsn_prefixes,note\n".to_owned(),
                1,
            ),
            ("# as of 2027-02-30\n".to_owned(), 1),
            ("# as of 2027-01-01\nrate,valid_from\n".to_owned(), 2),
            (
                "# as of 2027-01-01\nrate_milli,valid_from,valid_to,kind,hsn_prefixes,note\n"
                    .to_owned(),
                2,
            ),
            (format!("{head}18,000,2017-07-01,,STANDARD,,\n"), 4),
            (format!("{head}1e3,2017-07-01,,STANDARD,,\n"), 4),
            (format!("{head}1000000,2017-07-01,,STANDARD,,\n"), 4),
            (format!("{head}-5,2017-07-01,,STANDARD,,\n"), 4),
            (format!("{head}5000,2017-06-31,,STANDARD,,\n"), 4),
            (format!("{head}5000,2017-07-01,2017-06-30,STANDARD,,\n"), 4),
            (format!("{head}5000,2017-07-01,,WHATEVER,,\n"), 4),
            (format!("{head}5000,2017-07-01,,SPECIAL,61x9,\n"), 4),
            (
                format!("{head}5000,2017-07-01,,STANDARD,,\n0,2017-07-01,,NIL,,again\n"),
                5,
            ),
        ] {
            let fault = Tables::builtin().with(rates, &text).expect_err(&text);
            assert_eq!(fault.line, line, "{fault} in {text}");
        }
    }
}
