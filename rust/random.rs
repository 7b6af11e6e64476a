//! This module makes random numbers that depend on seed, step and row, not on who draws first.

// what `Level::wide` compiles must be inlined there
#![allow(clippy::inline_always)]

use crate::simd::{Level, Plain};

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers of its own for each (seed, step, row).
///
/// The generator is `SplitMix64` (Steele, Lea, Flood 2014): a counter and a hash of it, so that many
/// numbers can be made side by side. The key is hashed into the start of the counter.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Return the stream of one row of one step.
    #[inline]
    #[must_use]
    pub fn new(seed: u64, step: u64, row: u64) -> Self {
        let mut state = mix(seed ^ GOLDEN);
        for part in [step, row] {
            // a multiply between the parts: (step, row) and (row, step) are different streams
            state = mix(state.wrapping_mul(GOLDEN) ^ part);
        }
        Self { state }
    }

    /// Return 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Return a number from `0..bound`, each equally likely, and 64 more bits that are even for
    /// each number up to a share of `bound / 2**64`; `bound` must not be 0.
    ///
    /// Lemire 2019 (arXiv:1805.10941): the high half of a 64 x 64 bit product, redrawn where the
    /// low half shows that some results would come up once too often.
    #[inline]
    pub fn split(&mut self, bound: u64) -> (u64, u64) {
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            let low = product as u64;
            // the division only in the rare case that can need it
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return ((product >> 64) as u64, low);
            }
        }
    }

    /// Return a number from `0..bound`, each equally likely; `bound` must not be 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        self.split(bound).0
    }

    /// Fill `out` with numbers from `0..bound`, each equally likely; `bound` must not be 0.
    ///
    /// One draw of 64 bits makes two of them, one in each half of `out`.
    #[inline]
    pub fn many_below(&mut self, bound: u32, out: &mut [u32], level: Level) {
        let words = out.len().div_ceil(2);
        let before = self.state;
        let (low, high) = out.split_at_mut(words);
        let lowest = level.wide(Many {
            state: before,
            bound,
            low,
            high,
        });
        self.state = before.wrapping_add(GOLDEN.wrapping_mul(words as u64));
        // as in `split`
        if lowest < bound && lowest < bound.wrapping_neg() % bound {
            self.replace_uneven(before, bound, out);
        }
    }

    /// Draw those numbers anew that come up once too often.
    #[cold]
    fn replace_uneven(&mut self, before: u64, bound: u32, out: &mut [u32]) {
        let threshold = bound.wrapping_neg() % bound;
        let (low, high) = out.split_at_mut(out.len().div_ceil(2));
        for (half, out) in [low, high].into_iter().enumerate() {
            for (place, out) in out.iter_mut().enumerate() {
                if (halves(before, place, bound)[half] as u32) < threshold {
                    *out = self.below(u64::from(bound)) as u32;
                }
            }
        }
    }

    /// Return a float from `[0, 1)` with 53 random bits.
    #[cfg(test)]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[inline(always)]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Return the products of a bound and the two halves of the word in a place.
#[inline(always)]
fn halves(before: u64, place: usize, bound: u32) -> [u64; 2] {
    let word = mix(before.wrapping_add(GOLDEN.wrapping_mul(place as u64 + 1)));
    [word & u64::from(u32::MAX), word >> 32].map(|half| half * u64::from(bound))
}

struct Many<'a> {
    state: u64,
    bound: u32,
    low: &'a mut [u32],
    high: &'a mut [u32],
}

impl Plain for Many<'_> {
    /// The lowest low half of a product.
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        let mut lowest = u32::MAX;
        let both = self.low.iter_mut().zip(self.high.iter_mut());
        for (place, (low, high)) in both.enumerate() {
            let [first, second] = halves(self.state, place, self.bound);
            (*low, *high) = ((first >> 32) as u32, (second >> 32) as u32);
            lowest = lowest.min(first as u32).min(second as u32);
        }
        // of an odd number of numbers, the last word makes one
        if let Some(low) = self.low.get_mut(self.high.len()) {
            let [first, _] = halves(self.state, self.high.len(), self.bound);
            *low = (first >> 32) as u32;
            lowest = lowest.min(first as u32);
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Return the chi-square statistic of counts that should be equal.
    fn chi_square(counts: &[i64]) -> f64 {
        let mean = counts.iter().sum::<i64>() as f64 / counts.len() as f64;
        counts
            .iter()
            .map(|&count| (count as f64 - mean).powi(2) / mean)
            .sum()
    }

    #[test]
    fn the_same_key_gives_the_same_stream_and_another_key_another() {
        let first = |seed, step, row| Random::new(seed, step, row).bits();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let keys = [
            (1, 2, 3),
            (2, 1, 3),
            (1, 3, 2),
            (3, 2, 1),
            (0, 0, 0),
            (0, 0, 1),
            (0, 1, 0),
        ];
        let mut seen: Vec<u64> = keys.iter().map(|&(a, b, c)| first(a, b, c)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), keys.len());
    }

    #[test]
    fn below_is_even_over_rows_as_well_as_inside_one() {
        let bound = 7;
        let mut inside = vec![0_i64; bound as usize];
        let mut across = inside.clone();
        let mut random = Random::new(3, 0, 0);
        for row in 0..70_000 {
            inside[random.below(bound) as usize] += 1;
            across[Random::new(3, 0, row).below(bound) as usize] += 1;
        }
        for counts in [inside, across] {
            // 6 degrees of freedom: 27.9 has p = 1e-4
            assert!(chi_square(&counts) < 27.9, "{counts:?}");
        }
    }

    #[test]
    fn neighbouring_rows_steps_seeds_and_draws_are_independent() {
        // pairs of numbers below 32 fill a table of 1024 places evenly
        let first = |seed, step, row| Random::new(seed, step, row).below(32);
        let second = |seed, step, row| {
            let mut random = Random::new(seed, step, row);
            random.bits();
            random.below(32)
        };
        let mut tables = vec![vec![0_i64; 1024]; 4];
        for key in 0..400_000 {
            let number = first(9, 1, key);
            for (table, other) in tables.iter_mut().zip([
                first(9, 1, key + 1),
                first(9, 2, key),
                first(10, 1, key),
                second(9, 1, key),
            ]) {
                table[(number * 32 + other) as usize] += 1;
            }
        }
        for table in tables {
            // 1023 degrees of freedom, standard deviation 45.2: four of them
            assert!((chi_square(&table) - 1023.0).abs() < 4.0 * 45.2);
        }
    }

    #[test]
    fn below_stays_below_where_rejection_is_frequent() {
        let mut random = Random::new(0, 0, 0);
        let bound = (1 << 63) + 1;
        assert!((0..1000).all(|_| random.below(bound) < bound));
        assert_eq!(random.below(1), 0);
    }

    #[test]
    fn many_are_even_where_rejection_is_frequent() {
        // 2**32 is 2.67 times the bound: without rejection some numbers come up thrice, others twice
        let bound = 3 << 29;
        let level = Level::choose().unwrap();
        let mut places = [0_i64; 9];
        let mut thirds = [0_i64; 3];
        let mut random = Random::new(5, 0, 0);
        for _ in 0..1000 {
            let mut numbers = [0; 90];
            random.many_below(bound, &mut numbers, level);
            for number in numbers {
                assert!(number < bound);
                places[(number / (1 << 29) * 3 + number % 3) as usize] += 1;
                // the places a product without rejection favours
                thirds[(number % 3) as usize] += 1;
            }
        }
        // 8 and 2 degrees of freedom: 31.8 and 18.4 have p = 1e-4
        assert!(chi_square(&places) < 31.8, "{places:?}");
        assert!(chi_square(&thirds) < 18.4, "{thirds:?}");
    }

    #[test]
    fn many_are_the_same_with_all_instructions_and_those_of_single_draws() {
        for (length, bound) in [(0, 7), (1, 7), (2, 1), (7, 3 << 29), (99, 1_000_000)] {
            for (row, level) in Level::available().into_iter().enumerate() {
                let mut random = Random::new(7, length as u64, 0);
                let mut words = random.clone();
                let mut numbers = vec![0; length];
                random.many_below(bound, &mut numbers, level);
                let words: Vec<u64> = (0..length.div_ceil(2)).map(|_| words.bits()).collect();
                let halves = words.iter().map(|word| word & 0xFFFF_FFFF);
                let halves = halves.chain(words.iter().map(|word| word >> 32));
                let mut uneven = 0;
                for (&number, half) in numbers.iter().zip(halves) {
                    let product = half * u64::from(bound);
                    if product as u32 >= bound.wrapping_neg() % bound {
                        assert_eq!(u64::from(number), product >> 32, "{row}");
                    } else {
                        uneven += 1;
                    }
                }
                assert_eq!(uneven > 0, bound == 3 << 29);
            }
        }
    }

    #[test]
    fn unit_lies_in_the_half_open_interval() {
        let mut random = Random::new(0, 0, 0);
        let values: Vec<f64> = (0..10_000).map(|_| random.unit()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean - 0.5).abs() < 0.015);
    }
}
