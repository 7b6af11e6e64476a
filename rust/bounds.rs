//! The codes of queries, and what sums of codes say of scores: the bound of `screening`, worked out.

// what `Level::wide` compiles must be inlined there
#![allow(clippy::inline_always)]

use crate::catalogue::tiles;
use crate::codes::{Code, UP, norm, or_one, pack, whole};
use crate::screening::{Panel, Screen};
use crate::simd::{Codes, Column, LANES, Level, Plain};

/// A bar that no sum of codes reaches, and whose negative every sum reaches. Sums stay below 2^30,
/// and what bounds add to them, at most the largest code times the width, far below 2^28.
const OUT_OF_REACH: f64 = 1.6e9;

/// Return what is added to a query's codes so that they are not negative.
pub fn offset(level: Level, codes: Codes) -> i32 {
    match codes {
        Codes::Bytes => level.largest_codes(codes, 1).0 + 1,
        Codes::Shorts => 0,
    }
}

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
            let facts = screen.level.wide(Code {
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
            queries.code_norm = queries.code_norm.max(facts.codes);
            queries.rests = queries.rests.max((facts.rest + rounding * norm) / scale);
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
