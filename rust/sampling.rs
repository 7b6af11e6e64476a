//! Negative samples: items a row may get, drawn by a distribution, and how likely they were.

use rayon::prelude::*;

use crate::alias::{AliasTable, Distribution, Uniform};
use crate::error::Error;
use crate::exclusion::{Excluded, Left, Rows};
use crate::random::Random;
use crate::threads::Workers;

/// Draws of a row that are made together, so that their waits for memory overlap.
const BLOCK: usize = 16;
/// Rows whose seen items are fetched together, and how far ahead the places of those are.
const GROUP: usize = 32;
/// From so many draws on, a row's excluded items are marked in a filter first ...
const FILTERED: usize = 16;
/// ... unless they are more than so many times the draws.
const FILTER_SHARE: usize = 16;
/// Draws of a row that may be thrown away, beyond one for each wanted, before it draws from a list
/// of what is left.
const SPARE: usize = 64;
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
    let n_items = rows.n_items();
    Sampling::new(rows, &Uniform { n_items }, draw, workers).fill(out, log_q)
}

/// Fill `out`, which is `[B, M]` like `items`, with the log of how likely a draw for the row gives
/// each item; minus infinity for an excluded one.
///
/// # Errors
/// If a length does not fit, an item is out of range, or a row of seen items is wrong.
pub fn log_probability(
    rows: &Rows,
    table: Option<&AliasTable>,
    items: &[i32],
    out: &mut [f64],
    workers: &Workers,
) -> Result<(), Error> {
    Error::check_length("out", items.len(), out.len())?;
    let width = items.len().checked_div(rows.len()).unwrap_or(0);
    Error::check_length("items", rows.len() * width, items.len())?;
    for (place, &item) in items.iter().enumerate() {
        Error::check_index("items", place / width.max(1), rows.n_items(), item)?;
    }
    if let Some(table) = table {
        Error::check_length("alias table", rows.n_items(), table.n_items())?;
        return log_probability_in(rows, table, items, out, workers);
    }
    let n_items = rows.n_items();
    log_probability_in(rows, &Uniform { n_items }, items, out, workers)
}

fn log_probability_in(
    rows: &Rows,
    distribution: &impl Distribution,
    items: &[i32],
    out: &mut [f64],
    workers: &Workers,
) -> Result<(), Error> {
    if items.is_empty() {
        return Ok(());
    }
    let width = items.len() / rows.len();
    let common = common_units(rows, distribution);
    let failed = out
        .par_chunks_mut(width)
        .zip(items.par_chunks(width))
        .with_min_len(GROUP)
        .enumerate()
        .filter_map(|(row, (out, items))| {
            let mut fill = || -> Result<(), Error> {
                workers.go_on()?;
                let excluded = rows.excluded(row)?;
                let log_left = ((common - excluded.units(distribution)) as f64).ln();
                for (out, &item) in out.iter_mut().zip(items) {
                    let units = distribution.units(item);
                    *out = if units == 0 || excluded.holds(item) {
                        f64::NEG_INFINITY
                    } else {
                        (units as f64).ln() - log_left
                    };
                }
                Ok(())
            };
            fill().err().map(|error| (row, error))
        })
        .min_by_key(|&(row, _)| row);
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

/// Return the units of all items that are not left out for every row.
fn common_units(rows: &Rows, distribution: &impl Distribution) -> u64 {
    let out = rows.everywhere().iter();
    distribution.total() - out.map(|&item| distribution.units(item)).sum::<u64>()
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
        let size = PIECE.div_ceil(ROW + DRAW.saturating_mul(n)).max(GROUP);
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
        for start in (0..rows).step_by(GROUP) {
            let group = start..rows.min(start + GROUP);
            for row in group.clone() {
                self.rows.prefetch_place(first + row + GROUP + GROUP / 2);
                self.rows.prefetch_items(first + row);
                if n < BLOCK {
                    // the tickets are drawn anew later: what they ask memory for is then here
                    let mut random = self.random(first + row);
                    for _ in 0..n {
                        self.distribution.ticket(&mut random);
                    }
                }
            }
            for row in group {
                let place = row * n..(row + 1) * n;
                let log_q = log_q.as_mut();
                let log_q = log_q.map(|(common, log_q)| (*common, &mut log_q[place.clone()]));
                self.fill_row(first + row, &mut out[place], log_q, &mut marks)
                    .map_err(|error| (first + row, error))?;
            }
        }
        Ok(())
    }

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
        let mut filling = Filling {
            distribution: self.distribution,
            excluded,
            random: self.random(row),
            spare: out.len().saturating_add(SPARE),
            left: None,
        };
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

/// What is needed to fill one row.
struct Filling<'a, D> {
    distribution: &'a D,
    excluded: Excluded<'a>,
    random: Random,
    spare: usize,
    left: Option<Left>,
}

impl<D: Distribution> Filling<'_, D> {
    /// Fill a stretch of the row; `None` if no item is left. `suspect` says at least of all
    /// excluded items that they may be.
    #[inline]
    fn fill<T: From<i32>>(
        &mut self,
        out: &mut [T],
        mut log_q: Option<(&mut [f32], f64)>,
        suspect: impl Fn(i32) -> bool,
    ) -> Option<()> {
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let mut items = [0; BLOCK];
            // whole blocks have a length the compiler knows
            match out.len() {
                BLOCK => self.fill_block(&mut items, &suspect)?,
                length => self.fill_block(&mut items[..length], &suspect)?,
            }
            if let Some((log_q, log_left)) = &mut log_q {
                for (log_q, &item) in log_q[block * BLOCK..].iter_mut().zip(&items[..out.len()]) {
                    *log_q = ((self.distribution.units(item) as f64).ln() - *log_left) as f32;
                }
            }
            for (out, item) in out.iter_mut().zip(items) {
                *out = T::from(item);
            }
        }
        Some(())
    }

    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn fill_block(&mut self, items: &mut [i32], suspect: &impl Fn(i32) -> bool) -> Option<()> {
        if let Some(left) = &self.left {
            for item in items {
                *item = left.draw(self.distribution, &mut self.random);
            }
            return Some(());
        }
        let mut tickets = [D::Ticket::default(); BLOCK];
        let tickets = &mut tickets[..items.len()];
        for ticket in tickets.iter_mut() {
            *ticket = self.distribution.ticket(&mut self.random);
        }
        let mut suspects = 0_u32;
        for (place, (item, &ticket)) in items.iter_mut().zip(&*tickets).enumerate() {
            *item = self.distribution.item(ticket);
            suspects |= u32::from(suspect(*item)) << place;
        }
        while suspects != 0 {
            let place = suspects.trailing_zeros() as usize;
            suspects &= suspects - 1;
            items[place] = self.accepted(items[place])?;
        }
        Some(())
    }

    /// Return the item, or another where it is excluded.
    fn accepted(&mut self, mut item: i32) -> Option<i32> {
        while self.excluded.holds(item) {
            if self.left.is_none() && self.spare == 0 {
                self.left = Some(Left::new(&self.excluded, self.distribution)?);
            }
            if let Some(left) = &self.left {
                return Some(left.draw(self.distribution, &mut self.random));
            }
            self.spare -= 1;
            let ticket = self.distribution.ticket(&mut self.random);
            item = self.distribution.item(ticket);
        }
        Some(item)
    }
}

/// A set of bits that tells most items from those that are marked.
#[derive(Clone)]
struct Marks([u64; Marks::WORDS]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Self::WORDS])
    }
}

impl Marks {
    /// 32768 bits, of which a row with 40 items sets one in 800.
    const WORDS: usize = 512;

    #[inline]
    fn word(item: i32) -> usize {
        (item >> 6) as usize % Self::WORDS
    }

    #[inline]
    fn set(&mut self, item: i32) {
        self.0[Self::word(item)] |= 1 << (item & 63);
    }

    /// Take away the marks of an item's word that `common` has not.
    #[inline]
    fn reset(&mut self, item: i32, common: &Self) {
        self.0[Self::word(item)] = common.0[Self::word(item)];
    }

    #[inline]
    fn may_hold(&self, item: i32) -> bool {
        self.0[Self::word(item)] >> (item & 63) & 1 != 0
    }
}
