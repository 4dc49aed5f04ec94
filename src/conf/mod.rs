//! The configuration: language, settings, the module contract, variables, templates. Generic in the plan it builds.

pub mod error;
pub mod files;
pub mod lex;
pub mod module;
pub mod pattern;
pub mod setting;
pub mod source;
pub mod template;
pub mod vars;
pub mod words;
