//! What every other room stands on: text, units, the clock, addresses, patterns.

pub mod glob;
pub mod text;
pub mod units;
