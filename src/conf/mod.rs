//! The configuration: language, settings, the module contract, variables, templates. Generic in the plan it builds.

pub mod error;
pub mod lex;
pub mod source;
