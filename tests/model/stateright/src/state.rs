//! What the two databases, the network, the broker and the clients hold, for some idempotency keys.

pub const KEYS: usize = 2;
pub const SKUS: usize = 2;
pub const HANDLERS: usize = 3;
pub const ATTEMPTS: usize = 2;

/// The decision row of a key in the invoice database. The number is the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    None,
    Open(u8),
    Aborted(u8),
    Failed(u8),
    Succeeded(u8),
    /// Won by a request with the same key and another body, which has no stock lines.
    OtherBody,
}

impl Row {
    pub fn attempt(self) -> u8 {
        match self {
            Row::None => 0,
            Row::OtherBody => 1,
            Row::Open(n) | Row::Aborted(n) | Row::Failed(n) | Row::Succeeded(n) => n,
        }
    }

    /// Is there a durable decision that attempt `a` can never commit?
    pub fn negative(self, a: u8) -> bool {
        match self {
            Row::None => false,
            Row::Failed(_) => true,
            Row::Aborted(n) => n >= a,
            _ => self.attempt() > a,
        }
    }

    /// May attempt `a` still be decided?
    pub fn claimable(self, a: u8) -> bool {
        (self == Row::None && a == 1) || self == Row::Open(a)
    }
}

/// A reservation in the inventory database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    None,
    Pending,
    Held,
    Committed,
    Released,
    Reversed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    Start,
    Send,
    Wait,
    Commit,
    Confirm,
    Refuse,
    Done,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Open,
    Accepted,
    Rejected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Reserve,
    Confirm,
    Release,
    /// Delivered once and acknowledged, although nothing was done (mutants only).
    SellConsumed,
    ReverseConsumed,
}

/// Commands that were ever sent: they stay deliverable for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Net(u16);

impl Net {
    pub fn has(self, command: Command, a: u8) -> bool {
        self.0 & bit(command, a) != 0
    }

    #[must_use]
    pub fn with(self, command: Command, a: u8) -> Net {
        Net(self.0 | bit(command, a))
    }

    /// What the mutants remember of consumed events; all else is forgotten.
    #[must_use]
    pub fn consumed(self) -> Net {
        Net(self.0 & !0b11_1111)
    }
}

fn bit(command: Command, a: u8) -> u16 {
    1 << (command as u16 * ATTEMPTS as u16 + u16::from(a) - 1)
}

pub const OK: u8 = 1;
pub const REFUSED: u8 = 2;
pub const TWO_INVOICES: i8 = 99;

/// Everything about one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub row: Row,
    /// 0: no invoice; a: issued by attempt a; -1: issued for the other body; 99: two invoices.
    pub invoice: i8,
    pub fate: Fate,
    pub holds: [Hold; ATTEMPTS],
    pub net: Net,
    pub handlers: [(At, u8); HANDLERS],
    /// Final answers that clients have seen: OK, REFUSED.
    pub told: u8,
    /// What the broker's log holds: the invoice as issued (as `invoice`, 0: nothing yet), and its fate.
    pub published: (i8, Fate),
}

impl Key {
    pub fn hold(&self, a: u8) -> Hold {
        self.holds[usize::from(a) - 1]
    }

    pub fn set_hold(&mut self, a: u8, hold: Hold) {
        self.holds[usize::from(a) - 1] = hold;
    }

    /// The attempt whose invoice with stock lines exists.
    pub fn issued(&self) -> Option<u8> {
        u8::try_from(self.invoice)
            .ok()
            .filter(|&a| a > 0 && self.invoice != TWO_INVOICES)
    }

    pub fn idle(&self) -> bool {
        self.handlers
            .iter()
            .all(|(at, _)| matches!(at, At::Start | At::Done | At::Dead))
    }
}

/// One row of stock. `free` is 0 or 1: others add and take units at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stock {
    pub free: u8,
    pub reserved: i8,
    pub sold: i8,
    /// A unit was given that was not there.
    pub oversold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Before,
    /// A database was set back; services are read-only until the reconciler ends clean.
    InventoryBack,
    InvoiceBack,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub keys: [Key; KEYS],
    pub stock: [Stock; SKUS],
    pub phase: Phase,
}
