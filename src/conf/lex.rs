//! nginx's configuration language: bytes in, a tree of statements out.

use super::error::{At, Fault};

/// One word as the operator meant it: quotes and escapes are resolved.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    /// Written in quotes; then `${`-less text such as `"{"` is a plain word.
    pub quoted: bool,
    pub at: At,
}

/// `words ... ;` or `words ... { statements }`.
#[derive(Clone, Debug)]
pub struct Statement {
    /// At least one: the directive's name.
    pub words: Vec<Word>,
    pub block: Option<Vec<Node>>,
}

/// What a block holds, in order. A fault stands where reading stopped, so that faults found while the statements
/// before it are applied come first, as in nginx, which applies while it reads.
#[derive(Clone, Debug)]
pub enum Node {
    Statement(Statement),
    Fault(Fault),
}
