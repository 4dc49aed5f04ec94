//! What a request becomes before anybody answers it.

#[expect(clippy::module_inception, reason = "the module is called as its directive is")]
pub mod rewrite; // rewrite, return, if, set, break
