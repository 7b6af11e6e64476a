//! This module holds what the rows of a batch must not get: seen items and excluded items.

use std::ops::BitOr;

use crate::error::Error;
use crate::histories::Histories;
use crate::random::Random;
use crate::sampling::alias::Distribution;

/// Up to here a row is read from end to end, which is quicker than to search it.
const SHORT: usize = 128;

/// The rows of a batch: whose they are, and what is left out beside the user's seen items.
#[derive(Debug)]
pub struct Rows<'a> {
    seen: &'a Histories<'a>,
    users: &'a [i32],
    /// Left out for every row: sorted, each once.
    everywhere: Vec<i32>,
    /// For each row, `width` items left out for it alone; -1 is none.
    own: &'a [i32],
    width: usize,
    n_items: usize,
}

impl<'a> Rows<'a> {
    /// Return the rows of `users`, none of which gets an item of `everywhere`, nor the row itself
    /// one of its part of `own`: `[users, width]`, in which -1 stands for no item.
    ///
    /// # Errors
    /// If a user is not in `seen`, an item is not below `n_items`, a catalogue cannot have
    /// `n_items`, or `own` cannot be divided among the rows.
    pub fn new(
        seen: &'a Histories,
        users: &'a [i32],
        everywhere: &[i32],
        own: &'a [i32],
        n_items: usize,
    ) -> Result<Self, Error> {
        Error::check_items(n_items)?;
        check_all("users", users, 0, seen.len())?;
        check_all("excluded items", everywhere, 0, n_items)?;
        check_all("items excluded by row", own, -1, n_items)?;
        let width = own.len().checked_div(users.len()).unwrap_or(0);
        Error::check_length("items excluded by row", width * users.len(), own.len())?;
        let mut everywhere = everywhere.to_vec();
        everywhere.sort_unstable();
        everywhere.dedup();
        Ok(Self {
            seen,
            users,
            everywhere,
            own,
            width,
            n_items,
        })
    }

    /// Return the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Return whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Return the number of items in the catalogue.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.n_items
    }

    /// Return the items left out for every row.
    #[must_use]
    pub fn everywhere(&self) -> &[i32] {
        &self.everywhere
    }

    /// Ask for the place of a row's seen items, ahead of [`Rows::prefetch_items`].
    #[inline]
    pub fn prefetch_place(&self, row: usize) {
        if let Some(&user) = self.users.get(row) {
            self.seen.prefetch_place(user as usize);
        }
    }

    /// Ask for a row's seen items, ahead of their use.
    #[inline]
    pub fn prefetch_items(&self, row: usize) {
        self.seen.prefetch_items(self.users[row] as usize);
    }

    /// Return what a row must not get.
    ///
    /// # Errors
    /// If the user's row of seen items is wrong.
    #[inline]
    pub fn excluded(&self, row: usize) -> Result<Excluded<'_>, Error> {
        Ok(Excluded {
            seen: self.seen.row(self.users[row] as usize)?,
            own: &self.own[row * self.width..][..self.width],
            everywhere: &self.everywhere,
        })
    }

    /// Return the error of a row for which no item is left.
    #[must_use]
    pub fn nothing_left(&self, row: usize) -> Error {
        Error::NothingLeft {
            user: self.users[row],
            row,
            n_items: self.n_items,
        }
    }
}

fn check_all(name: &'static str, numbers: &[i32], lowest: i32, limit: usize) -> Result<(), Error> {
    let limit = limit.min(i32::MAX as usize + 1);
    // below 0, all numbers are wrong
    let last = (limit as i64 - 1) as i32;
    let wrong = |&number: &i32| number < lowest || number > last;
    // all of them, without a way out: that is quicker than to stop at the first
    if !numbers.iter().map(wrong).fold(false, BitOr::bitor) {
        return Ok(());
    }
    let row = numbers.iter().position(wrong).unwrap_or(0);
    Error::check_index(name, row, limit, numbers[row]).map(|_| ())
}

/// The items one row must not get; a list may repeat what stands in another.
#[derive(Debug, Clone, Copy)]
pub struct Excluded<'a> {
    /// Sorted, each once.
    seen: &'a [i32],
    own: &'a [i32],
    /// Sorted, each once.
    everywhere: &'a [i32],
}

impl Excluded<'_> {
    /// Return whether an item is left out.
    #[inline]
    #[must_use]
    pub fn holds(&self, item: i32) -> bool {
        in_sorted(self.seen, item) || in_any_order(self.own, item) || self.is_everywhere(item)
    }

    #[inline]
    fn is_everywhere(&self, item: i32) -> bool {
        self.everywhere.binary_search(&item).is_ok()
    }

    /// Return the items left out for this row, beside those for all.
    #[inline]
    pub fn of_row(&self) -> impl Iterator<Item = i32> {
        let own = self.own.iter().filter(|&&item| item >= 0);
        self.seen.iter().chain(own).copied()
    }

    /// Return at least how many items [`Excluded::of_row`] has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.seen.len() + self.own.len()
    }

    /// Return the units of the items left out for this row that are not left out for all.
    pub fn units(&self, distribution: &impl Distribution) -> u64 {
        let seen = self.seen.iter();
        let seen = seen.filter(|&&item| !self.is_everywhere(item));
        let own = self.own.iter().enumerate().filter(|&(place, &item)| {
            let again = in_any_order(&self.own[..place], item) || in_sorted(self.seen, item);
            item >= 0 && !again && !self.is_everywhere(item)
        });
        seen.chain(own.map(|(_, item)| item))
            .map(|&item| distribution.units(item))
            .sum()
    }

    /// Return all items left out, sorted, each once.
    fn merged(&self) -> Vec<i32> {
        let mut items: Vec<i32> = self.of_row().collect();
        if !self.own.is_empty() || !self.everywhere.is_empty() {
            items.extend(self.everywhere);
            items.sort_unstable();
            items.dedup();
        }
        items
    }
}

fn in_sorted(items: &[i32], item: i32) -> bool {
    if items.len() > SHORT {
        items.binary_search(&item).is_ok()
    } else {
        in_any_order(items, item)
    }
}

#[inline]
fn in_any_order(items: &[i32], item: i32) -> bool {
    let same = items.iter().map(|&other| other == item);
    same.fold(false, BitOr::bitor)
}

/// The items a row can get, for draws that cannot fail: one costs `O(log N)`.
#[derive(Debug)]
pub struct Left {
    /// Each item left out, with the units before it: those of all items, and of items left alone.
    gaps: Vec<(i32, u64)>,
    units: u64,
}

impl Left {
    /// Return what `excluded` leaves of a distribution; `None` if that is nothing.
    pub fn new(excluded: &Excluded, distribution: &impl Distribution) -> Option<Self> {
        let mut out = 0;
        let mut gaps = Vec::with_capacity(excluded.size());
        for item in excluded.merged() {
            gaps.push((item, distribution.before(item as usize) - out));
            out += distribution.units(item);
        }
        let units = distribution.total() - out;
        (units > 0).then_some(Self { gaps, units })
    }

    /// Return an item, as likely as its units.
    pub fn draw(&self, distribution: &impl Distribution, random: &mut Random) -> i32 {
        let unit = random.below(self.units);
        // the units of the items left out before this one are skipped
        let passed = self.gaps.partition_point(|&(_, before)| before <= unit);
        let skipped = match self.gaps[..passed].last() {
            Some(&(item, before)) => distribution.before(item as usize + 1) - before,
            None => 0,
        };
        distribution.owner(unit + skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::alias::{AliasTable, Uniform};

    fn excluded() -> Excluded<'static> {
        Excluded {
            seen: &[0, 4, 5],
            own: &[5, -1, 7, 7, 2],
            everywhere: &[2, 4],
        }
    }

    #[test]
    fn every_list_counts_once() {
        let left_out: Vec<i32> = (0..10).filter(|&item| excluded().holds(item)).collect();
        assert_eq!(left_out, [0, 2, 4, 5, 7]);
        assert_eq!(excluded().merged(), left_out);
        let weights: Vec<f64> = (1..=10).map(f64::from).collect();
        let table = AliasTable::new(&weights).unwrap();
        // 0, 5 and 7: the other two are left out everywhere
        let expected: u64 = [0, 5, 7].iter().map(|&item| table.units(item)).sum();
        assert_eq!(excluded().units(&table), expected);
        assert_eq!(excluded().units(&Uniform::new(10).unwrap()), 3);
    }

    #[test]
    fn what_is_left_is_drawn_by_its_units_and_nothing_else() {
        let weights = [9.0, 1.0, 9.0, 0.0, 9.0, 9.0, 2.0, 9.0, 3.0, 0.0];
        let table = AliasTable::new(&weights).unwrap();
        let left = Left::new(&excluded(), &table).unwrap();
        assert_eq!(
            left.units,
            [1, 6, 8].iter().map(|&i| table.units(i)).sum::<u64>()
        );
        let mut random = Random::new(2, 0, 0);
        let mut counts = [0_i64; 10];
        for _ in 0..60_000 {
            counts[left.draw(&table, &mut random) as usize] += 1;
        }
        for (item, share) in [(1, 10_000), (6, 20_000), (8, 30_000)] {
            // five standard deviations of the largest
            assert!((counts[item] - share).abs() < 613, "{counts:?}");
        }
        assert_eq!(
            counts.iter().sum::<i64>(),
            counts[1] + counts[6] + counts[8]
        );
        let all: Vec<i32> = (0..10).collect();
        let nothing = Excluded {
            seen: &all,
            ..excluded()
        };
        assert!(Left::new(&nothing, &table).is_none());
        assert!(Left::new(&nothing, &Uniform::new(10).unwrap()).is_none());
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let seen = Histories::new(&[0, 1, 1], &[3], 5).unwrap();
        let rows = |users: &[i32], everywhere: &[i32], own: &[i32], n_items| {
            Rows::new(&seen, users, everywhere, own, n_items).map(|rows| rows.len())
        };
        assert_eq!(rows(&[0, 1, 1], &[4, 0], &[-1, 0, 4], 5), Ok(3));
        for (users, everywhere, own, n_items) in [
            (&[2][..], &[][..], &[][..], 5),
            (&[-1], &[], &[], 5),
            (&[0], &[5], &[], 5),
            (&[0], &[-1], &[], 5),
            (&[0], &[], &[-2], 5),
            (&[0], &[], &[5], 5),
            (&[0, 1], &[], &[1, 2, 3], 5),
            (&[], &[], &[1], 5),
            (&[], &[], &[], 0),
            (&[], &[], &[], 1 << 31),
        ] {
            assert!(rows(users, everywhere, own, n_items).is_err());
        }
    }
}
