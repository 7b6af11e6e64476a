//! Random numbers that depend on what they are for, not on who draws them first.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers of its own for each (seed, step, row).
///
/// The generator is `SplitMix64` (Steele, Lea, Flood 2014); the key is hashed into its start.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Return the stream of one row of one step.
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

    /// Return a number from `0..bound`, each equally likely; `bound` must not be 0.
    ///
    /// Lemire 2019 (arXiv:1805.10941): the high half of a 64 x 64 bit product, redrawn where the
    /// low half shows that some results would come up once too often.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            let low = product as u64;
            // the division only in the rare case that can need it
            if low >= bound || low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// Return a float from `[0, 1)` with 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[inline]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let n = 70_000;
        let mut inside = vec![0_i64; bound as usize];
        let mut across = inside.clone();
        let mut random = Random::new(3, 0, 0);
        for row in 0..n {
            inside[random.below(bound) as usize] += 1;
            across[Random::new(3, 0, row).below(bound) as usize] += 1;
        }
        for counts in [inside, across] {
            let mean = n as f64 / bound as f64;
            let chi: f64 = counts
                .iter()
                .map(|&c| (c as f64 - mean).powi(2) / mean)
                .sum();
            // 6 degrees of freedom: 27.9 has p = 1e-4
            assert!(chi < 27.9, "{counts:?}");
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
    fn unit_lies_in_the_half_open_interval() {
        let mut random = Random::new(0, 0, 0);
        let values: Vec<f64> = (0..10_000).map(|_| random.unit()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean - 0.5).abs() < 0.015);
    }
}
