//! Words of titles, and how many of a target's words its history holds.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

use crate::error::Error;
use crate::threads::Workers;

/// Return the words of each title as a CSR table: offsets `[N + 1]`, and word numbers, sorted and
/// without repetition inside a title.
///
/// A word is what Unicode (UAX 29) calls one, in normal form: NFKC, lower case, the curly
/// apostrophe made straight. Stop words, brought to the same form, are left out. Words are numbered
/// by their first occurrence.
#[must_use]
pub fn title_words<T: AsRef<str>>(titles: &[T], stop_words: &[T]) -> (Vec<i64>, Vec<i32>) {
    let stop_words: HashSet<String> = stop_words
        .iter()
        .map(|word| normal_form(word.as_ref()))
        .collect();
    let mut numbers: HashMap<String, i32> = HashMap::new();
    let mut offsets = vec![0];
    let mut words: Vec<i32> = Vec::new();
    for title in titles {
        let title = normal_form(title.as_ref());
        let mut row: Vec<i32> = Vec::new();
        for word in title
            .unicode_words()
            .filter(|word| !stop_words.contains(*word))
        {
            let next = numbers.len() as i32;
            let known = numbers.get(word).copied();
            row.push(known.unwrap_or_else(|| *numbers.entry(word.to_owned()).or_insert(next)));
        }
        row.sort_unstable();
        row.dedup();
        words.extend(row);
        offsets.push(words.len() as i64);
    }
    (offsets, words)
}

fn normal_form(text: &str) -> String {
    let text: String = text.nfkc().collect();
    // lower-casing can take letters apart, so they are composed again
    text.to_lowercase()
        .nfkc()
        .map(|c| if c == '\u{2019}' { '\'' } else { c })
        .collect()
}

/// The words of every title, as [`title_words`] gives them.
#[derive(Debug, Clone, Copy)]
pub struct Titles<'a> {
    offsets: &'a [i64],
    words: &'a [i32],
    n_words: usize,
}

impl<'a> Titles<'a> {
    /// Return the checked view of a table of words.
    ///
    /// # Errors
    /// If the offsets do not describe the words, or a word number is negative.
    pub fn new(offsets: &'a [i64], words: &'a [i32]) -> Result<Self, Error> {
        let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let ends = (offsets.first().copied(), offsets.last().copied());
        if !rising || ends != (Some(0), Some(words.len() as i64)) {
            return Err(Error::Offsets {
                n_items: words.len(),
                got: format!("{ends:?}"),
            });
        }
        let mut n_words = 0;
        for (row, &word) in words.iter().enumerate() {
            n_words = n_words.max(Error::check_index("words", row, i32::MAX as usize, word)? + 1);
        }
        Ok(Self {
            offsets,
            words,
            n_words,
        })
    }

    fn n_titles(&self) -> usize {
        self.offsets.len() - 1
    }

    fn of(&self, item: i32) -> &'a [i32] {
        let item = item as usize;
        &self.words[self.offsets[item] as usize..self.offsets[item + 1] as usize]
    }
}

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
            for (row, &item) in items.iter().enumerate() {
                Error::check_index(name, row, n_titles, item)?;
            }
        }
        Ok(())
    }
}

/// Return, for each sample, how many of the target's words occur in a title of its history.
///
/// Samples whose histories start at the same place are prefixes of one another: they are counted
/// in one walk along the longest.
///
/// # Errors
/// If lengths differ, a range does not lie in the items, or an item has no title.
pub fn overlaps(words: &Titles, samples: &Samples, workers: &Workers) -> Result<Vec<i32>, Error> {
    samples.check(words.n_titles())?;
    let mut order: Vec<usize> = (0..samples.targets.len()).collect();
    order.sort_unstable_by_key(|&row| (samples.starts[row], samples.ends[row]));
    let groups: Vec<&[usize]> = order
        .chunk_by(|&a, &b| samples.starts[a] == samples.starts[b])
        .collect();
    let groups = groups.par_iter().with_min_len(16);
    let counts: Vec<Vec<i32>> = groups
        .map_init(
            || Marks::new(words.n_words),
            |marks, group| {
                workers.go_on()?;
                Ok(count_group(words, samples, group, marks))
            },
        )
        .collect::<Result<_, Error>>()?;
    let mut overlaps = vec![0; order.len()];
    for (&row, count) in order.iter().zip(counts.into_iter().flatten()) {
        overlaps[row] = count;
    }
    Ok(overlaps)
}

fn count_group(words: &Titles, samples: &Samples, group: &[usize], marks: &mut Marks) -> Vec<i32> {
    marks.clear();
    let mut position = group.first().map_or(0, |&row| samples.starts[row] as usize);
    let count = |&row: &usize| {
        let end = samples.ends[row] as usize;
        for &item in &samples.items[position..end] {
            marks.add(words.of(item));
        }
        position = end;
        marks.count(words.of(samples.targets[row]))
    };
    group.iter().map(count).collect()
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

    fn count(&self, words: &[i32]) -> i32 {
        words
            .iter()
            .map(|&word| i32::from(self.rounds[word as usize] == self.round))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::on;

    #[test]
    fn words_are_numbered_by_first_occurrence_sorted_and_unique() {
        let titles = ["The Lion King", "King of the lions, KING!", "", "The of"];
        let (offsets, words) = title_words(&titles, &["the", "OF"]);
        assert_eq!(offsets, [0, 2, 4, 4, 4]);
        assert_eq!(words, [0, 1, 1, 2]);
    }

    #[test]
    fn forms_of_one_word_are_one_word() {
        for (first, second) in [
            ("Amélie", "AME\u{301}LIE"),
            ("don't", "Don\u{2019}t"),
            ("ﬁlm", "FILM"),
            ("２００１", "2001"),
            ("İstanbul", "i\u{307}stanbul"),
        ] {
            let (offsets, words) = title_words(&[first, second], &[]);
            assert_eq!((offsets, words), (vec![0, 1, 2], vec![0, 0]), "{first}");
        }
    }

    #[test]
    fn overlaps_count_words_of_the_target_in_its_own_history_only() {
        let titles = ["a b c", "c d", "d e", "x"];
        let (offsets, words) = title_words(&titles, &[]);
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
        assert!(Titles::new(&[], &[]).is_err());
        assert!(Titles::new(&[0, 2, 1], &[0]).is_err());
        assert!(Titles::new(&[0, 1], &[-1]).is_err());
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
}
