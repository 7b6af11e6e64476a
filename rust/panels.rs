//! Inner products of query vectors with blocks of the catalogue, a block at a time.
//!
//! Every score is one chain of multiply-adds over the vector's places in order (fused where the
//! processor can), whatever the block, the task or the number of threads: on one machine a score
//! depends on its two vectors only.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::error::Error;

/// Items side by side in one panel.
const LANES: usize = 16;
/// Query vectors that share one pass over a panel.
const ROWS: usize = 4;
/// Floats of packed items that should stay in the second-level cache.
const BLOCK_FLOATS: usize = 32 * 1024;

/// Queries of one or more vectors, and the catalogue they are scored against.
///
/// The score of an item is the largest inner product over the query's vectors.
#[derive(Debug, Clone, Copy)]
pub struct Catalogue<'a> {
    queries: &'a [f32],
    items: &'a [f32],
    n_vectors: usize,
    dim: usize,
}

impl<'a> Catalogue<'a> {
    /// Return the view of `[Q, n_vectors, dim]` queries and `[N, dim]` items, row-major.
    ///
    /// # Errors
    /// If a size is 0, the lengths do not fit, a value is not finite, or an inner product could
    /// pass the largest float32.
    pub fn new(
        queries: &'a [f32],
        items: &'a [f32],
        n_vectors: usize,
        dim: usize,
    ) -> Result<Self, Error> {
        let size = n_vectors * dim;
        if size == 0 {
            return Err(Error::value(
                "queries of at least one vector of width > 0",
                &format!("{n_vectors} of width {dim}"),
            ));
        }
        Error::check_length("queries", queries.len() / size * size, queries.len())?;
        Error::check_length("items", items.len() / dim * dim, items.len())?;
        let longest_query = largest_norm("queries", queries, size, dim)?;
        let longest_item = largest_norm("items", items, dim, dim)?;
        // half: every partial sum is bounded by the product of the norms, up to rounding
        if longest_query * longest_item > f64::from(f32::MAX) / 2.0 {
            return Err(Error::Overflow {
                queries: format!("{longest_query:e}"),
                items: format!("{longest_item:e}"),
            });
        }
        Ok(Self {
            queries,
            items,
            n_vectors,
            dim,
        })
    }

    /// Return the number of queries.
    #[must_use]
    pub fn n_queries(&self) -> usize {
        self.queries.len() / (self.n_vectors * self.dim)
    }

    /// Return the number of items.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.items.len() / self.dim
    }

    /// Return how many queries make a good task: enough to pay for packing the items.
    #[must_use]
    pub fn queries_per_task(&self) -> usize {
        (64 / self.n_vectors).max(1)
    }

    /// Return the score of one item for one query, bit for bit as [`Catalogue::for_each_block`]
    /// gives it.
    #[must_use]
    pub fn score(&self, query: usize, item: usize) -> f32 {
        let mut score = f32::NEG_INFINITY;
        self.for_each_block(query..query + 1, item..item + 1, |_, _, scores| {
            score = scores[0];
        });
        score
    }

    /// Call `visit(query, first_item, scores)` for each query and each block of the items.
    ///
    /// Blocks of one query come in the order of their items; `scores[i]` belongs to item
    /// `first_item + i`.
    pub fn for_each_block(
        &self,
        queries: Range<usize>,
        items: Range<usize>,
        mut visit: impl FnMut(usize, usize, &[f32]),
    ) {
        let width = (BLOCK_FLOATS / self.dim / LANES).clamp(1, 32) * LANES;
        let width = width.min(items.len().next_multiple_of(LANES));
        let size = self.n_vectors * self.dim;
        let vectors = &self.queries[queries.start * size..queries.end * size];
        let quads = pack_queries(vectors, self.dim);
        let mut panels = vec![[0.0; LANES]; width / LANES * self.dim];
        let mut scores = vec![0.0; quads.len() / self.dim * ROWS * width];
        let arch = Arch::new();
        for start in items.clone().step_by(width.max(1)) {
            let end = (start + width).min(items.end);
            let block = &self.items[start * self.dim..end * self.dim];
            pack_items(block, self.dim, &mut panels);
            arch.dispatch(Multiply {
                quads: &quads,
                panels: &panels,
                dim: self.dim,
                scores: &mut scores,
            });
            let rows = scores.chunks_exact_mut(width * self.n_vectors);
            for (query, rows) in queries.clone().zip(rows) {
                visit(query, start, &largest(rows, width)[..end - start]);
            }
        }
    }
}

/// Return the largest Euclidean norm of the rows of `dim` values.
fn largest_norm(name: &'static str, values: &[f32], size: usize, dim: usize) -> Result<f64, Error> {
    let mut largest = 0.0_f64;
    for (row, vector) in values.chunks_exact(dim).enumerate() {
        let short = squares(vector);
        // the short sum passes float32 where the values are large as well as where they are bad
        let norm = if short.is_finite() {
            f64::from(short)
        } else if let Some(bad) = vector.iter().find(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                name,
                row: row * dim / size,
                got: bad.to_string(),
            });
        } else {
            vector.iter().map(|&value| f64::from(value).powi(2)).sum()
        };
        largest = largest.max(norm);
    }
    Ok(largest.sqrt())
}

fn squares(vector: &[f32]) -> f32 {
    let chunks = vector.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|value| value * value).sum();
    let mut sums = [0.0_f32; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    rest + sums.iter().sum::<f32>()
}

/// Return the vectors in groups of `ROWS`, each group `[dim][ROWS]`, the last filled with zeros.
fn pack_queries(vectors: &[f32], dim: usize) -> Vec<[f32; ROWS]> {
    let n_vectors = vectors.len() / dim;
    let mut quads = vec![[0.0; ROWS]; n_vectors.div_ceil(ROWS) * dim];
    for (index, vector) in vectors.chunks_exact(dim).enumerate() {
        let quad = &mut quads[index / ROWS * dim..][..dim];
        for (place, &value) in quad.iter_mut().zip(vector) {
            place[index % ROWS] = value;
        }
    }
    quads
}

/// Write the items in groups of `LANES`, each group `[dim][LANES]`; places left over keep what
/// they held, and what comes of them is not read.
fn pack_items(block: &[f32], dim: usize, panels: &mut [[f32; LANES]]) {
    for (index, item) in block.chunks_exact(dim).enumerate() {
        let panel = &mut panels[index / LANES * dim..][..dim];
        for (place, &value) in panel.iter_mut().zip(item) {
            place[index % LANES] = value;
        }
    }
}

/// Writes `[quads * ROWS, panels * LANES]` inner products with the widest instructions there are.
struct Multiply<'a> {
    quads: &'a [[f32; ROWS]],
    panels: &'a [[f32; LANES]],
    dim: usize,
    scores: &'a mut [f32],
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    // inlined, or the compiler would not use the instructions that were chosen
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let width = self.panels.len() / self.dim * LANES;
        for (panel_index, panel) in self.panels.chunks_exact(self.dim).enumerate() {
            let rows = self.scores.chunks_exact_mut(ROWS * width);
            for (quad, rows) in self.quads.chunks_exact(self.dim).zip(rows) {
                let sums = tile::<S>(quad, panel);
                for (row, sums) in rows.chunks_exact_mut(width).zip(&sums) {
                    row[panel_index * LANES..][..LANES].copy_from_slice(sums);
                }
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn tile<S: Simd>(quad: &[[f32; ROWS]], panel: &[[f32; LANES]]) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    for (values, column) in quad.iter().zip(panel) {
        for (sums, &value) in sums.iter_mut().zip(values) {
            for (sum, &item) in sums.iter_mut().zip(column) {
                // without the instruction, the fused form is a slow call
                *sum = if S::IS_SCALAR {
                    value * item + *sum
                } else {
                    value.mul_add(item, *sum)
                };
            }
        }
    }
    sums
}

/// Return the largest of each column, written into the first row.
fn largest(rows: &mut [f32], width: usize) -> &[f32] {
    let (first, others) = rows.split_at_mut(width);
    for other in others.chunks_exact(width) {
        for (best, &score) in first.iter_mut().zip(other) {
            *best = if score > *best { score } else { *best };
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 37;

    fn values(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| (i * 7919 % 1013) as f32 / 1013.0 - 0.5)
            .collect()
    }

    #[test]
    fn every_instruction_set_gives_the_inner_products() {
        let (queries, items) = (values(5 * DIM), values(40 * DIM));
        let quads = pack_queries(&queries, DIM);
        let mut panels = vec![[0.0; LANES]; 3 * DIM];
        pack_items(&items, DIM, &mut panels);
        let width = 3 * LANES;
        let (mut plain, mut wide) = (vec![0.0; 2 * ROWS * width], vec![0.0; 2 * ROWS * width]);
        let multiply = |scores| Multiply {
            quads: &quads,
            panels: &panels,
            dim: DIM,
            scores,
        };
        multiply(&mut plain).with_simd(pulp::Scalar);
        Arch::new().dispatch(multiply(&mut wide));
        for (query, vector) in queries.chunks(DIM).enumerate() {
            for (number, item) in items.chunks(DIM).enumerate() {
                let exact: f64 = vector.iter().zip(item).map(|(a, b)| f64::from(a * b)).sum();
                for scores in [&plain, &wide] {
                    let score = f64::from(scores[query * width + number]);
                    assert!((score - exact).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn one_score_is_the_same_to_the_bit_alone_and_in_a_block() {
        let (queries, items) = (values(3 * 2 * DIM), values(1200 * DIM));
        let catalogue = Catalogue::new(&queries, &items, 2, DIM).unwrap();
        let mut n_scores = 0;
        catalogue.for_each_block(0..3, 5..1200, |query, first, scores| {
            for (item, score) in (first..).zip(scores) {
                assert_eq!(score.to_bits(), catalogue.score(query, item).to_bits());
                n_scores += 1;
            }
        });
        assert_eq!(n_scores, 3 * 1195);
    }

    #[test]
    fn norms_are_found_where_their_squares_pass_float32() {
        assert!((largest_norm("items", &[3.0, 4.0, 1.0, 1.0], 2, 2).unwrap() - 5.0).abs() < 1e-9);
        let large = largest_norm("items", &[3e30, 4e30], 2, 2).unwrap();
        assert!((large / 5e30 - 1.0).abs() < 1e-6);
    }
}
