//! The pure core of InvoChain: GST arithmetic, stock grants, ids and hashes.
//!
//! It has no clock, no I/O, no randomness and no Python; what it needs of those comes in as an argument.
//! Money is whole paise (`i64`), products are `i128`; there is no float anywhere.

pub mod answer;
pub mod audit;
pub mod contract;
pub mod gst;
pub mod identity;
pub mod money;
pub mod outcome;
pub mod request;
pub mod settle;
pub mod stock;
pub mod wire;
