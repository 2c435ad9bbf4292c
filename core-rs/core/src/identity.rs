//! Ids derived from a request, so that every effect has one name however often it is asked for.
//!
//! `H(tag, f1, f2..)` = the first 16 bytes of SHA-256 over the tag and the fields, each with its length before it (four
//! bytes, big endian), as a UUID of version 8. Golden vectors: `tests/vectors/ids.json`.
//! Source: PROTOCOL section 2.

use sha2::{Digest, Sha256};

/// 16 bytes; a lower-case UUID of 36 characters on the wire.
pub type Id = [u8; 16];
/// SHA-256 of a canonical request.
pub type Fingerprint = [u8; 32];

/// The version of the canonical form that [`crate::request`] hashes; stored beside each fingerprint.
pub const FINGERPRINT_VERSION: i16 = 1;

fn derive(tag: &str, fields: &[&[u8]]) -> Id {
    let mut hash = Sha256::new();
    for field in std::iter::once(&tag.as_bytes()).chain(fields) {
        let length = u32::try_from(field.len()).expect("an id field is short");
        hash.update(length.to_be_bytes());
        hash.update(field);
    }
    let digest = hash.finalize();
    let mut id: Id = digest[..16].try_into().expect("SHA-256 has 32 bytes");
    id[6] = 0x80 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    id
}

/// The request (and saga) id: one per merchant, operation and idempotency key.
pub fn request_id(merchant_id: &Id, operation: &str, key: &str) -> Id {
    derive(
        "rid/1",
        &[merchant_id, operation.as_bytes(), key.as_bytes()],
    )
}

/// No attempt in it: a key can never yield two invoices, even after its decision row is purged.
pub fn invoice_id(rid: &Id) -> Id {
    derive("inv/1", &[rid])
}

/// One hold per attempt; an aborted attempt's id is never used again.
pub fn reservation_id(rid: &Id, attempt: u32) -> Id {
    derive("res/1", &[rid, &attempt.to_be_bytes()])
}

/// One movement per cause (reservation or command), SKU and kind; lines of one SKU are summed.
pub fn movement_id(cause: &Id, sku: &str, kind: &str) -> Id {
    derive("mov/1", &[cause, sku.as_bytes(), kind.as_bytes()])
}

/// One event per aggregate, version and type.
pub fn event_id(aggregate_id: &Id, version: u64, kind: &str) -> Id {
    derive(
        "evt/1",
        &[aggregate_id, &version.to_be_bytes(), kind.as_bytes()],
    )
}

/// Ids and hash partitions of a batch of events, in their order.
pub fn event_columns<'e>(
    events: impl ExactSizeIterator<Item = (&'e Id, u64, &'e str)>,
    partitions: u32,
) -> (Vec<Id>, Vec<u32>) {
    events
        .map(|(aggregate, version, kind)| {
            (
                event_id(aggregate, version, kind),
                partition(aggregate, partitions),
            )
        })
        .unzip()
}

/// The 36 characters of an id.
pub fn id_text(id: &Id) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in id.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    text
}

/// Reads the 36 characters (either case of letters) or, between our services, nothing else.
pub fn id_from_text(text: &str) -> Option<Id> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut id = [0u8; 16];
    let mut at = 0;
    for (index, byte) in id.iter_mut().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            if bytes[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = nibble(bytes[at])? << 4 | nibble(bytes[at + 1])?;
        at += 2;
    }
    Some(id)
}

fn nibble(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

/// Which of `count` hash partitions an aggregate belongs to; the outbox and the resolver divide their work by it.
pub fn partition(id: &Id, count: u32) -> u32 {
    // The last four are uniform in derived ids and in UUIDv7 alike. The first four of a UUIDv7 are its time, the same
    // for a minute: every merchant registered in that minute would share a partition.
    u32::from_be_bytes([id[12], id[13], id[14], id[15]]) % count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = request_id(&[7; 16], "invoice.create", "0123456789abcdef");
        let text = id_text(&id);
        let text = std::str::from_utf8(&text).unwrap();
        assert_eq!(id_from_text(text), Some(id));
        assert_eq!(id_from_text(&text.to_uppercase()), Some(id));
        assert_eq!(id_from_text(&text[1..]), None);
        assert_eq!(&text[14..15], "8", "version 8");
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        let merchant = [1; 16];
        assert_ne!(
            request_id(&merchant, "ab", "c"),
            request_id(&merchant, "a", "bc")
        );
    }

    #[test]
    fn ids_made_in_the_same_minute_spread_over_the_partitions() {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&[1, 0x8f, 0x3a, 0x11, 0, 0]);
        let found: std::collections::HashSet<u32> = (0..=255)
            .map(|random| {
                id[15] = random;
                partition(&id, 32)
            })
            .collect();
        assert_eq!(found.len(), 32);
    }

    #[test]
    fn a_column_of_events_is_its_events_one_by_one() {
        let (a, b) = ([3; 16], [200; 16]);
        let rows = [(&a, 1, "x.v1"), (&b, 7, "y.v1"), (&a, 2, "x.v1")];
        let (ids, partitions) = event_columns(rows.into_iter(), 32);
        let expected: Vec<Id> = rows
            .iter()
            .map(|(id, version, kind)| event_id(id, *version, kind))
            .collect();
        assert_eq!(ids, expected);
        assert_eq!(
            partitions,
            [partition(&a, 32), partition(&b, 32), partition(&a, 32)]
        );
    }

    #[test]
    fn every_attempt_has_its_own_reservation() {
        let rid = [9; 16];
        assert_ne!(reservation_id(&rid, 1), reservation_id(&rid, 2));
    }
}
