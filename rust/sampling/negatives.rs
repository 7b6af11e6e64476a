//! This module draws negative samples, which are items a row may get, and their log probabilities.

use rayon::prelude::*;

use crate::error::Error;
use crate::random::Random;
use crate::sampling::alias::{AliasTable, Distribution, Uniform};
use crate::sampling::exclusion::Rows;
use crate::sampling::filling::{Filling, Marks};
use crate::sampling::probability::common_units;
use crate::threads::Workers;

/// Rows between the one that is filled and the one whose seen items are asked of memory.
const AHEAD: usize = 16;
/// Rows a thread takes at least.
const MIN_ROWS: usize = 32;
/// From so many draws on, a row's excluded items are marked in a filter first ...
const FILTERED: usize = 16;
/// ... unless they are more than so many times the draws.
const FILTER_SHARE: usize = 16;
/// Fewer draws than this of one row are too few for their waits for memory to overlap.
const FEW: usize = 16;
/// Draws between two looks at whether to go on.
const STRETCH: usize = 1 << 16;
/// Nanoseconds a piece of work takes, and those of a row and of a draw, roughly.
const PIECE: usize = 200_000;
const ROW: usize = 50;
const DRAW: usize = 5;

/// How many items to draw for each row, and the key of the random numbers.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    pub n: usize,
    pub seed: u64,
    pub step: u64,
    /// Number of the first row: lets parts of one batch be drawn in different places.
    pub first_row: u64,
}

/// Fill `out`, which is `[B, n]`, with items each row may get, drawn with replacement; and `log_q`,
/// if it is there, with the log of how likely each of them was.
///
/// Without a table all items a row may get are equally likely, else as likely as in the table,
/// divided by what they have together. A result depends on its row's user, its row's excluded items
/// and its row's number only.
///
/// # Errors
/// If a length does not fit, a row of seen items is wrong, or no item is left for a row; the first
/// such row is named, and `out` may be filled in part.
pub fn sample_negatives<T: From<i32> + Send>(
    rows: &Rows,
    table: Option<&AliasTable>,
    draw: Draw,
    out: &mut [T],
    log_q: Option<&mut [f32]>,
    workers: &Workers,
) -> Result<(), Error> {
    Error::check_length("out", rows.len() * draw.n, out.len())?;
    if let Some(log_q) = &log_q {
        Error::check_length("log_q", out.len(), log_q.len())?;
    }
    if let Some(table) = table {
        Error::check_length("alias table", rows.n_items(), table.n_items())?;
        return Sampling::new(rows, table, draw, workers).fill(out, log_q);
    }
    Sampling::new(rows, &Uniform::new(rows.n_items())?, draw, workers).fill(out, log_q)
}

struct Sampling<'a, D> {
    rows: &'a Rows<'a>,
    distribution: &'a D,
    draw: Draw,
    workers: &'a Workers<'a>,
    /// The marks of what is left out for every row.
    common: Marks,
}

impl<'a, D: Distribution> Sampling<'a, D> {
    fn new(rows: &'a Rows, distribution: &'a D, draw: Draw, workers: &'a Workers) -> Self {
        let mut common = Marks::default();
        for &item in rows.everywhere() {
            common.set(item);
        }
        Self {
            rows,
            distribution,
            draw,
            workers,
            common,
        }
    }

    fn fill<T: From<i32> + Send>(
        &self,
        out: &mut [T],
        log_q: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        if out.is_empty() {
            return Ok(());
        }
        let n = self.draw.n;
        let size = PIECE.div_ceil(ROW + DRAW.saturating_mul(n)).max(MIN_ROWS);
        let common_units = log_q
            .is_some()
            .then(|| common_units(self.rows, self.distribution));
        let mut log_q = log_q.map(|log_q| log_q.chunks_mut(size * n));
        let pieces: Vec<_> = out
            .chunks_mut(size * n)
            .map(|out| (out, log_q.as_mut().and_then(Iterator::next)))
            .collect();
        let failed = pieces
            .into_par_iter()
            .enumerate()
            .filter_map(|(piece, (out, log_q))| {
                let log_q = common_units.zip(log_q);
                self.fill_piece(piece * size, out, log_q).err()
            })
            // the first of them, whichever thread came first
            .min_by_key(|&(row, _)| row);
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Fill the rows from `first` on; an error comes with its row.
    fn fill_piece<T: From<i32>>(
        &self,
        first: usize,
        out: &mut [T],
        mut log_q: Option<(u64, &mut [f32])>,
    ) -> Result<(), (usize, Error)> {
        let n = self.draw.n;
        let mut marks = self.common.clone();
        let rows = out.len() / n;
        for row in 0..rows {
            // what a row needs of memory is asked for some rows ahead
            self.rows.prefetch_place(first + row + 2 * AHEAD);
            if row + AHEAD < rows {
                self.prefetch(first + row + AHEAD);
            }
            let place = row * n..(row + 1) * n;
            let log_q = log_q.as_mut();
            let log_q = log_q.map(|(common, log_q)| (*common, &mut log_q[place.clone()]));
            self.fill_row(first + row, &mut out[place], log_q, &mut marks)
                .map_err(|error| (first + row, error))?;
        }
        Ok(())
    }

    #[inline]
    fn prefetch(&self, row: usize) {
        self.rows.prefetch_items(row);
        if self.draw.n < FEW {
            // the same numbers are drawn anew when it is the row's turn
            self.distribution.prefetch(self.random(row), self.draw.n);
        }
    }

    #[inline]
    fn random(&self, row: usize) -> Random {
        let row = self.draw.first_row.wrapping_add(row as u64);
        Random::new(self.draw.seed, self.draw.step, row)
    }

    #[inline]
    fn fill_row<T: From<i32>>(
        &self,
        row: usize,
        out: &mut [T],
        log_q: Option<(u64, &mut [f32])>,
        marks: &mut Marks,
    ) -> Result<(), Error> {
        let excluded = self.rows.excluded(row)?;
        let random = self.random(row);
        let mut filling = Filling::new(self.distribution, excluded, random, out.len());
        let marked = out.len() >= FILTERED && excluded.size() <= FILTER_SHARE * out.len();
        if marked {
            excluded.of_row().for_each(|item| marks.set(item));
        }
        let log_left = log_q
            .as_ref()
            .map(|&(common, _)| ((common - excluded.units(self.distribution)) as f64).ln());
        let mut log_q = log_q.map(|(_, log_q)| log_q.chunks_mut(STRETCH));
        for out in out.chunks_mut(STRETCH) {
            self.workers.go_on()?;
            let log_q = log_q.as_mut().and_then(Iterator::next).zip(log_left);
            let done = if marked {
                filling.fill(out, log_q, |item| marks.may_hold(item))
            } else {
                filling.fill(out, log_q, |item| excluded.holds(item))
            };
            done.ok_or_else(|| self.rows.nothing_left(row))?;
        }
        if marked {
            excluded
                .of_row()
                .for_each(|item| marks.reset(item, &self.common));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histories::Histories;
    use crate::threads::on;

    const DRAW: Draw = Draw {
        n: 3000,
        seed: 1,
        step: 2,
        first_row: 0,
    };

    fn sample(
        rows: &Rows,
        table: Option<&AliasTable>,
        draw: Draw,
        threads: usize,
    ) -> Result<Vec<i32>, Error> {
        let mut out = vec![0; rows.len() * draw.n];
        on(threads, |workers| {
            sample_negatives(rows, table, draw, &mut out, None, workers)
        })?;
        Ok(out)
    }

    fn counts(drawn: &[i32], n_items: usize) -> Vec<f64> {
        let mut counts = vec![0.0; n_items];
        for &item in drawn {
            counts[item as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn draws_are_even_over_the_items_a_row_may_get() {
        let seen = Histories::new(&[0, 2, 2], &[1, 4], 7).unwrap();
        let rows = Rows::new(&seen, &[0, 1], &[6], &[-1, 0], 7).unwrap();
        let drawn = sample(&rows, None, DRAW, 1).unwrap();
        assert_eq!(drawn, sample(&rows, None, DRAW, 2).unwrap());
        for (row, share) in [
            (0, [0.25, 0.0, 0.25, 0.25, 0.0, 0.25, 0.0]),
            (1, [0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0]),
        ] {
            let counts = counts(&drawn[row * 3000..][..3000], 7);
            for (count, share) in counts.iter().zip(share) {
                assert!((count / 3000.0 - share).abs() < 0.035, "{counts:?}");
                assert_eq!(*count == 0.0, share == 0.0);
            }
        }
    }

    #[test]
    fn parts_of_a_batch_drawn_apart_are_the_batch() {
        let seen = Histories::new(&[0, 2, 2], &[1, 4], 6).unwrap();
        let users: Vec<i32> = (0..5000).map(|row| row % 2).collect();
        for n in [1, 5, 16, 100] {
            let draw = Draw { n, ..DRAW };
            let rows = Rows::new(&seen, &users, &[], &[], 6).unwrap();
            let whole = sample(&rows, None, draw, 2).unwrap();
            let part = Draw {
                first_row: 4321,
                ..draw
            };
            let rows = Rows::new(&seen, &users[4321..], &[], &[], 6).unwrap();
            assert_eq!(whole[4321 * n..], sample(&rows, None, part, 1).unwrap());
        }
    }

    #[test]
    fn a_user_who_has_seen_nearly_all_gets_the_rest_in_proportion() {
        let n_items = 5000;
        let items: Vec<i32> = (0..n_items as i32 - 2).collect();
        let offsets = [0, n_items as i64 - 2];
        let seen = Histories::new(&offsets, &items, n_items).unwrap();
        let mut weights = vec![1.0; n_items];
        weights[n_items - 1] = 3.0;
        let table = AliasTable::new(&weights).unwrap();
        let rows = Rows::new(&seen, &[0], &[], &[], n_items).unwrap();
        for (table, share) in [(None, 0.5), (Some(&table), 0.75)] {
            let counts = counts(&sample(&rows, table, DRAW, 1).unwrap(), n_items);
            assert_eq!(counts[n_items - 2] + counts[n_items - 1], 3000.0);
            assert!((counts[n_items - 1] / 3000.0 - share).abs() < 0.035);
        }
    }

    #[test]
    fn the_first_row_with_nothing_left_is_named() {
        let seen = Histories::new(&[0, 0, 2], &[0, 1], 3).unwrap();
        let users: Vec<i32> = (0..9000).map(|row| i32::from(row >= 4500)).collect();
        let draw = Draw { n: 1, ..DRAW };
        let nothing = Error::NothingLeft {
            user: 1,
            row: 4500,
            n_items: 3,
        };
        let rows = Rows::new(&seen, &users, &[2], &[], 3).unwrap();
        assert_eq!(sample(&rows, None, draw, 2), Err(nothing.clone()));
        // item 2 is unseen but has no weight
        let table = AliasTable::new(&[1.0, 1.0, 0.0]).unwrap();
        let rows = Rows::new(&seen, &users, &[], &[], 3).unwrap();
        assert_eq!(sample(&rows, Some(&table), draw, 2), Err(nothing));
    }

    /// Return the chi-square statistic of 40 million draws over a million items, in standard
    /// deviations from its mean.
    fn deviation(table: Option<&AliasTable>, units: impl Fn(i32) -> f64) -> f64 {
        let n_items = 1_000_000;
        let seen = Histories::new(&[0, 3], &[5, 70_000, 999_999], n_items).unwrap();
        let users = vec![0; 400_000];
        let rows = Rows::new(&seen, &users, &[], &[], n_items).unwrap();
        let drawn = sample(&rows, table, Draw { n: 100, ..DRAW }, 2).unwrap();
        let counts = counts(&drawn, n_items);
        let left = |item: &i32| ![5, 70_000, 999_999].contains(item);
        let total: f64 = (0..n_items as i32).filter(left).map(&units).sum();
        let chi: f64 = (0..n_items as i32)
            .filter(left)
            .map(|item| {
                let expected = drawn.len() as f64 * units(item) / total;
                (counts[item as usize] - expected).powi(2) / expected
            })
            .sum();
        let freedom = (n_items - 4) as f64;
        (chi - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn forty_million_draws_have_no_bias() {
        assert!(deviation(None, |_| 1.0).abs() < 4.0);
        let weights: Vec<f64> = (0..1_000_000_u32)
            // scattered over the catalogue; the rarest is expected 5 times
            .map(|item| f64::from(item.wrapping_mul(7919) % 1_000_000 + 150_000).recip())
            .collect();
        let table = AliasTable::new(&weights).unwrap();
        assert!(deviation(Some(&table), |item| weights[item as usize]).abs() < 4.0);
    }
}
