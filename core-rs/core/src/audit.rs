//! The audit chain of one invoice: each entry names the one before it and cannot be changed without a key that the
//! database's administrator lacks. Source: PROTOCOL section 11 (a).

use crate::identity::Id;
use crate::wire::{put_bytes, put_int};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// What stands before the first entry.
pub const GENESIS: Hash = [0; 32];

/// One change of one invoice. Times are microseconds since 1970, UTC.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub merchant_id: Id,
    pub invoice_id: Id,
    /// 1 at issue, one more with every change.
    pub version: i64,
    pub action: &'a str,
    pub actor_id: Id,
    pub actor_merchant_id: Id,
    pub time_micros: i64,
    /// 16 random bytes, so that a payload cannot be guessed from its hash.
    pub salt: [u8; 16],
    /// What the change wrote: the document at issue, the changed fields later.
    pub payload: &'a [u8],
    pub previous: Hash,
}

impl Entry<'_> {
    /// The bytes that are hashed: fields in order, the payload by its own hash.
    fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        put_bytes(1, &self.merchant_id, &mut out);
        put_bytes(2, &self.invoice_id, &mut out);
        put_int(3, self.version, &mut out);
        put_bytes(4, self.action.as_bytes(), &mut out);
        put_bytes(5, &self.actor_id, &mut out);
        put_bytes(6, &self.actor_merchant_id, &mut out);
        put_int(7, self.time_micros, &mut out);
        put_bytes(8, &self.salt, &mut out);
        put_bytes(9, &Sha256::digest(self.payload), &mut out);
        put_bytes(10, &self.previous, &mut out);
        out
    }

    /// SHA-256(0x00 || canonical entry): a leaf as RFC 9162 hashes it.
    pub fn hash(&self) -> Hash {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(self.canonical());
        hash.finalize().into()
    }
}

/// HMAC-SHA-256 of an entry's hash.
pub fn mac(key: &[u8], hash: &Hash) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(hash);
    mac.finalize().into_bytes().into()
}

/// An entry as it is stored, with what was computed when it was written.
pub struct Stored<'a> {
    pub entry: Entry<'a>,
    pub hash: Hash,
    pub mac: Hash,
}

/// Recomputes a chain, oldest entry first. `Err` says which entry (by position) is wrong, and how.
pub fn verify(key: &[u8], chain: &[Stored<'_>]) -> Result<(), (usize, &'static str)> {
    let mut previous = GENESIS;
    for (index, stored) in chain.iter().enumerate() {
        let wanted_version = i64::try_from(index).map_or(i64::MAX, |index| index + 1);
        if stored.entry.version != wanted_version {
            return Err((index, "its version does not follow the one before it"));
        }
        if stored.entry.previous != previous {
            return Err((index, "it does not name the entry before it"));
        }
        let hash = stored.entry.hash();
        if stored.hash != hash {
            return Err((index, "its hash is not that of what the rows say"));
        }
        if mac(key, &hash) != stored.mac {
            return Err((index, "its MAC was not made with our key"));
        }
        previous = hash;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(key: &[u8]) -> Vec<Stored<'static>> {
        let mut previous = GENESIS;
        (1..=3)
            .map(|version| {
                let entry = Entry {
                    merchant_id: [1; 16],
                    invoice_id: [2; 16],
                    version,
                    action: "issue",
                    actor_id: [3; 16],
                    actor_merchant_id: [1; 16],
                    time_micros: 1_700_000_000_000_000,
                    salt: [4; 16],
                    payload: b"payload",
                    previous,
                };
                let hash = entry.hash();
                previous = hash;
                Stored {
                    mac: mac(key, &hash),
                    hash,
                    entry,
                }
            })
            .collect()
    }

    #[test]
    fn a_chain_as_it_was_written_verifies() {
        assert_eq!(verify(b"key", &chain(b"key")), Ok(()));
    }

    #[test]
    fn every_change_is_seen_at_the_entry_it_was_made_to() {
        let edits: [fn(&mut Stored<'static>); 5] = [
            |s| s.entry.payload = b"other",
            |s| s.entry.time_micros += 1,
            |s| s.hash[0] ^= 1,
            |s| s.mac[31] ^= 1,
            |s| s.entry.version += 1,
        ];
        for edit in edits {
            let mut chain = chain(b"key");
            edit(&mut chain[1]);
            assert_eq!(verify(b"key", &chain).unwrap_err().0, 1);
        }
    }

    #[test]
    fn a_removed_entry_and_a_foreign_key_are_seen() {
        let mut shortened = chain(b"key");
        shortened.remove(0);
        assert_eq!(verify(b"key", &shortened).unwrap_err().0, 0);
        assert_eq!(verify(b"other", &chain(b"key")).unwrap_err().0, 0);
    }
}
