//! This module keeps the best few of many scored items while they come.

/// Item number of a place for which no item was left.
pub const NO_ITEM: i32 = -1;
/// Items kept beyond the wanted ones before the worst are sorted out.
const SLACK: usize = 32;
/// Items of one score, as a multiple of the wanted ones, that may wait before it is better to start
/// again in order of the items.
const MOST_TIES: usize = 16;

/// A score and an item as a number that is larger for the better one: higher scores first, then
/// lower items; 0.0 and -0.0 are equal.
fn key(score: f32, item: i32) -> u64 {
    u64::from(rising(score)) << 32 | u64::from(!item.cast_unsigned())
}

fn rising(score: f32) -> u32 {
    // -0.0 becomes 0.0
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

fn score_of(key: u64) -> f32 {
    let rising = (key >> 32) as u32;
    f32::from_bits(if rising >> 31 == 1 {
        rising & !(1 << 31)
    } else {
        !rising
    })
}

fn item_of(key: u64) -> i32 {
    (!(key as u32)).cast_signed()
}

/// The best `k` of the items pushed so far, and some more.
///
/// Items may come in any order. What was dropped scored below [`Best::bar`] of its time, so whoever
/// scores at least the last bar is still here.
#[derive(Debug, Clone)]
pub struct Best {
    keys: Vec<u64>,
    k: usize,
    bar: f32,
    limit: usize,
    in_order: bool,
}

impl Best {
    /// Return an empty collection for items that come in any order.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self {
            keys: Vec::new(),
            k,
            bar: f32::NEG_INFINITY,
            limit: SLACK,
            in_order: false,
        }
    }

    /// Return an empty collection for items that come in rising order: one that scores no better
    /// than `k` before it is not pushed at all.
    #[must_use]
    pub fn in_order(k: usize) -> Self {
        Self {
            in_order: true,
            ..Self::new(k)
        }
    }

    /// Return whether the items come in rising order.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.in_order
    }

    /// Return the lowest score worth pushing.
    #[inline]
    #[must_use]
    pub fn bar(&self) -> f32 {
        self.bar
    }

    /// Add an item that scores at least the bar, and return whether it is time to shrink.
    #[inline]
    pub fn push(&mut self, score: f32, item: i32) -> bool {
        self.keys.push(key(score, item));
        self.keys.len() >= self.limit
    }

    /// Drop the seen items, and then what is worse than the best `keep`; the bar rises to the worst
    /// of these.
    pub fn shrink(&mut self, keep: usize, seen: &[i32]) {
        self.drop_seen(seen);
        let keep = keep.clamp(1, self.k);
        if self.keys.len() > keep {
            let (_, worst, _) = self.keys.select_nth_unstable_by(keep - 1, |a, b| b.cmp(a));
            let score = score_of(*worst);
            if self.in_order {
                self.keys.truncate(keep);
                self.bar = if keep == self.k {
                    score.next_up()
                } else {
                    score
                };
            } else if score >= self.bar {
                // an item of the same score and a lower number may have been dropped otherwise
                let floor = u64::from(rising(score)) << 32;
                self.keys.retain(|&key| key >= floor);
                self.bar = score;
            }
        }
        if self.keys.len() > MOST_TIES * (keep + SLACK) {
            // too few above the bar to be the best: see `is_complete`
            self.keys.clear();
            self.bar = f32::INFINITY;
        }
        self.limit = (2 * keep).max(self.keys.len() + SLACK);
    }

    fn drop_seen(&mut self, seen: &[i32]) {
        if !seen.is_empty() {
            self.keys
                .retain(|&key| seen.binary_search(&item_of(key)).is_err());
        }
    }

    /// Drop the seen items and return whether the rest holds the best `k` of `n_left` unseen items,
    /// all of which have been offered.
    pub fn is_complete(&mut self, n_left: usize, seen: &[i32]) -> bool {
        self.drop_seen(seen);
        let floor = u64::from(rising(self.bar)) << 32;
        self.in_order || {
            let n_above = self.keys.iter().filter(|&&key| key >= floor).count();
            n_above >= self.k.min(n_left)
        }
    }

    /// Take over what another collection, of other items, holds.
    pub fn merge(&mut self, other: &Self) {
        self.keys.extend_from_slice(&other.keys);
        self.bar = self.bar.max(other.bar);
    }

    /// Write the best, best first, into as many places; [`NO_ITEM`] and minus infinity where none
    /// is left.
    pub fn write(mut self, items: &mut [i32], scores: &mut [f32]) {
        if self.keys.len() > items.len() && !items.is_empty() {
            self.keys
                .select_nth_unstable_by(items.len() - 1, |a, b| b.cmp(a));
            self.keys.truncate(items.len());
        }
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        items.fill(NO_ITEM);
        scores.fill(f32::NEG_INFINITY);
        for ((&key, item), score) in self.keys.iter().zip(items).zip(scores) {
            (*item, *score) = (item_of(key), score_of(key));
        }
    }
}

/// Return how many of the best items seen so far to keep when a share of all has been offered in
/// random order, so that the best `k` of all are hardly ever dropped.
#[must_use]
pub fn keep_for(k: usize, offered: usize, total: usize) -> usize {
    let expected = k as f64 * (offered as f64 / total as f64);
    // four standard deviations of a Poisson count, and a few for the small ones
    ((expected + 4.0 * expected.sqrt() + 6.0).ceil() as usize).min(k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_score_then_item() {
        let scores = [f32::MIN, -1.0, -1e-45, 0.0, 1e-45, 1.0, f32::MAX];
        for pair in scores.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], i32::MAX));
        }
        assert!(key(1.0, 3) > key(1.0, 4));
        assert_eq!(key(0.0, 3), key(-0.0, 3));
        for score in scores {
            let key = key(score, 77);
            assert_eq!((score_of(key), item_of(key)), (score, 77));
        }
    }

    fn best_of(mut best: Best, scores: &[(f32, i32)], keep: usize, seen: &[i32]) -> (Best, bool) {
        for &(score, item) in scores {
            if score >= best.bar() && best.push(score, item) {
                best.shrink(keep, seen);
            }
        }
        let complete = best.is_complete(scores.len() - seen.len(), seen);
        (best, complete)
    }

    fn written(best: Best, k: usize) -> Vec<i32> {
        let (mut items, mut scores) = (vec![0; k], vec![0.0; k]);
        best.write(&mut items, &mut scores);
        items
    }

    #[test]
    fn ties_are_kept_until_the_end_whatever_the_order() {
        let scores: Vec<_> = (0..500)
            .rev()
            .map(|item| ((item % 3) as f32, item))
            .collect();
        let (best, complete) = best_of(Best::new(4), &scores, 4, &[2, 8]);
        assert!(complete);
        assert_eq!(written(best, 4), [5, 11, 14, 17]);
    }

    #[test]
    fn too_many_ties_and_too_high_a_bar_are_noticed() {
        let equal: Vec<_> = (0..5000).map(|item| (1.0, item)).collect();
        assert!(!best_of(Best::new(10), &equal, 10, &[]).1);
        // the best come first, so a bar set by few of them is above the others
        let falling: Vec<_> = (0..5000).map(|item| (-(item as f32), item)).collect();
        assert!(!best_of(Best::new(100), &falling, 10, &[]).1);
        let (best, complete) = best_of(Best::in_order(10), &equal, 10, &[0, 3]);
        assert!(complete);
        assert_eq!(written(best, 3), [1, 2, 4]);
    }

    #[test]
    fn places_left_over_hold_no_item() {
        let (best, complete) = best_of(Best::new(5), &[(1.0, 0), (2.0, 1)], 5, &[0]);
        assert!(complete);
        let (mut items, mut scores) = ([7; 3], [7.0; 3]);
        best.write(&mut items, &mut scores);
        assert_eq!(items, [1, NO_ITEM, NO_ITEM]);
        assert_eq!(scores, [2.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
    }
}
