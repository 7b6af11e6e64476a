//! This module checks the vectors of items and queries, and computes their exact inner products.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::Error;
use crate::simd::{CHAINS, LANES, Level, prefetch};

/// Floats in a cache line.
const LINE: usize = 16;

/// Vectors as they are stored; half precision is widened before anything is computed.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Values<'_> {
    fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }
}

/// What was found when the vectors of a catalogue were checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurements {
    pub n_items: usize,
    pub dim: usize,
    /// Largest Euclidean norm of a vector.
    pub largest_norm: f64,
}

/// The checked vectors of the items, `[n_items, dim]` row-major.
#[derive(Debug, Clone, Copy)]
pub struct Items<'a> {
    values: Values<'a>,
    measurements: Measurements,
}

impl<'a> Items<'a> {
    /// Return the view of vectors of width `dim`.
    ///
    /// # Errors
    /// If `dim` is 0, the length does not fit, there are more than 2^31 - 1 items, or a value is not
    /// finite.
    pub fn new(values: Values<'a>, dim: usize) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::value("items of width > 0", &dim));
        }
        let n_items = values.len() / dim;
        Error::check_length("items", n_items * dim, values.len())?;
        if i32::try_from(n_items).is_err() {
            return Err(Error::value("fewer than 2^31 items", &n_items));
        }
        let mut measurements = Measurements {
            n_items,
            dim,
            largest_norm: 0.0,
        };
        let mut items = Self {
            values,
            measurements,
        };
        let mut buffer = vec![0.0; LANES * dim];
        for first in (0..n_items).step_by(LANES) {
            let rows = items.rows(first, &mut buffer);
            measurements.largest_norm = measurements
                .largest_norm
                .max(largest_norm("items", first, rows, dim)?);
        }
        items.measurements = measurements;
        Ok(items)
    }

    /// Return the view of vectors that [`Items::new`] has checked before.
    ///
    /// # Errors
    /// If they are not of the size they were.
    pub fn checked(values: Values<'a>, measurements: Measurements) -> Result<Self, Error> {
        Error::check_length(
            "items",
            measurements.n_items * measurements.dim,
            values.len(),
        )?;
        Ok(Self {
            values,
            measurements,
        })
    }

    #[must_use]
    pub fn measurements(&self) -> Measurements {
        self.measurements
    }

    #[must_use]
    pub fn n_items(&self) -> usize {
        self.measurements.n_items
    }

    #[must_use]
    pub fn dim(&self) -> usize {
        self.measurements.dim
    }

    /// Return the vectors of up to `LANES` items as float32, in `buffer` if they must be widened.
    pub fn rows<'b>(&'b self, first: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let last = (first + LANES).min(self.n_items());
        self.range(first * self.dim()..last * self.dim(), buffer)
    }

    /// Return the vector of one item, in `buffer` if it must be widened.
    pub fn vector<'b>(&'b self, item: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        self.range(item * self.dim()..(item + 1) * self.dim(), buffer)
    }

    fn range<'b>(&'b self, range: Range<usize>, buffer: &'b mut [f32]) -> &'b [f32] {
        match self.values {
            Values::F32(values) => &values[range],
            Values::F16(values) => {
                let buffer = &mut buffer[..range.len()];
                values[range].convert_to_f32_slice(buffer);
                buffer
            }
        }
    }

    /// Ask for vectors ahead of their use.
    pub fn prefetch(&self, items: Range<usize>) {
        let places = items.start * self.dim()..items.end.min(self.n_items()) * self.dim();
        match self.values {
            Values::F32(values) => places
                .step_by(LINE)
                .for_each(|place| prefetch(values, place)),
            Values::F16(values) => {
                places
                    .step_by(2 * LINE)
                    .for_each(|place| prefetch(values, place));
            }
        }
    }
}

/// The checked queries, `[n_queries, n_vectors, dim]` row-major; the score of an item is its largest
/// inner product with the vectors of the query.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    values: &'a [f32],
    n_vectors: usize,
    dim: usize,
}

impl<'a> Queries<'a> {
    /// Return the view of queries for these items.
    ///
    /// # Errors
    /// If the lengths do not fit, a value is not finite, or an inner product could pass the largest
    /// float32.
    pub fn new(values: &'a [f32], n_vectors: usize, items: &Items) -> Result<Self, Error> {
        let dim = items.dim();
        let size = n_vectors * dim;
        if size == 0 {
            return Err(Error::value("queries of at least one vector", &n_vectors));
        }
        Error::check_length("queries", values.len() / size * size, values.len())?;
        let mut longest = 0.0_f64;
        for (query, vectors) in values.chunks_exact(size).enumerate() {
            for vector in vectors.chunks_exact(dim) {
                longest = longest.max(largest_norm("queries", query, vector, dim)?);
            }
        }
        let items = items.measurements.largest_norm;
        // half: every partial sum is bounded by the product of the norms, up to rounding
        if longest * items > f64::from(f32::MAX) / 2.0 {
            return Err(Error::Overflow {
                queries: format!("{longest:e}"),
                items: format!("{items:e}"),
            });
        }
        Ok(Self {
            values,
            n_vectors,
            dim,
        })
    }

    /// Return the number of queries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / (self.n_vectors * self.dim)
    }

    /// Return whether there is no query.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[must_use]
    pub fn n_vectors(&self) -> usize {
        self.n_vectors
    }

    /// Return the vectors of some queries, one after the other.
    #[must_use]
    pub fn vectors(&self, queries: Range<usize>) -> &'a [f32] {
        let size = self.n_vectors * self.dim;
        &self.values[queries.start * size..queries.end * size]
    }
}

/// Return the largest Euclidean norm of vectors of `dim` finite values, the first of them `row`.
fn largest_norm(name: &'static str, row: usize, vectors: &[f32], dim: usize) -> Result<f64, Error> {
    let mut largest = 0.0_f64;
    for (row, vector) in (row..).zip(vectors.chunks_exact(dim)) {
        let short = squares(vector);
        // the short sum passes float32 where the values are large as well as where they are bad,
        // and loses all digits where they are tiny
        let norm = if short.is_finite() && short > f32::MIN_POSITIVE {
            f64::from(short)
        } else if let Some(bad) = vector.iter().find(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                name,
                row,
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
    let (chunks, rest) = vector.as_chunks::<LINE>();
    let rest: f32 = rest.iter().map(|value| value * value).sum();
    let mut sums = [0.0_f32; LINE];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    rest + sums.iter().sum::<f32>()
}

/// Computes single scores, bit for bit as panels give them.
pub struct Scorer<'a> {
    queries: Queries<'a>,
    items: Items<'a>,
    level: Level,
    buffer: Vec<f32>,
}

impl<'a> Scorer<'a> {
    #[must_use]
    pub fn new(queries: Queries<'a>, items: Items<'a>, level: Level) -> Self {
        let buffer = vec![0.0; CHAINS * items.dim()];
        Self {
            queries,
            items,
            level,
            buffer,
        }
    }

    /// Return the scores of up to `CHAINS` items.
    pub fn scores(&mut self, query: usize, items: &[i32]) -> [f32; CHAINS] {
        let dim = self.items.dim();
        let vectors = self.queries.vectors(query..query + 1);
        let mut others = [&vectors[..dim]; CHAINS];
        let buffers = self.buffer.chunks_exact_mut(dim);
        for ((other, &item), buffer) in others.iter_mut().zip(items).zip(buffers) {
            *other = self.items.vector(item as usize, buffer);
        }
        let mut best = [f32::NEG_INFINITY; CHAINS];
        for vector in vectors.chunks_exact(dim) {
            let scores = self.level.products(vector, others);
            best = std::array::from_fn(|index| best[index].max(scores[index]));
        }
        best
    }
}

/// The order in which panels are visited: each once, and early ones spread over all.
#[derive(Debug, Clone)]
pub struct Spread {
    n: usize,
    step: usize,
}

impl Spread {
    /// Return the order of `n` panels.
    #[must_use]
    pub fn new(n: usize) -> Self {
        // steps of the golden ratio fill an interval evenly, however many were taken
        let mut step = ((n as f64 * 0.618_034) as usize).max(1);
        while gcd(step, n) > 1 {
            step += 1;
        }
        Self { n, step }
    }

    /// Return the panels in their order.
    pub fn panels(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { n, step } = *self;
        std::iter::successors(Some(0), move |panel| Some((panel + step) % n.max(1))).take(n)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_found_where_their_squares_leave_float32() {
        let norm = |values: &[f32]| largest_norm("items", 0, values, 2).unwrap();
        assert!((norm(&[3.0, 4.0, 1.0, 1.0]) - 5.0).abs() < 1e-9);
        assert!((norm(&[3e30, 4e30]) / 5e30 - 1.0).abs() < 1e-6);
        assert!((norm(&[3e-30, 4e-30]) / 5e-30 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn vectors_that_cannot_be_scored_are_refused() {
        let bad = Items::new(Values::F32(&[0.0, 0.0, 0.0, f32::NAN]), 2).unwrap_err();
        let Error::NotFinite { row, name, .. } = bad else {
            panic!("{bad}");
        };
        assert_eq!((name, row), ("items", 1));
        assert!(Items::new(Values::F16(&[f16::INFINITY]), 1).is_err());
        assert!(Items::new(Values::F32(&[0.0; 3]), 2).is_err());
        assert!(Items::new(Values::F32(&[]), 0).is_err());
        let items = Items::new(Values::F32(&[1e20, 0.0]), 2).unwrap();
        assert!(Queries::new(&[1e10, 0.0], 1, &items).is_ok());
        assert!(matches!(
            Queries::new(&[1e20, 0.0], 1, &items),
            Err(Error::Overflow { .. })
        ));
        assert!(Queries::new(&[0.0; 3], 1, &items).is_err());
        assert!(Queries::new(&[0.0; 4], 0, &items).is_err());
        assert!(Items::checked(Values::F32(&[0.0; 3]), items.measurements()).is_err());
    }

    #[test]
    fn every_panel_is_visited_once_and_early_ones_are_spread() {
        for n in [0, 1, 2, 3, 5, 12, 100, 101] {
            let mut panels: Vec<_> = Spread::new(n).panels().collect();
            panels.sort_unstable();
            assert!(panels.into_iter().eq(0..n));
        }
        let early: Vec<_> = Spread::new(1000).panels().take(10).collect();
        for tenth in 0..10 {
            let near = early.iter().filter(|&&panel| panel / 100 == tenth);
            assert!(near.count() <= 2, "{early:?}");
        }
    }
}
