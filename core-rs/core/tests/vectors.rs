//! The project's vectors (tests/vectors/gst) and the oracle's (tests/vectors/gst-oracle), from Rust: every vector gets
//! the answer it names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use invochain_core::gst::{vector, Tables};
use serde_json::Value;

/// Every vector of every file of both directories, with the file's name.
fn vectors() -> Vec<(String, Value)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let mut out = Vec::new();
    for directory in ["gst", "gst-oracle"] {
        for entry in
            std::fs::read_dir(root.join(directory)).expect("the vectors are part of the project")
        {
            let path = entry.expect("a readable entry").path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let file: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(
                file["format"],
                "invochain-gst-vectors/1",
                "{}",
                path.display()
            );
            for one in file["vectors"].as_array().expect("an array of vectors") {
                out.push((path.display().to_string(), one.clone()));
            }
        }
    }
    out
}

fn errors_of(value: &Value) -> BTreeSet<(String, String)> {
    let text = |error: &Value, key: &str| error[key].as_str().expect("a text").to_owned();
    value
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| (text(error, "code"), text(error, "path")))
        .collect()
}

/// What differs from the expectation, in words; `None` if nothing does.
fn difference(one: &Value) -> Option<String> {
    let expected = &one["expected"];
    let answer = match vector::answer(one, Tables::builtin()) {
        Ok(answer) => answer,
        Err(malformed) => return Some(malformed.to_string()),
    };
    let errors: BTreeSet<(String, String)> = answer
        .errors
        .iter()
        .map(|error| (error.code.to_owned(), error.path.clone()))
        .collect();
    if expected["ok"] != answer.ok || errors_of(&expected["errors"]) != errors {
        return Some(format!(
            "expected {}, got ok={} {:?}",
            expected, answer.ok, answer.errors
        ));
    }
    let computed = expected.get("computed").and_then(Value::as_object)?;
    computed.iter().find_map(|(key, wanted)| {
        let got = &answer.computed[key];
        (got != wanted).then(|| format!("{key}: expected {wanted}, got {got}"))
    })
}

#[test]
fn every_vector_gets_the_answer_it_names() {
    let vectors = vectors();
    let failures: Vec<String> = vectors
        .iter()
        .filter_map(|(file, one)| {
            difference(one).map(|what| format!("{file} {} {}: {what}", one["id"], one["title"]))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        vectors.len(),
        failures.join("\n")
    );
    assert!(
        vectors.len() >= 900,
        "only {} vectors were found",
        vectors.len()
    );
}

#[test]
fn violations_speak_in_words() {
    for (_, one) in vectors() {
        for error in vector::answer(&one, Tables::builtin())
            .expect("well formed")
            .errors
        {
            assert!(!error.wanted.is_empty(), "{}: {error:?}", one["id"]);
            assert!(!error.law.is_empty(), "{}: {error:?}", one["id"]);
        }
    }
}

#[test]
fn every_kind_is_listed_and_has_its_vectors() {
    let vectors = vectors();
    let seen: BTreeSet<&str> = vectors
        .iter()
        .filter_map(|(_, one)| one["kind"].as_str())
        .collect();
    assert_eq!(seen, BTreeSet::from(vector::KINDS));
}
