//! This module counts how many words of a target occur in the titles of its history.

use rayon::prelude::*;

use crate::denoising::slots::{Slots, Target, slots};
use crate::denoising::titles::Titles;
use crate::error::Error;
use crate::simd::prefetch;
use crate::threads::Workers;

/// Samples a thread takes at once.
const BATCH: usize = 1024;
/// Titles between the one that is looked at and the one that is fetched.
const AHEAD: usize = 16;
/// How much dearer it is to mark a title's words than to look at its slots.
const MARKING: usize = 4;
/// Items that are checked at once.
const CHECKED: usize = 4096;

/// The samples: sample `s` asks for `targets[s]` after `items[starts[s]..ends[s]]`.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    pub items: &'a [i32],
    pub starts: &'a [i64],
    pub ends: &'a [i64],
    pub targets: &'a [i32],
}

impl Samples<'_> {
    fn check(&self, n_titles: usize) -> Result<(), Error> {
        Error::check_length("starts", self.targets.len(), self.starts.len())?;
        Error::check_length("ends", self.targets.len(), self.ends.len())?;
        for (row, (&start, &end)) in self.starts.iter().zip(self.ends).enumerate() {
            if start < 0 || start > end || end > self.items.len() as i64 {
                return Err(Error::value(
                    format!("0 <= start <= end <= {} in row {row}", self.items.len()),
                    &format!("{start} and {end}"),
                ));
            }
        }
        for (name, items) in [("items", self.items), ("targets", self.targets)] {
            for (row, items) in items.chunks(CHECKED).enumerate() {
                // whole chunks first, without a branch for each; a negative number is large here
                let largest = items
                    .iter()
                    .fold(0, |largest, &item| largest.max(item as u32));
                if (largest as usize) < n_titles {
                    continue;
                }
                for (place, &item) in items.iter().enumerate() {
                    Error::check_index(name, row * CHECKED + place, n_titles, item)?;
                }
            }
        }
        Ok(())
    }

    fn history(&self, row: usize) -> &[i32] {
        &self.items[self.starts[row] as usize..self.ends[row] as usize]
    }
}

/// Return, for each sample, how many of the target's words occur in a title of its history.
///
/// # Errors
/// If lengths differ, a range does not lie in the items, an item has no title, or the job is
/// interrupted.
pub fn overlaps(titles: &Titles, samples: &Samples, workers: &Workers) -> Result<Vec<i32>, Error> {
    count(titles, samples, usize::MAX, workers, |count| count as i32)
}

/// Return, for each sample, whether any word of the target occurs in a title of its history.
///
/// # Errors
/// As [`overlaps`].
pub fn shares_word(
    titles: &Titles,
    samples: &Samples,
    workers: &Workers,
) -> Result<Vec<bool>, Error> {
    count(titles, samples, 1, workers, |count| count > 0)
}

/// Return the value of each sample's count, which stops at `enough`.
///
/// Samples whose histories start at the same place are prefixes of one another: where that saves
/// work they are counted in one walk along the longest. Other histories are looked through one by
/// one.
fn count<T: Copy + Default + Send>(
    titles: &Titles,
    samples: &Samples,
    enough: usize,
    workers: &Workers,
    value: impl Fn(usize) -> T + Sync,
) -> Result<Vec<T>, Error> {
    samples.check(titles.n_titles())?;
    let mut order: Vec<usize> = (0..samples.targets.len()).collect();
    order.sort_unstable_by_key(|&row| (samples.starts[row], samples.ends[row]));
    let n_looks: usize = order.iter().map(|&row| samples.history(row).len()).sum();
    let slots = if n_looks < titles.n_titles() {
        // too few looks to prepare every title: all samples are walked
        Vec::new()
    } else {
        slots(titles, workers)?
    };
    let counter = Counter {
        titles,
        samples,
        slots: &slots,
        enough,
    };
    let values: Vec<Vec<T>> = batches(&order, samples)
        .par_iter()
        .map_init(
            || (Marks::new(titles.n_words()), Target::default()),
            |(marks, target), rows| {
                let mut values = Vec::with_capacity(rows.len());
                for group in rows.chunk_by(|&a, &b| samples.starts[a] == samples.starts[b]) {
                    workers.go_on()?;
                    if counter.should_walk(group) {
                        counter.walk(group, marks, |count| values.push(value(count)));
                        continue;
                    }
                    for &row in group {
                        workers.go_on()?;
                        counter.fetch(&rows[values.len() + 1..]);
                        values.push(value(counter.look(row, target)));
                    }
                }
                Ok(values)
            },
        )
        .collect::<Result<_, Error>>()?;
    let mut all = vec![T::default(); order.len()];
    for (&row, value) in order.iter().zip(values.into_iter().flatten()) {
        all[row] = value;
    }
    Ok(all)
}

/// Return the rows in pieces that keep those with the same start together.
fn batches<'a>(order: &'a [usize], samples: &Samples) -> Vec<&'a [usize]> {
    let mut batches = Vec::new();
    let mut rest = order;
    while !rest.is_empty() {
        let start = |&row: &usize| samples.starts[row];
        let last = start(&rest[BATCH.min(rest.len()) - 1]);
        let (batch, after) = rest.split_at(rest.partition_point(|row| start(row) <= last));
        batches.push(batch);
        rest = after;
    }
    batches
}

#[derive(Clone, Copy)]
struct Counter<'a> {
    titles: &'a Titles<'a>,
    samples: &'a Samples<'a>,
    slots: &'a [Slots],
    enough: usize,
}

impl Counter<'_> {
    fn should_walk(&self, group: &[usize]) -> bool {
        let lengths = group.iter().map(|&row| self.samples.history(row).len());
        let longest = lengths.clone().max().unwrap_or(0);
        self.slots.is_empty() || lengths.sum::<usize>() > MARKING * longest
    }

    /// Count for rows with one start, the nearest end first: all words so far are marked.
    fn walk(&self, group: &[usize], marks: &mut Marks, mut each: impl FnMut(usize)) {
        marks.clear();
        let Some(&last) = group.last() else { return };
        let longest = self.samples.history(last);
        let mut position = 0;
        for &row in group {
            let length = self.samples.history(row).len();
            for place in position..length {
                if let Some(&item) = longest.get(place + AHEAD) {
                    self.titles.prefetch(item);
                }
                marks.add(self.titles.of(longest[place]));
            }
            position = length;
            each(marks.count(self.titles.of(self.samples.targets[row])));
        }
    }

    /// Fetch what the next rows begin with.
    fn fetch(&self, next: &[usize]) {
        if let Some(&row) = next.first() {
            self.titles.prefetch(self.samples.targets[row]);
            let first = self.samples.history(row).iter().take(AHEAD);
            first.for_each(|&item| prefetch(self.slots, item as usize));
        }
        if let Some(&row) = next.get(1) {
            self.titles.prefetch_place(self.samples.targets[row]);
        }
    }

    /// Count for one row.
    fn look(&self, row: usize, target: &mut Target) -> usize {
        let (words, history) = (
            self.titles.of(self.samples.targets[row]),
            self.samples.history(row),
        );
        let enough = self.enough.min(words.len());
        target.put(words);
        // one hit may be enough: then the titles after it are not looked at
        let block = if enough == 1 {
            AHEAD
        } else {
            history.len().max(1)
        };
        for (number, items) in history.chunks(block).enumerate() {
            target.hits.clear();
            for (place, &item) in items.iter().enumerate() {
                if let Some(&item) = history.get(number * block + place + AHEAD) {
                    prefetch(self.slots, item as usize);
                }
                let slots = &self.slots[item as usize];
                if target.may_share(slots) {
                    self.titles.prefetch_place(item);
                    prefetch(self.titles.words(), slots.start as usize);
                    target.hits.push(item);
                }
            }
            target.find(words, self.titles, enough);
            if target.n_found >= enough {
                break;
            }
        }
        target.take(words)
    }
}

/// A set of words that is emptied in constant time: a word is in it if it carries the round.
struct Marks {
    rounds: Vec<u32>,
    round: u32,
}

impl Marks {
    fn new(n_words: usize) -> Self {
        Self {
            rounds: vec![0; n_words],
            round: 0,
        }
    }

    fn clear(&mut self) {
        self.round = self.round.checked_add(1).unwrap_or_else(|| {
            self.rounds.fill(0);
            1
        });
    }

    fn add(&mut self, words: &[i32]) {
        for &word in words {
            self.rounds[word as usize] = self.round;
        }
    }

    fn count(&self, words: &[i32]) -> usize {
        let marked = |&&word: &&i32| self.rounds[word as usize] == self.round;
        words.iter().filter(marked).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoising::titles::title_words;
    use crate::random::Random;
    use crate::threads::on;

    #[test]
    fn overlaps_count_words_of_the_target_in_its_own_history_only() {
        let titles = ["a b c", "c d", "d e", "x"];
        let (offsets, words) = on(1, |workers| title_words(&titles, &[], workers)).unwrap();
        let words = Titles::new(&offsets, &words).unwrap();
        let samples = Samples {
            items: &[0, 1, 2, 3, 2],
            starts: &[0, 0, 0, 3, 3, 1],
            ends: &[2, 1, 0, 4, 5, 3],
            targets: &[2, 1, 0, 2, 1, 0],
        };
        for threads in [1, 2] {
            let counts = on(threads, |workers| overlaps(&words, &samples, workers)).unwrap();
            assert_eq!(counts, [1, 1, 0, 0, 1, 1]);
            let shared = on(threads, |workers| shares_word(&words, &samples, workers)).unwrap();
            assert_eq!(shared, [true, true, false, false, true, true]);
        }
    }

    #[test]
    fn marks_survive_the_last_round() {
        let mut marks = Marks::new(2);
        marks.round = u32::MAX;
        marks.add(&[0]);
        marks.clear();
        assert_eq!(marks.count(&[0, 1]), 0);
        marks.add(&[1]);
        assert_eq!(marks.count(&[0, 1]), 1);
    }

    #[test]
    fn bad_input_is_refused() {
        let words = Titles::new(&[0, 1], &[0]).unwrap();
        let run = |items: &[i32], starts: &[i64], ends: &[i64], targets: &[i32]| {
            let samples = Samples {
                items,
                starts,
                ends,
                targets,
            };
            on(1, |workers| overlaps(&words, &samples, workers))
        };
        assert!(run(&[0], &[0], &[1], &[0]).is_ok());
        assert!(run(&[1], &[0], &[1], &[0]).is_err());
        assert!(run(&[0], &[0], &[1], &[-1]).is_err());
        assert!(run(&[0], &[-1], &[1], &[0]).is_err());
        assert!(run(&[0], &[1], &[0], &[0]).is_err());
        assert!(run(&[0], &[0], &[2], &[0]).is_err());
        assert!(run(&[0], &[0], &[1, 1], &[0]).is_err());
    }

    /// Titles of `0..80` words out of `n_words`, and samples that look at them or walk along them.
    #[test]
    fn walking_and_looking_count_what_sets_count() {
        let mut random = Random::new(7, 0, 0);
        let mut below = |n: usize| random.below(n as u64) as usize;
        for n_words in [20, 400, 30_000] {
            let rows: Vec<Vec<i32>> = (0..60)
                .map(|title| {
                    let mut row: Vec<i32> = (0..title * 80 / 60)
                        .map(|_| below(n_words) as i32)
                        .collect();
                    row.sort_unstable();
                    row.dedup();
                    row
                })
                .collect();
            let mut offsets = vec![0];
            offsets.extend(rows.iter().scan(0, |end, row| {
                *end += row.len() as i64;
                Some(*end)
            }));
            let words = rows.concat();
            let titles = Titles::new(&offsets, &words).unwrap();
            let items: Vec<i32> = (0..300).map(|_| below(60) as i32).collect();
            let (mut starts, mut ends, mut targets) = (vec![], vec![], vec![]);
            // first so few samples that no slots are made
            for n_samples in [1, 3000] {
                for _ in 0..n_samples {
                    let start = if below(2) == 0 { 7 } else { below(300) };
                    starts.push(start as i64);
                    ends.push((start + below(40).min(300 - start)) as i64);
                    targets.push(below(60) as i32);
                }
                let samples = Samples {
                    items: &items,
                    starts: &starts,
                    ends: &ends,
                    targets: &targets,
                };
                let expected: Vec<i32> = (0..targets.len())
                    .map(|row| {
                        let history = samples.history(row);
                        let held = |word: &&i32| {
                            history
                                .iter()
                                .any(|&item| rows[item as usize].contains(word))
                        };
                        rows[targets[row] as usize].iter().filter(held).count() as i32
                    })
                    .collect();
                for threads in [1, 2] {
                    let counts = on(threads, |workers| overlaps(&titles, &samples, workers));
                    assert_eq!(counts.unwrap(), expected);
                    let shared = on(threads, |workers| shares_word(&titles, &samples, workers));
                    let any: Vec<bool> = expected.iter().map(|&count| count > 0).collect();
                    assert_eq!(shared.unwrap(), any);
                }
            }
        }
    }
}
