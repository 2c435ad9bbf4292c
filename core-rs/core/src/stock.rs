//! Grants or refuses a batch of reservations against locked numbers.
//!
//! A batch is read from the bytes of its calls, its items are summed per SKU, and the SKUs it touches become one sorted
//! table of keys: the order in which their rows are locked. What is decided here is decided from numbers that came in.
//! Quantities are thousandths of the unit. Source: PROTOCOL sections 4.2 and 9.

use crate::contract::ReserveStockResult;
use crate::identity::{id_from_text, Id};
use crate::messages;
use crate::wire::{put_bytes, repeated, Malformed, Message, Reader, Value};
use std::collections::HashMap;

pub const ITEMS_MAX: usize = 1_000;
/// Holds that one call may ask for.
pub const HOLDS_MAX: usize = 1_000;
/// 13 digits, the widest quantity an e-invoice carries with three decimals (RULES G32).
pub const QUANTITY_MILLI_MAX: i64 = 9_999_999_999_999;
/// `<SKU>@<seller GSTIN>`: 64 + 1 + 15.
pub const SKU_CHARS_MAX: usize = 80;
const SKU_OWN_CHARS_MAX: usize = 64;
pub const TTL_S_MAX: i32 = 86_400;
/// A partner's hold that says nothing of its life lasts a quarter of an hour.
pub const TTL_S_DEFAULT: i32 = 900;
/// Of the contract's ReservationState.
const PENDING: i32 = 1;

messages! {
    /// invochain.api.inventory.v1.ReservationItem
    struct ReservationItem { 1 sku: &'a str, 2 quantity_milli: i64, 3 unit: &'a str }
    /// invochain.api.inventory.v1.ReserveStockRequest
    struct ReserveStockRequest {
        1 items: Vec<ReservationItem<'a>>, 2 ttl_seconds: i32, 3 reservation_id: &'a str, 4 merchant_id: &'a str,
        5 resolver: i32, 6 rid: &'a str, 7 attempt: i32, 8 fingerprint: &'a [u8],
    }
    /// invochain.api.inventory.v1.BatchReserveStockRequest
    struct BatchReserveStockRequest { 1 requests: Vec<ReserveStockRequest<'a>> }
}

/// Who settles a hold; the numbers of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolver {
    None = 1,
    Invoice = 2,
}

impl Resolver {
    pub fn name(self) -> &'static str {
        match self {
            Resolver::None => "NONE",
            Resolver::Invoice => "INVOICE",
        }
    }
}

/// A broken rule of one request: path within the request, code, words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub field: String,
    pub code: &'static str,
    pub found: String,
}

/// A SKU of a merchant; the order is that of the locks: bytes of the merchant, then bytes of the SKU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub merchant_id: Id,
    pub sku: String,
}

/// What one hold takes of one SKU, summed over its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub key: usize,
    pub quantity_milli: i64,
    /// Units the items name; empty when none does. More than one cannot all be right.
    pub units: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Hold {
    /// As it came, for the answer.
    pub id_text: String,
    pub merchant_id: Id,
    pub reservation_id: Id,
    pub resolver: Resolver,
    pub rid: Id,
    pub attempt: i32,
    pub fingerprint: [u8; 32],
    /// Seconds; 0 with resolver INVOICE, whose holds no timer ends.
    pub ttl_s: i32,
    /// In the order of keys.
    pub lines: Vec<Line>,
    /// Not empty: the request is refused and touches nothing.
    pub faults: Vec<Fault>,
}

/// The holds of a batch, over all its calls, and the sorted table of what they touch.
#[derive(Debug, Default)]
pub struct Holds {
    pub holds: Vec<Hold>,
    pub keys: Vec<Key>,
    /// Where the holds of each call begin, and the end of the last.
    pub starts: Vec<usize>,
    /// Calls whose bytes are no request.
    pub malformed: Vec<(usize, String)>,
}

impl Holds {
    /// Reads the calls; one that is malformed has no holds and leaves its neighbours as they are.
    pub fn read(calls: &[&[u8]]) -> Holds {
        let mut read = Holds {
            starts: vec![0],
            ..Holds::default()
        };
        let mut keys: HashMap<Key, usize> = HashMap::new();
        for (index, bytes) in calls.iter().enumerate() {
            match decode(bytes) {
                Ok(request) if request.requests.len() > HOLDS_MAX => {
                    let found = request.requests.len();
                    read.malformed.push((
                        index,
                        format!("requests: found {found}; {HOLDS_MAX} are the most"),
                    ));
                }
                Ok(request) => read
                    .holds
                    .extend(request.requests.iter().map(|one| hold(one, &mut keys))),
                Err(why) => read.malformed.push((index, why.to_string())),
            }
            read.starts.push(read.holds.len());
        }
        read.sort_keys(keys);
        read
    }

    fn sort_keys(&mut self, keys: HashMap<Key, usize>) {
        let mut sorted: Vec<(Key, usize)> = keys.into_iter().collect();
        sorted.sort_unstable();
        let mut place = vec![0; sorted.len()];
        for (new, (_, old)) in sorted.iter().enumerate() {
            place[*old] = new;
        }
        self.keys = sorted.into_iter().map(|(key, _)| key).collect();
        for line in self.holds.iter_mut().flat_map(|hold| &mut hold.lines) {
            line.key = place[line.key];
        }
        for hold in &mut self.holds {
            hold.lines.sort_unstable_by_key(|line| line.key);
        }
    }

    /// The holds that name an id which an earlier one of the batch has named: (later, earlier, same body).
    pub fn repeats(&self) -> Vec<(usize, usize, bool)> {
        let mut seen: HashMap<(Id, Id, Resolver), usize> = HashMap::with_capacity(self.holds.len());
        let mut found = Vec::new();
        for (index, hold) in self
            .holds
            .iter()
            .enumerate()
            .filter(|(_, hold)| hold.faults.is_empty())
        {
            let first = *seen
                .entry((hold.merchant_id, hold.reservation_id, hold.resolver))
                .or_insert(index);
            if first != index {
                found.push((
                    index,
                    first,
                    self.holds[first].fingerprint == hold.fingerprint,
                ));
            }
        }
        found
    }

    /// The keys that the chosen holds touch, in the order of locks.
    pub fn keys_of(&self, chosen: &[usize]) -> Vec<usize> {
        let mut wanted = vec![false; self.keys.len()];
        for line in chosen.iter().flat_map(|&index| &self.holds[index].lines) {
            wanted[line.key] = true;
        }
        (0..wanted.len()).filter(|&key| wanted[key]).collect()
    }

    /// Decides the chosen holds, in their order, each wholly or not at all.
    ///
    /// `rows[key]` says what is known of the key's row: locked with its numbers, absent, or (not given) busy.
    pub fn grant(&self, chosen: &[usize], rows: &HashMap<usize, Row>) -> Verdicts {
        let mut free: Vec<i64> = vec![0; self.keys.len()];
        for (&key, row) in rows {
            if let Row::Locked { free_milli, .. } = row {
                free[key] = (*free_milli).max(0);
            }
        }
        let mut verdicts = Verdicts::default();
        for &index in chosen {
            let lines = &self.holds[index].lines;
            if let Some(refusal) = lines
                .iter()
                .find_map(|line| refuse(line, rows.get(&line.key), free[line.key]))
            {
                verdicts.refused.push((index, refusal));
            } else if let Some(line) = lines.iter().find(|line| !rows.contains_key(&line.key)) {
                verdicts.busy.push((index, line.key));
            } else {
                for line in lines {
                    // No more than is free is ever granted, so nothing can overflow or fall below 0.
                    free[line.key] -= line.quantity_milli;
                    debug_assert!(free[line.key] >= 0);
                }
                verdicts.granted.push(index);
            }
        }
        verdicts
    }

    /// What the chosen holds take together, per key, in the order of locks. `None` if a sum does not fit.
    pub fn sums(&self, chosen: &[usize]) -> Option<Vec<(usize, i64)>> {
        let mut sums: Vec<i64> = vec![0; self.keys.len()];
        for line in chosen.iter().flat_map(|&index| &self.holds[index].lines) {
            sums[line.key] = sums[line.key].checked_add(line.quantity_milli)?;
        }
        Some(
            sums.into_iter()
                .enumerate()
                .filter(|&(_, sum)| sum != 0)
                .collect(),
        )
    }
}

/// What is known of a stock row.
#[derive(Clone, Debug)]
pub enum Row {
    Locked { unit: String, free_milli: i64 },
    Absent,
}

/// Why a hold is refused; `key` says which SKU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    NotFound {
        key: usize,
    },
    UnitMismatch {
        key: usize,
        asked: String,
        kept: String,
    },
    Short {
        key: usize,
        asked_milli: i64,
        free_milli: i64,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub granted: Vec<usize>,
    /// (hold, first key whose row another transaction holds)
    pub busy: Vec<(usize, usize)>,
    pub refused: Vec<(usize, Refused)>,
}

fn refuse(line: &Line, row: Option<&Row>, free_milli: i64) -> Option<Refused> {
    match row? {
        Row::Absent => Some(Refused::NotFound { key: line.key }),
        Row::Locked { unit, .. } => {
            if let Some(asked) = line.units.iter().find(|asked| *asked != unit) {
                let (asked, kept) = (asked.clone(), unit.clone());
                return Some(Refused::UnitMismatch {
                    key: line.key,
                    asked,
                    kept,
                });
            }
            let asked_milli = line.quantity_milli;
            (asked_milli > free_milli).then_some(Refused::Short {
                key: line.key,
                asked_milli,
                free_milli,
            })
        }
    }
}

/// An encoded BatchReserveStockResponse: every hold is PENDING.
pub fn all_pending(holds: &[Hold]) -> Vec<u8> {
    let results = holds.iter().map(|hold| ReserveStockResult {
        reservation_id: &hold.id_text,
        state: PENDING,
        ..Default::default()
    });
    repeated(1, results)
}

fn decode(bytes: &[u8]) -> Result<BatchReserveStockRequest<'_>, Malformed> {
    BatchReserveStockRequest::decode(bytes)
}

/// The `nth` request of a call as a call of its own, for the lane of a busy SKU; empty if there is none.
pub fn alone(call: &[u8], nth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = Reader::new(call);
    let mut place = 0;
    while let Ok(Some((1, Value::Bytes(request)))) = reader.next_field() {
        if place == nth {
            put_bytes(1, request, &mut out);
            break;
        }
        place += 1;
    }
    out
}

fn hold(request: &ReserveStockRequest<'_>, keys: &mut HashMap<Key, usize>) -> Hold {
    let mut faults = Vec::new();
    let merchant_id = id(request.merchant_id, "merchant_id", &mut faults);
    let resolver = if request.resolver == Resolver::Invoice as i32 {
        Resolver::Invoice
    } else {
        Resolver::None
    };
    if request.resolver != resolver as i32 {
        faults.push(fault("resolver", "RESOLVER_UNKNOWN", request.resolver));
    }
    let ttl_s = match (resolver, request.ttl_seconds) {
        (Resolver::Invoice, 0) => 0,
        (Resolver::None, 0) => TTL_S_DEFAULT,
        (Resolver::None, seconds @ 1..=TTL_S_MAX) => seconds,
        (_, other) => {
            faults.push(fault("ttl_seconds", "TTL_OUT_OF_RANGE", other));
            0
        }
    };
    if request.attempt < 1 {
        faults.push(fault("attempt", "ATTEMPT_OUT_OF_RANGE", request.attempt));
    }
    let fingerprint = <[u8; 32]>::try_from(request.fingerprint).unwrap_or_else(|_| {
        faults.push(fault(
            "fingerprint",
            "FINGERPRINT_INVALID",
            format!("{} bytes", request.fingerprint.len()),
        ));
        [0; 32]
    });
    let reservation_id = id(request.reservation_id, "reservation_id", &mut faults);
    let rid = id(request.rid, "rid", &mut faults);
    let mut lines = sum_items(&merchant_id, &request.items, keys, &mut faults);
    if !faults.is_empty() {
        lines.clear();
    }
    Hold {
        id_text: request.reservation_id.to_owned(),
        merchant_id,
        reservation_id,
        resolver,
        rid,
        attempt: request.attempt,
        fingerprint,
        ttl_s,
        lines,
        faults,
    }
}

/// One line per SKU. Only a request without any fault adds keys.
fn sum_items(
    merchant_id: &Id,
    items: &[ReservationItem<'_>],
    keys: &mut HashMap<Key, usize>,
    faults: &mut Vec<Fault>,
) -> Vec<Line> {
    if items.is_empty() || items.len() > ITEMS_MAX {
        faults.push(fault("items", "ITEM_COUNT_OUT_OF_RANGE", items.len()));
        return Vec::new();
    }
    let mut skus = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        match normal_sku(item.sku) {
            Some(sku) => skus.push(sku),
            None => faults.push(fault(
                &format!("items[{index}].sku"),
                "SKU_INVALID",
                shown(item.sku),
            )),
        }
        if !(1..=QUANTITY_MILLI_MAX).contains(&item.quantity_milli) {
            let field = format!("items[{index}].quantity_milli");
            faults.push(fault(&field, "QUANTITY_OUT_OF_RANGE", item.quantity_milli));
        }
    }
    if !faults.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<Line> = Vec::with_capacity(items.len());
    let mut at: HashMap<usize, usize> = HashMap::with_capacity(items.len());
    for (item, sku) in items.iter().zip(skus) {
        let next = keys.len();
        let key = *keys
            .entry(Key {
                merchant_id: *merchant_id,
                sku,
            })
            .or_insert(next);
        let place = *at.entry(key).or_insert_with(|| {
            lines.push(Line {
                key,
                quantity_milli: 0,
                units: Vec::new(),
            });
            lines.len() - 1
        });
        let line = &mut lines[place];
        // At most 1,000 times 10^13: it fits.
        line.quantity_milli += item.quantity_milli;
        if !item.unit.is_empty() && !line.units.iter().any(|unit| unit == item.unit) {
            line.units.push(item.unit.to_owned());
        }
    }
    lines
}

/// Upper case, as it is kept and compared. `None` for what is no SKU: 1 to 64 of `[A-Za-z0-9._/-]`, or up to 80 with
/// the `@` (and `/`) of those the server makes for goods received.
pub fn normal_sku(text: &str) -> Option<String> {
    let known =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-' | b'@');
    let longest = if text.contains('@') {
        SKU_CHARS_MAX
    } else {
        SKU_OWN_CHARS_MAX
    };
    let fits =
        (1..=longest).contains(&text.len()) && text.bytes().all(known) && !text.starts_with('@');
    fits.then(|| text.to_ascii_uppercase())
}

fn id(text: &str, field: &str, faults: &mut Vec<Fault>) -> Id {
    id_from_text(text).unwrap_or_else(|| {
        faults.push(fault(field, "ID_INVALID", shown(text)));
        [0; 16]
    })
}

fn fault(field: &str, code: &'static str, found: impl ToString) -> Fault {
    Fault {
        field: field.to_owned(),
        code,
        found: found.to_string(),
    }
}

fn shown(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn request<'a>(id: &'a str, items: &[(&'a str, i64, &'a str)]) -> ReserveStockRequest<'a> {
        ReserveStockRequest {
            items: items
                .iter()
                .map(|&(sku, quantity_milli, unit)| ReservationItem {
                    sku,
                    quantity_milli,
                    unit,
                    ..Default::default()
                })
                .collect(),
            reservation_id: id,
            merchant_id: "00000000-0000-0000-0000-00000000000a",
            resolver: 2,
            rid: id,
            attempt: 1,
            fingerprint: &[7; 32],
            ..Default::default()
        }
    }

    fn read(requests: Vec<ReserveStockRequest<'_>>) -> Holds {
        Holds::read(&[&BatchReserveStockRequest {
            requests,
            ..Default::default()
        }
        .encode()])
    }

    fn locked(free_milli: i64) -> Row {
        Row::Locked {
            unit: "NOS".into(),
            free_milli,
        }
    }

    const ONE: &str = "00000000-0000-8000-8000-000000000001";
    const TWO: &str = "00000000-0000-8000-8000-000000000002";

    #[test]
    fn the_items_of_one_sku_are_summed_whatever_their_case() {
        let holds = read(vec![request(
            ONE,
            &[("b", 5, ""), ("a", 1, ""), ("B", 2, "NOS")],
        )]);
        let skus: Vec<_> = holds.keys.iter().map(|key| key.sku.as_str()).collect();
        assert_eq!(skus, ["A", "B"]);
        assert_eq!(holds.holds[0].lines[1].quantity_milli, 7);
        let rows = HashMap::from([(0, locked(1)), (1, locked(6))]);
        let verdicts = holds.grant(&[0], &rows);
        assert_eq!(
            verdicts.refused,
            [(
                0,
                Refused::Short {
                    key: 1,
                    asked_milli: 7,
                    free_milli: 6
                }
            )]
        );
    }

    #[test]
    fn what_one_hold_takes_is_gone_for_the_next_and_a_refused_one_takes_nothing() {
        let holds = read(vec![
            request(ONE, &[("A", 4, ""), ("B", 9, "")]),
            request(TWO, &[("A", 4, "")]),
            request(TWO, &[("A", 2, "")]),
        ]);
        let verdicts = holds.grant(&[0, 1, 2], &HashMap::from([(0, locked(5)), (1, locked(8))]));
        assert_eq!(verdicts.granted, [1]);
        assert_eq!(
            verdicts.refused[0].1,
            Refused::Short {
                key: 1,
                asked_milli: 9,
                free_milli: 8
            }
        );
        assert_eq!(
            verdicts.refused[1].1,
            Refused::Short {
                key: 0,
                asked_milli: 2,
                free_milli: 1
            }
        );
    }

    #[test]
    fn a_busy_row_puts_off_only_those_who_need_it() {
        let holds = read(vec![
            request(ONE, &[("A", 1, ""), ("B", 1, "")]),
            request(TWO, &[("A", 1, "")]),
        ]);
        let verdicts = holds.grant(&[0, 1], &HashMap::from([(0, locked(1))]));
        assert_eq!((verdicts.busy, verdicts.granted), (vec![(0, 1)], vec![1]));
    }

    #[test]
    fn an_absent_sku_and_a_foreign_unit_are_told_apart() {
        let holds = read(vec![
            request(ONE, &[("A", 1, "KGS")]),
            request(TWO, &[("B", 1, "")]),
        ]);
        let verdicts = holds.grant(&[0, 1], &HashMap::from([(0, locked(9)), (1, Row::Absent)]));
        let mismatch = Refused::UnitMismatch {
            key: 0,
            asked: "KGS".into(),
            kept: "NOS".into(),
        };
        assert_eq!(
            verdicts.refused,
            [(0, mismatch), (1, Refused::NotFound { key: 1 })]
        );
    }

    #[test]
    fn a_request_with_faults_lists_them_all_and_touches_nothing() {
        let mut wrong = request("x", &[("A b", 1, ""), ("C", 0, ""), ("Ａ", 1, "")]);
        wrong.attempt = 0;
        wrong.fingerprint = &[1];
        wrong.ttl_seconds = 5;
        let holds = read(vec![wrong, request(ONE, &[("A", 1, "")])]);
        let fields: Vec<_> = holds.holds[0]
            .faults
            .iter()
            .map(|fault| fault.field.as_str())
            .collect();
        let wanted = [
            "ttl_seconds",
            "attempt",
            "fingerprint",
            "reservation_id",
            "rid",
            "items[0].sku",
            "items[1].quantity_milli",
            "items[2].sku",
        ];
        assert_eq!(fields, wanted);
        assert_eq!(holds.keys.len(), 1);
        assert!(holds.holds[1].faults.is_empty());
    }

    #[test]
    fn a_malformed_call_leaves_its_neighbours_as_they_are() {
        let good = BatchReserveStockRequest {
            requests: vec![request(ONE, &[("A", 1, "")])],
            ..Default::default()
        };
        let holds = Holds::read(&[&[0xff, 0xff], &good.encode()]);
        assert_eq!(holds.malformed.len(), 1);
        assert_eq!(holds.starts, [0, 0, 1]);
    }

    #[test]
    fn one_request_taken_out_of_a_call_reads_as_it_did() {
        let requests = vec![
            request(ONE, &[("A", 1, "")]),
            request(TWO, &[("B", 2, "NOS"), ("b", 1, "KGS")]),
        ];
        let call = BatchReserveStockRequest {
            requests,
            ..Default::default()
        }
        .encode();
        let one = alone(&call, 1);
        let holds = Holds::read(&[&one]);
        assert_eq!(
            (holds.holds.len(), holds.holds[0].id_text.as_str()),
            (1, TWO)
        );
        assert_eq!(holds.holds[0].lines[0].units, ["NOS", "KGS"]);
        assert!(alone(&call, 2).is_empty());
    }

    #[test]
    fn the_same_id_twice_is_found_and_so_is_another_body_under_it() {
        let mut other = request(ONE, &[("A", 2, "")]);
        other.fingerprint = &[8; 32];
        let holds = read(vec![
            request(ONE, &[("A", 1, "")]),
            request(ONE, &[("A", 1, "")]),
            other,
        ]);
        assert_eq!(holds.repeats(), [(1, 0, true), (2, 0, false)]);
    }

    fn a_row() -> impl Strategy<Value = Option<Row>> {
        prop_oneof![
            1 => Just(None),
            1 => Just(Some(Row::Absent)),
            5 => (-3i64..40).prop_map(|free| Some(locked(free))),
        ]
    }

    proptest! {
        /// Any batch against any numbers: no row gives more than it has, a refusal for want of stock tells the truth,
        /// every hold gets exactly one verdict, and who was refused would be again with nobody after it.
        #[test]
        fn whatever_is_asked_no_row_gives_more_than_it_has(
            asked in vec(vec((0usize..5, prop_oneof![9 => 1i64..9, 1 => Just(QUANTITY_MILLI_MAX)]), 1..6), 1..16),
            rows in vec(a_row(), 5),
        ) {
            let skus = ["A", "B", "C", "D", "E"];
            let ids: Vec<String> = (0..16).map(|n| format!("00000000-0000-8000-8000-0000000000{n:02x}")).collect();
            let wanted: Vec<Vec<(&str, i64, &str)>> =
                asked.iter().map(|items| items.iter().map(|&(sku, quantity)| (skus[sku], quantity, "")).collect()).collect();
            let holds = read(ids.iter().zip(&wanted).map(|(id, items)| request(id, items)).collect());
            let rows: HashMap<usize, Row> =
                rows.into_iter().take(holds.keys.len()).enumerate().filter_map(|(key, row)| Some((key, row?))).collect();
            let all: Vec<usize> = (0..holds.holds.len()).collect();

            let verdicts = holds.grant(&all, &rows);

            let mut told: Vec<usize> = verdicts.granted.clone();
            told.extend(verdicts.busy.iter().map(|&(index, _)| index));
            told.extend(verdicts.refused.iter().map(|(index, _)| *index));
            told.sort_unstable();
            prop_assert_eq!(told, all);
            for (key, sum) in holds.sums(&verdicts.granted).unwrap() {
                let Row::Locked { free_milli, .. } = &rows[&key] else { panic!("granted from nothing") };
                prop_assert!(sum <= *free_milli);
            }
            for (index, refusal) in &verdicts.refused {
                let Refused::Short { key, asked_milli, free_milli } = refusal else { continue };
                let before: Vec<usize> = verdicts.granted.iter().copied().filter(|granted| granted < index).collect();
                let taken = holds.sums(&before).unwrap().into_iter().find(|(of, _)| of == key).map_or(0, |(_, sum)| sum);
                let Row::Locked { free_milli: there, .. } = &rows[key] else { panic!("short of nothing") };
                prop_assert!(asked_milli > free_milli);
                prop_assert_eq!(*free_milli, (*there).max(0) - taken);
            }
        }

        #[test]
        fn whatever_the_bytes_nothing_panics(call in vec(any::<u8>(), 0..200)) {
            let holds = Holds::read(&[&call]);
            prop_assert_eq!(holds.starts.len(), 2);
            let _ = alone(&call, 3);
        }
    }
}
