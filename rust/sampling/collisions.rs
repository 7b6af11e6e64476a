//! This module finds the items of a batch that its users have seen.

use rayon::prelude::*;

use crate::error::Error;
use crate::histories::Histories;
use crate::threads::Workers;

/// Rows a thread takes at once.
const MIN_ROWS: usize = 512;
/// Bits of the filter for each item of the batch.
const BITS: usize = 16;

/// Return the sorted `(row, column)` pairs in which `users[row]` has seen `items[column]`.
///
/// # Errors
/// If a user is not in `seen`, or a row of seen items is wrong.
pub fn collisions(
    seen: &Histories,
    users: &[i32],
    items: &[i32],
    workers: &Workers,
) -> Result<Vec<[i64; 2]>, Error> {
    for (row, &user) in users.iter().enumerate() {
        Error::check_index("users", row, seen.len(), user)?;
    }
    let columns = Columns::new(items);
    let parts: Vec<_> = users
        .par_chunks(MIN_ROWS)
        .enumerate()
        .map(|(part, users)| {
            workers.go_on()?;
            let mut pairs = Vec::new();
            for (place, &user) in users.iter().enumerate() {
                // the next rows are on their way while this one is looked up
                if let Some(&user) = users.get(place + 16) {
                    seen.prefetch_place(user as usize);
                }
                if let Some(&user) = users.get(place + 8) {
                    seen.prefetch_items(user as usize);
                }
                let start = pairs.len();
                let row = (part * MIN_ROWS + place) as i64;
                for &item in seen.row(user as usize)? {
                    pairs.extend(columns.of(item).map(|column| [row, column]));
                }
                pairs[start..].sort_unstable();
            }
            Ok(pairs)
        })
        .collect();
    let mut pairs = Vec::new();
    for part in parts {
        pairs.append(&mut part?);
    }
    Ok(pairs)
}

/// Where each item stands in the batch.
struct Columns {
    /// `(item, column)`, sorted.
    sorted: Vec<(i32, i64)>,
    /// Bits that tell most other items from those of the batch.
    filter: Vec<u64>,
}

impl Columns {
    fn new(items: &[i32]) -> Self {
        let mut sorted: Vec<_> = items.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        let mut filter = vec![0; (items.len() * BITS / 64).next_power_of_two()];
        for &item in items {
            let word = Self::word(item, &filter);
            filter[word] |= 1 << (item & 63);
        }
        Self { sorted, filter }
    }

    fn word(item: i32, filter: &[u64]) -> usize {
        (item >> 6) as usize & (filter.len() - 1)
    }

    #[inline]
    fn of(&self, item: i32) -> impl Iterator<Item = i64> {
        let may_hold = self.filter[Self::word(item, &self.filter)] >> (item & 63) & 1 != 0;
        let found = if may_hold {
            let start = self.sorted.partition_point(|&(other, _)| other < item);
            &self.sorted[start..]
        } else {
            &[]
        };
        found
            .iter()
            .take_while(move |&&(other, _)| other == item)
            .map(|&(_, column)| column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::on;

    #[test]
    fn pairs_are_sorted_and_repeated_items_and_users_count_each_time() {
        let seen = Histories::new(&[0, 3, 3, 4], &[2, 5, 9, 5], 10).unwrap();
        let items = [5, 1, 9, 5, 2];
        for threads in [1, 2] {
            let pairs = on(threads, |workers| {
                collisions(&seen, &[0, 1, 2, 0], &items, workers)
            });
            let first = [[0, 0], [0, 2], [0, 3], [0, 4]];
            let mut expected = [&first[..], &[[2, 0], [2, 3]], &first].concat();
            expected[6..].iter_mut().for_each(|pair| pair[0] = 3);
            assert_eq!(pairs.unwrap(), expected);
        }
        let pairs = |users: &[i32], items: &[i32]| {
            on(1, |workers| collisions(&seen, users, items, workers))
        };
        assert_eq!(pairs(&[], &[1]), Ok(vec![]));
        assert_eq!(pairs(&[0], &[]), Ok(vec![]));
        assert_eq!(pairs(&[0], &[-1, 77]), Ok(vec![]));
        assert!(pairs(&[3], &[1]).is_err());
    }
}
