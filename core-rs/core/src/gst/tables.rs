//! The law as data: rates, states, unit codes and reasons, from CSV, built in and replaceable while running.

/// All tables one check needs. Immutable once parsed; share it freely.
#[derive(Debug)]
pub struct Tables {}

impl Tables {
    /// The tables compiled into the core, parsed once.
    pub fn builtin() -> &'static Tables {
        static BUILTIN: Tables = Tables {};
        &BUILTIN
    }
}
