//! This module finds the exact best items of the whole catalogue or of a few candidates.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Error;
use crate::histories::Histories;
use crate::scoring::best::Best;
use crate::scoring::catalogue::{Scorer, Spread};
use crate::scoring::offers::{Offers, offer_all, offer_screened};
use crate::scoring::search::Search;
use crate::simd::{CHAINS, LANES};
use crate::threads::Workers;

/// Return the `k` best unseen items of each query, best first: `[Q, k]` numbers and scores.
///
/// Equal scores go to the lower item number. Places for which no item is left hold
/// [`NO_ITEM`](crate::scoring::best::NO_ITEM) and minus infinity.
///
/// # Errors
/// If `k` is 0, or the job was told to stop.
pub fn top_k(search: &Search, k: usize, workers: &Workers) -> Result<(Vec<i32>, Vec<f32>), Error> {
    check_k(k)?;
    let n_queries = search.queries.len();
    let (mut numbers, mut scores) = (vec![0; n_queries * k], vec![0.0; n_queries * k]);
    let (tasks, parts) = search.tasks(workers.count());
    let size = tasks.first().map_or(1, ExactSizeIterator::len) * k;
    let places = numbers
        .par_chunks_mut(size)
        .zip(scores.par_chunks_mut(size));
    places
        .zip(&tasks)
        .try_for_each(|((numbers, scores), queries)| {
            let parts = parts
                .par_iter()
                .map(|panels| offer(search, k, queries, panels, workers));
            let mut parts = parts.collect::<Result<Vec<_>, _>>()?.into_iter();
            let mut best = parts
                .next()
                .unwrap_or_else(|| vec![Best::new(k); queries.len()]);
            for other in parts {
                best.iter_mut()
                    .zip(&other)
                    .for_each(|(best, other)| best.merge(other));
            }
            complete(search, k, queries.start, &mut best, workers)?;
            let places = numbers.chunks_mut(k).zip(scores.chunks_mut(k));
            for (best, (numbers, scores)) in best.into_iter().zip(places) {
                best.write(numbers, scores);
            }
            Ok(())
        })?;
    Ok((numbers, scores))
}

fn check_k(k: usize) -> Result<(), Error> {
    if k == 0 {
        return Err(Error::value("k >= 1", &k));
    }
    Ok(())
}

/// Return what is left of some panels' items, for each of some queries, after all were offered.
fn offer(
    search: &Search,
    k: usize,
    queries: &Range<usize>,
    panels: &Range<usize>,
    workers: &Workers,
) -> Result<Vec<Best>, Error> {
    let best = vec![Best::new(k); queries.len()];
    let mut offers = Offers::new(search, queries.start, best, k);
    let first = panels.start;
    let spread = Spread::new(panels.len())
        .panels()
        .map(|panel| first + panel);
    match search.screen {
        Some(screen) => offer_screened(&mut offers, screen, spread, panels.len(), workers)?,
        None => offer_all(&mut offers, spread, panels.len(), workers)?,
    }
    Ok(offers.finish())
}

/// Search again, in the order of the items, where the bar has risen too fast or too many items score
/// the same.
fn complete(
    search: &Search,
    k: usize,
    first: usize,
    best: &mut [Best],
    workers: &Workers,
) -> Result<(), Error> {
    let n_items = search.items.n_items();
    let seen = &search.seen[first..first + best.len()];
    let rows = best.iter_mut().zip(seen);
    let is_complete: Vec<bool> = rows
        .map(|(best, seen)| best.is_complete(n_items - seen.len(), seen))
        .collect();
    let mut start = 0;
    for run in is_complete.chunk_by(|a, b| a == b) {
        let end = start + run.len();
        if !run[0] {
            let empty = vec![Best::in_order(k); run.len()];
            let mut offers = Offers::new(search, first + start, empty, k);
            let n_panels = n_items.div_ceil(LANES);
            offer_all(&mut offers, 0..n_panels, n_panels, workers)?;
            best[start..end].clone_from_slice(&offers.finish());
            for (best, seen) in best[start..end].iter_mut().zip(&seen[start..end]) {
                best.shrink(k, seen);
            }
        }
        start = end;
    }
    Ok(())
}

/// Return the `k` best unseen of each query's own candidates, as [`top_k`] does of all items.
///
/// # Errors
/// If `k` is 0, there is not one row of candidates per query, or the job was told to stop.
pub fn top_k_among(
    search: &Search,
    candidates: &Histories,
    k: usize,
    workers: &Workers,
) -> Result<(Vec<i32>, Vec<f32>), Error> {
    check_k(k)?;
    let n_queries = search.queries.len();
    Error::check_length("candidate offsets (less 1)", n_queries, candidates.len())?;
    let candidates = candidates.rows()?;
    let (mut numbers, mut scores) = (vec![0; n_queries * k], vec![0.0; n_queries * k]);
    let places = numbers.par_chunks_mut(k).zip(scores.par_chunks_mut(k));
    let queries = places.zip(&candidates).zip(&search.seen).enumerate();
    queries.try_for_each_init(
        || Scorer::new(search.queries, search.items, search.level),
        |scorer, (query, (((numbers, scores), candidates), seen))| {
            workers.go_on()?;
            let mut best = Best::in_order(k);
            for some in candidates.chunks(CHAINS) {
                for (&item, score) in some.iter().zip(scorer.scores(query, some)) {
                    if score >= best.bar() && best.push(score, item) {
                        best.shrink(k, seen);
                    }
                }
            }
            best.shrink(k, seen);
            best.write(numbers, scores);
            Ok(())
        },
    )?;
    Ok((numbers, scores))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::best::NO_ITEM;
    use crate::scoring::cases::{Case, SIZES};

    /// Sort every unseen item as documented.
    fn sorted(case: &Case, query: usize, k: usize, among: impl Fn(i32) -> bool) -> Vec<(i32, f32)> {
        let scores = (0..).zip(case.scores(query));
        let open = |item: &i32| case.seen_of(query).binary_search(item).is_err() && among(*item);
        let mut all: Vec<_> = scores.filter(|(item, _)| open(item)).collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        all.resize(k.max(all.len()), (NO_ITEM, f32::NEG_INFINITY));
        all.truncate(k);
        all
    }

    #[test]
    fn every_way_of_searching_finds_the_sorted_list() {
        for sizes in SIZES {
            for whole in [true, false] {
                let case = Case::new(sizes, whole);
                for k in [1, 10, 200, 2000] {
                    let expected: Vec<_> = (0..case.n_queries())
                        .flat_map(|query| sorted(&case, query, k, |_| true))
                        .collect();
                    case.each_way(
                        |search, workers| top_k(search, k, workers),
                        |(items, scores), way| {
                            let found = items.iter().copied().zip(scores.iter().copied());
                            assert!(found.eq(expected.iter().copied()), "{sizes:?} {k} {way}");
                        },
                    );
                }
            }
        }
    }

    #[test]
    fn candidates_are_ranked_among_themselves() {
        let case = Case::new([6, 2, 90, 7], true);
        let candidates: Vec<i32> = (0..90).filter(|item| item % 2 == 0).collect();
        let items: Vec<i32> = (0..6).flat_map(|_| candidates.clone()).collect();
        let offsets: Vec<i64> = (0..=6).map(|query| query * 45).collect();
        let expected: Vec<_> = (0..6)
            .flat_map(|query| sorted(&case, query, 50, |item| item % 2 == 0))
            .collect();
        case.each_way(
            |search, workers| {
                let candidates = Histories::new(&offsets, &items, 90)?;
                top_k_among(search, &candidates, 50, workers)
            },
            |(items, scores), way| {
                let found = items.iter().copied().zip(scores.iter().copied());
                assert!(found.eq(expected.iter().copied()), "{way}");
            },
        );
    }

    #[test]
    fn a_catalogue_of_equals_gives_the_lowest_numbers() {
        let mut case = Case::new([2, 1, 3000, 4], true);
        case.items.fill(1.0);
        case.halves.fill(half::f16::ONE);
        case.each_way(
            |search, workers| top_k(search, 3, workers),
            |(items, _), way| assert_eq!(items, &[0, 2, 3, 0, 1, 2], "{way}"),
        );
    }

    #[test]
    fn no_place_and_rows_that_do_not_fit_are_refused() {
        let case = Case::new([2, 1, 5, 2], true);
        case.each_way(
            |search, workers| {
                assert!(top_k(search, 0, workers).is_err());
                let one = Histories::new(&[0, 0], &[], 5)?;
                assert!(top_k_among(search, &one, 1, workers).is_err());
                Ok(())
            },
            |(), _| (),
        );
    }
}
