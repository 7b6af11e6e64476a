//! Draws from a fixed distribution in constant time.

use crate::error::Error;
use crate::random::Random;

/// A distribution over items from which a draw takes constant time (Walker 1977, Vose 1991).
///
/// A draw takes a column evenly, then its own item with probability `keep[column]`, else
/// `other[column]`.
#[derive(Debug, Clone, Copy)]
pub struct Alias<'a> {
    keep: &'a [f64],
    other: &'a [i32],
}

impl<'a> Alias<'a> {
    /// Return the view of a table that [`alias_table`] made.
    ///
    /// # Errors
    /// If the lengths differ, a probability is not in `[0, 1]`, or an item is out of range.
    pub fn new(keep: &'a [f64], other: &'a [i32]) -> Result<Self, Error> {
        Error::check_length("alias items", keep.len(), other.len())?;
        for (row, (&keep_row, &item)) in keep.iter().zip(other).enumerate() {
            Error::check_index("alias items", row, keep.len(), item)?;
            if !(0.0..=1.0).contains(&keep_row) {
                return Err(Error::value(
                    format!("alias probabilities from 0 to 1 in row {row}"),
                    &keep_row,
                ));
            }
        }
        Ok(Self { keep, other })
    }

    /// Return the number of items.
    #[must_use]
    pub fn n_items(&self) -> usize {
        self.keep.len()
    }

    /// Return a random item.
    pub fn draw(&self, random: &mut Random) -> i32 {
        let column = random.below(self.keep.len() as u64) as usize;
        if random.unit() < self.keep[column] {
            column as i32
        } else {
            self.other[column]
        }
    }

    /// Return the share of each item, times the number of items.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        let mut weights = self.keep.to_vec();
        for (keep, &other) in self.keep.iter().zip(self.other) {
            weights[other as usize] += 1.0 - keep;
        }
        weights
    }
}

/// Return the alias table of a distribution proportional to `weights`: how likely each column
/// keeps its own item, and the item it gives otherwise.
///
/// # Errors
/// If there is no weight, one is negative or not finite, or all are 0.
pub fn alias_table(weights: &[f64]) -> Result<(Vec<f64>, Vec<i32>), Error> {
    for (row, &weight) in weights.iter().enumerate() {
        if !weight.is_finite() || weight < 0.0 {
            return Err(Error::value(
                format!("finite weights >= 0 in row {row}"),
                &weight,
            ));
        }
    }
    let total: f64 = weights.iter().sum();
    if !total.is_finite() || total <= 0.0 {
        return Err(Error::value("weights with a finite sum above 0", &total));
    }
    let n_items = weights.len();
    let scale = n_items as f64 / total;
    let mut keep: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let mut other: Vec<i32> = (0..n_items as i32).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..n_items).partition(|&item| keep[item] < 1.0);
    while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
        small.pop();
        other[low] = high as i32;
        keep[high] -= 1.0 - keep[low];
        if keep[high] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    // what is left differs from 1 by rounding, except that an item of weight 0 must stay at 0
    let heaviest = (0..n_items).fold(0, |best, item| {
        if weights[item] > weights[best] {
            item
        } else {
            best
        }
    });
    for item in small.into_iter().chain(large) {
        if weights[item] > 0.0 {
            keep[item] = 1.0;
        } else {
            (keep[item], other[item]) = (0.0, heaviest as i32);
        }
    }
    Ok((keep, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_table_holds_its_weights() {
        for weights in [
            &[1.0, 2.0, 3.0, 0.0][..],
            &[5.0],
            &[0.0, 0.1, 0.2, 0.3, 0.7],
            &[1e-9, 1.0],
        ] {
            let (keep, other) = alias_table(weights).unwrap();
            let total: f64 = weights.iter().sum();
            let held = Alias::new(&keep, &other).unwrap().weights();
            for (held, weight) in held.iter().zip(weights) {
                assert!((held / weights.len() as f64 - weight / total).abs() < 1e-12);
                assert_eq!(*held > 0.0, *weight > 0.0);
            }
        }
    }

    #[test]
    fn weights_without_a_distribution_are_refused() {
        for weights in [
            &[][..],
            &[0.0, 0.0],
            &[1.0, -1.0],
            &[f64::NAN],
            &[f64::INFINITY],
            &[f64::MAX; 2],
        ] {
            assert!(alias_table(weights).is_err(), "{weights:?}");
        }
        assert!(Alias::new(&[0.5, 1.5], &[0, 1]).is_err());
        assert!(Alias::new(&[0.5, 1.0], &[0, 2]).is_err());
        assert!(Alias::new(&[0.5], &[0, 0]).is_err());
    }
}
