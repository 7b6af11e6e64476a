//! Exact best items and exact ranks over the whole catalogue, without a queries x items matrix.

use std::cmp::Ordering;
use std::ops::Range;

use rayon::prelude::*;

use crate::error::Error;
use crate::histories::Histories;
use crate::panels::Catalogue;
use crate::threads::Workers;

/// Item number of a place for which no item was left.
pub const NO_ITEM: i32 = -1;
/// Scores looked at together before single ones are.
const GROUP: usize = 16;

/// An item and its score; the better one comes first when sorted.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    item: i32,
}

impl Candidate {
    /// Higher scores first, then lower item numbers; 0.0 and -0.0 are equal.
    fn compare(self, other: Self) -> Ordering {
        // scores are finite: the catalogue was checked
        let scores = other
            .score
            .partial_cmp(&self.score)
            .unwrap_or(Ordering::Equal);
        scores.then(self.item.cmp(&other.item))
    }
}

/// Return the `k` best unseen items of each query, best first: `[Q, k]` numbers and scores.
///
/// Equal scores go to the lower item number. Places for which no item is left hold [`NO_ITEM`] and
/// minus infinity.
///
/// # Errors
/// If `seen` has not one row per query or is wrong, or `k` is 0.
pub fn top_k(
    catalogue: &Catalogue,
    seen: &Histories,
    k: usize,
    workers: &Workers,
) -> Result<(Vec<i32>, Vec<f32>), Error> {
    if k == 0 {
        return Err(Error::value("k >= 1", &k));
    }
    Error::check_length("seen offsets (less 1)", catalogue.n_queries(), seen.len())?;
    let seen = seen.rows()?;
    let mut numbers = vec![NO_ITEM; seen.len() * k];
    let mut scores = vec![f32::NEG_INFINITY; seen.len() * k];
    let tasks = Tasks::new(catalogue, workers);
    {
        let places = numbers.par_chunks_mut(tasks.n_queries * k);
        let places = places.zip(scores.par_chunks_mut(tasks.n_queries * k));
        places.enumerate().for_each(|(index, (numbers, scores))| {
            if workers.go_on().is_err() {
                return;
            }
            let queries = tasks.queries(index);
            let parts: Vec<_> = tasks
                .items
                .par_iter()
                .map(|items| best_of(catalogue, &seen, k, queries.clone(), items.clone()))
                .collect();
            let places = numbers.chunks_mut(k).zip(scores.chunks_mut(k));
            for (row, (numbers, scores)) in places.enumerate() {
                let mut best: Vec<_> = parts.iter().flat_map(|part| &part[row]).collect();
                best.sort_unstable_by(|a, b| a.compare(**b));
                for ((candidate, number), score) in best.iter().zip(numbers).zip(scores) {
                    (*number, *score) = (candidate.item, candidate.score);
                }
            }
        });
    }
    workers.go_on()?;
    Ok((numbers, scores))
}

/// How the work is cut: queries in tasks of equal size, and where those are too few for the
/// threads, the items in parts as well. Results do not depend on it.
struct Tasks {
    n_queries: usize,
    total: usize,
    items: Vec<Range<usize>>,
}

impl Tasks {
    fn new(catalogue: &Catalogue, workers: &Workers) -> Self {
        let threads = workers.count();
        let (total, n_items) = (catalogue.n_queries(), catalogue.n_items());
        let n_queries = total
            .div_ceil(threads)
            .clamp(1, catalogue.queries_per_task());
        let n_parts = threads.div_ceil(total.div_ceil(n_queries).max(1));
        let part = n_items.div_ceil(n_parts).max(1);
        let items = (0..n_items).step_by(part);
        Self {
            n_queries,
            total,
            items: items
                .map(|start| start..(start + part).min(n_items))
                .collect(),
        }
    }

    fn queries(&self, index: usize) -> Range<usize> {
        let start = index * self.n_queries;
        start..(start + self.n_queries).min(self.total)
    }
}

/// Return the best `k` of a part of the items, unsorted, for each of some queries.
fn best_of(
    catalogue: &Catalogue,
    seen: &[&[i32]],
    k: usize,
    queries: Range<usize>,
    items: Range<usize>,
) -> Vec<Vec<Candidate>> {
    let first = queries.start;
    let mut best: Vec<_> = queries.clone().map(|_| Best::new(k, items.len())).collect();
    catalogue.for_each_block(queries, items, |query, start, scores| {
        best[query - first].add(start, scores, seen[query]);
    });
    best.into_iter().map(Best::finish).collect()
}

/// The best `k` of what was added so far, among at most as many again that have not been sorted
/// out yet.
struct Best {
    candidates: Vec<Candidate>,
    k: usize,
    /// Score of the k-th best; later items with this score have higher numbers and lose.
    threshold: f32,
}

impl Best {
    fn new(k: usize, n_items: usize) -> Self {
        Self {
            candidates: Vec::with_capacity((2 * k.min(n_items)).min(n_items)),
            k,
            threshold: f32::NEG_INFINITY,
        }
    }

    fn add(&mut self, start: usize, scores: &[f32], seen: &[i32]) {
        for (group_index, group) in scores.chunks(GROUP).enumerate() {
            let threshold = self.threshold;
            // no early exit, so that the compiler compares the group at once
            let n_above: u32 = group
                .iter()
                .map(|&score| u32::from(score > threshold))
                .sum();
            if n_above == 0 {
                continue;
            }
            let first = start + group_index * GROUP;
            for (item, &score) in (first as i32..).zip(group) {
                if score > self.threshold && seen.binary_search(&item).is_err() {
                    self.push(Candidate { score, item });
                }
            }
        }
    }

    fn push(&mut self, candidate: Candidate) {
        self.candidates.push(candidate);
        if self.candidates.len() >= self.k.saturating_mul(2) {
            self.keep_best();
            self.threshold = self.candidates[self.k - 1].score;
        }
    }

    fn keep_best(&mut self) {
        if self.candidates.len() > self.k {
            self.candidates
                .select_nth_unstable_by(self.k - 1, |a, b| a.compare(*b));
            self.candidates.truncate(self.k);
        }
    }

    fn finish(mut self) -> Vec<Candidate> {
        self.keep_best();
        self.candidates
    }
}

/// How many candidates score above the target of each query, how many the same, out of how many.
///
/// The candidates are all items but the target and what the query has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranks {
    pub greater: Vec<i32>,
    pub equal: Vec<i32>,
    pub candidates: Vec<i32>,
}

/// Return the counts that give the rank of `targets[query]` for each query.
///
/// A target that is among the seen items is ranked all the same.
///
/// # Errors
/// If there is not one target and one row of `seen` per query, a target is not in the catalogue, or
/// `seen` is wrong.
pub fn ranks(
    catalogue: &Catalogue,
    targets: &[i32],
    seen: &Histories,
    workers: &Workers,
) -> Result<Ranks, Error> {
    let n_items = catalogue.n_items();
    Error::check_length("targets", catalogue.n_queries(), targets.len())?;
    Error::check_length("seen offsets (less 1)", targets.len(), seen.len())?;
    for (row, &target) in targets.iter().enumerate() {
        Error::check_index("targets", row, n_items, target)?;
    }
    let seen = seen.rows()?;
    let tasks = Tasks::new(catalogue, workers);
    let n_tasks = targets.len().div_ceil(tasks.n_queries);
    let counts: Vec<Vec<Count>> = {
        let counts = (0..n_tasks).into_par_iter().map(|index| {
            let queries = tasks.queries(index);
            let parts = tasks
                .items
                .par_iter()
                .map(|items| count_part(catalogue, targets, &seen, queries.clone(), items.clone()));
            parts.reduce(
                || vec![Count::default(); queries.len()],
                |a, b| a.iter().zip(&b).map(|(a, b)| a.plus(*b)).collect(),
            )
        });
        counts.collect()
    };
    let mut ranks = Ranks::default();
    for ((count, seen), target) in counts.into_iter().flatten().zip(seen).zip(targets) {
        ranks.greater.push(count.greater);
        ranks.equal.push(count.equal);
        let n_left_out = seen.len() + usize::from(seen.binary_search(target).is_err());
        ranks.candidates.push((n_items - n_left_out) as i32);
    }
    Ok(ranks)
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    greater: i32,
    equal: i32,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            greater: self.greater + other.greater,
            equal: self.equal + other.equal,
        }
    }
}

fn count_part(
    catalogue: &Catalogue,
    targets: &[i32],
    seen: &[&[i32]],
    queries: Range<usize>,
    items: Range<usize>,
) -> Vec<Count> {
    let first = queries.start;
    let bars: Vec<f32> = queries
        .clone()
        .map(|query| catalogue.score(query, targets[query] as usize))
        .collect();
    let mut counts = vec![Count::default(); queries.len()];
    catalogue.for_each_block(queries, items, |query, start, scores| {
        let count = &mut counts[query - first];
        let bar = bars[query - first];
        for &score in scores {
            count.greater += i32::from(score > bar);
            count.equal += i32::from(score == bar);
        }
        let leave_out = |item: i32| {
            let score = scores[item as usize - start];
            count.greater -= i32::from(score > bar);
            count.equal -= i32::from(score == bar);
        };
        left_out(seen[query], targets[query], start..start + scores.len()).for_each(leave_out);
    });
    counts
}

/// Return the seen items and the target, each once, as far as they lie in a range of items.
fn left_out(seen: &[i32], target: i32, items: Range<usize>) -> impl Iterator<Item = i32> {
    let seen = &seen[seen.partition_point(|&item| (item as usize) < items.start)..];
    let seen = &seen[..seen.partition_point(|&item| (item as usize) < items.end)];
    let alone = items.contains(&(target as usize)) && seen.binary_search(&target).is_err();
    seen.iter().copied().chain(alone.then_some(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::threads::on;

    fn random_vectors(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, 0, 0);
        (0..n).map(|_| random.unit() as f32 - 0.5).collect()
    }

    /// Every item's score in a plain loop, sorted as documented, seen items left out.
    fn sorted(queries: &[f32], items: &[f32], dim: usize, seen: &[i32]) -> Vec<Candidate> {
        let score = |item: &[f32]| {
            let products = queries.chunks(dim).map(|query| {
                query
                    .iter()
                    .zip(item)
                    .fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
            });
            products.fold(f32::NEG_INFINITY, f32::max)
        };
        let scores = (0..).zip(items.chunks(dim).map(score));
        let mut all: Vec<_> = scores
            .map(|(item, score)| Candidate { score, item })
            .filter(|candidate| !seen.contains(&candidate.item))
            .collect();
        all.sort_by(|a, b| a.compare(*b));
        all
    }

    #[test]
    fn top_k_and_ranks_are_those_of_a_full_sort_for_any_shape_and_threads() {
        for (n_queries, n_vectors, n_items, dim, k) in [
            (1, 1, 1, 1, 3),
            (3, 1, 700, 20, 5),
            (70, 3, 45, 7, 50),
            (2, 2, 1100, 130, 600),
        ] {
            let size = n_vectors * dim;
            let queries = random_vectors(n_queries * size, 1);
            let mut items = random_vectors(n_items * dim, 2);
            // every other item equals the one before it: ties
            for pair in items.chunks_exact_mut(2 * dim) {
                pair.copy_within(..dim, dim);
            }
            let seen_items: Vec<i32> = (0..n_items as i32).filter(|item| item % 3 == 1).collect();
            let offsets: Vec<i64> = (0..=n_queries)
                .map(|row| if row == 0 { 0 } else { seen_items.len() as i64 })
                .collect();
            let seen = Histories::new(&offsets, &seen_items, n_items).unwrap();
            let targets: Vec<i32> = (0..n_queries)
                .map(|query| (query % n_items) as i32)
                .collect();
            let catalogue = Catalogue::new(&queries, &items, n_vectors, dim).unwrap();
            for threads in [1, 2, 5] {
                let (numbers, scores) =
                    on(threads, |workers| top_k(&catalogue, &seen, k, workers)).unwrap();
                let ranks = on(threads, |workers| {
                    ranks(&catalogue, &targets, &seen, workers)
                })
                .unwrap();
                for query in 0..n_queries {
                    let seen = seen.row(query).unwrap();
                    let vectors = &queries[query * size..][..size];
                    let mut expected = sorted(vectors, &items, dim, seen);
                    expected.truncate(k);
                    let got: Vec<i32> = numbers[query * k..][..k].to_vec();
                    let mut items_expected: Vec<i32> = expected.iter().map(|c| c.item).collect();
                    items_expected.resize(k, NO_ITEM);
                    assert_eq!(got, items_expected);
                    for (candidate, score) in expected.iter().zip(&scores[query * k..]) {
                        assert!((candidate.score - score).abs() < 1e-5);
                    }
                    let all = sorted(vectors, &items, dim, &[]);
                    let bar = all.iter().find(|c| c.item == targets[query]).unwrap().score;
                    let others = sorted(vectors, &items, dim, seen);
                    let others: Vec<_> =
                        others.iter().filter(|c| c.item != targets[query]).collect();
                    assert_eq!(ranks.candidates[query], others.len() as i32);
                    let greater = others.iter().filter(|c| c.score > bar).count();
                    let equal = others.iter().filter(|c| c.score == bar).count();
                    assert_eq!(
                        (ranks.greater[query], ranks.equal[query]),
                        (greater as i32, equal as i32)
                    );
                }
            }
        }
    }

    #[test]
    fn equal_scores_are_listed_by_number_and_counted_as_equal() {
        let catalogue = Catalogue::new(&[1.0], &[0.5; 40], 1, 1).unwrap();
        let seen = Histories::new(&[0, 1], &[2], 40).unwrap();
        let (numbers, scores) = on(1, |workers| top_k(&catalogue, &seen, 4, workers)).unwrap();
        assert_eq!(numbers, [0, 1, 3, 4]);
        assert_eq!(scores, [0.5; 4]);
        let ranks = on(1, |workers| ranks(&catalogue, &[7], &seen, workers)).unwrap();
        assert_eq!(
            (ranks.greater[0], ranks.equal[0], ranks.candidates[0]),
            (0, 38, 38)
        );
    }

    #[test]
    fn a_catalogue_without_items_leaves_every_place_empty() {
        let catalogue = Catalogue::new(&[1.0, 2.0], &[], 1, 2).unwrap();
        let seen = Histories::new(&[0, 0], &[], 0).unwrap();
        let (numbers, scores) = on(2, |workers| top_k(&catalogue, &seen, 2, workers)).unwrap();
        assert_eq!(numbers, [NO_ITEM; 2]);
        assert_eq!(scores, [f32::NEG_INFINITY; 2]);
    }

    #[test]
    fn bad_input_is_refused() {
        let is_err = |queries: &[f32], items: &[f32], k, dim| {
            Catalogue::new(queries, items, k, dim).is_err()
        };
        assert!(is_err(&[1.0], &[1.0], 1, 0));
        assert!(is_err(&[1.0], &[1.0], 0, 1));
        assert!(is_err(&[1.0; 3], &[1.0; 2], 1, 2));
        assert!(is_err(&[1.0; 2], &[1.0; 3], 1, 2));
        assert!(is_err(&[f32::NAN; 2], &[1.0; 2], 1, 2));
        assert!(is_err(&[1.0; 2], &[f32::INFINITY; 2], 1, 2));
        assert!(is_err(&[1e30; 2], &[1e30; 2], 1, 2));
        assert!(!is_err(&[1e30; 2], &[1e-30; 2], 1, 2));
        let bad = [1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN];
        let error = Catalogue::new(&bad, &[], 2, 1).unwrap_err();
        assert!(matches!(
            error,
            Error::NotFinite {
                name: "queries",
                row: 2,
                ..
            }
        ));
        let catalogue = Catalogue::new(&[1.0], &[0.5; 4], 1, 1).unwrap();
        let seen = Histories::new(&[0, 0], &[], 4).unwrap();
        assert!(on(1, |workers| top_k(&catalogue, &seen, 0, workers)).is_err());
        assert!(on(1, |workers| ranks(&catalogue, &[4], &seen, workers)).is_err());
        assert!(on(1, |workers| ranks(&catalogue, &[-1], &seen, workers)).is_err());
        assert!(on(1, |workers| ranks(&catalogue, &[0, 1], &seen, workers)).is_err());
        let two = Histories::new(&[0, 0, 0], &[], 4).unwrap();
        assert!(on(1, |workers| ranks(&catalogue, &[0], &two, workers)).is_err());
        assert!(on(1, |workers| top_k(&catalogue, &two, 1, workers)).is_err());
    }
}
