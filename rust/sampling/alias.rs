//! This module holds distributions over the items of a catalogue, with draws in constant time.

use crate::error::Error;
use crate::random::Random;
use crate::simd::{self, Level};

/// A distribution over items in whole units of probability: sums of any items' shares are exact.
pub trait Distribution: Sync {
    /// A draw that has its random number, and whose item may still be on the way from memory.
    type Ticket: Copy + Default;

    /// Return a new draw.
    fn ticket(&self, random: &mut Random) -> Self::Ticket;

    /// Ask memory for what the next draws of `random` need.
    #[inline]
    fn prefetch(&self, _random: Random, _n: usize) {}

    /// Fill `tickets` with new draws.
    #[inline]
    fn tickets(&self, random: &mut Random, tickets: &mut [Self::Ticket]) {
        for ticket in tickets {
            *ticket = self.ticket(random);
        }
    }

    /// Return the item of a draw.
    fn item(&self, ticket: Self::Ticket) -> i32;

    /// Return the number of items.
    fn n_items(&self) -> usize;

    /// Return the units of all items before `item`, from 0 to the number of items.
    fn before(&self, item: usize) -> u64;

    /// Return the item that owns a unit: the last one with no more than `unit` before it.
    fn owner(&self, unit: u64) -> i32;

    /// Return the units of an item.
    #[inline]
    fn units(&self, item: i32) -> u64 {
        self.before(item as usize + 1) - self.before(item as usize)
    }

    /// Return the units of all items.
    fn total(&self) -> u64 {
        self.before(self.n_items())
    }
}

/// Draws worth making side by side.
const SIDE_BY_SIDE: usize = 8;

/// All items are equally likely: one unit each.
#[derive(Debug, Clone, Copy)]
pub struct Uniform {
    n_items: usize,
    level: Level,
}

impl Uniform {
    /// Return the distribution over a catalogue.
    ///
    /// # Errors
    /// If `RAREC_SIMD` names instructions this processor has not.
    pub fn new(n_items: usize) -> Result<Self, Error> {
        let level = Level::choose()?;
        Ok(Self { n_items, level })
    }
}

impl Distribution for Uniform {
    type Ticket = u32;

    #[inline]
    fn ticket(&self, random: &mut Random) -> u32 {
        random.below(self.n_items as u64) as u32
    }

    #[inline]
    fn tickets(&self, random: &mut Random, tickets: &mut [u32]) {
        if tickets.len() < SIDE_BY_SIDE {
            for ticket in tickets {
                *ticket = self.ticket(random);
            }
        } else {
            random.many_below(self.n_items as u32, tickets, self.level);
        }
    }

    #[inline]
    fn item(&self, ticket: u32) -> i32 {
        ticket as i32
    }

    fn n_items(&self) -> usize {
        self.n_items
    }

    #[inline]
    fn before(&self, item: usize) -> u64 {
        item as u64
    }

    fn owner(&self, unit: u64) -> i32 {
        unit as i32
    }
}

/// Items as likely as their weights say (Walker 1977; the table is built as in Vose 1991).
///
/// A draw takes a column evenly, then the column's own item or its other one. Each column has
/// `2**32` units, so the probabilities are those of the weights rounded to `1 / (N * 2**32)`,
/// except that an item with a weight keeps at least one unit.
#[derive(Debug)]
pub struct AliasTable {
    /// For each column, the units of its own item in the high half, its other item in the low one.
    columns: Vec<u64>,
    /// Units of all items before each item, and of all: what the columns hold, not the weights.
    before: Vec<u64>,
}

const COLUMN: u64 = 1 << 32;

impl AliasTable {
    /// Return the table of a distribution proportional to `weights`.
    ///
    /// # Errors
    /// If there is no weight, one is negative or not finite, or their sum is 0 or not finite.
    pub fn new(weights: &[f64]) -> Result<Self, Error> {
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
        Error::check_items(weights.len())?;
        let mut columns = vec![0; weights.len()];
        let mut left: Vec<f64> = weights
            .iter()
            // in this order: the number of items over a tiny total can pass the largest float
            .map(|weight| weight / total * weights.len() as f64)
            .collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|&item| left[item as usize] < 1.0);
        let units = |item: usize, share: f64| match (share * COLUMN as f64).round() as u64 {
            0 if weights[item] > 0.0 => 1,
            units => units.min(COLUMN - 1),
        };
        while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
            let (item, other) = (low as usize, high as usize);
            small.pop();
            columns[item] = units(item, left[item]) << 32 | u64::from(high);
            left[other] -= 1.0 - left[item];
            if left[other] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        // what is left differs from a full column by rounding, except that an item without weight
        // must not be drawn
        let heaviest = (0..weights.len()).fold(0, |best, item| {
            if weights[item] > weights[best] {
                item
            } else {
                best
            }
        });
        for item in small.into_iter().chain(large) {
            let owner = if weights[item as usize] > 0.0 {
                item
            } else {
                heaviest as u32
            };
            columns[item as usize] = u64::from(owner);
        }
        Ok(Self::with_sums(columns))
    }

    /// Return the table that has these columns.
    ///
    /// # Errors
    /// If there is no column, or an item is out of range.
    pub fn from_columns(columns: &[u64]) -> Result<Self, Error> {
        Error::check_items(columns.len())?;
        for (row, &column) in columns.iter().enumerate() {
            Error::check_index("alias items", row, columns.len(), column as u32)?;
        }
        Ok(Self::with_sums(columns.to_vec()))
    }

    fn with_sums(columns: Vec<u64>) -> Self {
        let mut before = vec![0; columns.len() + 1];
        for (item, &column) in columns.iter().enumerate() {
            before[item + 1] += column >> 32;
            before[column as u32 as usize + 1] += COLUMN - (column >> 32);
        }
        let mut sum = 0;
        for units in &mut before {
            sum += *units;
            *units = sum;
        }
        Self { columns, before }
    }

    /// Return the columns, from which [`AliasTable::from_columns`] makes an equal table.
    #[must_use]
    pub fn columns(&self) -> &[u64] {
        &self.columns
    }
}

impl Distribution for AliasTable {
    /// The column in the high half, the unit inside it in the low one.
    type Ticket = u64;

    #[inline]
    fn ticket(&self, random: &mut Random) -> u64 {
        let (column, rest) = random.split(self.columns.len() as u64);
        simd::prefetch(&self.columns, column as usize);
        column << 32 | rest >> 32
    }

    #[inline]
    fn prefetch(&self, mut random: Random, n: usize) {
        for _ in 0..n {
            self.ticket(&mut random);
        }
    }

    #[inline]
    fn item(&self, ticket: u64) -> i32 {
        let column = self.columns[(ticket >> 32) as usize];
        let own = u64::from(ticket as u32) < column >> 32;
        // a branch here would be guessed wrong half of the time
        std::hint::select_unpredictable(own, ticket >> 32, column) as i32
    }

    fn n_items(&self) -> usize {
        self.columns.len()
    }

    #[inline]
    fn before(&self, item: usize) -> u64 {
        self.before[item]
    }

    fn owner(&self, unit: u64) -> i32 {
        self.before.partition_point(|&before| before <= unit) as i32 - 1
    }
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
            &[1e-300, 1e-300],
            &[f64::MIN_POSITIVE, 0.0, 1.0],
        ] {
            let table = AliasTable::new(weights).unwrap();
            let total: f64 = weights.iter().sum();
            assert_eq!(table.total(), weights.len() as u64 * COLUMN);
            for (item, weight) in weights.iter().enumerate() {
                let units = table.units(item as i32);
                let share = units as f64 / table.total() as f64;
                assert!((share - weight / total).abs() < 1e-9);
                // a weight too small for the units is still drawn, and no weight never is
                assert_eq!(units > 0, *weight > 0.0);
            }
        }
    }

    #[test]
    fn draws_follow_the_units() {
        let table = AliasTable::new(&[1.0, 0.0, 4.0, 2.0, 3.0]).unwrap();
        let mut counts = [0_i64; 5];
        let mut random = Random::new(1, 0, 0);
        for _ in 0..100_000 {
            let ticket = table.ticket(&mut random);
            counts[table.item(ticket) as usize] += 1;
        }
        for (count, weight) in counts.iter().zip([1, 0, 4, 2, 3]) {
            // five standard deviations of the largest
            assert!((count - weight * 10_000).abs() < 775, "{counts:?}");
        }
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn a_unit_has_one_owner() {
        let table = AliasTable::new(&[0.0, 1.0, 0.0, 0.0, 2.0, 0.0]).unwrap();
        let border = table.before(4);
        assert_eq!(table.owner(0), 1);
        assert_eq!(table.owner(border - 1), 1);
        assert_eq!(table.owner(border), 4);
        assert_eq!(table.owner(table.total() - 1), 4);
        assert_eq!(Uniform::new(9).unwrap().owner(8), 8);
    }

    #[test]
    fn columns_make_an_equal_table() {
        let table = AliasTable::new(&[3.0, 0.1, 0.0]).unwrap();
        let other = AliasTable::from_columns(table.columns()).unwrap();
        assert_eq!(table.before, other.before);
        assert!(AliasTable::from_columns(&[1]).is_err());
        assert!(AliasTable::from_columns(&[]).is_err());
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
            assert!(AliasTable::new(weights).is_err(), "{weights:?}");
        }
    }
}
