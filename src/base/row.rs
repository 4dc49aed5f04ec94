//! A row that is joined at its end, and left from any place, in a few steps and without a search.
//!
//! In: members. Out: for each a [`Place`] by which it leaves or is found, until it has left; the first is whoever has
//! stood longest.

/// Where a member stands. Of no use in another row, and when the member has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    cell: u32,
    /// Tells members apart that have used the same cell.
    turn: u32,
}

impl Place {
    /// As one number, for whoever can keep no more.
    pub fn number(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.cell)
    }

    pub fn of(number: u64) -> Self {
        Self { cell: number as u32, turn: (number >> 32) as u32 }
    }
}

/// See the module's head. A ring through cells; the first cell is the gap between last and first.
#[derive(Debug)]
pub struct Row<T> {
    cells: Vec<Cell<T>>,
    /// Cells without a member.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Cell<T> {
    member: Option<T>,
    turn: u32,
    before: u32,
    behind: u32,
}

impl<T> Default for Row<T> {
    fn default() -> Self {
        Self { cells: vec![Cell { member: None, turn: 0, before: 0, behind: 0 }], free: Vec::new() }
    }
}

impl<T> Row<T> {
    pub fn len(&self) -> usize {
        self.cells.len() - 1 - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins at the end. A row holds at most as many as `u32` counts, which no process has room for.
    pub fn push(&mut self, member: T) -> Place {
        let cell = self.free.pop().unwrap_or_else(|| {
            self.cells.push(Cell { member: None, turn: 0, before: 0, behind: 0 });
            (self.cells.len() - 1) as u32
        });
        let last = self.cells[0].before;
        let new = &mut self.cells[cell as usize];
        new.member = Some(member);
        new.turn = new.turn.wrapping_add(1);
        (new.before, new.behind) = (last, 0);
        let turn = new.turn;
        self.cells[last as usize].behind = cell;
        self.cells[0].before = cell;
        Place { cell, turn }
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        let cell = self.cells.get_mut(place.cell as usize).filter(|cell| cell.turn == place.turn)?;
        cell.member.as_mut()
    }

    /// Leaves. `None`: it has left already.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let cell = self.cells.get_mut(place.cell as usize).filter(|cell| cell.turn == place.turn)?;
        let member = cell.member.take()?;
        let (before, behind) = (cell.before, cell.behind);
        self.cells[before as usize].behind = behind;
        self.cells[behind as usize].before = before;
        self.free.push(place.cell);
        Some(member)
    }

    /// The first.
    pub fn front(&self) -> Option<&T> {
        self.cells[self.cells[0].behind as usize].member.as_ref()
    }

    /// Where the first stands.
    pub fn first(&self) -> Option<Place> {
        let cell = self.cells[0].behind;
        (cell != 0).then(|| Place { cell, turn: self.cells[cell as usize].turn })
    }

    /// Takes the first.
    pub fn pop_front(&mut self) -> Option<T> {
        self.first().and_then(|first| self.remove(first))
    }

    /// Shows one after the other, from the first on, until `more` is false.
    pub fn visit(&mut self, mut more: impl FnMut(Place, &mut T) -> bool) {
        let mut cell = self.cells[0].behind;
        while let Some(Cell { member: Some(member), turn, behind, .. }) = self.cells.get_mut(cell as usize) {
            if !more(Place { cell, turn: *turn }, member) {
                return;
            }
            cell = *behind;
        }
    }

    /// Has all leave for whom `stays` is false, from the first to the last.
    pub fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        let mut cell = self.cells[0].behind;
        while cell != 0 {
            let Cell { member, turn, behind, .. } = &self.cells[cell as usize];
            let (turn, behind) = (*turn, *behind);
            if !member.as_ref().is_some_and(&mut stays) {
                self.remove(Place { cell, turn });
            }
            cell = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(row: &mut Row<u32>) -> Vec<u32> {
        let mut all = Vec::new();
        row.retain(|&member| {
            all.push(member);
            true
        });
        assert_eq!(all.len(), row.len());
        all
    }

    #[test]
    fn members_join_at_the_end_and_leave_from_anywhere() {
        let mut row = Row::default();
        assert!(row.is_empty() && row.pop_front().is_none());
        let places: Vec<Place> = (0..5).map(|n| row.push(n)).collect();
        assert_eq!(row.remove(places[2]), Some(2));
        assert_eq!(row.remove(places[4]), Some(4));
        assert_eq!(all(&mut row), [0, 1, 3]);
        assert_eq!((row.front().copied(), row.pop_front()), (Some(0), Some(0)));
        let again = row.push(9);
        assert_eq!(all(&mut row), [1, 3, 9]);
        row.retain(|&member| member != 3);
        assert_eq!((row.pop_front(), row.pop_front(), row.pop_front()), (Some(1), Some(9), None));
        assert_eq!(row.remove(again), None);
    }

    #[test]
    fn members_are_seen_in_their_order() {
        let mut row = Row::default();
        let places: Vec<Place> = (0..4).map(|n| row.push(n)).collect();
        row.remove(places[1]);
        assert_eq!(row.first(), Some(places[0]));
        let mut seen = Vec::new();
        row.visit(|place, member| {
            assert_eq!(Place::of(place.number()), place);
            *member += 10;
            seen.push(place);
            *member < 12
        });
        assert_eq!(seen, [places[0], places[2]]);
        assert_eq!(all(&mut row), [10, 12, 3]);
    }

    #[test]
    fn a_place_is_its_member_s_alone() {
        let mut row = Row::default();
        let first = row.push(1);
        assert_eq!(row.remove(first), Some(1));
        let second = row.push(2);
        assert_eq!((row.remove(first), row.get_mut(first)), (None, None));
        assert_eq!(row.get_mut(second), Some(&mut 2));
    }
}
