//! This module draws a random subset that is spread over buckets.

use crate::error::Error;
use crate::random::Random;

/// Return the sorted numbers of `budget` samples, spread as evenly over the buckets as they allow.
///
/// A bucket smaller than an even share is taken whole and the rest shared among the others; where
/// the division leaves a remainder, the larger buckets give one more, by chance among equals.
/// Inside a bucket all subsets are equally likely.
///
/// # Errors
/// If a bucket is not below `n_buckets`, or the budget passes the number of samples.
pub fn stratified_sample(
    buckets: &[i32],
    n_buckets: usize,
    budget: usize,
    seed: u64,
) -> Result<Vec<i64>, Error> {
    if budget > buckets.len() {
        return Err(Error::value(
            format!("a budget of at most {} samples", buckets.len()),
            &budget,
        ));
    }
    let mut left = vec![0_usize; n_buckets];
    for (row, &bucket) in buckets.iter().enumerate() {
        left[Error::check_index("buckets", row, n_buckets, bucket)?] += 1;
    }
    let mut random = Random::new(seed, 0, 0);
    let mut wanted = shares(&left, budget, &mut random);
    let mut chosen = Vec::with_capacity(budget);
    // one pass (Knuth, algorithm S): take a sample with probability wanted / left of its bucket
    for (row, &bucket) in buckets.iter().enumerate() {
        let bucket = bucket as usize;
        if random.below(left[bucket] as u64) < wanted[bucket] as u64 {
            wanted[bucket] -= 1;
            chosen.push(row as i64);
        }
        left[bucket] -= 1;
    }
    Ok(chosen)
}

/// Return how many samples each bucket gives.
fn shares(counts: &[usize], budget: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).collect();
    // chance before the stable sort: among equally large buckets it decides who gives one more
    for index in (1..order.len()).rev() {
        order.swap(index, random.below(index as u64 + 1) as usize);
    }
    order.sort_by_key(|&bucket| counts[bucket]);
    let mut shares = vec![0; counts.len()];
    let mut budget = budget;
    for (index, &bucket) in order.iter().enumerate() {
        // rounded down, so the remainder goes to the buckets that come later
        shares[bucket] = counts[bucket].min(budget / (order.len() - index));
        budget -= shares[bucket];
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_fills_small_buckets_first_and_shares_the_rest() {
        let mut random = Random::new(0, 0, 0);
        assert_eq!(shares(&[1, 10, 10], 9, &mut random), [1, 4, 4]);
        assert_eq!(shares(&[0, 3, 100], 50, &mut random), [0, 3, 47]);
        assert_eq!(shares(&[2, 2], 4, &mut random), [2, 2]);
        let mut uneven = shares(&[5, 5, 5], 7, &mut random);
        uneven.sort_unstable();
        assert_eq!(uneven, [2, 2, 3]);
    }

    #[test]
    fn a_stratified_sample_is_sorted_unique_and_seeded() {
        let buckets: Vec<i32> = (0..1000).map(|row| i32::from(row % 10 == 0)).collect();
        let chosen = stratified_sample(&buckets, 2, 150, 5).unwrap();
        assert_eq!(chosen.len(), 150);
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        let rare = chosen
            .iter()
            .filter(|&&row| buckets[row as usize] == 1)
            .count();
        assert_eq!(rare, 75);
        assert_eq!(chosen, stratified_sample(&buckets, 2, 150, 5).unwrap());
        assert_ne!(chosen, stratified_sample(&buckets, 2, 150, 6).unwrap());
        assert!(stratified_sample(&buckets, 2, 1001, 5).is_err());
        assert!(stratified_sample(&buckets, 1, 10, 5).is_err());
    }
}
