//! Reads one CSV table strictly: the header as agreed, every row complete, and the line of whatever is wrong.

use std::fmt;

use crate::gst::date::Date;
use crate::gst::hsn::HsnPrefix;

/// Why a table was refused: file, line (1 is the first), what was found and what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct TableFault {
    pub table: &'static str,
    pub line: u64,
    pub found: String,
    pub wanted: String,
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableFault {
            table,
            line,
            found,
            wanted,
        } = self;
        write!(f, "{table}, line {line}: found {found:?}, wanted {wanted}")
    }
}

/// The date of a replacement: its first line is `# as of YYYY-MM-DD`.
pub(super) fn declared_date(table: &'static str, text: &str) -> Result<Date, TableFault> {
    let first = text.lines().next().unwrap_or("").trim_end();
    first
        .strip_prefix("# as of ")
        .and_then(Date::parse_iso)
        .ok_or_else(|| TableFault {
            table,
            line: 1,
            found: first.to_owned(),
            wanted: "`# as of YYYY-MM-DD`, the day these rows were true".to_owned(),
        })
}

/// One row; its readers name the line when they refuse.
pub(super) struct Row<'r> {
    table: &'static str,
    line: u64,
    record: &'r csv::StringRecord,
}

impl Row<'_> {
    pub(super) fn text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or("")
    }

    pub(super) fn fault(&self, found: &str, wanted: &str) -> TableFault {
        TableFault {
            table: self.table,
            line: self.line,
            found: found.to_owned(),
            wanted: wanted.to_owned(),
        }
    }

    pub(super) fn required(&self, column: usize, wanted: &str) -> Result<&str, TableFault> {
        match self.text(column) {
            "" => Err(self.fault("", wanted)),
            text => Ok(text),
        }
    }

    pub(super) fn rate_milli(&self, column: usize) -> Result<i64, TableFault> {
        let text = self.text(column);
        let is_digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        text.parse::<i64>()
            .ok()
            .filter(|rate| is_digits && *rate <= crate::money::RATE_MILLI_MAX)
            .ok_or_else(|| self.fault(text, "a rate in thousandths of a percent, 0 to 999999"))
    }

    pub(super) fn date(&self, column: usize) -> Result<Date, TableFault> {
        let text = self.text(column);
        Date::parse_iso(text).ok_or_else(|| self.fault(text, "a date, YYYY-MM-DD"))
    }

    /// First and last day, both included; an empty last day never comes.
    pub(super) fn period(&self, from: usize, to: usize) -> Result<Period, TableFault> {
        let first = self.date(from)?;
        let last = if self.text(to).is_empty() {
            Date::END
        } else {
            self.date(to)?
        };
        if last < first {
            return Err(self.fault(self.text(to), "a last day that is not before the first"));
        }
        Ok(Period { first, last })
    }

    pub(super) fn prefixes(&self, column: usize) -> Result<Vec<HsnPrefix>, TableFault> {
        let text = self.text(column);
        text.split('|')
            .filter(|_| !text.is_empty())
            .map(|prefix| {
                HsnPrefix::parse(prefix)
                    .ok_or_else(|| self.fault(prefix, "HSN prefixes of 2 to 8 digits, joined by |"))
            })
            .collect()
    }

    pub(super) fn yes_no(&self, column: usize) -> Result<bool, TableFault> {
        match self.text(column) {
            "Y" => Ok(true),
            "N" => Ok(false),
            other => Err(self.fault(other, "Y or N")),
        }
    }
}

/// From a first to a last day, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub first: Date,
    pub last: Date,
}

impl Period {
    #[inline]
    pub fn holds(self, day: Date) -> bool {
        self.first <= day && day <= self.last
    }
}

/// Reads every row with `read`; comment lines start with `#`. At least one row is wanted.
pub(super) fn rows<T>(
    table: &'static str,
    header: &'static str,
    text: &str,
    mut read: impl FnMut(&Row<'_>, &[T]) -> Result<T, TableFault>,
) -> Result<Vec<T>, TableFault> {
    let ended = format!("{}\n", text.trim_end_matches('\n'));
    let mut reader = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .has_headers(false)
        .from_reader(ended.as_bytes());
    let mut record = csv::StringRecord::new();
    let mut out = Vec::new();
    let mut line = 1;
    let mut header_seen = false;
    loop {
        let read_one = reader.read_record(&mut record);
        // The reader stands behind the line it read; comments and blank lines before it are counted.
        line = reader.position().line().saturating_sub(1).max(line);
        match read_one {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let wanted = format!("the columns {header}");
                return Err(TableFault {
                    table,
                    line,
                    found: error.to_string(),
                    wanted,
                });
            }
        }
        if !header_seen {
            if !record.iter().eq(header.split(',')) {
                let found = record.iter().collect::<Vec<_>>().join(",");
                return Err(TableFault {
                    table,
                    line,
                    found,
                    wanted: format!("the header {header}"),
                });
            }
            header_seen = true;
            continue;
        }
        let row = Row {
            table,
            line,
            record: &record,
        };
        let value = read(&row, &out)?;
        out.push(value);
    }
    if out.is_empty() {
        let wanted = format!("the header {header} and at least one row");
        return Err(TableFault {
            table,
            line,
            found: String::new(),
            wanted,
        });
    }
    Ok(out)
}
