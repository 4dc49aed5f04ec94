//! What every other room stands on: text, units, the clock, addresses, patterns, the system.

pub mod addr;
pub mod buffers;
pub mod clock;
pub mod glob;
pub mod hash;
pub mod lately;
pub mod names;
pub mod os;
pub mod place;
pub mod regex;
pub mod release;
pub mod row;
pub mod temp;
pub mod text;
pub mod threads;
pub mod units;
