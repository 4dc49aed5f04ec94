//! What a thread has found lately, so that it need not look it up again.
//!
//! In: keys, each with its hash and what was found under it. Out: the same, and the second it is of: whoever asks knows how
//! old it may be. The table is bounded. It grows while what is used within one second does not fit; at its bound, whoever
//! was first in a second stays, for with many in turn each would only drive out another. Clients may choose the keys: who
//! makes them meet in one place gains that some of them are looked up.

/// How many places it has at first, and how many are looked at for one key.
const LEAST: usize = 256;
const WAYS: usize = 4;

/// See above. At most `MOST` are remembered, a power of two.
#[derive(Debug)]
pub struct Lately<K, V, const MOST: usize> {
    /// Sets of [`WAYS`]; none before the first use.
    places: Vec<Option<Place<K, V>>>,
    /// So many found no place within `second`.
    crowded: usize,
    second: u64,
}

#[derive(Debug)]
struct Place<K, V> {
    hash: u64,
    second: u64,
    key: K,
    value: V,
}

impl<K, V> Place<K, V> {
    fn is(&self, hash: u64, same: impl Fn(&K) -> bool) -> bool {
        self.hash == hash && same(&self.key)
    }
}

impl<K, V, const MOST: usize> Lately<K, V, MOST> {
    pub const EMPTY: Self = Self { places: Vec::new(), crowded: 0, second: 0 };

    /// What was put in last under the key that is the `same`, and in which second.
    pub fn find(&mut self, hash: u64, same: impl Fn(&K) -> bool) -> Option<(u64, &mut V)> {
        let place = self.set(hash).iter_mut().flatten().find(|place| place.is(hash, &same))?;
        Some((place.second, &mut place.value))
    }

    /// Remembers what was found in the second `now`, if there is room.
    pub fn put(&mut self, now: u64, hash: u64, same: impl Fn(&K) -> bool, key: impl FnOnce() -> K, value: V) {
        if self.places.is_empty() {
            self.places.resize_with(LEAST.min(MOST), || None);
        }
        let set = self.set(hash);
        let known = set.iter().position(|place| place.as_ref().is_some_and(|place| place.is(hash, &same)));
        let old = || set.iter().position(|place| place.as_ref().is_none_or(|place| place.second != now));
        match known.or_else(old).and_then(|n| set.get_mut(n)) {
            Some(Some(place)) if known.is_some() => (place.second, place.value) = (now, value),
            Some(place) => *place = Some(Place { hash, second: now, key: key(), value }),
            None => self.crowd(now),
        }
    }

    fn set(&mut self, hash: u64) -> &mut [Option<Place<K, V>>] {
        let sets = (self.places.len() / WAYS).max(1) as u64;
        let start = (hash % sets) as usize * WAYS; // less than their number
        self.places.get_mut(start..start + WAYS).unwrap_or_default()
    }

    /// One found no place. When they are many, there shall be twice as many places.
    fn crowd(&mut self, now: u64) {
        if self.second != now {
            (self.second, self.crowded) = (now, 0);
        }
        self.crowded += 1;
        let places = self.places.len();
        if self.crowded <= places / 8 || places >= MOST {
            return;
        }
        self.crowded = 0;
        let before = std::mem::take(&mut self.places);
        self.places.resize_with(places * 2, || None);
        for place in before.into_iter().flatten() {
            // A set is divided among two, so that there is room for each.
            if let Some(free) = self.set(place.hash).iter_mut().find(|free| free.is_none()) {
                *free = Some(place);
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
        table.find(key, |known| *known == key).map(|(second, value)| (second, *value))
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
    fn whoever_was_first_in_a_second_stays() {
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
