//! Large values, made where they will stand.
//!
//! `Box::new(value)` has its value made on the stack and moves it to the heap behind that. Here the room is there first, and
//! the compiler makes the value in it: for a future, of which little but the room exists at first, no copy is left (rustc
//! 1.95, 920 bytes with each request). What a closure takes along is moved once; where that is much, [`Box::write`] in place
//! of the closure does without.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

#[inline(always)]
pub fn pinned<T>(make: impl FnOnce() -> T) -> Pin<Box<T>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

#[inline(always)]
pub fn counted<T>(make: impl FnOnce() -> T) -> Rc<T> {
    Rc::new_cyclic(|_| make())
}

#[inline(always)]
pub fn shared<T>(make: impl FnOnce() -> T) -> Arc<T> {
    Arc::new_cyclic(|_| make())
}
