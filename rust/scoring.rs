//! Exact best items of the whole catalogue or of a few candidates, without a queries x items matrix.

use std::ops::Range;

use rayon::prelude::*;

use crate::best::{Best, keep_for};
use crate::catalogue::{Items, Queries, Scorer, Spread, tiles};
use crate::error::Error;
use crate::histories::Histories;
use crate::screening::Screen;
use crate::simd::{CHAINS, LANES, Level};
use crate::threads::Workers;

/// Floats of a task's queries that should stay in the second-level cache, beside a panel.
const TASK_FLOATS: usize = 128 * 1024;
/// Most query vectors of a task.
const TASK_ROWS: usize = 1024;

/// Queries, items, and what of them to leave out.
pub struct Search<'a> {
    pub queries: Queries<'a>,
    pub items: Items<'a>,
    /// Items to leave out, for each query.
    pub seen: Vec<&'a [i32]>,
    pub level: Level,
    /// Codes of the items, which spare most of the computing.
    pub screen: Option<&'a Screen>,
}

impl<'a> Search<'a> {
    /// Return the search, checked.
    ///
    /// # Errors
    /// If `seen` has not one row per query or is wrong.
    pub fn new(
        queries: Queries<'a>,
        items: Items<'a>,
        seen: &Histories<'a>,
        level: Level,
        screen: Option<&'a Screen>,
    ) -> Result<Self, Error> {
        Error::check_length("seen offsets (less 1)", queries.len(), seen.len())?;
        let seen = seen.rows()?;
        Ok(Self {
            queries,
            items,
            seen,
            level,
            screen,
        })
    }

    /// Return how the work is cut for a number of threads: queries in tasks of equal size, and where
    /// those are too few for the threads, panels in parts as well. Results do not depend on it.
    #[must_use]
    pub fn tasks(&self, n_threads: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let (n_queries, n_vectors) = (self.queries.len(), self.queries.n_vectors());
        let rows = (TASK_FLOATS / self.items.dim()).clamp(16, TASK_ROWS);
        let most = (rows / n_vectors).max(1);
        // a multiple of the threads, all with the same work
        let n_tasks = n_queries.div_ceil(most).next_multiple_of(n_threads);
        let queries = parts(n_queries, n_queries.div_ceil(n_tasks.max(1)));
        let n_panels = self.items.n_items().div_ceil(LANES);
        let n_parts = n_threads.div_ceil(queries.len().max(1));
        (queries, parts(n_panels, n_panels.div_ceil(n_parts)))
    }
}

fn parts(n: usize, size: usize) -> Vec<Range<usize>> {
    let size = size.max(1);
    (0..n)
        .step_by(size)
        .map(|first| first..(first + size).min(n))
        .collect()
}

/// Return the `k` best unseen items of each query, best first: `[Q, k]` numbers and scores.
///
/// Equal scores go to the lower item number. Places for which no item is left hold
/// [`NO_ITEM`](crate::best::NO_ITEM) and minus infinity.
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
            let places = numbers.chunks_mut(k).zip(scores.chunks_mut(k));
            for ((query, mut best), (numbers, scores)) in queries.clone().zip(best).zip(places) {
                let seen = search.seen[query];
                if !best.is_complete(search.items.n_items() - seen.len(), seen) {
                    best = in_order(search, k, query, workers)?;
                }
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

/// Return the best of one query, found in the order of the items.
fn in_order(search: &Search, k: usize, query: usize, workers: &Workers) -> Result<Best, Error> {
    let mut offers = Offers::new(search, query, vec![Best::in_order(k)], k);
    let n_panels = search.items.n_items().div_ceil(LANES);
    offer_all(&mut offers, 0..n_panels, n_panels, workers)?;
    let mut best = offers.finish().pop().unwrap_or_else(|| Best::in_order(k));
    best.shrink(k, search.seen[query]);
    Ok(best)
}

/// Offer every item of the panels with its score.
fn offer_all(
    offers: &mut Offers,
    panels: impl Iterator<Item = usize>,
    n_panels: usize,
    workers: &Workers,
) -> Result<(), Error> {
    let Search { items, level, .. } = *offers.search;
    let (dim, n_vectors) = (items.dim(), offers.n_vectors);
    let rows = level.rows(offers.bars.len());
    let tiles = tiles(offers.vectors(), dim, rows, 0.0);
    let n_rows = tiles.len() / dim;
    // rows that only fill up a tile score 0, and nobody looks
    offers.bars.resize(n_rows, f32::INFINITY);
    let mut masks = vec![0; n_rows];
    let mut scores = vec![[0.0; LANES]; n_rows];
    let mut buffer = vec![0.0; LANES * dim];
    let mut columns = vec![[0.0; LANES]; dim];
    let mut panels = panels.enumerate().peekable();
    while let Some((number, panel)) = panels.next() {
        workers.go_on()?;
        let first = panel * LANES;
        let n_lanes = LANES.min(items.n_items() - first);
        level.transpose(items.rows(first, &mut buffer), dim, &mut columns);
        if let Some((_, next)) = panels.peek() {
            items.prefetch(next * LANES..(next + 1) * LANES);
        }
        let places = masks
            .chunks_exact_mut(rows)
            .zip(scores.chunks_exact_mut(rows));
        let bars = offers.bars.chunks_exact(rows);
        for (((masks, scores), bars), tile) in places.zip(bars).zip(tiles.chunks_exact(rows * dim))
        {
            level.score(tile, &columns, bars, scores, masks);
        }
        offers.keep = offers.keep_after(number + 1, n_panels);
        for query in 0..offers.best.len() {
            let mask = any(&masks, query, n_vectors) & (u32::MAX >> (LANES - n_lanes));
            for lane in lanes(mask) {
                let item = (first + lane) as i32;
                if n_vectors == 1 {
                    offers.scored(query, item, scores[query][lane]);
                } else {
                    offers.unscored(query, item);
                }
            }
        }
    }
    Ok(())
}

/// Offer those items of the panels whose codes do not show that they score below the bar.
fn offer_screened(
    offers: &mut Offers,
    screen: &Screen,
    panels: impl Iterator<Item = usize>,
    n_panels: usize,
    workers: &Workers,
) -> Result<(), Error> {
    let (level, n_vectors) = (offers.search.level, offers.n_vectors);
    let codes = screen.queries(offers.vectors());
    let n_rows = codes.n_rows();
    offers.bars.resize(n_rows, f32::INFINITY);
    let mut masks = vec![0; n_rows];
    let mut sum_bars = vec![0; n_rows];
    let mut panels = panels.enumerate().peekable();
    while let Some((number, panel)) = panels.next() {
        workers.go_on()?;
        if let Some(&(_, next)) = panels.peek() {
            screen.prefetch(next);
        }
        let (_, start) = codes.start(screen, panel);
        codes.bars(screen, panel, &offers.bars, &mut sum_bars);
        let words = screen.words(panel);
        let places = masks
            .chunks_exact_mut(codes.rows)
            .zip(sum_bars.chunks_exact(codes.rows));
        for ((masks, bars), tile) in places.zip(codes.tiles()) {
            level.screen(screen.codes(), tile, words, &start, bars, masks);
        }
        offers.keep = offers.keep_after(number + 1, n_panels);
        let items = screen.items(panel);
        for query in 0..offers.best.len() {
            let mask = any(&masks, query, n_vectors) & (u32::MAX >> (LANES - items.len()));
            for lane in lanes(mask) {
                offers.unscored(query, items[lane]);
            }
        }
    }
    Ok(())
}

/// Return the bits that are set in the mask of any vector of a query.
#[inline]
pub fn any(masks: &[u32], query: usize, n_vectors: usize) -> u32 {
    if n_vectors == 1 {
        return masks[query];
    }
    let masks = &masks[query * n_vectors..][..n_vectors];
    masks.iter().fold(0, |all, mask| all | mask)
}

/// Return the lanes whose bits are set.
#[inline]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// What some queries in a row keep of the items offered to them.
struct Offers<'a, 's> {
    search: &'s Search<'a>,
    first: usize,
    n_vectors: usize,
    best: Vec<Best>,
    /// Lowest score worth offering, for each vector of each query.
    bars: Vec<f32>,
    /// Items whose scores are computed when there are enough for one go.
    waiting: Vec<([i32; CHAINS], usize)>,
    scorer: Scorer<'a>,
    k: usize,
    /// How many to keep when there is no more room.
    keep: usize,
}

impl<'a, 's> Offers<'a, 's> {
    fn new(search: &'s Search<'a>, first: usize, best: Vec<Best>, k: usize) -> Self {
        let n_vectors = search.queries.n_vectors();
        Self {
            search,
            first,
            n_vectors,
            bars: vec![f32::NEG_INFINITY; best.len() * n_vectors],
            waiting: vec![([0; CHAINS], 0); best.len()],
            scorer: Scorer::new(search.queries, search.items, search.level),
            best,
            k,
            keep: k,
        }
    }

    fn vectors(&self) -> &'a [f32] {
        self.search
            .queries
            .vectors(self.first..self.first + self.best.len())
    }

    /// Return how many to keep after some of all panels; all if they come in the items' order.
    fn keep_after(&self, number: usize, n_panels: usize) -> usize {
        if self.best.iter().any(Best::is_in_order) {
            self.k
        } else {
            keep_for(self.k, number, n_panels)
        }
    }

    #[inline]
    fn scored(&mut self, query: usize, item: i32, score: f32) {
        let best = &mut self.best[query];
        if score >= best.bar() && best.push(score, item) {
            best.shrink(self.keep, self.search.seen[self.first + query]);
            self.bars[query * self.n_vectors..][..self.n_vectors].fill(best.bar());
        }
    }

    #[inline]
    fn unscored(&mut self, query: usize, item: i32) {
        self.search.items.prefetch(item as usize..item as usize + 1);
        let (items, n) = &mut self.waiting[query];
        items[*n] = item;
        *n += 1;
        if *n == CHAINS {
            self.score_waiting(query);
        }
    }

    fn score_waiting(&mut self, query: usize) {
        let (items, n) = std::mem::take(&mut self.waiting[query]);
        let scores = self.scorer.scores(self.first + query, &items[..n]);
        for (&item, score) in items[..n].iter().zip(scores) {
            self.scored(query, item, score);
        }
    }

    fn finish(mut self) -> Vec<Best> {
        for query in 0..self.best.len() {
            self.score_waiting(query);
        }
        self.best
    }
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
