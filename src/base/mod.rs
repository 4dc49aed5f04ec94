//! What every other room stands on: text, units, the clock, addresses, patterns.

pub mod text;
pub mod units;
