//! What requests and sessions have in common: modules that `http` and `stream` share, generic in the plan.

pub mod map; // one variable's value by another's
