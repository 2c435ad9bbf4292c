//! Confirms of issued invoices, in columns: what a call names, and its answer once all of it is held (PROTOCOL 4.2).
//!
//! Only a call with which nothing is wrong is read here; what is wrong with any other is for somebody else to say.

use crate::contract::{ConfirmReservationsRequest, ReservationRef, SettleResult};
use crate::identity::{id_from_text, id_text, reservation_id, Id};
use crate::stock::{Resolver, HOLDS_MAX};
use crate::wire::{put_nested, repeated, Message};
use std::collections::HashSet;

/// HELD of the contract's ReservationState.
const HELD: i32 = 2;

/// A hold and the request it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// As it came, for the answer.
    pub id_text: String,
    pub merchant_id: Id,
    pub reservation_id: Id,
    pub fingerprint: [u8; 32],
}

/// The holds that a service's ConfirmReservationsRequest names, in its order; each once. `None`: a rule is broken.
pub fn read(raw: &[u8]) -> Option<Vec<Ref>> {
    let request = ConfirmReservationsRequest::decode(raw).ok()?;
    if !(1..=HOLDS_MAX).contains(&request.reservations.len()) {
        return None;
    }
    let mut seen = HashSet::with_capacity(request.reservations.len());
    request
        .reservations
        .iter()
        .map(|asked| {
            let one = one(asked)?;
            seen.insert((one.merchant_id, one.reservation_id))
                .then_some(one)
        })
        .collect()
}

fn one(asked: &ReservationRef<'_>) -> Option<Ref> {
    if asked.resolver != 0 && asked.resolver != Resolver::Invoice as i32 {
        return None;
    }
    if !asked.rid.is_empty() {
        id_from_text(asked.rid)?;
    }
    Some(Ref {
        id_text: asked.reservation_id.to_owned(),
        merchant_id: id_from_text(asked.merchant_id)?,
        reservation_id: id_from_text(asked.reservation_id)?,
        fingerprint: asked.fingerprint.try_into().ok()?,
    })
}

/// An encoded SettleReservationsResponse: every hold is HELD.
pub fn all_held(refs: &[Ref]) -> Vec<u8> {
    let results = refs.iter().map(|one| SettleResult {
        reservation_id: &one.id_text,
        state: HELD,
        ..Default::default()
    });
    repeated(1, results)
}

/// An encoded ConfirmReservationsRequest (ReleaseReservationsRequest has the same fields) of the invoice service: the
/// holds of these requests' attempts.
pub fn request<'h>(holds: impl Iterator<Item = (&'h Id, &'h Id, i32, &'h [u8])>) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 * holds.size_hint().0);
    for (merchant_id, rid, attempt, fingerprint) in holds {
        let reservation = id_text(&reservation_id(rid, attempt.unsigned_abs()));
        let (merchant, rid) = (id_text(merchant_id), id_text(rid));
        let reference = ReservationRef {
            reservation_id: text(&reservation),
            merchant_id: text(&merchant),
            fingerprint,
            resolver: Resolver::Invoice as i32,
            rid: text(&rid),
            attempt,
            ..Default::default()
        };
        put_nested(1, &mut out, |out| reference.write_fields(out));
    }
    out
}

fn text(bytes: &[u8; 36]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(count: u8) -> Vec<u8> {
        let holds: Vec<(Id, Id, [u8; 32])> =
            (0..count).map(|n| ([7; 16], [n; 16], [n; 32])).collect();
        request(
            holds
                .iter()
                .map(|(merchant, rid, print)| (merchant, rid, 1, print.as_slice())),
        )
    }

    #[test]
    fn what_the_invoice_service_asks_is_read() {
        let refs = read(&asked(3)).unwrap();
        assert_eq!(refs.len(), 3);
        assert_eq!(refs[2].reservation_id, reservation_id(&[2; 16], 1));
        assert_eq!(
            (refs[1].merchant_id, refs[1].fingerprint),
            ([7; 16], [1; 32])
        );
        assert!(!all_held(&refs).is_empty());
    }

    #[test]
    fn a_call_that_breaks_a_rule_is_left_to_others() {
        let twice = [asked(1), asked(1)].concat();
        let unknown_field = [asked(1), vec![0x10, 1]].concat();
        for wrong in [Vec::new(), twice, unknown_field, asked(1)[..20].to_vec()] {
            assert_eq!(read(&wrong), None);
        }
        let spoilt: [fn(&mut ReservationRef<'_>); 5] = [
            |one| one.merchant_id = "",
            |one| one.reservation_id = "x",
            |one| one.fingerprint = b"short",
            |one| one.resolver = 1,
            |one| one.rid = "x",
        ];
        let (id, print) = (id_text(&[1; 16]), [0; 32]);
        for spoil in spoilt {
            let mut one = ReservationRef {
                reservation_id: text(&id),
                merchant_id: text(&id),
                fingerprint: &print,
                ..Default::default()
            };
            let mut raw = Vec::new();
            put_nested(1, &mut raw, |out| one.write_fields(out));
            assert!(read(&raw).is_some());
            spoil(&mut one);
            raw.clear();
            put_nested(1, &mut raw, |out| one.write_fields(out));
            assert_eq!(read(&raw), None);
        }
    }
}
