//! Callers who were let in a moment ago: what they send is read without asking again.
//!
//! It guards memory and nothing else: every call is judged by the other side, whoever is remembered here.
use std::collections::hash_map::RandomState;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName};

/// Then it is asked again; a token that was withdrawn meanwhile can only send bytes that are refused afterwards.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
const REMEMBERED_MAX: usize = 10_000;

pub struct Callers {
    /// The metadata that show who is calling.
    shown_by: Vec<HeaderName>,
    // Keyed at random, so that nobody can look for another's number.
    hasher: RandomState,
    until: Mutex<HashMap<u64, Instant>>,
}

impl Callers {
    pub fn new(shown_by: Vec<HeaderName>) -> Self {
        Self {
            shown_by,
            hasher: RandomState::new(),
            until: Mutex::default(),
        }
    }

    /// A number for whoever sent these metadata.
    pub fn number(&self, headers: &HeaderMap) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for name in &self.shown_by {
            for value in headers.get_all(name) {
                hasher.write(value.as_bytes());
                hasher.write_u8(1);
            }
            hasher.write_u8(0);
        }
        hasher.finish()
    }

    pub fn knows(&self, number: u64, now: Instant) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.get(&number).is_some_and(|until| now < *until)
    }

    pub fn remember(&self, number: u64, now: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= REMEMBERED_MAX {
            until.retain(|_, until| now < *until);
        }
        if until.len() >= REMEMBERED_MAX {
            // So many in a minute: they are asked for once more.
            until.clear();
        }
        until.insert(number, now + REMEMBERED_FOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    fn callers() -> Callers {
        Callers::new(["a", "b"].map(HeaderName::from_static).into())
    }

    #[test]
    fn a_caller_is_known_for_a_while() {
        let (callers, now) = (callers(), Instant::now());
        let number = callers.number(&headers(&[("a", "1")]));
        assert!(!callers.knows(number, now));
        callers.remember(number, now);
        assert!(callers.knows(number, now));
        assert!(!callers.knows(number, now + REMEMBERED_FOR));
    }

    #[test]
    fn whoever_shows_something_else_is_somebody_else() {
        let callers = callers();
        let shown = [
            headers(&[]),
            headers(&[("a", "1")]),
            headers(&[("b", "1")]),
            headers(&[("a", "1"), ("a", "1")]),
            headers(&[("a", "11")]),
            headers(&[("a", "1"), ("b", "1")]),
        ];
        let mut numbers: Vec<_> = shown.iter().map(|all| callers.number(all)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(shown.len(), numbers.len());
        let other = headers(&[("a", "1"), ("c", "2")]);
        assert_eq!(callers.number(&shown[1]), callers.number(&other));
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let (callers, now) = (callers(), Instant::now());
        for number in 0..=u64::try_from(REMEMBERED_MAX).expect("a number") {
            callers.remember(number, now);
        }
        assert!(callers.until.lock().expect("no panic").len() <= REMEMBERED_MAX);
    }
}
