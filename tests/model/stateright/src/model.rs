//! The rules: PROTOCOL 3 to 7 for each key, as in saga_model.py, over stock that the keys share.

use crate::restore;
use crate::safety;
use crate::state::*;
use stateright::{Model, Property};

/// One rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    ReleaseOnTimeout,
    UnilateralExpiry,
    NoFenceInsert,
    NoTombstoneRow,
    ConfirmBeforeCommit,
    OverwriteFailure,
    ReuseAttemptId,
    CancelNotFinal,
    ReverseNeedsHold,
    SellNeedsHold,
    PurgeForgets,
    ConfirmByIdOnly,
    ReleaseByIdOnly,
    /// The resolver leaves an attempt alone whose row says that an earlier one was aborted.
    LaterAttemptLeft,
    /// A hold is granted although one of its SKUs is short.
    PartialHold,
    /// A release gives back only the first of its SKUs.
    PartialRelease,
    /// Requests under way survive the restart after a restore.
    RestoreKeepsTasks,
    /// Services open for writing before the reconciler ended clean.
    RestoreUnreconciled,
    /// What the reconciler reverses gets no decision row, so a later request meets the same reservation id.
    RestoreWithoutFence,
    /// The hold of a lost invoice becomes REVERSED instead of a tombstone.
    RestoreReverses,
}

pub const MUTANTS: [(&str, Mutant); 20] = [
    ("release_on_timeout", Mutant::ReleaseOnTimeout),
    ("unilateral_expiry", Mutant::UnilateralExpiry),
    ("no_fence_insert", Mutant::NoFenceInsert),
    ("no_tombstone_row", Mutant::NoTombstoneRow),
    ("confirm_before_commit", Mutant::ConfirmBeforeCommit),
    ("overwrite_failure", Mutant::OverwriteFailure),
    ("reuse_attempt_id", Mutant::ReuseAttemptId),
    ("cancel_not_final", Mutant::CancelNotFinal),
    ("reverse_needs_hold", Mutant::ReverseNeedsHold),
    ("sell_needs_hold", Mutant::SellNeedsHold),
    ("purge_forgets", Mutant::PurgeForgets),
    ("confirm_by_id_only", Mutant::ConfirmByIdOnly),
    ("release_by_id_only", Mutant::ReleaseByIdOnly),
    ("later_attempt_left", Mutant::LaterAttemptLeft),
    ("partial_hold", Mutant::PartialHold),
    ("partial_release", Mutant::PartialRelease),
    ("restore_keeps_tasks", Mutant::RestoreKeepsTasks),
    ("restore_unreconciled", Mutant::RestoreUnreconciled),
    ("restore_without_fence", Mutant::RestoreWithoutFence),
    ("restore_reverses", Mutant::RestoreReverses),
];

/// What one key's request does, and how much of it is explored.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub handlers: usize,
    pub attempts: u8,
    /// Units wanted of each SKU, 0 or 1.
    pub wants: [u8; SKUS],
    pub rival: bool,
}

#[derive(Clone, Debug)]
pub struct Saga {
    pub asked: Vec<Asked>,
    pub skus: usize,
    pub restore: bool,
    pub mutant: Mutant,
}

/// What happened, for the path to a violation. The first number is the key, the second the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    OthersToggleStock(usize),
    Deliver(usize, Command, u8),
    ClientCancels(usize),
    Accepted(usize),
    Rejected(usize),
    DeliverFate(usize),
    OtherBodyCommits(usize),
    OtherBodyLosesAndReleases(usize),
    Purge(usize),
    Expire(usize, u8),
    Resolve(usize, u8),
    Publish(usize),
    Crash(usize),
    Begin(usize),
    BlindBegin(usize),
    Replay(usize),
    Reopen(usize, u8),
    Join(usize, u8),
    Send(usize, u8),
    Granted(usize, u8),
    Insufficient(usize, u8),
    Tombstone(usize, u8),
    TimeOut(usize, u8),
    Commit(usize, u8),
    DecideRefuses(usize, u8),
    LostRace(usize, u8),
    Fenced(usize, u8),
    AnswerOk(usize, u8),
    RecordRefusal(usize, u8),
    RefusalOvertaken(usize, u8),
    InventorySetBack,
    InvoiceSetBack,
    Reconcile(usize, u8),
    Open,
}

pub type Steps = Vec<(Step, State)>;
/// Takes a handler's step: where it goes, with which attempt, and what changes besides.
type Emit<'a> = dyn FnMut(Step, At, u8, &dyn Fn(&mut Key)) + 'a;

impl Saga {
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    /// Does an invoice row exist? Wherever a rule says "no decision row", this counts as SUCCEEDED (R5).
    pub fn issued(&self, key: &Key) -> bool {
        key.invoice != 0 && !self.is(Mutant::PurgeForgets)
    }

    fn free(&self, state: &State, k: usize) -> bool {
        let mut wanted = (0..SKUS).filter(|&s| self.asked[k].wants[s] > 0);
        if self.is(Mutant::PartialHold) {
            wanted.any(|s| state.stock[s].free > 0)
        } else {
            wanted.all(|s| state.stock[s].free > 0)
        }
    }

    pub fn take(&self, state: &mut State, k: usize) {
        for (stock, wants) in state.stock.iter_mut().zip(self.asked[k].wants) {
            stock.oversold |= wants > stock.free && self.is(Mutant::PartialHold);
            stock.free = stock.free.saturating_sub(wants);
            stock.reserved += wants as i8;
        }
    }

    pub fn give_back(&self, state: &mut State, k: usize) {
        let skus = if self.is(Mutant::PartialRelease) {
            1
        } else {
            SKUS
        };
        for (stock, wants) in state.stock.iter_mut().zip(self.asked[k].wants).take(skus) {
            stock.free = (stock.free + wants).min(1);
            stock.reserved -= wants as i8;
        }
    }

    /// One inventory transaction; false: nothing is done.
    fn inventory(&self, state: &mut State, k: usize, command: Command, a: u8) -> bool {
        let next = match (command, state.keys[k].hold(a)) {
            (Command::Reserve, Hold::None) if self.free(state, k) => Hold::Pending,
            (Command::Reserve, Hold::Released)
                if self.is(Mutant::ReuseAttemptId) && self.free(state, k) =>
            {
                Hold::Pending
            }
            (Command::Confirm, Hold::Pending) => Hold::Held,
            (Command::Release, Hold::Pending | Hold::None) => Hold::Released,
            _ => return false,
        };
        match (state.keys[k].hold(a), next) {
            (_, Hold::Pending) => self.take(state, k),
            (Hold::Pending, Hold::Released) => self.give_back(state, k),
            _ => {}
        }
        state.keys[k].set_hold(a, next);
        true
    }

    /// The event of an invoice's fate; false: nothing is done.
    fn settle(&self, state: &mut State, k: usize, a: u8, fate: Fate) -> bool {
        let needs_hold = match fate {
            Fate::Accepted => self.is(Mutant::SellNeedsHold),
            _ => self.is(Mutant::ReverseNeedsHold),
        };
        match state.keys[k].hold(a) {
            Hold::Held => {}
            Hold::Pending if !needs_hold => {}
            _ => return false,
        }
        if fate == Fate::Accepted {
            for (stock, wants) in state.stock.iter_mut().zip(self.asked[k].wants) {
                stock.reserved -= wants as i8;
                stock.sold += wants as i8;
            }
            state.keys[k].set_hold(a, Hold::Committed);
        } else {
            self.give_back(state, k);
            state.keys[k].set_hold(a, Hold::Reversed);
        }
        true
    }

    fn successors(&self, state: &State) -> Steps {
        let mut out = Steps::new();
        if matches!(state.phase, Phase::InventoryBack | Phase::InvoiceBack) {
            restore::reconcile(self, state, &mut out);
            return out;
        }
        for s in 0..self.skus {
            let mut next = *state;
            next.stock[s].free = 1 - next.stock[s].free;
            out.push((Step::OthersToggleStock(s), next));
        }
        for k in 0..self.asked.len() {
            self.deliveries(state, k, &mut out);
            self.clients(state, k, &mut out);
            self.relay(state, k, &mut out);
            self.resolver(state, k, &mut out);
            for i in 0..self.asked[k].handlers {
                self.handler(state, k, i, &mut out);
            }
        }
        if self.restore && state.phase == Phase::Before {
            restore::set_back(self, state, &mut out);
        }
        out
    }

    /// Any command that was ever sent, any number of times; the event of an invoice's fate until it had its effect.
    pub fn deliveries(&self, state: &State, k: usize, out: &mut Steps) {
        let key = &state.keys[k];
        for command in [Command::Reserve, Command::Confirm, Command::Release] {
            for a in 1..=ATTEMPTS as u8 {
                let mut next = *state;
                if key.net.has(command, a) && self.inventory(&mut next, k, command, a) {
                    out.push((Step::Deliver(k, command, a), next));
                }
            }
        }
        let (invoice, fate) = if self.restore {
            key.published
        } else {
            (key.invoice, key.fate)
        };
        let Some(a) = u8::try_from(invoice)
            .ok()
            .filter(|&a| a > 0 && invoice != TWO_INVOICES)
        else {
            return;
        };
        if fate == Fate::Open || matches!(key.hold(a), Hold::Committed | Hold::Reversed) {
            return;
        }
        let mut next = *state;
        let done = self.settle(&mut next, k, a, fate);
        let consumed = if fate == Fate::Accepted {
            Command::SellConsumed
        } else {
            Command::ReverseConsumed
        };
        if self.is(Mutant::SellNeedsHold) || self.is(Mutant::ReverseNeedsHold) {
            // Delivered once, acknowledged although nothing was done.
            if !key.net.has(consumed, a) {
                next.keys[k].net = key.net.with(consumed, a);
                out.push((Step::DeliverFate(k), next));
            }
        } else if done {
            out.push((Step::DeliverFate(k), next));
        }
    }

    /// CancelOperation, the buyer, the seller, a rival with another body, the purge after 8 days.
    fn clients(&self, state: &State, k: usize, out: &mut Steps) {
        let key = &state.keys[k];
        let mut emit = |step: Step, change: &dyn Fn(&mut Key)| {
            let mut next = *state;
            change(&mut next.keys[k]);
            out.push((step, next));
        };
        let undecided = key.row == Row::None && !self.issued(key);
        if undecided || matches!(key.row, Row::Open(_) | Row::Aborted(_)) {
            let a = key.row.attempt().max(1);
            let row = if self.is(Mutant::CancelNotFinal) {
                Row::Aborted(a)
            } else {
                Row::Failed(a)
            };
            emit(Step::ClientCancels(k), &|key| {
                key.row = row;
                key.told |= REFUSED;
            });
        }
        if key.issued().is_some() && key.fate == Fate::Open {
            emit(Step::Accepted(k), &|key| key.fate = Fate::Accepted);
            emit(Step::Rejected(k), &|key| key.fate = Fate::Rejected);
        }
        if undecided && self.asked[k].rival {
            emit(Step::OtherBodyCommits(k), &|key| {
                key.row = Row::OtherBody;
                key.invoice = -1;
            });
        }
        if self.is(Mutant::ReleaseByIdOnly) && matches!(key.row, Row::Succeeded(_)) {
            emit(Step::OtherBodyLosesAndReleases(k), &|key| {
                key.net = key.net.with(Command::Release, 1)
            });
        }
        let final_ = matches!(
            key.row,
            Row::Succeeded(_) | Row::OtherBody | Row::Failed(_) | Row::Aborted(_)
        );
        if final_ && key.idle() {
            emit(Step::Purge(k), &|key| {
                key.row = Row::None;
                key.net = key.net.consumed();
                key.told &= OK;
                for hold in &mut key.holds {
                    if *hold == Hold::Released {
                        *hold = Hold::None;
                    }
                }
            });
        }
    }

    /// Publishes what the broker does not have yet, in the order of versions.
    pub fn relay(&self, state: &State, k: usize, out: &mut Steps) {
        let key = &state.keys[k];
        if self.restore && key.invoice != 0 && key.published != (key.invoice, key.fate) {
            let fate = if key.published.0 == 0 {
                Fate::Open
            } else {
                key.fate
            };
            let mut next = *state;
            next.keys[k].published = (key.invoice, fate);
            out.push((Step::Publish(k), next));
        }
    }

    /// Looks at any PENDING reservation at any time.
    pub fn resolver(&self, state: &State, k: usize, out: &mut Steps) {
        let key = &state.keys[k];
        for a in 1..=self.asked[k].attempts {
            if key.hold(a) != Hold::Pending {
                continue;
            }
            let mut next = *state;
            let mine = &mut next.keys[k];
            if self.is(Mutant::UnilateralExpiry) {
                let mut expired = *state;
                expired.keys[k].net = key.net.with(Command::Release, a);
                out.push((Step::Expire(k, a), expired));
            }
            let by_id = self.is(Mutant::ConfirmByIdOnly) && key.row == Row::OtherBody && a == 1;
            if key.row == Row::Succeeded(a) || by_id {
                mine.net = mine.net.with(Command::Confirm, a);
            } else if key.row.negative(a)
                || self.is(Mutant::NoTombstoneRow)
                || matches!(key.row, Row::Succeeded(_) | Row::OtherBody)
            {
                mine.net = mine.net.with(Command::Release, a);
            } else if key.row == Row::None && self.issued(key) {
                // Purged: the invoice itself is the decision.
                let command = if key.invoice == a as i8 {
                    Command::Confirm
                } else {
                    Command::Release
                };
                mine.net = mine.net.with(command, a);
            } else if matches!(key.row, Row::Aborted(_)) && self.is(Mutant::LaterAttemptLeft) {
                continue;
            } else if matches!(key.row, Row::None | Row::Aborted(_)) || key.row == Row::Open(a) {
                // Aborted before this attempt: its own row was purged, or set back by a restore.
                mine.row = Row::Aborted(a);
            } else {
                continue;
            }
            out.push((Step::Resolve(k, a), next));
        }
    }

    fn handler(&self, state: &State, k: usize, i: usize, out: &mut Steps) {
        let key = &state.keys[k];
        let (at, a) = key.handlers[i];
        if matches!(at, At::Done | At::Dead) {
            return;
        }
        let mut emit = |step: Step, at: At, a: u8, change: &dyn Fn(&mut Key)| {
            let mut next = *state;
            next.keys[k].handlers[i] = (at, a);
            change(&mut next.keys[k]);
            next.keys[k].handlers.sort_unstable();
            out.push((step, next));
        };
        let same = |_: &mut Key| {};
        // What the asker is told by a success: his own result, or KEY_REUSED if the other body won (not a final answer).
        let told_by_success = if key.row == Row::OtherBody { 0 } else { OK };
        emit(Step::Crash(k), At::Dead, a, &same);
        match at {
            At::Start => {
                if key.row != Row::None {
                    // The row was not looked at (cache miss, no read): still safe.
                    emit(Step::BlindBegin(k), At::Send, 1, &same);
                }
                match key.row {
                    Row::None => emit(Step::Begin(k), At::Send, 1, &same),
                    Row::Succeeded(_) | Row::OtherBody => {
                        emit(Step::Replay(k), At::Done, a, &|key| {
                            key.told |= told_by_success
                        });
                    }
                    Row::Failed(n) => {
                        if self.is(Mutant::OverwriteFailure) && n < self.asked[k].attempts {
                            emit(Step::Reopen(k, n + 1), At::Send, n + 1, &|key| {
                                key.row = Row::Open(n + 1)
                            });
                        }
                        emit(Step::Replay(k), At::Done, a, &|key| key.told |= REFUSED);
                    }
                    Row::Open(n) => emit(Step::Join(k, n), At::Send, n, &same),
                    Row::Aborted(n) if n < self.asked[k].attempts => {
                        let n = if self.is(Mutant::ReuseAttemptId) {
                            n
                        } else {
                            n + 1
                        };
                        emit(Step::Reopen(k, n), At::Send, n, &|key| {
                            key.row = Row::Open(n)
                        });
                    }
                    Row::Aborted(_) => {}
                }
            }
            At::Send => {
                let net = key.net.with(Command::Reserve, a);
                let net = if self.is(Mutant::ConfirmBeforeCommit) {
                    net.with(Command::Confirm, a)
                } else {
                    net
                };
                emit(Step::Send(k, a), At::Wait, a, &|key| key.net = net);
            }
            At::Wait => {
                match key.hold(a) {
                    Hold::Pending | Hold::Held | Hold::Committed => {
                        emit(Step::Granted(k, a), At::Commit, a, &same)
                    }
                    // A repeated Reserve is answered with the state of its hold, whatever that is (PROTOCOL 4.2).
                    Hold::Reversed if self.restore => {
                        emit(Step::Granted(k, a), At::Commit, a, &same)
                    }
                    Hold::None if !self.free(state, k) => {
                        emit(Step::Insufficient(k, a), At::Refuse, a, &same)
                    }
                    Hold::Released => emit(Step::Tombstone(k, a), At::Start, 0, &same),
                    _ => {}
                }
                // Outcome unknown: the allowed reaction is to leave it to the resolver and answer UNAVAILABLE.
                let released = self.is(Mutant::ReleaseOnTimeout);
                let net = if released {
                    key.net.with(Command::Release, a)
                } else {
                    key.net
                };
                emit(Step::TimeOut(k, a), At::Start, 0, &|key| key.net = net);
            }
            At::Commit => self.decide(key, k, a, &mut emit),
            At::Confirm => emit(Step::AnswerOk(k, a), At::Done, a, &|key| {
                key.net = key.net.with(Command::Confirm, a);
                key.told |= OK;
            }),
            At::Refuse => {
                if key.row.claimable(a) && !(key.row == Row::None && self.issued(key)) {
                    emit(Step::RecordRefusal(k, a), At::Done, a, &|key| {
                        key.row = Row::Failed(a);
                        key.told |= REFUSED;
                    });
                } else {
                    emit(Step::RefusalOvertaken(k, a), At::Start, 0, &same);
                }
            }
            At::Done | At::Dead => {}
        }
    }

    fn decide(&self, key: &Key, k: usize, a: u8, emit: &mut Emit) {
        let unfenced = self.is(Mutant::NoFenceInsert);
        let ok = key.row.claimable(a) || unfenced;
        if ok && self.issued(key) && !unfenced {
            // The claim meets the invoice's key: the row was purged.
            let own = key.invoice == a as i8;
            emit(Step::LostRace(k, a), At::Done, a, &|key| {
                key.told |= if key.invoice > 0 { OK } else { 0 };
                key.net = if own {
                    key.net
                } else {
                    key.net.with(Command::Release, a)
                };
            });
        } else if ok {
            emit(Step::Commit(k, a), At::Confirm, a, &|key| {
                key.invoice = if key.invoice != 0 {
                    TWO_INVOICES
                } else {
                    a as i8
                };
                key.row = Row::Succeeded(a);
            });
            if matches!(key.row, Row::None | Row::Open(_)) {
                // Refused inside DECIDE, for example because the client's number is taken.
                emit(Step::DecideRefuses(k, a), At::Done, a, &|key| {
                    key.row = Row::Failed(a);
                    key.net = key.net.with(Command::Release, a);
                    key.told |= REFUSED;
                });
            }
        } else if matches!(key.row, Row::Succeeded(_) | Row::OtherBody) {
            let told = if key.row == Row::OtherBody { 0 } else { OK };
            emit(Step::LostRace(k, a), At::Done, a, &|key| key.told |= told);
        } else {
            let negative = key.row.negative(a);
            emit(Step::Fenced(k, a), At::Start, 0, &|key| {
                key.net = if negative {
                    key.net.with(Command::Release, a)
                } else {
                    key.net
                };
            });
        }
    }
}

impl Model for Saga {
    type State = State;
    /// A step and where it leads.
    type Action = (Step, State);

    fn init_states(&self) -> Vec<State> {
        let mut key = Key {
            row: Row::None,
            invoice: 0,
            fate: Fate::Open,
            holds: [Hold::None; ATTEMPTS],
            net: Net::default(),
            handlers: [(At::Dead, 0); HANDLERS],
            told: 0,
            published: (0, Fate::Open),
        };
        let mut keys = [key; KEYS];
        for (mine, asked) in keys.iter_mut().zip(&self.asked) {
            key.handlers = [(At::Dead, 0); HANDLERS];
            key.handlers[..asked.handlers].fill((At::Start, 0));
            *mine = key;
        }
        let stock = Stock {
            free: 1,
            reserved: 0,
            sold: 0,
            oversold: false,
        };
        vec![State {
            keys,
            stock: [stock; SKUS],
            phase: Phase::Before,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<(Step, State)>) {
        actions.extend(self.successors(state));
    }

    fn next_state(&self, _: &State, action: (Step, State)) -> Option<State> {
        Some(action.1)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        safety::properties()
    }

    fn format_action(&self, action: &(Step, State)) -> String {
        format!("{:?}", action.0)
    }
}
