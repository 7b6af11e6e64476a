//! This module holds the items that each user has seen, as a checked view of a CSR table.

use std::ops::BitOr;

use crate::error::Error;
use crate::simd;

/// Items of a row that are fetched ahead, and those in one line of the cache.
const AHEAD: usize = 64;
const LINE: usize = 16;

/// The items of row `u` are `items[offsets[u]..offsets[u + 1]]`, sorted, each once.
///
/// Rows are checked when they are read, so that a job which needs few rows of a large table pays
/// for those only.
#[derive(Debug, Clone, Copy)]
pub struct Histories<'a> {
    offsets: &'a [i64],
    items: &'a [i32],
    n_items: usize,
}

impl<'a> Histories<'a> {
    /// Return the view of a table whose items come from a catalogue of `n_items`.
    ///
    /// # Errors
    /// If there are no offsets, they do not start at 0 or do not end at the number of items.
    pub fn new(offsets: &'a [i64], items: &'a [i32], n_items: usize) -> Result<Self, Error> {
        let (first, last) = (offsets.first().copied(), offsets.last().copied());
        if first != Some(0) || last != Some(items.len() as i64) {
            return Err(Error::Offsets {
                n_items: items.len(),
                got: format!("{first:?} to {last:?}"),
            });
        }
        Ok(Self {
            offsets,
            items,
            n_items,
        })
    }

    /// Return the number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Return whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Return the sorted items of one row.
    ///
    /// # Errors
    /// If the row does not exist, its offsets fall, its items are not strictly rising, or one of
    /// them is not in the catalogue.
    #[inline]
    pub fn row(&self, row: usize) -> Result<&'a [i32], Error> {
        let last = self.len();
        if row >= last {
            return Err(Error::OutOfRange {
                name: "users",
                row,
                limit: last as i64,
                got: row as i64,
            });
        }
        let (start, end) = (self.offsets[row], self.offsets[row + 1]);
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let items = range
            .and_then(|(start, end)| self.items.get(start..end))
            .ok_or_else(|| Error::Offsets {
                n_items: self.items.len(),
                got: format!("{start} before {end} in row {row}"),
            })?;
        self.check(row, items)?;
        Ok(items)
    }

    /// Return every row, all checked.
    ///
    /// # Errors
    /// As [`Histories::row`], for the first row that is wrong.
    pub fn rows(&self) -> Result<Vec<&'a [i32]>, Error> {
        (0..self.len()).map(|row| self.row(row)).collect()
    }

    /// Ask for the place of a row in memory, ahead of its use.
    #[inline]
    pub fn prefetch_place(&self, row: usize) {
        simd::prefetch(self.offsets, row);
    }

    /// Ask for the first items of a row, ahead of their use.
    #[inline]
    pub fn prefetch_items(&self, row: usize) {
        let Some(&[start, end]) = self.offsets.get(row..).and_then(<[i64]>::first_chunk) else {
            return;
        };
        let (start, end) = (start as usize, end as usize);
        for index in (start..end.min(start.saturating_add(AHEAD + LINE))).step_by(LINE) {
            simd::prefetch(self.items, index);
        }
    }

    fn check(&self, row: usize, items: &[i32]) -> Result<(), Error> {
        // all pairs, without a way out: that is quicker than to stop at the first
        let pairs = || items.iter().zip(items.iter().skip(1));
        let falls = pairs().map(|(first, second)| first >= second);
        let (first, last) = match items {
            [first, .., last] => (*first, *last),
            [item] => (*item, *item),
            [] => return Ok(()),
        };
        // sorted, so the ends bound all
        if !falls.fold(false, BitOr::bitor) && first >= 0 && (last as usize) < self.n_items {
            return Ok(());
        }
        self.find_wrong(row, items)
    }

    #[cold]
    fn find_wrong(&self, row: usize, items: &[i32]) -> Result<(), Error> {
        if let Some(pair) = items.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::Order {
                row,
                first: pair[0],
                second: pair[1],
            });
        }
        for &item in items {
            Error::check_index("seen items", row, self.n_items, item)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_slices_of_the_items() {
        let seen = Histories::new(&[0, 2, 2, 3], &[1, 4, 0], 5).unwrap();
        assert_eq!(seen.rows().unwrap(), [&[1, 4][..], &[], &[0]]);
        assert!(!seen.is_empty());
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        for offsets in [&[][..], &[1, 2], &[0, 1], &[0, 3]] {
            assert!(Histories::new(offsets, &[1, 4], 5).is_err());
        }
        for offsets in [&[0, 2, 1, 2][..], &[0, -1, 2], &[0, 9, 2]] {
            let seen = Histories::new(offsets, &[1, 4], 5).unwrap();
            assert!(matches!(seen.rows(), Err(Error::Offsets { .. })));
        }
    }

    #[test]
    fn items_out_of_order_or_out_of_range_are_refused() {
        let row = |items: &[i32]| {
            Histories::new(&[0, items.len() as i64], items, 5)
                .unwrap()
                .row(0)
                .unwrap_err()
        };
        assert!(matches!(row(&[2, 1]), Error::Order { .. }));
        assert!(matches!(row(&[2, 2]), Error::Order { .. }));
        assert!(matches!(row(&[2, 5]), Error::OutOfRange { .. }));
        assert!(matches!(row(&[-1, 2]), Error::OutOfRange { .. }));
        let seen = Histories::new(&[0], &[], 5).unwrap();
        assert!(matches!(seen.row(0), Err(Error::OutOfRange { .. })));
    }
}
