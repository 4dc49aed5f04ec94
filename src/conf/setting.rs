//! One setting of one section: said here, or not.

use super::error::Fault;

/// What a directive said at one level. Unset settings take the outer level's value ([`Setting::inherit`]) after the
/// whole file is read; defaults are given where the finished object is built ([`Setting::or`]).
#[derive(Clone, Debug)]
pub struct Setting<T>(Option<T>);

impl<T> Default for Setting<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Setting<T> {
    /// Takes the value, or says `is duplicate`.
    pub fn set(&mut self, value: T) -> Result<(), Fault> {
        if self.0.is_some() {
            return Err(Fault::directive("is duplicate"));
        }
        self.0 = Some(value);
        Ok(())
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    pub fn as_ref(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// The value so far, begun with `T::default()`: for directives that may be repeated at one level.
    pub fn list(&mut self) -> &mut T
    where
        T: Default,
    {
        self.0.get_or_insert_with(T::default)
    }
}

impl<T: Clone> Setting<T> {
    /// Takes the outer level's value when nothing was said here. Lists come whole or not at all.
    pub fn inherit(&mut self, outer: &Self) {
        if self.0.is_none() {
            self.0.clone_from(&outer.0);
        }
    }

    /// The value, or the default that the caller names.
    pub fn or(&self, default: T) -> T {
        self.0.clone().unwrap_or(default)
    }

    pub fn or_else(&self, default: impl FnOnce() -> T) -> T {
        self.0.clone().unwrap_or_else(default)
    }

    /// The value, if anything was said here or further out.
    pub fn said(&self) -> Option<T> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inner_level_wins_and_twice_is_a_fault() {
        let mut inner = Setting::default();
        inner.set(1).expect("first");
        assert_eq!(inner.set(2).expect_err("second").message, "is duplicate");
        let mut outer = Setting::default();
        outer.set(7).expect("first");
        inner.inherit(&outer);
        assert_eq!(inner.or(9), 1);
        let mut silent = Setting::default();
        silent.inherit(&outer);
        assert_eq!(silent.or(9), 7);
        assert_eq!(Setting::default().or(9), 9);
    }
}
