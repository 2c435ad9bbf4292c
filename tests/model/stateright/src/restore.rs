//! PROTOCOL 12, as far as sections 1 to 11 have it: one database is set back to an earlier moment, once.
//!
//! Every row is set back by itself, to anything it may have been before: more than one moment of the whole database
//! could give. Services are restarted, so nothing that was under way or on the network is left; they are read-only until
//! the reconciler ends clean.

use crate::model::{Mutant, Saga, Step, Steps};
use crate::state::*;

/// Sets back the inventory, or the invoice database.
pub fn set_back(saga: &Saga, state: &State, out: &mut Steps) {
    let inventories = combinations(saga, state, |key| {
        let holds = |a: u8| earlier_holds(key.hold(a));
        let pairs = holds(1)
            .into_iter()
            .flat_map(|first| holds(2).into_iter().map(move |second| [first, second]));
        pairs.map(|holds| Key { holds, ..*key }).collect()
    });
    out.extend(
        restarted(saga, inventories, Phase::InventoryBack)
            .map(|next| (Step::InventorySetBack, next)),
    );
    let invoices = combinations(saga, state, earlier_rows);
    out.extend(
        restarted(saga, invoices, Phase::InvoiceBack).map(|next| (Step::InvoiceSetBack, next)),
    );
}

/// One step of the reconciler: the first thing that is not clean. Each may be done again, so it may die anywhere.
pub fn reconcile(saga: &Saga, state: &State, out: &mut Steps) {
    for k in 0..saga.asked.len() {
        for a in 0..=ATTEMPTS as u8 {
            let mut next = *state;
            match state.phase {
                Phase::InventoryBack => apply_decided(saga, &mut next, k, a),
                _ => rebuild(saga, &mut next, k, a),
            }
            if next != *state {
                out.push((Step::Reconcile(k, a), next));
                return;
            }
        }
    }
    out.push((
        Step::Open,
        State {
            phase: Phase::After,
            ..*state
        },
    ));
}

/// Inventory behind: an invoice's hold is made again, whatever is free (what is short is a recorded deficit).
fn apply_decided(saga: &Saga, state: &mut State, k: usize, a: u8) {
    let key = &mut state.keys[k];
    if a > 0 && key.issued() == Some(a) && matches!(key.hold(a), Hold::None | Hold::Released) {
        key.set_hold(a, Hold::Held);
        saga.take(state, k);
    }
}

/// Invoice behind: from published events where there are any; what the inventory knows besides can never be issued.
fn rebuild(saga: &Saga, state: &mut State, k: usize, a: u8) {
    let key = &mut state.keys[k];
    if a == 0 {
        let (invoice, fate) = key.published;
        if invoice != 0 && key.invoice == 0 {
            key.row = if invoice > 0 {
                Row::Succeeded(invoice as u8)
            } else {
                Row::OtherBody
            };
            key.invoice = invoice;
        }
        if fate != Fate::Open {
            key.fate = fate;
        }
        return;
    }
    if key.hold(a) == Hold::None || key.issued() == Some(a) {
        return;
    }
    // Without this a later request takes the same attempt, and with it the id of a hold that has ended.
    let undecided =
        matches!(key.row, Row::None | Row::Open(_) | Row::Aborted(_)) && key.invoice == 0;
    if undecided && !key.row.negative(a) && !saga.is(Mutant::RestoreWithoutFence) {
        key.row = Row::Aborted(a);
    }
    if key.hold(a) == Hold::Held {
        // A tombstone, which is purged with its row. As REVERSED it would be there for ever, and a Reserve of the same
        // key after the purge would take it for granted.
        let reverses = saga.is(Mutant::RestoreReverses);
        key.set_hold(
            a,
            if reverses {
                Hold::Reversed
            } else {
                Hold::Released
            },
        );
        saga.give_back(state, k);
    }
}

fn restarted(saga: &Saga, states: Vec<State>, phase: Phase) -> impl Iterator<Item = State> + '_ {
    states.into_iter().map(move |mut state| {
        state.phase = if saga.is(Mutant::RestoreUnreconciled) {
            Phase::After
        } else {
            phase
        };
        for (key, asked) in state.keys.iter_mut().zip(&saga.asked) {
            if !saga.is(Mutant::RestoreKeepsTasks) {
                key.handlers = [(At::Dead, 0); HANDLERS];
                key.handlers[..asked.handlers].fill((At::Start, 0));
            }
            key.net = key.net.consumed();
        }
        // Rows of stock are of the same moment as the holds.
        for s in 0..SKUS {
            let of = |wanted: &[Hold]| -> i8 {
                let keys = state.keys.iter().zip(&saga.asked);
                keys.map(|(key, asked)| {
                    let count = key
                        .holds
                        .iter()
                        .filter(|hold| wanted.contains(hold))
                        .count();
                    count as i8 * asked.wants[s] as i8
                })
                .sum()
            };
            let (reserved, sold) = (of(&[Hold::Pending, Hold::Held]), of(&[Hold::Committed]));
            state.stock[s].reserved = reserved;
            state.stock[s].sold = sold;
        }
        state
    })
}

fn combinations(saga: &Saga, state: &State, earlier: impl Fn(&Key) -> Vec<Key>) -> Vec<State> {
    let mut states = vec![*state];
    for k in 0..saga.asked.len() {
        let keys = earlier(&state.keys[k]);
        states = states
            .into_iter()
            .flat_map(|state| {
                keys.iter().map(move |key| {
                    let mut next = state;
                    next.keys[k] = *key;
                    next
                })
            })
            .collect();
    }
    states
}

fn earlier_holds(hold: Hold) -> Vec<Hold> {
    match hold {
        Hold::None => vec![Hold::None],
        Hold::Pending => vec![Hold::Pending, Hold::None],
        Hold::Held | Hold::Released => vec![hold, Hold::Pending, Hold::None],
        Hold::Committed | Hold::Reversed => {
            vec![hold, Hold::Held, Hold::Pending, Hold::None]
        }
    }
}

/// The key with its row, invoice and fate as they may have been before. What clients were told and is lost was told by
/// a database that is gone: that loss is reported, not hidden (a synchronous standby has none).
fn earlier_rows(key: &Key) -> Vec<Key> {
    let mut found = vec![*key];
    if key.fate != Fate::Open {
        found.push(Key {
            fate: Fate::Open,
            ..*key
        });
    }
    let mut undecided = vec![Row::None];
    if let Some(a) = key.issued() {
        if key.row == Row::None {
            for fate in [key.fate, Fate::Open] {
                found.push(Key {
                    row: Row::Succeeded(a),
                    fate,
                    ..*key
                });
            }
        }
        undecided.extend((2..=a).map(Row::Open));
        undecided.extend((1..a).map(Row::Aborted));
    } else if let Row::Open(n) | Row::Aborted(n) | Row::Failed(n) = key.row {
        undecided.extend((2..=n).map(Row::Open));
        undecided.extend((1..=n).map(Row::Aborted));
    }
    for row in undecided {
        if row != key.row || key.invoice != 0 {
            let kept = if key.published.0 > 0 {
                key.told & OK
            } else {
                0
            };
            found.push(Key {
                row,
                invoice: 0,
                fate: Fate::Open,
                told: kept,
                ..*key
            });
        }
    }
    found.dedup();
    found
}
