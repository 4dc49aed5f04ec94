//! Read buffers that go round among the connections of a thread: nobody who waits needs one of his own.
//!
//! In: a buffer whose holder has nothing more to read into it. Out: the same memory for the next one, once nobody holds a
//! part of it any more. The rule: what is kept is bounded, in number and in size.

use std::cell::RefCell;

use bytes::BytesMut;

/// How many buffers a thread keeps.
const SPARE: usize = 8;

/// Larger ones are not kept.
const LARGEST: usize = 64 * 1024;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for `size` bytes.
pub fn borrow(size: usize) -> BytesMut {
    BUFFERS.with_borrow_mut(|buffers| {
        let place = buffers.iter_mut().rposition(|buffer| buffer.try_reclaim(size));
        place.map_or_else(|| BytesMut::with_capacity(size), |place| buffers.swap_remove(place))
    })
}

/// Takes a buffer back whose bytes were all taken off. Parts of it may still be on their way; one that has no room left is
/// theirs.
pub fn give_back(mut buffer: BytesMut, size: usize) {
    buffer.clear();
    if size > LARGEST || !(1..=LARGEST).contains(&buffer.capacity()) {
        return;
    }
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() == SPARE {
            // The oldest: most likely it is somebody's for long.
            buffers.remove(0);
        }
        buffers.push(buffer);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_when_nobody_holds_a_part_of_it() {
        let mut buffer = borrow(4096);
        buffer.extend_from_slice(b"something");
        let memory = buffer.as_ptr();
        let part = buffer.split().freeze();
        give_back(buffer, 4096);
        let other = borrow(4096);
        assert_ne!(other.as_ptr(), memory);
        drop(part);
        let again = borrow(4096);
        assert_eq!(again.as_ptr(), memory);
        assert!(again.is_empty() && again.capacity() >= 4096);
    }

    #[test]
    fn few_are_kept() {
        for _ in 0..3 * SPARE {
            give_back(BytesMut::with_capacity(1024), 1024);
        }
        give_back(BytesMut::with_capacity(2 * LARGEST), 1024);
        give_back(BytesMut::new(), 1024);
        BUFFERS.with_borrow(|buffers| {
            assert_eq!(buffers.len(), SPARE);
            assert!(buffers.iter().all(|buffer| buffer.capacity() == 1024));
        });
    }
}
