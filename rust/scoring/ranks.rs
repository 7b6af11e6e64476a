//! This module counts exact ranks of targets in the whole catalogue or among a few candidates.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Error;
use crate::histories::Histories;
use crate::scoring::bounds::QueryCodes;
use crate::scoring::catalogue::Scorer;
use crate::scoring::masks::{any, lanes};
use crate::scoring::screening::Screen;
use crate::scoring::search::Search;
use crate::simd::{CHAINS, Codes, LANES, Sure, tiles};
use crate::threads::Workers;

/// How many candidates score above the target of each query, how many the same, out of how many.
///
/// The candidates are all items but the target and what the query has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranks {
    pub greater: Vec<i32>,
    pub equal: Vec<i32>,
    pub candidates: Vec<i32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    greater: i32,
    equal: i32,
}

impl Count {
    /// Count an item of this score once, or take it back with -1.
    fn add(&mut self, score: f32, bar: f32, times: i32) {
        self.greater += times * i32::from(score > bar);
        self.equal += times * i32::from(score == bar);
    }
}

impl Ranks {
    fn push(&mut self, count: Count, n_candidates: usize) {
        self.greater.push(count.greater);
        self.equal.push(count.equal);
        self.candidates.push(n_candidates as i32);
    }
}

fn check_targets(search: &Search, targets: &[i32]) -> Result<(), Error> {
    Error::check_length("targets", search.queries.len(), targets.len())?;
    for (row, &target) in targets.iter().enumerate() {
        Error::check_index("targets", row, search.items.n_items(), target)?;
    }
    Ok(())
}

/// Return the counts that give the rank of `targets[query]` for each query.
///
/// A target that is among the seen items is ranked all the same.
///
/// # Errors
/// If there is not one target per query, a target is not in the catalogue, or the job was told to
/// stop.
pub fn ranks(search: &Search, targets: &[i32], workers: &Workers) -> Result<Ranks, Error> {
    check_targets(search, targets)?;
    let (tasks, parts) = search.tasks(workers.count());
    // bytes leave too much open where many items score near the target
    let screen = search
        .screen
        .filter(|screen| screen.codes() == Codes::Shorts);
    let counts = tasks.par_iter().map(|queries| {
        let mut scorer = Scorer::new(search.queries, search.items, search.level);
        let bars: Vec<f32> = queries
            .clone()
            .map(|query| scorer.scores(query, &targets[query..=query])[0])
            .collect();
        let parts = parts.par_iter().map(|panels| match screen {
            Some(screen) => count_screened(search, screen, queries, &bars, panels, workers),
            None => count_all(search, queries, &bars, panels, workers),
        });
        let mut counts = vec![Count::default(); queries.len()];
        for part in parts.collect::<Result<Vec<_>, Error>>()? {
            for (count, part) in counts.iter_mut().zip(part) {
                count.greater += part.greater;
                count.equal += part.equal;
            }
        }
        let mut n_candidates = Vec::with_capacity(counts.len());
        for ((query, count), &bar) in queries.clone().zip(&mut counts).zip(&bars) {
            let left_out = left_out(search.seen[query], targets[query]);
            for some in left_out.chunks(CHAINS) {
                for (_, score) in some.iter().zip(scorer.scores(query, some)) {
                    count.add(score, bar, -1);
                }
            }
            n_candidates.push(search.items.n_items() - left_out.len());
        }
        Ok(counts.into_iter().zip(n_candidates).collect())
    });
    let counts: Vec<Vec<(Count, usize)>> = counts.collect::<Result<_, Error>>()?;
    let mut ranks = Ranks::default();
    for (count, n_candidates) in counts.into_iter().flatten() {
        ranks.push(count, n_candidates);
    }
    Ok(ranks)
}

/// Return the seen items and the target, each once.
fn left_out(seen: &[i32], target: i32) -> Vec<i32> {
    let alone = seen.binary_search(&target).is_err().then_some(target);
    seen.iter().copied().chain(alone).collect()
}

/// Return each query's bar for each of its vectors, and bars nobody looks at to fill up `n_rows`.
fn row_bars(bars: &[f32], n_vectors: usize, n_rows: usize) -> Vec<f32> {
    let of_rows = bars
        .iter()
        .flat_map(|&bar| std::iter::repeat_n(bar, n_vectors));
    let mut rows: Vec<f32> = of_rows.collect();
    rows.resize(n_rows, f32::INFINITY);
    rows
}

fn count_all(
    search: &Search,
    queries: &Range<usize>,
    bars: &[f32],
    panels: &Range<usize>,
    workers: &Workers,
) -> Result<Vec<Count>, Error> {
    let Search { items, level, .. } = *search;
    let (dim, n_vectors) = (items.dim(), search.queries.n_vectors());
    let vectors = search.queries.vectors(queries.clone());
    let rows = level.rows(vectors.len() / dim);
    let tiles = tiles(vectors, dim, rows, 0.0);
    let row_bars = row_bars(bars, n_vectors, tiles.len() / dim);
    let (mut at_least, mut above) = (vec![0; row_bars.len()], vec![0; row_bars.len()]);
    let mut buffer = vec![0.0; LANES * dim];
    let mut columns = vec![[0.0; LANES]; dim];
    let mut counts = vec![Count::default(); bars.len()];
    for panel in panels.clone() {
        workers.go_on()?;
        let first = panel * LANES;
        let n_lanes = LANES.min(items.n_items() - first);
        level.transpose(items.rows(first, &mut buffer), dim, &mut columns);
        items.prefetch(first + LANES..first + 2 * LANES);
        let masks = at_least
            .chunks_exact_mut(rows)
            .zip(above.chunks_exact_mut(rows));
        let bars = row_bars.chunks_exact(rows);
        for (((at_least, above), bars), tile) in masks.zip(bars).zip(tiles.chunks_exact(rows * dim))
        {
            level.compare(tile, &columns, bars, at_least, above);
        }
        let valid = u32::MAX >> (LANES - n_lanes);
        for (query, count) in counts.iter_mut().enumerate() {
            let at_least = any(&at_least, query, n_vectors) & valid;
            let above = any(&above, query, n_vectors) & valid;
            count.greater += above.count_ones() as i32;
            count.equal += (at_least & !above).count_ones() as i32;
        }
    }
    Ok(counts)
}

fn count_screened(
    search: &Search,
    screen: &Screen,
    queries: &Range<usize>,
    bars: &[f32],
    panels: &Range<usize>,
    workers: &Workers,
) -> Result<Vec<Count>, Error> {
    let (level, n_vectors) = (search.level, search.queries.n_vectors());
    let codes = QueryCodes::new(screen, search.queries.vectors(queries.clone()));
    let row_bars = row_bars(bars, n_vectors, codes.n_rows());
    let n_rows = row_bars.len();
    let (mut maybe, mut sure) = (vec![0; n_rows], vec![0; n_rows]);
    let (mut maybe_bars, mut sure_bars) = (vec![0; n_rows], vec![0; n_rows]);
    let mut waiting: Vec<Vec<i32>> = vec![Vec::with_capacity(CHAINS + LANES); bars.len()];
    let mut counts = vec![Count::default(); bars.len()];
    let mut scorer = Scorer::new(search.queries, search.items, level);
    for panel in panels.clone() {
        workers.go_on()?;
        let items = screen.items(panel);
        let (widths, start) = codes.start(screen, panel);
        codes.bars(screen, panel, &row_bars, &mut maybe_bars);
        codes.sure_bars(screen, panel, &row_bars, &mut sure_bars);
        let twice = widths.map(|width| 2 * width);
        let masks = maybe
            .chunks_exact_mut(codes.rows)
            .zip(sure.chunks_exact_mut(codes.rows));
        let bars_of = maybe_bars
            .chunks_exact(codes.rows)
            .zip(sure_bars.chunks_exact(codes.rows));
        for (((maybe, sure), (maybe_bars, sure_bars)), tile) in
            masks.zip(bars_of).zip(codes.tiles())
        {
            let words = screen.words(panel);
            let mut sure = Sure {
                widths: &twice,
                bars: sure_bars,
                masks: sure,
            };
            level.bracket(tile, words, &start, maybe_bars, maybe, &mut sure);
        }
        let valid = u32::MAX >> (LANES - items.len());
        for query in 0..bars.len() {
            let sure = any(&sure, query, n_vectors) & valid;
            counts[query].greater += sure.count_ones() as i32;
            for lane in lanes(any(&maybe, query, n_vectors) & valid & !sure) {
                let item = items[lane] as usize;
                search.items.prefetch(item..item + 1);
                waiting[query].push(items[lane]);
            }
            if waiting[query].len() >= CHAINS {
                count_waiting(
                    &mut scorer,
                    queries.start + query,
                    &mut waiting[query],
                    bars[query],
                    &mut counts[query],
                );
            }
        }
    }
    for (query, waiting) in waiting.iter_mut().enumerate() {
        count_waiting(
            &mut scorer,
            queries.start + query,
            waiting,
            bars[query],
            &mut counts[query],
        );
    }
    Ok(counts)
}

fn count_waiting(
    scorer: &mut Scorer,
    query: usize,
    waiting: &mut Vec<i32>,
    bar: f32,
    count: &mut Count,
) {
    for items in waiting.chunks(CHAINS) {
        for (_, score) in items.iter().zip(scorer.scores(query, items)) {
            count.add(score, bar, 1);
        }
    }
    waiting.clear();
}

/// Return the counts of [`ranks`] with each query's own candidates in place of all items; seen ones
/// and the target do not count among them.
///
/// # Errors
/// As [`ranks`], and if there is not one row of candidates per query.
pub fn ranks_among(
    search: &Search,
    targets: &[i32],
    candidates: &Histories,
    workers: &Workers,
) -> Result<Ranks, Error> {
    check_targets(search, targets)?;
    Error::check_length(
        "candidate offsets (less 1)",
        targets.len(),
        candidates.len(),
    )?;
    let candidates = candidates.rows()?;
    let rows = candidates
        .par_iter()
        .zip(targets)
        .zip(&search.seen)
        .enumerate();
    let counts = rows.map_init(
        || Scorer::new(search.queries, search.items, search.level),
        |scorer, (query, ((candidates, &target), seen))| {
            workers.go_on()?;
            let bar = scorer.scores(query, &[target])[0];
            let is_open = |item: &i32| *item != target && seen.binary_search(item).is_err();
            let open: Vec<i32> = candidates.iter().copied().filter(is_open).collect();
            let mut count = Count::default();
            for some in open.chunks(CHAINS) {
                for (_, score) in some.iter().zip(scorer.scores(query, some)) {
                    count.add(score, bar, 1);
                }
            }
            Ok((count, open.len()))
        },
    );
    let mut ranks = Ranks::default();
    for (count, n_open) in counts.collect::<Result<Vec<_>, Error>>()? {
        ranks.push(count, n_open);
    }
    Ok(ranks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::cases::{Case, SIZES};

    fn targets(case: &Case) -> Vec<i32> {
        let of = |query| (query * 7 % case.n_items()) as i32;
        (0..case.n_queries()).map(of).collect()
    }

    fn counted(case: &Case, targets: &[i32], among: impl Fn(i32) -> bool) -> Ranks {
        let mut ranks = Ranks::default();
        for (query, &target) in targets.iter().enumerate() {
            let scores = case.scores(query);
            let (seen, bar) = (case.seen_of(query), scores[target as usize]);
            let open: Vec<f32> = (0..)
                .zip(scores)
                .filter(|(item, _)| *item != target && seen.binary_search(item).is_err())
                .filter_map(|(item, score)| among(item).then_some(score))
                .collect();
            let count = Count {
                greater: open.iter().filter(|&&score| score > bar).count() as i32,
                equal: open.iter().filter(|&&score| score == bar).count() as i32,
            };
            ranks.push(count, open.len());
        }
        ranks
    }

    #[test]
    fn every_way_of_counting_gives_the_counts_of_a_plain_loop() {
        for sizes in SIZES {
            for whole in [true, false] {
                let case = Case::new(sizes, whole);
                let targets = targets(&case);
                let expected = counted(&case, &targets, |_| true);
                case.each_way(
                    |search, workers| ranks(search, &targets, workers),
                    |found, way| assert_eq!(found, &expected, "{sizes:?} {way}"),
                );
            }
        }
    }

    #[test]
    fn candidates_take_the_place_of_all_items() {
        let case = Case::new([6, 2, 90, 7], true);
        let targets = targets(&case);
        let candidates: Vec<i32> = (0..90).filter(|item| item % 2 == 0).collect();
        let items: Vec<i32> = (0..6).flat_map(|_| candidates.clone()).collect();
        let offsets: Vec<i64> = (0..=6).map(|query| query * 45).collect();
        let expected = counted(&case, &targets, |item| item % 2 == 0);
        case.each_way(
            |search, workers| {
                let candidates = Histories::new(&offsets, &items, 90)?;
                ranks_among(search, &targets, &candidates, workers)
            },
            |found, way| assert_eq!(found, &expected, "{way}"),
        );
    }

    #[test]
    fn targets_that_are_not_there_are_refused() {
        let case = Case::new([2, 1, 5, 2], true);
        case.each_way(
            |search, workers| {
                for targets in [&[0][..], &[0, 5], &[-1, 0]] {
                    assert!(ranks(search, targets, workers).is_err());
                }
                Ok(())
            },
            |(), _| (),
        );
    }
}
