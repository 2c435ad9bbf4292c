//! What the readers of JSON share: numbers become exact integers or a violation, never a float.

use serde_json::{Map, Value};

use super::document::{Date, Given};
use super::outcome::Violation;
use super::rules::{number, Rule};
use crate::money::{DecimalFault, DecimalField};

/// The text is no document of the format at all: wrong types where no rule has a word to say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: found {found}, wanted {wanted}")]
pub struct Malformed {
    pub path: String,
    pub found: String,
    pub wanted: &'static str,
}

/// Stands where a text was wanted and something else was found: no rule takes it for a lawful value.
pub(super) const NOT_A_TEXT: &str = "(not a text)";

/// One JSON object under its neutral path.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
}

impl<'a> Fields<'a> {
    /// `null` and a missing value count as an empty object.
    pub(super) fn of(
        value: Option<&'a Value>,
        path: impl Into<String>,
    ) -> Result<Fields<'a>, Malformed> {
        let path = path.into();
        match value {
            None | Some(Value::Null) => Ok(Fields { map: None, path }),
            Some(Value::Object(map)) => Ok(Fields {
                map: Some(map),
                path,
            }),
            Some(other) => Err(malformed(&path, other, "a JSON object")),
        }
    }

    /// A whole document: `null` is none.
    pub(super) fn document(value: &'a Value) -> Result<Fields<'a>, Malformed> {
        match value {
            Value::Object(_) => Fields::of(Some(value), ""),
            other => Err(malformed("", other, "a JSON object")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_none_or(|map| map.values().all(Value::is_null))
    }

    /// The value of a field; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map
            .and_then(|map| map.get(key))
            .filter(|value| !value.is_null())
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    pub(super) fn object(&self, key: &str, name: &str) -> Result<Fields<'a>, Malformed> {
        Fields::of(self.get(key), self.path_of(name))
    }

    pub(super) fn array(&self, key: &str, name: &str) -> Result<&'a [Value], Malformed> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(malformed(&self.path_of(name), other, "a JSON array")),
        }
    }

    pub(super) fn text(&self, key: &str) -> &'a str {
        match self.get(key) {
            None => "",
            Some(Value::String(text)) => text,
            Some(_) => NOT_A_TEXT,
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, Malformed> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(malformed(&self.path_of(key), other, "true or false")),
        }
    }

    pub(super) fn date(&self, key: &str, read: fn(&str) -> Option<Date>) -> Given<'a, Date> {
        Given::read(self.text(key), read)
    }

    /// A decimal text, exact; what is wrong with it goes to `prior` under the neutral `name`.
    pub(super) fn decimal(
        &self,
        key: &str,
        name: &str,
        field: DecimalField,
        prior: &mut Vec<Violation>,
    ) -> Option<i64> {
        let value = self.get(key)?;
        let read = match value {
            Value::String(text) => field.read(text),
            _ => Err(DecimalFault::Format),
        };
        self.noted(name, value, field, read, prior)
    }

    /// A JSON number (the form of INV-01) or a decimal text, read from its digits as they were written.
    pub(super) fn json_number(
        &self,
        key: &str,
        name: &str,
        field: DecimalField,
        prior: &mut Vec<Violation>,
    ) -> Option<i64> {
        let value = self.get(key)?;
        let read = match value {
            Value::String(text) => field.read(text),
            Value::Number(number) => field.read(&number.to_string()),
            _ => Err(DecimalFault::Format),
        };
        self.noted(name, value, field, read, prior)
    }

    fn noted(
        &self,
        name: &str,
        value: &Value,
        field: DecimalField,
        read: Result<i64, DecimalFault>,
        prior: &mut Vec<Violation>,
    ) -> Option<i64> {
        match read {
            Ok(number) => Some(number),
            Err(fault) => {
                prior.push(number_violation(self.path_of(name), value, field, fault));
                None
            }
        }
    }
}

fn malformed(path: &str, found: &Value, wanted: &'static str) -> Malformed {
    let path = if path.is_empty() { "document" } else { path };
    Malformed {
        path: path.to_owned(),
        found: shortened(found),
        wanted,
    }
}

/// JSON as it was written, cut to a length a message can carry.
fn shortened(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The violation for a number that could not be read (RULES G36, G47).
pub(super) fn number_violation(
    path: String,
    found: &Value,
    field: DecimalField,
    fault: DecimalFault,
) -> Violation {
    let max = crate::money::Decimal(i128::from(field.max), field.decimals);
    let (rule, wanted): (Rule, String) = match fault {
        DecimalFault::Format => (
            number::NUMBER_FORMAT_INVALID,
            "a decimal text such as \"118.00\", not a JSON number".to_owned(),
        ),
        DecimalFault::Negative => (number::NEGATIVE_AMOUNT, "0 or more".to_owned()),
        DecimalFault::Precision => (
            number::PRECISION_EXCEEDED,
            format!("at most {} significant decimals", field.decimals),
        ),
        DecimalFault::Range if field.signed => {
            (number::ROUND_OFF_OUT_OF_RANGE, "-99.99 to 99.99".to_owned())
        }
        DecimalFault::Range => (number::AMOUNT_OUT_OF_RANGE, format!("at most {max}")),
    };
    Violation {
        code: rule.code,
        path,
        found: shortened(found),
        wanted,
        law: rule.law,
    }
}
