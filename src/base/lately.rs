//! What a thread has found lately, so that it need not look it up again.
//!
//! In: keys, each with its hash and what was found under it. Out: the same, and the time it is of, in whole seconds or
//! larger steps: whoever asks knows how old it may be. The table is bounded. It grows while what is used within one step does
//! not fit; at its bound, whoever was first in a step stays, for with many in turn each would only drive out another. Clients
//! may choose the keys: who makes them meet in one place gains that some of them are looked up.

/// How many places it has at first, and how many are looked at for one key.
const LEAST: usize = 256;
const WAYS: usize = 4;

/// See above. At most `MOST` are remembered, a power of two.
#[derive(Debug)]
pub struct Lately<K, V, const MOST: usize> {
    /// Sets of [`WAYS`]; none before the first use.
    places: Vec<Option<Place<K, V>>>,
    /// Those of the places, close together: which place of a set it is shows without a look at the others, each of which
    /// could be one more wait for memory.
    hashes: Vec<u64>,
    /// So many found no place at the time `step`.
    crowded: usize,
    step: u64,
}

#[derive(Debug)]
struct Place<K, V> {
    step: u64,
    key: K,
    value: V,
}

impl<K, V, const MOST: usize> Lately<K, V, MOST> {
    pub const EMPTY: Self = Self { places: Vec::new(), hashes: Vec::new(), crowded: 0, step: 0 };

    /// What was put in last under the key that is the `same`, and at which time.
    pub fn find(&mut self, hash: u64, same: impl Fn(&K) -> bool) -> Option<(u64, &mut V)> {
        let at = self.position(hash, same)?;
        let place = self.places.get_mut(at)?.as_mut()?;
        Some((place.step, &mut place.value))
    }

    /// Remembers what was found at the time `now`, if there is room.
    pub fn put(&mut self, now: u64, hash: u64, same: impl Fn(&K) -> bool, key: impl FnOnce() -> K, value: V) {
        if self.places.is_empty() {
            self.resize(LEAST.min(MOST));
        }
        if let Some(at) = self.position(hash, same)
            && let Some(Some(place)) = self.places.get_mut(at)
        {
            (place.step, place.value) = (now, value);
            return;
        }
        let is_free = |place: &Option<Place<K, V>>| place.as_ref().is_none_or(|place| place.step != now);
        if !self.settle(hash, is_free, || Place { step: now, key: key(), value }) {
            self.crowd(now);
        }
    }

    /// Where the set of a hash begins.
    fn set(&self, hash: u64) -> usize {
        let last = (self.places.len() / WAYS).saturating_sub(1) as u64; // all ones
        (hash & last) as usize * WAYS
    }

    fn position(&self, hash: u64, same: impl Fn(&K) -> bool) -> Option<usize> {
        let start = self.set(hash);
        let is = |at: &usize| {
            self.hashes.get(*at) == Some(&hash) && matches!(self.places.get(*at), Some(Some(place)) if same(&place.key))
        };
        (start..start + WAYS).find(is)
    }

    /// Puts something into the first free place of its set. `false`: there is none.
    fn settle(
        &mut self,
        hash: u64,
        is_free: impl Fn(&Option<Place<K, V>>) -> bool,
        make: impl FnOnce() -> Place<K, V>,
    ) -> bool {
        let start = self.set(hash);
        let mut set = self.places.iter_mut().zip(&mut self.hashes).skip(start).take(WAYS);
        let Some((place, known)) = set.find(|(place, _)| is_free(place)) else { return false };
        (*place, *known) = (Some(make()), hash);
        true
    }

    fn resize(&mut self, places: usize) {
        self.places.resize_with(places, || None);
        self.hashes.resize(places, 0);
    }

    /// One found no place. When they are many, there shall be twice as many places.
    fn crowd(&mut self, now: u64) {
        if self.step != now {
            (self.step, self.crowded) = (now, 0);
        }
        self.crowded += 1;
        let places = self.places.len();
        if self.crowded <= places / 8 || places >= MOST {
            return;
        }
        self.crowded = 0;
        let before = (std::mem::take(&mut self.places), std::mem::take(&mut self.hashes));
        self.resize(places * 2);
        for (place, hash) in before.0.into_iter().zip(before.1) {
            // A set is divided among two, so that there is room for each.
            if let Some(place) = place {
                self.settle(hash, Option::is_none, || place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1024;

    fn put(table: &mut Lately<u64, u64, MOST>, now: u64, key: u64, value: u64) {
        table.put(now, key, |known| *known == key, || key, value);
    }

    fn find(table: &mut Lately<u64, u64, MOST>, key: u64) -> Option<(u64, u64)> {
        table.find(key, |known| *known == key).map(|(step, value)| (step, *value))
    }

    #[test]
    fn what_was_put_in_last_is_found() {
        let mut table = Lately::EMPTY;
        assert_eq!(find(&mut table, 7), None);
        put(&mut table, 1, 7, 70);
        put(&mut table, 2, 7, 71);
        assert_eq!(find(&mut table, 7), Some((2, 71)));
        assert_eq!(table.find(7, |_| false), None, "another key with this hash");
    }

    #[test]
    fn whoever_was_first_in_a_step_stays() {
        let mut table = Lately::EMPTY;
        let meet = |n: u64| n * LEAST as u64;
        for n in 0..5 {
            put(&mut table, 1, meet(n), n);
        }
        let found = |table: &mut _| (0..5).filter(|&n| find(table, meet(n)).is_some()).collect::<Vec<_>>();
        assert_eq!(found(&mut table), [0, 1, 2, 3]);
        put(&mut table, 2, meet(4), 4);
        assert_eq!(found(&mut table), [1, 2, 3, 4]);
    }

    #[test]
    fn it_grows_to_its_bound() {
        let mut table = Lately::EMPTY;
        for round in 0..10 {
            for key in 0..4 * MOST as u64 {
                put(&mut table, 1, key, round);
            }
        }
        assert_eq!(table.places.len(), MOST);
        assert_eq!((0..4 * MOST as u64).filter(|&key| find(&mut table, key).is_some()).count(), MOST);
        for key in 0..100 {
            put(&mut table, 2, key, 1);
        }
        assert_eq!(table.places.len(), MOST);
    }
}
