//! The fuzz entries on a stable compiler: the kept corpus, pieces of it, and random bytes. Nothing panics.
//!
//! `make fuzz` runs the same entries under libFuzzer for longer.

use std::path::PathBuf;

use proptest::prelude::*;

#[path = "../../fuzz/entries.rs"]
mod entries;

use entries::{Entry, ENTRIES};

/// The kept inputs of one entry.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let entries = std::fs::read_dir(&folder).expect("every entry has a corpus");
    entries
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect()
}

#[test]
fn the_corpus_is_answered_whole_and_cut_anywhere() {
    for (name, entry) in ENTRIES {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "no corpus for {name}");
        for input in inputs {
            entry(&input);
            let step = input.len() / 200 + 1;
            for cut in (0..input.len()).step_by(step) {
                entry(&input[..cut]);
                let mut flipped = input.clone();
                flipped[cut] ^= 1 << (cut % 8);
                entry(&flipped);
            }
        }
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop::sample::select(ENTRIES.iter().map(|(_, entry)| *entry).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn random_bytes_are_answered(entry in any_entry(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        entry(&bytes);
    }

    #[test]
    fn random_texts_are_answered(entry in any_entry(), text in any::<String>()) {
        entry(text.as_bytes());
    }

    #[test]
    fn spoiled_inputs_are_answered(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        splice in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let (name, entry) = ENTRIES[which.index(ENTRIES.len())];
        let inputs = corpus(name);
        let mut input = inputs[at.index(inputs.len())].clone();
        if !input.is_empty() {
            let place = at.index(input.len());
            input[place] = byte;
            input.splice(place..place, splice);
        }
        entry(&input);
    }
}
