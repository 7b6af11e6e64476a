//! This module offers items to the best few of some queries: all, or those a screen lets through.

use crate::error::Error;
use crate::scoring::best::{Best, keep_for};
use crate::scoring::bounds::QueryCodes;
use crate::scoring::catalogue::Scorer;
use crate::scoring::masks::{any, lanes};
use crate::scoring::screening::Screen;
use crate::scoring::search::Search;
use crate::simd::{CHAINS, LANES, tiles};
use crate::threads::Workers;

/// Offer every item of the panels with its score.
pub fn offer_all(
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
        for (query, scores) in (0..offers.best.len()).zip(&scores) {
            let mask = any(&masks, query, n_vectors) & (u32::MAX >> (LANES - n_lanes));
            for lane in lanes(mask) {
                let item = (first + lane) as i32;
                if n_vectors == 1 {
                    offers.scored(query, item, scores[lane]);
                } else {
                    offers.unscored(query, item);
                }
            }
        }
    }
    Ok(())
}

/// Offer those items of the panels whose codes do not show that they score below the bar.
pub fn offer_screened(
    offers: &mut Offers,
    screen: &Screen,
    panels: impl Iterator<Item = usize>,
    n_panels: usize,
    workers: &Workers,
) -> Result<(), Error> {
    let (level, n_vectors) = (offers.search.level, offers.n_vectors);
    let codes = QueryCodes::new(screen, offers.vectors());
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

/// What some queries in a row keep of the items offered to them.
pub struct Offers<'a, 's> {
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
    in_order: bool,
    /// How many to keep when there is no more room.
    keep: usize,
}

impl<'a, 's> Offers<'a, 's> {
    pub fn new(search: &'s Search<'a>, first: usize, best: Vec<Best>, k: usize) -> Self {
        let n_vectors = search.queries.n_vectors();
        Self {
            search,
            first,
            n_vectors,
            bars: vec![f32::NEG_INFINITY; best.len() * n_vectors],
            waiting: vec![([0; CHAINS], 0); best.len()],
            scorer: Scorer::new(search.queries, search.items, search.level),
            in_order: best.first().is_some_and(Best::is_in_order),
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
        if self.in_order {
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

    pub fn finish(mut self) -> Vec<Best> {
        for query in 0..self.best.len() {
            self.score_waiting(query);
        }
        self.best
    }
}
