//! What a request becomes before anybody answers it.

pub mod referer; // valid_referers
#[expect(clippy::module_inception, reason = "the module is called as its directive is")]
pub mod rewrite; // rewrite, return, if, set, break
pub mod secure_link; // links that nobody else can make
