//! What must hold in every state, what must be reachable at all, and that stock can always settle.

use crate::model::{Saga, Step, Steps};
use crate::restore;
use crate::state::*;
use stateright::Property;

pub fn properties() -> Vec<Property<Saga>> {
    vec![
        Property::always("one invoice for one key", |_, s: &State| {
            keys(s, |key| key.invoice != TWO_INVOICES)
        }),
        Property::always("one final answer for one key", |_, s: &State| {
            keys(s, |key| key.told != OK | REFUSED)
        }),
        Property::always("told ok: the invoice is durable", |_, s: &State| {
            // While a restored database is being rebuilt it answers nobody.
            s.phase == Phase::InvoiceBack || keys(s, |key| key.told & OK == 0 || key.invoice > 0)
        }),
        Property::always("an invoice has its stock", |_, s: &State| {
            s.phase == Phase::InventoryBack
                || keys(s, |key| {
                    key.issued()
                        .is_none_or(|a| !matches!(key.hold(a), Hold::None | Hold::Released))
                })
        }),
        Property::always(
            "no stock held or sold without its invoice",
            |_, s: &State| {
                s.phase == Phase::InvoiceBack
                    || keys(s, |key| {
                        (1..=ATTEMPTS as u8).all(|a| {
                            !matches!(key.hold(a), Hold::Held | Hold::Committed | Hold::Reversed)
                                || key.invoice == a as i8
                        })
                    })
            },
        ),
        Property::always(
            "stock comes back only from a rejected invoice",
            |_, s: &State| fates(s, Hold::Reversed, Fate::Rejected),
        ),
        Property::always(
            "stock is sold only by an accepted invoice",
            |_, s: &State| fates(s, Hold::Committed, Fate::Accepted),
        ),
        Property::always(
            "stock is released only by a durable decision",
            |_, s: &State| {
                s.phase == Phase::InvoiceBack
                    || keys(s, |key| {
                        let decided = |a: u8| {
                            key.row.negative(a) || key.invoice != 0 && key.invoice != a as i8
                        };
                        (1..=ATTEMPTS as u8).all(|a| key.hold(a) != Hold::Released || decided(a))
                    })
            },
        ),
        Property::always("stock is taken once", |_, s: &State| {
            let lasting =
                |hold: &&Hold| matches!(hold, Hold::Held | Hold::Committed | Hold::Reversed);
            keys(s, |key| key.holds.iter().filter(lasting).count() <= 1)
        }),
        Property::always(
            "reserved is what PENDING and HELD take",
            |saga: &Saga, s: &State| {
                units(saga, s, &[Hold::Pending, Hold::Held], |stock| {
                    stock.reserved
                })
            },
        ),
        Property::always("sold is what COMMITTED took", |saga: &Saga, s: &State| {
            units(saga, s, &[Hold::Committed], |stock| stock.sold)
        }),
        Property::always("no unit is given that is not there", |_, s: &State| {
            s.stock.iter().all(|stock| !stock.oversold)
        }),
        Property::always("stock can settle", |saga: &Saga, s: &State| {
            settles(saga, s)
        }),
        // A model in which nothing happens is safe, too.
        Property::sometimes("everything is sold", |saga: &Saga, s: &State| {
            s.keys[..saga.asked.len()]
                .iter()
                .all(|key| key.holds.contains(&Hold::Committed))
        }),
        Property::sometimes("a success outlives its row", |_, s: &State| {
            s.keys
                .iter()
                .any(|key| key.row == Row::None && key.invoice > 0)
        }),
        Property::sometimes("a second attempt succeeds", |saga: &Saga, s: &State| {
            saga.asked.iter().all(|asked| asked.attempts < 2)
                || s.keys.iter().any(|key| key.invoice == 2)
        }),
        Property::sometimes(
            "a key that a restore set back succeeds",
            |saga: &Saga, s: &State| {
                !saga.restore
                    || s.phase == Phase::After && s.keys.iter().any(|key| key.invoice == 2)
            },
        ),
    ]
}

fn keys(state: &State, holds: impl Fn(&Key) -> bool) -> bool {
    state.keys.iter().all(holds)
}

fn fates(state: &State, hold: Hold, fate: Fate) -> bool {
    state.phase == Phase::InvoiceBack
        || keys(state, |key| !key.holds.contains(&hold) || key.fate == fate)
}

fn units(saga: &Saga, state: &State, holds: &[Hold], counted: impl Fn(&Stock) -> i8) -> bool {
    (0..SKUS).all(|s| {
        let keys = state.keys.iter().zip(&saga.asked);
        let wanted: i8 = keys
            .map(|(key, asked)| {
                key.holds.iter().filter(|hold| holds.contains(hold)).count() as i8
                    * asked.wants[s] as i8
            })
            .sum();
        counted(&state.stock[s]) == wanted
    })
}

fn settled(key: &Key) -> bool {
    let wanted = match key.fate {
        Fate::Open => Hold::Held,
        Fate::Accepted => Hold::Committed,
        Fate::Rejected => Hold::Reversed,
    };
    !key.holds.contains(&Hold::Pending) && key.issued().is_none_or(|a| key.hold(a) == wanted)
}

/// More than any hold needs: fence, send, deliver, publish twice, deliver the fate.
const REPAIRS_MAX: usize = 24;

/// Liveness, in its strong form: from here the repair actors alone (resolver, relay, consumer, reconciler) settle all
/// stock in a bounded number of steps, while every request has died and no other message arrives.
fn settles(saga: &Saga, state: &State) -> bool {
    let mut state = *state;
    for _ in 0..REPAIRS_MAX {
        if matches!(state.phase, Phase::Before | Phase::After)
            && state.keys[..saga.asked.len()].iter().all(settled)
        {
            return true;
        }
        let Some(next) = repair(saga, &state) else {
            return false;
        };
        state = next;
    }
    false
}

fn repair(saga: &Saga, state: &State) -> Option<State> {
    let mut steps = Steps::new();
    if matches!(state.phase, Phase::InventoryBack | Phase::InvoiceBack) {
        restore::reconcile(saga, state, &mut steps);
    } else {
        for k in (0..saga.asked.len()).filter(|&k| !settled(&state.keys[k])) {
            saga.resolver(state, k, &mut steps);
            saga.deliveries(state, k, &mut steps);
            saga.relay(state, k, &mut steps);
        }
        steps.retain(|(step, _)| !matches!(step, Step::Deliver(_, Command::Reserve, _)));
    }
    steps
        .into_iter()
        .map(|(_, next)| next)
        .find(|next| next != state)
}
