//! The GST engine for Python: documents and vectors as JSON text, answers as JSON text. Docs and types:
//! `services/invochain/_core.pyi`.
use std::sync::{Arc, LazyLock, RwLock};

use invochain_core::gst::explain::explain;
use invochain_core::gst::rules::{self, Check};
use invochain_core::gst::tables::TableName;
use invochain_core::gst::vector::{self, computed_json};
use invochain_core::gst::{
    check, inv01, irn, neutral, Context, Date, Malformed, Mode, PathForm, Read, Tables, Violation,
};
use invochain_core::money::short_milli_text;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use serde_json::{json, Value};

static IN_FORCE: LazyLock<RwLock<Arc<Tables>>> =
    LazyLock::new(|| RwLock::new(Arc::new(Tables::builtin().clone())));

/// The tables in force: those built in, until a dated file replaced one.
pub fn tables() -> Arc<Tables> {
    IN_FORCE
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone()
}

fn put_in_force(tables: Tables) {
    *IN_FORCE
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(tables);
}

fn table_named(name: &str) -> PyResult<TableName> {
    TableName::parse(name).ok_or_else(|| {
        let names = TableName::ALL.map(TableName::as_str).join(", ");
        PyValueError::new_err(format!("found table {name:?}, wanted one of {names}"))
    })
}

#[pyfunction]
fn gst_replace_table(name: &str, text: &str) -> PyResult<String> {
    let replaced = tables()
        .with(table_named(name)?, text)
        .map_err(|fault| PyValueError::new_err(fault.to_string()))?;
    let as_of = replaced.as_of.to_string();
    put_in_force(replaced);
    Ok(as_of)
}

#[pyfunction]
fn gst_builtin_tables() {
    put_in_force(Tables::builtin().clone());
}

fn day(text: Option<&str>) -> PyResult<Option<Date>> {
    let parse = |text| {
        Date::parse_iso(text).ok_or_else(|| {
            PyValueError::new_err(format!("found {text:?}, wanted a date, YYYY-MM-DD"))
        })
    };
    text.map(parse).transpose()
}

fn mode_named(mode: &str) -> PyResult<Mode> {
    match mode {
        "compute" => Ok(Mode::Compute),
        "strict" => Ok(Mode::Strict),
        "nic" => Ok(Mode::Nic),
        other => Err(PyValueError::new_err(format!(
            "found mode {other:?}, wanted compute, strict or nic"
        ))),
    }
}

fn json_of(text: &str) -> PyResult<Value> {
    serde_json::from_str(text).map_err(|error| PyValueError::new_err(format!("no JSON: {error}")))
}

fn errors_json(errors: &[Violation]) -> Value {
    let one = |v: &Violation| json!({"code": v.code, "path": v.path, "found": v.found, "wanted": v.wanted, "law": v.law});
    errors.iter().map(one).collect()
}

fn malformed(error: Malformed) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn read(value: &Value) -> Result<(Read<'_>, &'static str), Malformed> {
    if inv01::is_inv01(value) {
        Ok((inv01::read(value)?, "inv01"))
    } else {
        Ok((neutral::read(value)?, "neutral"))
    }
}

/// Empty `mode`: nic for INV-01, strict for the neutral form.
fn checked(
    value: &Value,
    mode: Option<Mode>,
    today: Option<Date>,
    tables: &Tables,
) -> Result<Value, Malformed> {
    let (read, form) = read(value)?;
    let default = if form == "inv01" {
        Mode::Nic
    } else {
        Mode::Strict
    };
    let context = context(mode.unwrap_or(default), today, tables);
    Ok(match check(&read.document, &context, read.prior) {
        Ok(computed) => {
            json!({"form": form, "ok": true, "errors": [], "computed": computed_json(&computed)})
        }
        Err(errors) => {
            json!({"form": form, "ok": false, "errors": errors_json(&errors), "computed": null})
        }
    })
}

fn context(mode: Mode, today: Option<Date>, tables: &Tables) -> Context<'_> {
    Context {
        mode,
        today,
        tables,
        form: PathForm::Neutral,
        number_by_server: false,
    }
}

#[pyfunction]
#[pyo3(signature = (document, mode=None, today=None))]
fn gst_check(
    py: Python<'_>,
    document: &str,
    mode: Option<&str>,
    today: Option<&str>,
) -> PyResult<String> {
    let (mode, today, tables) = (mode.map(mode_named).transpose()?, day(today)?, tables());
    py.detach(|| {
        let value = json_of(document)?;
        checked(&value, mode, today, &tables)
            .map(|answer| answer.to_string())
            .map_err(malformed)
    })
}

#[pyfunction]
#[pyo3(signature = (documents, mode, today=None))]
fn gst_check_batch(
    py: Python<'_>,
    documents: Vec<PyBackedStr>,
    mode: &str,
    today: Option<&str>,
) -> PyResult<Vec<String>> {
    let (mode, today, tables) = (mode_named(mode)?, day(today)?, tables());
    py.detach(|| {
        let one = |document: &PyBackedStr| {
            let value = json_of(document)?;
            checked(&value, Some(mode), today, &tables)
                .map(|answer| answer.to_string())
                .map_err(malformed)
        };
        documents.iter().map(one).collect()
    })
}

#[pyfunction]
#[pyo3(signature = (document, mode=None, today=None))]
fn gst_explain(document: &str, mode: Option<&str>, today: Option<&str>) -> PyResult<String> {
    let (mode, today, tables) = (mode.map(mode_named).transpose()?, day(today)?, tables());
    let value = json_of(document)?;
    let (read, form) = read(&value).map_err(malformed)?;
    let default = if form == "inv01" {
        Mode::Nic
    } else {
        Mode::Strict
    };
    let context = context(mode.unwrap_or(default), today, &tables);
    let answer = match explain(&read.document, &context, read.prior) {
        Ok(explanation) => {
            json!({"form": form, "ok": true, "errors": [], "explanation": explanation})
        }
        Err(errors) => {
            json!({"form": form, "ok": false, "errors": errors_json(&errors), "explanation": null})
        }
    };
    Ok(answer.to_string())
}

#[pyfunction]
fn gst_vector(py: Python<'_>, vector: &str) -> PyResult<String> {
    let tables = tables();
    py.detach(|| answered(&json_of(vector)?, &tables))
}

#[pyfunction]
#[pyo3(signature = (kind, input, mode="strict", today=None))]
fn gst_answer(
    py: Python<'_>,
    kind: &str,
    input: &str,
    mode: &str,
    today: Option<&str>,
) -> PyResult<String> {
    let tables = tables();
    py.detach(|| {
        let context = json!({"as_of": today});
        let input = json_of(input)?;
        if !input.is_object() {
            return Err(PyValueError::new_err("a JSON object is wanted"));
        }
        let question = json!({"kind": kind, "mode": mode, "context": context, "input": input});
        answered(&question, &tables)
    })
}

fn answered(question: &Value, tables: &Tables) -> PyResult<String> {
    let answer = vector::answer(question, tables).map_err(malformed)?;
    let errors = errors_json(&answer.errors);
    Ok(json!({"ok": answer.ok, "errors": errors, "computed": answer.computed}).to_string())
}

#[pyfunction]
fn gst_gstin(text: &str) -> String {
    let answer = vector::gstin(text, &tables());
    json!({"ok": answer.ok, "errors": errors_json(&answer.errors), "computed": answer.computed})
        .to_string()
}

#[pyfunction]
fn gst_irn(
    seller_gstin: &str,
    date: &str,
    doc_type: &str,
    number: &str,
    generated_on: Option<&str>,
) -> PyResult<(String, String)> {
    let date = day(Some(date))?.unwrap_or(Date::GST_BEGAN);
    let irn = irn::irn(
        seller_gstin,
        date,
        doc_type,
        number,
        day(generated_on)?.unwrap_or(date),
    );
    Ok((irn.preimage, irn.irn))
}

type RuleRow = (&'static str, &'static str, u8, bool, bool, &'static str);

#[pyfunction]
fn gst_rules() -> Vec<RuleRow> {
    let row = |rule: &'static rules::Rule| {
        let of_reader = matches!(rule.check, Check::Reader);
        (
            rule.code,
            rule.number,
            rule.phase as u8,
            rule.waivable,
            of_reader,
            rule.law,
        )
    };
    rules::all().map(row).collect()
}

#[pyfunction]
fn gst_reason(code: &str) -> Option<(String, String, String)> {
    tables()
        .reasons
        .get(code)
        .map(|r| (r.rule.clone(), r.nic_codes.clone(), r.meaning.clone()))
}

type RateRow = (String, String, String, String, String, String);

#[pyfunction]
#[pyo3(signature = (on=None))]
fn gst_rates(on: Option<&str>) -> PyResult<Vec<RateRow>> {
    let (on, tables) = (day(on)?, tables());
    let rows = tables
        .rates
        .rows()
        .iter()
        .filter(|row| on.is_none_or(|on| row.in_force.holds(on)));
    Ok(rows
        .map(|row| {
            let last = row.in_force.last;
            let to = if last == Date::END {
                String::new()
            } else {
                last.to_string()
            };
            let rate = short_milli_text(row.rate_milli);
            (
                rate,
                row.in_force.first.to_string(),
                to,
                row.kind.clone(),
                row.hsn_text.clone(),
                row.note.clone(),
            )
        })
        .collect())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(gst_replace_table, m)?)?;
    m.add_function(wrap_pyfunction!(gst_builtin_tables, m)?)?;
    m.add_function(wrap_pyfunction!(gst_check, m)?)?;
    m.add_function(wrap_pyfunction!(gst_check_batch, m)?)?;
    m.add_function(wrap_pyfunction!(gst_explain, m)?)?;
    m.add("GST_KINDS", vector::KINDS)?;
    m.add_function(wrap_pyfunction!(gst_vector, m)?)?;
    m.add_function(wrap_pyfunction!(gst_answer, m)?)?;
    m.add_function(wrap_pyfunction!(gst_gstin, m)?)?;
    m.add_function(wrap_pyfunction!(gst_irn, m)?)?;
    m.add_function(wrap_pyfunction!(gst_rules, m)?)?;
    m.add_function(wrap_pyfunction!(gst_reason, m)?)?;
    m.add_function(wrap_pyfunction!(gst_rates, m)?)?;
    Ok(())
}
