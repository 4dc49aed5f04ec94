//! What every other room stands on: text, units, the clock, addresses, patterns.

pub mod addr;
pub mod clock;
pub mod glob;
pub mod names;
pub mod regex;
pub mod text;
pub mod units;
pub mod temp;
