//! Random choices: items a user has not seen.

use rayon::prelude::*;

use crate::alias::Alias;
use crate::error::Error;
use crate::histories::Histories;
use crate::random::Random;
use crate::threads::Workers;

/// Draws that may hit a seen item before the unseen ones are listed and drawn from directly.
const MAX_TRIES: usize = 64;
/// Rows a thread takes at once.
const MIN_ROWS: usize = 32;

/// Which rows to draw for, and the key of their random numbers.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Number of items drawn for each row.
    pub n: usize,
    pub n_items: usize,
    pub seed: u64,
    pub step: u64,
    /// Number of the first row: lets parts of one batch be drawn in different places.
    pub first_row: u64,
}

/// Return `[B, n]` items, for each row items that `users[row]` has not seen, with replacement.
///
/// Without a table all unseen items are equally likely, else as likely as in the table, divided by
/// what the unseen items have together. A result depends on its row's user and number only.
///
/// # Errors
/// If a user is not in `seen`, the table is not of `n_items`, or a user has seen every item that
/// can be drawn.
pub fn sample_negatives(
    seen: &Histories,
    users: &[i32],
    alias: Option<Alias>,
    draw: Draw,
    workers: &Workers,
) -> Result<Vec<i32>, Error> {
    if let Some(alias) = alias {
        Error::check_length("alias table", draw.n_items, alias.n_items())?;
    }
    // one after the other, so that the error names the first user that is wrong
    let mut rows = Vec::with_capacity(users.len());
    for (row, &user) in users.iter().enumerate() {
        let seen_row = seen.row(Error::check_index("users", row, seen.len(), user)?)?;
        if seen_row.len() == draw.n_items {
            return Err(nothing_left(user, draw));
        }
        rows.push(seen_row);
    }
    let mut drawn = vec![0; users.len() * draw.n];
    if draw.n == 0 {
        return Ok(drawn);
    }
    drawn
        .par_chunks_mut(draw.n)
        .with_min_len(MIN_ROWS)
        .enumerate()
        .try_for_each(|(row, out)| {
            workers.go_on()?;
            let random = Random::new(
                draw.seed,
                draw.step,
                draw.first_row.wrapping_add(row as u64),
            );
            fill_row(out, rows[row], alias, draw.n_items, random)
                .ok_or_else(|| nothing_left(users[row], draw))
        })?;
    Ok(drawn)
}

fn nothing_left(user: i32, draw: Draw) -> Error {
    Error::NothingLeft {
        user,
        n_items: draw.n_items,
    }
}

/// Fill one row; `None` if no unseen item has a weight.
fn fill_row(
    out: &mut [i32],
    seen: &[i32],
    alias: Option<Alias>,
    n_items: usize,
    mut random: Random,
) -> Option<()> {
    let mut unseen = None;
    for place in out {
        *place = match rejected_draw(seen, alias, n_items, &mut random) {
            Some(item) => item,
            None => unseen
                .get_or_insert_with(|| Unseen::new(seen, alias, n_items))
                .draw(&mut random)?,
        };
    }
    Some(())
}

fn rejected_draw(
    seen: &[i32],
    alias: Option<Alias>,
    n_items: usize,
    random: &mut Random,
) -> Option<i32> {
    (0..MAX_TRIES).find_map(|_| {
        let item = match alias {
            Some(alias) => alias.draw(random),
            None => random.below(n_items as u64) as i32,
        };
        seen.binary_search(&item).is_err().then_some(item)
    })
}

/// The items a user has not seen, with running sums of their weights.
struct Unseen {
    items: Vec<i32>,
    sums: Vec<f64>,
}

impl Unseen {
    fn new(seen: &[i32], alias: Option<Alias>, n_items: usize) -> Self {
        let weights = alias.map(|alias| alias.weights());
        let mut rest = seen.iter().copied().peekable();
        let mut total = 0.0;
        let (mut items, mut sums) = (Vec::new(), Vec::new());
        for item in 0..n_items as i32 {
            if rest.next_if_eq(&item).is_some() {
                continue;
            }
            let weight = weights
                .as_ref()
                .map_or(1.0, |weights| weights[item as usize]);
            if weight > 0.0 {
                total += weight;
                items.push(item);
                sums.push(total);
            }
        }
        Self { items, sums }
    }

    fn draw(&self, random: &mut Random) -> Option<i32> {
        let point = random.unit() * self.sums.last()?;
        let index = self.sums.partition_point(|&sum| sum <= point);
        // rounding can put the point on the very end
        self.items.get(index).or(self.items.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alias::alias_table;
    use crate::threads::on;

    const DRAW: Draw = Draw {
        n: 3000,
        n_items: 6,
        seed: 1,
        step: 2,
        first_row: 0,
    };

    fn counts(drawn: &[i32], n_items: usize) -> Vec<f64> {
        let mut counts = vec![0.0; n_items];
        for &item in drawn {
            counts[item as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn draws_are_even_over_the_unseen_items_and_the_same_for_any_threads() {
        let seen = Histories::new(&[0, 2, 2], &[1, 4], 6).unwrap();
        let draw = |threads| {
            on(threads, |workers| {
                sample_negatives(&seen, &[0, 1], None, DRAW, workers)
            })
            .unwrap()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(2));
        for (row, share) in [(0, [0.25, 0.0, 0.25, 0.25, 0.0, 0.25]), (1, [1.0 / 6.0; 6])] {
            let counts = counts(&drawn[row * 3000..][..3000], 6);
            for (count, share) in counts.iter().zip(share) {
                assert!((count / 3000.0 - share).abs() < 0.035, "{counts:?}");
                assert_eq!(*count == 0.0, share == 0.0);
            }
        }
    }

    #[test]
    fn parts_of_a_batch_drawn_apart_are_the_batch() {
        let seen = Histories::new(&[0, 2, 2], &[1, 4], 6).unwrap();
        let whole = on(1, |workers| {
            sample_negatives(&seen, &[0, 1], None, DRAW, workers)
        })
        .unwrap();
        let part = Draw {
            first_row: 1,
            ..DRAW
        };
        assert_eq!(
            whole[3000..],
            on(1, |workers| sample_negatives(
                &seen,
                &[1],
                None,
                part,
                workers
            ))
            .unwrap()
        );
    }

    #[test]
    fn a_user_who_has_seen_nearly_all_gets_the_rest_in_proportion() {
        let n_items = 5000;
        let items: Vec<i32> = (0..n_items as i32 - 2).collect();
        let offsets = [0, n_items as i64 - 2];
        let seen = Histories::new(&offsets, &items, n_items).unwrap();
        let mut weights = vec![1.0; n_items];
        weights[n_items - 1] = 3.0;
        let (keep, other) = alias_table(&weights).unwrap();
        let alias = Alias::new(&keep, &other).unwrap();
        let draw = Draw { n_items, ..DRAW };
        for (alias, share) in [(None, 0.5), (Some(alias), 0.75)] {
            let drawn = on(1, |workers| {
                sample_negatives(&seen, &[0], alias, draw, workers)
            })
            .unwrap();
            let counts = counts(&drawn, n_items);
            assert_eq!(counts[n_items - 2] + counts[n_items - 1], 3000.0);
            assert!((counts[n_items - 1] / 3000.0 - share).abs() < 0.035);
        }
    }

    #[test]
    fn a_user_with_nothing_left_is_named() {
        let seen = Histories::new(&[0, 0, 2], &[0, 1], 2).unwrap();
        let draw = Draw { n_items: 2, ..DRAW };
        let error = on(1, |workers| {
            sample_negatives(&seen, &[0, 1], None, draw, workers)
        })
        .unwrap_err();
        assert_eq!(
            error,
            Error::NothingLeft {
                user: 1,
                n_items: 2
            }
        );
        // item 2 is unseen but has no weight
        let (keep, other) = alias_table(&[1.0, 1.0, 0.0]).unwrap();
        let seen = Histories::new(&[0, 2], &[0, 1], 3).unwrap();
        let alias = Some(Alias::new(&keep, &other).unwrap());
        let draw = Draw { n_items: 3, ..DRAW };
        let error = on(1, |workers| {
            sample_negatives(&seen, &[0], alias, draw, workers)
        })
        .unwrap_err();
        assert_eq!(
            error,
            Error::NothingLeft {
                user: 0,
                n_items: 3
            }
        );
    }
}
