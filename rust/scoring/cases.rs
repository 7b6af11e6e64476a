//! This module makes small searches for tests, and computes what they must find.

use half::f16;

use crate::error::Error;
use crate::histories::Histories;
use crate::random::Random;
use crate::scoring::catalogue::{Items, Queries, Values};
use crate::scoring::screening::Screen;
use crate::scoring::search::Search;
use crate::simd::{Codes, Level};
use crate::threads::{Workers, on};

/// Queries and items with what each query has seen.
pub struct Case {
    pub queries: Vec<f32>,
    pub items: Vec<f32>,
    pub halves: Vec<f16>,
    pub n_vectors: usize,
    pub dim: usize,
    pub offsets: Vec<i64>,
    pub seen: Vec<i32>,
}

impl Case {
    /// Return random vectors, all exact in half precision; every third query has seen a third of
    /// the items. Values are whole numbers, with many equal scores, or not.
    pub fn new(sizes: [usize; 4], whole: bool) -> Self {
        let [n_queries, n_vectors, n_items, dim] = sizes;
        let mut random = Random::new(7, dim as u64, n_items as u64);
        let mut values = |n: usize| -> Vec<f32> {
            let value = |_| {
                if whole {
                    random.below(5) as f32 - 2.0
                } else {
                    f16::from_f64(random.unit() - 0.5).to_f32()
                }
            };
            (0..n).map(value).collect()
        };
        let (queries, mut items) = (values(n_queries * n_vectors * dim), values(n_items * dim));
        // lengths from tiny to large, and one item of nothing but zeros
        for (item, vector) in items.chunks_mut(dim).enumerate() {
            let scale = [1.0, 0.25, 4.0, 0.0][(item % 7).min(3) * usize::from(item % 7 < 4)];
            for value in vector {
                *value *= if whole { 1.0 } else { scale };
            }
        }
        let (mut offsets, mut seen) = (vec![0], Vec::new());
        for query in 0..n_queries {
            if query % 3 == 0 {
                seen.extend((0..n_items as i32).filter(|item| (item + query as i32) % 3 == 1));
            }
            offsets.push(seen.len() as i64);
        }
        let halves: Vec<_> = items.iter().map(|&value| f16::from_f32(value)).collect();
        let items = halves.iter().map(|half| half.to_f32()).collect();
        Self {
            queries,
            items,
            halves,
            n_vectors,
            dim,
            offsets,
            seen,
        }
    }

    pub fn n_queries(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn n_items(&self) -> usize {
        self.items.len() / self.dim
    }

    pub fn seen_of(&self, query: usize) -> &[i32] {
        &self.seen[self.offsets[query] as usize..self.offsets[query + 1] as usize]
    }

    /// Return the scores of all items for a query, in a plain loop.
    pub fn scores(&self, query: usize) -> Vec<f32> {
        let size = self.n_vectors * self.dim;
        let vectors = &self.queries[query * size..][..size];
        let product = |a: &[f32], b: &[f32]| {
            a.iter()
                .zip(b)
                .fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
        };
        let items = self.items.chunks(self.dim);
        let best = |item: &[f32]| {
            let products = vectors.chunks(self.dim).map(|vector| product(vector, item));
            products.fold(f32::NEG_INFINITY, f32::max)
        };
        items.map(best).collect()
    }

    /// Run a job with every level of instructions, codes and storage, on 1, 2 and 5 threads.
    pub fn each_way<T: Send + PartialEq>(
        &self,
        job: impl Fn(&Search, &Workers) -> Result<T, Error> + Sync,
        check: impl Fn(&T, &str),
    ) {
        for level in Level::available() {
            for codes in [None, Some(Codes::Bytes), Some(Codes::Shorts)] {
                for values in [Values::F32(&self.items), Values::F16(&self.halves)] {
                    for threads in [1, 2, 5] {
                        let result = on(threads, |workers| {
                            let items = Items::new(values, self.dim)?;
                            let queries = Queries::new(&self.queries, self.n_vectors, &items)?;
                            let seen = Histories::new(&self.offsets, &self.seen, self.n_items())?;
                            let screen = match codes {
                                Some(codes) => Screen::new(&items, codes, level, workers)?,
                                None => None,
                            };
                            let search =
                                Search::new(queries, items, &seen, level, screen.as_ref())?;
                            job(&search, workers)
                        });
                        let storage = matches!(values, Values::F16(_));
                        let way = format!("{level:?} {codes:?} f16 {storage} threads {threads}");
                        check(&result.unwrap(), &way);
                    }
                }
            }
        }
    }
}

/// Sizes that fill panels and tiles, and that do not: queries, vectors of a query, items, width.
pub const SIZES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [3, 1, 31, 3],
    [5, 2, 33, 8],
    [13, 1, 64, 16],
    [2, 3, 700, 5],
    [25, 1, 500, 37],
    [7, 1, 1500, 65],
    [4, 4, 129, 20],
];
