//! What requests leave behind for later ones, and what outlives a reload: nginx's shared memory, which here is ordinary
//! memory that all threads and all generations of the process share.
//!
//! In: a zone's name and size, as a configuration says them. Out: the same memory for the same name and size, as long as
//! some generation names it. The rule: a zone takes as much as its size says, counted as nginx's allocator counts.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The zones of one kind.
pub struct Registry<S>(Mutex<Vec<Known<S>>>);

struct Known<S> {
    name: String,
    size: usize,
    zone: Weak<S>,
}

impl<S> Registry<S> {
    #[expect(clippy::new_without_default, reason = "they are statics")]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The zone of this name and size, made if nobody has it.
    pub fn zone(&self, name: &str, size: usize, make: impl FnOnce() -> S) -> Arc<S> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.zone.strong_count() > 0);
        let same = |known: &&Known<S>| known.name == name && known.size == size;
        if let Some(zone) = known.iter().find(same).and_then(|known| known.zone.upgrade()) {
            return zone;
        }
        let zone = Arc::new(make());
        known.push(Known { name: name.to_owned(), size, zone: Arc::downgrade(&zone) });
        zone
    }
}

/// Smaller zones are refused, as in nginx: eight pages.
pub const LEAST: usize = 8 * PAGE;
const PAGE: usize = 4096;

/// What a zone of `size` bytes holds: whole pages, each with some bytes of book-keeping, behind a head of its own.
pub fn room(size: usize) -> usize {
    const HEAD: usize = 512;
    const BOOK: usize = 24;
    (size.saturating_sub(HEAD) / (PAGE + BOOK)).saturating_sub(1) * PAGE
}

/// What nginx's allocator takes for `bytes`: a power of two, and beyond half a page whole pages.
pub fn taken(bytes: usize) -> usize {
    match bytes {
        0..=8 => 8,
        9..=2048 => bytes.next_power_of_two(),
        _ => bytes.div_ceil(PAGE) * PAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_live_as_long_as_somebody_names_them() {
        static ZONES: Registry<u32> = Registry::new();
        let first = ZONES.zone("a", 1, || 7);
        assert_eq!((*ZONES.zone("a", 1, || 8), *ZONES.zone("a", 2, || 9), *ZONES.zone("b", 1, || 10)), (7, 9, 10));
        drop(first);
        assert_eq!(*ZONES.zone("a", 1, || 8), 8);
    }

    #[test]
    fn a_zone_holds_what_nginx_s_does() {
        assert_eq!((taken(5), taken(36), taken(84), taken(128), taken(2049)), (8, 64, 128, 128, 4096));
        // nginx's documentation: one megabyte keeps some 16 thousand states of 64 bytes.
        assert!((15_900..16_400).contains(&(room(1 << 20) / 64)));
        assert_eq!(room(0), 0);
    }
}
