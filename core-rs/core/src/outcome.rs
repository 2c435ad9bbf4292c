//! An outcome as it lies in a cache that others can write to: it counts only under our MAC and under its own name.
//! Source: PROTOCOL section 7.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a sealed outcome begins with.
pub const MARK: u8 = b'O';

const MAC_BYTES: usize = 32;
const FINGERPRINT_BYTES: usize = 32;

/// How a request ended: the fingerprint of its body (32 bytes), `+` or `-`, and the answer or the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    pub fingerprint: &'a [u8],
    pub state: &'a [u8],
    pub payload: &'a [u8],
}

/// Seals and opens under one key; made once a batch, so that the key is hashed once.
pub struct Sealer(Hmac<Sha256>);

impl Sealer {
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    /// MARK, the HMAC-SHA-256 of name, zero and outcome, the outcome.
    pub fn seal(&self, name: &[u8], outcome: Outcome<'_>) -> Vec<u8> {
        let Outcome {
            fingerprint,
            state,
            payload,
        } = outcome;
        let mut mac = self.begin(name);
        let mut out = Vec::with_capacity(1 + MAC_BYTES + FINGERPRINT_BYTES + 1 + payload.len());
        out.resize(1 + MAC_BYTES, MARK);
        for part in [fingerprint, state, payload] {
            out.extend_from_slice(part);
        }
        mac.update(&out[1 + MAC_BYTES..]);
        out[1..=MAC_BYTES].copy_from_slice(&mac.finalize().into_bytes());
        out
    }

    /// The outcome that was sealed under this name; `None`: it was not, or not with our key.
    pub fn open<'a>(&self, name: &[u8], sealed: &'a [u8]) -> Option<Outcome<'a>> {
        let (mac, body) = sealed.strip_prefix(&[MARK])?.split_at_checked(MAC_BYTES)?;
        let (fingerprint, rest) = body.split_at_checked(FINGERPRINT_BYTES)?;
        let (state, payload) = rest.split_at_checked(1)?;
        let mut wanted = self.begin(name);
        wanted.update(body);
        // In a time that does not depend on where they differ.
        wanted.verify_slice(mac).ok()?;
        Some(Outcome {
            fingerprint,
            state,
            payload,
        })
    }

    fn begin(&self, name: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(name);
        mac.update(&[0]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTCOME: Outcome<'static> = Outcome {
        fingerprint: &[7; FINGERPRINT_BYTES],
        state: b"+",
        payload: b"answer",
    };

    #[test]
    fn what_was_sealed_opens_under_its_name() {
        let sealer = Sealer::new(b"key");
        let sealed = sealer.seal(b"name", OUTCOME);
        assert_eq!(sealer.open(b"name", &sealed), Some(OUTCOME));
        assert_eq!(sealer.open(b"mane", &sealed), None);
        assert_eq!(Sealer::new(b"other").open(b"name", &sealed), None);
    }

    #[test]
    fn every_byte_counts_and_every_cut_is_seen() {
        let sealer = Sealer::new(b"key");
        let sealed = sealer.seal(b"name", OUTCOME);
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(sealer.open(b"name", &changed), None, "byte {place}");
            assert_eq!(
                sealer.open(b"name", &sealed[..place]),
                None,
                "cut at {place}"
            );
        }
    }

    #[test]
    fn it_is_an_hmac_of_name_zero_and_outcome() {
        // Computed with Python's hmac.
        let sealed = Sealer::new(b"key").seal(
            b"n",
            Outcome {
                fingerprint: &[0; 32],
                state: b"-",
                payload: b"",
            },
        );
        let hex: String = sealed[1..33]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "8edf983c1f74e96c5e47347c32f1331d341ba96340cb0131e96fdacf8d7525e7"
        );
    }
}
