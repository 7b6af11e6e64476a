//! This module codes the items as integers, which bound every score: few need float32.
//!
//! A vector is a scale times its codes and a rest: `q = s c + r` for a query, `v = t d + p` for an
//! item. Then `q.v = s t (c.d) + s c.p + r.v`, and by Cauchy-Schwarz
//!
//! `|q.v - s t (c.d)| <= s |c| |p| + |r| |v|`.
//!
//! The computed score differs from `q.v` by no more than `g |q| |v|`, `g = n u / (1 - n u)` for `n`
//! places and rounding unit `u = 2^-24` (Higham 2002, section 3.1), and `n` times the smallest
//! float32. Divided by `s t`, all of this is a bound on the whole number `c.d`, one for each item
//! where the largest of the queries in a task is taken. Norms are computed in float64 and rounded up.

use rayon::prelude::*;

use crate::error::Error;
use crate::scoring::catalogue::Items;
use crate::scoring::codes::{Code, offset, or_one, pack, round_up};
use crate::simd::{Codes, Column, LANES, Level, prefetch};
use crate::threads::Workers;

/// Largest width that is screened; wider sums could pass 32 bits.
pub(super) const MAX_DIM: usize = 16_384;
/// Items between asking for a vector and using it.
const AHEAD: usize = 4;

/// The codes of a catalogue, in panels of items of like scale.
#[derive(Debug)]
pub struct Screen {
    pub(super) codes: Codes,
    pub(super) level: Level,
    pub(super) dim: usize,
    /// Words of one item.
    pub(super) n_words: usize,
    /// Item of each place.
    order: Vec<i32>,
    /// `[n_panels][n_words]`
    words: Vec<Column<i32>>,
    pub(super) panels: Vec<Panel>,
}

/// What bounds the scores of a panel's items.
#[derive(Debug, Clone)]
pub struct Panel {
    pub scale: f32,
    /// Norm of what the codes leave out.
    pub rests: Column<f32>,
    pub norms: Column<f32>,
    /// What the offset of a query's codes adds to the sums.
    pub offsets: Column<i32>,
}

impl Screen {
    /// Return the codes of the items, or `None` where screening them cannot pay: too wide vectors.
    ///
    /// # Errors
    /// If the job was told to stop.
    pub fn new(
        items: &Items,
        codes: Codes,
        level: Level,
        workers: &Workers,
    ) -> Result<Option<Self>, Error> {
        let dim = items.dim();
        if dim > MAX_DIM {
            return Ok(None);
        }
        let (n_items, n_words) = (items.n_items(), dim.div_ceil(codes.per_word()));
        let largest = largest_values(items);
        let mut order: Vec<i32> = (0..n_items as i32).collect();
        // like scales together: the panel has one scale, that of its largest value
        order.par_sort_unstable_by_key(|&item| {
            (std::cmp::Reverse(largest[item as usize].to_bits()), item)
        });
        let n_panels = n_items.div_ceil(LANES);
        let mut words = vec![[0; LANES]; n_panels * n_words];
        let (_, top) = level.largest_codes(codes, dim);
        let panels = words
            .par_chunks_mut(n_words)
            .zip(order.par_chunks(LANES))
            .map_init(
                || (vec![0.0; dim], vec![0; dim]),
                |(buffer, coded), (words, of_panel)| {
                    workers.go_on()?;
                    let value = largest[of_panel[0] as usize];
                    let scale = or_one(value / top as f32);
                    let mut panel = Panel {
                        scale,
                        rests: [0.0; LANES],
                        norms: [0.0; LANES],
                        offsets: [0; LANES],
                    };
                    for (lane, &item) in of_panel.iter().enumerate() {
                        if let Some(&next) = of_panel.get(lane + AHEAD) {
                            items.prefetch(next as usize..next as usize + 1);
                        }
                        let vector = items.vector(item as usize, buffer);
                        let measured = level.wide(Code {
                            vector,
                            scale,
                            top,
                            codes: coded,
                        });
                        pack(
                            coded,
                            codes,
                            words.iter_mut().map(|column| &mut column[lane]),
                        );
                        panel.rests[lane] = round_up(measured.rest);
                        panel.norms[lane] = round_up(measured.norm);
                        panel.offsets[lane] = -offset(level, codes) * measured.sum;
                    }
                    Ok(panel)
                },
            )
            .collect::<Result<_, Error>>()?;
        Ok(Some(Self {
            codes,
            level,
            dim,
            n_words,
            order,
            words,
            panels,
        }))
    }

    /// Return the kind of the codes.
    #[must_use]
    pub fn codes(&self) -> Codes {
        self.codes
    }

    /// Return the items of a panel.
    #[must_use]
    pub fn items(&self, panel: usize) -> &[i32] {
        &self.order[panel * LANES..((panel + 1) * LANES).min(self.order.len())]
    }

    /// Return the codes of a panel.
    #[must_use]
    pub fn words(&self, panel: usize) -> &[Column<i32>] {
        &self.words[panel * self.n_words..][..self.n_words]
    }

    /// Ask for the codes of a panel ahead of their use.
    pub fn prefetch(&self, panel: usize) {
        let words = self.words(panel);
        for place in 0..words.len() {
            // a column has two cache lines, which the processor takes together
            prefetch(words, place);
        }
    }
}

/// Return the largest absolute value of each item.
fn largest_values(items: &Items) -> Vec<f32> {
    let dim = items.dim();
    let mut largest = vec![0.0_f32; items.n_items()];
    largest.par_chunks_mut(LANES).enumerate().for_each_init(
        || vec![0.0; LANES * dim],
        |buffer, (panel, largest)| {
            let rows = items.rows(panel * LANES, buffer).chunks_exact(dim);
            for (largest, row) in largest.iter_mut().zip(rows) {
                *largest = row.iter().fold(0.0, |most, value| most.max(value.abs()));
            }
        },
    );
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::catalogue::Values;
    use crate::threads::on;

    #[test]
    fn too_wide_vectors_have_no_codes() {
        let values = vec![1.0; MAX_DIM + 1];
        let items = Items::new(Values::F32(&values), MAX_DIM + 1).unwrap();
        let level = Level::available()[0];
        let screen = on(1, |workers| {
            Screen::new(&items, Codes::Bytes, level, workers)
        });
        assert!(screen.unwrap().is_none());
    }
}
