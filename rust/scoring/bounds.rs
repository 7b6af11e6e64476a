//! This module codes the queries, and works out what sums of codes say of scores.

// what `Level::wide` compiles must be inlined there
#![allow(clippy::inline_always)]

use crate::scoring::codes::{Code, UP, norm, offset, or_one, pack, whole};
use crate::scoring::screening::{Panel, Screen};
use crate::simd::{Column, LANES, Plain, tiles};

/// A bar that no sum of codes reaches, and whose negative every sum reaches. Sums stay below 2^30,
/// and what bounds add to them, at most the largest code times the width, far below 2^28.
const OUT_OF_REACH: f64 = 1.6e9;

/// The codes of a task's query vectors, and the bounds that hold for all of them.
#[derive(Debug)]
pub struct QueryCodes {
    /// Rows of a tile.
    pub rows: usize,
    n_words: usize,
    /// `[n_tiles][n_words][rows]`
    words: Vec<i32>,
    inverse_scales: Vec<f64>,
    /// Largest norm of codes.
    code_norm: f64,
    /// Largest norm of what the codes leave out, with what rounding may add, over the scale.
    rests: f64,
    /// Largest sum of what underflow may add, over the scale.
    tiny: f64,
}

impl QueryCodes {
    /// Return the codes of query vectors, `[n_rows, dim]`.
    #[must_use]
    pub fn new(screen: &Screen, vectors: &[f32]) -> Self {
        let dim = screen.dim;
        let (top, _) = screen.level.largest_codes(screen.codes, dim);
        let offset = offset(screen.level, screen.codes);
        let rounding = {
            let steps = dim as f64 * f64::from(f32::EPSILON) / 2.0;
            steps / (1.0 - steps)
        };
        let norms: Vec<f64> = vectors.chunks_exact(dim).map(norm).collect();
        // one share of the norm for all, so that the bound of one item is tight for all of them
        let share = vectors
            .chunks_exact(dim)
            .zip(&norms)
            .map(|(vector, &norm)| {
                let largest = vector
                    .iter()
                    .fold(0.0_f32, |most, value| most.max(value.abs()));
                if norm > 0.0 {
                    f64::from(largest) / norm
                } else {
                    0.0
                }
            });
        let share = share.fold(0.0, f64::max);
        let n_rows = norms.len();
        let mut words = vec![0; n_rows * screen.n_words];
        let mut coded = vec![0; dim];
        let mut queries = Self {
            rows: screen.level.rows(n_rows),
            n_words: screen.n_words,
            words: Vec::new(),
            inverse_scales: Vec::with_capacity(n_rows),
            code_norm: 0.0,
            rests: 0.0,
            tiny: 0.0,
        };
        let rows = vectors
            .chunks_exact(dim)
            .zip(&norms)
            .zip(words.chunks_exact_mut(screen.n_words));
        for ((vector, &norm), words) in rows {
            let scale = or_one((norm * share / f64::from(top)) as f32);
            let measured = screen.level.wide(Code {
                vector,
                scale,
                top,
                codes: &mut coded,
            });
            for code in &mut coded {
                *code += offset;
            }
            pack(&coded, screen.codes, words.iter_mut());
            let scale = f64::from(scale);
            queries.inverse_scales.push(1.0 / scale);
            queries.code_norm = queries.code_norm.max(measured.codes);
            queries.rests = queries.rests.max((measured.rest + rounding * norm) / scale);
            queries.tiny = queries
                .tiny
                .max(dim as f64 * f64::from(f32::from_bits(1)) / scale);
        }
        queries.words = tiles(&words, screen.n_words, queries.rows, 0);
        queries
    }

    /// Return the number of rows, with those that fill up the last tile.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.words.len() / self.n_words
    }

    /// Return the words of each tile.
    pub fn tiles(&self) -> std::slice::ChunksExact<'_, i32> {
        self.words.chunks_exact(self.rows * self.n_words)
    }

    /// Return how far the sums of a panel's codes may be below what the scores say, in whole numbers
    /// rounded up, and the same with the offsets: where the sums start, so that what can be at least
    /// a bar reaches it.
    #[must_use]
    pub fn start(&self, screen: &Screen, panel: usize) -> (Column<i32>, Column<i32>) {
        screen.level.wide(Start {
            queries: self,
            panel: &screen.panels[panel],
        })
    }

    /// Set `bars` to whole numbers that the sums of a panel reach wherever the score may be at least
    /// `scores`, one for each row; rows that only fill up a tile do not count.
    pub fn bars(&self, screen: &Screen, panel: usize, scores: &[f32], bars: &mut [i32]) {
        // below by what float64 may have added, and by more than rounding to a whole number takes
        self.whole_bars(screen, panel, scores, bars, -1.0);
    }

    /// Set `bars` to whole numbers that the sums, less twice their width, reach only where the score
    /// is surely above `scores`.
    pub fn sure_bars(&self, screen: &Screen, panel: usize, scores: &[f32], bars: &mut [i32]) {
        self.whole_bars(screen, panel, scores, bars, 1.0);
    }

    fn whole_bars(
        &self,
        screen: &Screen,
        panel: usize,
        scores: &[f32],
        bars: &mut [i32],
        away: f64,
    ) {
        screen.level.wide(WholeBars {
            scores,
            of_rows: &self.inverse_scales,
            of_panel: 1.0 / f64::from(screen.panels[panel].scale),
            away,
            places: bars,
        });
    }
}

struct Start<'a> {
    queries: &'a QueryCodes,
    panel: &'a Panel,
}

impl Plain for Start<'_> {
    type Output = (Column<i32>, Column<i32>);

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { queries, panel } = self;
        let (codes, rests, tiny) = (queries.code_norm, queries.rests, queries.tiny);
        let inverse = UP / f64::from(panel.scale);
        let (mut widths, mut start) = ([0; LANES], [0; LANES]);
        for lane in 0..LANES {
            let (rest, norm) = (f64::from(panel.rests[lane]), f64::from(panel.norms[lane]));
            // more than rounding to a whole number takes
            widths[lane] = whole((codes * rest + rests * norm + tiny) * inverse + 1.0);
            start[lane] = widths[lane] + panel.offsets[lane];
        }
        (widths, start)
    }
}

struct WholeBars<'a> {
    scores: &'a [f32],
    /// Inverse scales of the rows, and of the panel.
    of_rows: &'a [f64],
    of_panel: f64,
    /// -1 to round down and 1 to round up.
    away: f64,
    places: &'a mut [i32],
}

impl Plain for WholeBars<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.scores.iter().zip(self.of_rows);
        for (bar, (&score, &of_row)) in self.places.iter_mut().zip(rows) {
            let sum = f64::from(score) * (of_row * self.of_panel);
            let sum = sum + self.away * (sum.abs() * 1e-12 + 1.0);
            *bar = whole(sum.clamp(-OUT_OF_REACH, OUT_OF_REACH));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::scoring::catalogue::{Items, Values};
    use crate::scoring::screening::MAX_DIM;
    use crate::simd::{Codes, Level, Sure};
    use crate::threads::on;

    /// Check that a score never falls outside what its codes say.
    fn check_bounds(queries: &[f32], items: &[f32], dim: usize, level: Level, codes: Codes) {
        let items_of = Items::new(Values::F32(items), dim).unwrap();
        let screen = on(1, |workers| Screen::new(&items_of, codes, level, workers));
        let screen = screen.unwrap().unwrap();
        let n_rows = queries.len() / dim;
        let rows_of = QueryCodes::new(&screen, queries);
        let all = rows_of.n_rows();
        for panel in 0..screen.panels.len() {
            let (widths, start) = rows_of.start(&screen, panel);
            let twice = widths.map(|width| 2 * width);
            for (lane, &item) in screen.items(panel).iter().enumerate() {
                let item = &items[item as usize * dim..][..dim];
                let score = |query: &[f32]| {
                    query
                        .iter()
                        .zip(item)
                        .fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
                };
                let scores: Vec<f32> = queries.chunks(dim).map(score).collect();
                // the score itself as the bar is reached, and not surely passed
                for bars in [&scores, &scores.iter().map(|s| s.next_down()).collect()] {
                    let (mut maybe, mut sure) = (vec![0; all], vec![0; all]);
                    rows_of.bars(&screen, panel, bars, &mut maybe);
                    rows_of.sure_bars(&screen, panel, &scores, &mut sure);
                    let (mut reached, mut passed) = (vec![0; all], vec![0; all]);
                    for (index, tile) in rows_of.tiles().enumerate() {
                        let rows = index * rows_of.rows..(index + 1) * rows_of.rows;
                        let words = screen.words(panel);
                        level.screen(
                            codes,
                            tile,
                            words,
                            &start,
                            &maybe[rows.clone()],
                            &mut reached[rows.clone()],
                        );
                        if codes == Codes::Shorts {
                            let mut also = vec![0; rows_of.rows];
                            let mut sure = Sure {
                                widths: &twice,
                                bars: &sure[rows.clone()],
                                masks: &mut passed[rows.clone()],
                            };
                            level.bracket(
                                tile,
                                words,
                                &start,
                                &maybe[rows.clone()],
                                &mut also,
                                &mut sure,
                            );
                            assert_eq!(also, reached[rows]);
                        }
                    }
                    for row in 0..n_rows {
                        assert_eq!(reached[row] >> lane & 1, 1, "{codes:?} {row} {item:?}");
                        assert_eq!(passed[row] >> lane & 1, 0, "{codes:?} {row} {item:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn scores_stay_within_their_bounds() {
        let mut random = Random::new(1, 0, 0);
        for dim in [1, 2, 7, 33, 130] {
            for [query_size, item_size] in
                [[1.0, 1.0], [1e-30, 1e12], [1e15, 1e-15], [1e-22, 1e-22]]
            {
                let mut values = |n: usize, size: f32| -> Vec<f32> {
                    let value = |_| match random.below(12) {
                        0 => 0.0,
                        1 => size * 30.0,
                        _ => size * (random.unit() as f32 - 0.5),
                    };
                    (0..n * dim).map(value).collect()
                };
                let (mut queries, items) = (values(14, query_size), values(70, item_size));
                queries[..dim].fill(0.0);
                for level in Level::available() {
                    for codes in [Codes::Bytes, Codes::Shorts] {
                        check_bounds(&queries, &items, dim, level, codes);
                    }
                }
            }
        }
    }

    #[test]
    fn sums_of_the_largest_codes_do_not_overflow() {
        for dim in [MAX_DIM, MAX_DIM - 3] {
            let (ones, minus) = (vec![1.0; dim], vec![-1.0; dim]);
            let queries = [ones.clone(), minus.clone()].concat();
            for level in Level::available() {
                for codes in [Codes::Bytes, Codes::Shorts] {
                    check_bounds(
                        &queries,
                        &[ones.clone(), minus.clone()].concat(),
                        dim,
                        level,
                        codes,
                    );
                }
            }
        }
    }
}
