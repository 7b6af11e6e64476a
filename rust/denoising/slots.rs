//! This module holds hashes of a title's words, which show quickly that two titles share none.

use rayon::prelude::*;

use crate::denoising::titles::Titles;
use crate::error::Error;
use crate::threads::Workers;

/// Titles a thread takes at once.
const PIECE: usize = 4096;

/// Slots of the words of one title, in one cache line: most titles fill the first half.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Slots {
    slots: [u16; 30],
    /// Where its words start, as far as that fits: only a hint what to fetch.
    pub start: u32,
}

const N_SLOTS: usize = 8192;
/// The slot that pads a title; no word is ever there.
const EMPTY: u16 = 0;
/// The slot of a title with too many words, where every target is.
const FULL: u16 = N_SLOTS as u16 - 1;

/// Return the slot of a word, above `EMPTY` and below `FULL`.
fn slot(word: i32) -> u16 {
    (word as u32 % (N_SLOTS as u32 - 2)) as u16 + 1
}

/// Return the slots of every title.
///
/// # Errors
/// If the job is interrupted.
pub fn slots(titles: &Titles, workers: &Workers) -> Result<Vec<Slots>, Error> {
    let none = Slots {
        slots: [EMPTY; 30],
        start: 0,
    };
    let mut all = vec![none; titles.n_titles()];
    all.par_chunks_mut(PIECE)
        .enumerate()
        .try_for_each(|(number, slots)| {
            workers.go_on()?;
            for (place, title) in slots.iter_mut().enumerate() {
                let item = (number * PIECE + place) as i32;
                let words = titles.of(item);
                for (slot_of, &word) in title.slots.iter_mut().zip(words) {
                    *slot_of = slot(word);
                }
                if words.len() > title.slots.len() {
                    title.slots[0] = FULL;
                }
                title.start = titles.start(item) as u32;
            }
            Ok(())
        })?;
    Ok(all)
}

/// The words of one target, as slots, and which of them were found.
#[derive(Debug)]
pub struct Target {
    taken: Box<[u8; N_SLOTS]>,
    found: Vec<bool>,
    pub n_found: usize,
    /// Titles that may share a word with it.
    pub hits: Vec<i32>,
}

impl Default for Target {
    fn default() -> Self {
        let mut taken = Box::new([0; N_SLOTS]);
        taken[usize::from(FULL)] = 1;
        Self {
            taken,
            found: Vec::new(),
            n_found: 0,
            hits: Vec::new(),
        }
    }
}

impl Target {
    /// Take these words in; there must be none.
    pub fn put(&mut self, words: &[i32]) {
        for &word in words {
            self.taken[usize::from(slot(word))] = 1;
        }
        self.found.clear();
        self.found.resize(words.len(), false);
        self.n_found = 0;
    }

    /// Return how many words were found, and forget them all.
    pub fn take(&mut self, words: &[i32]) -> usize {
        for &word in words {
            self.taken[usize::from(slot(word))] = 0;
        }
        self.n_found
    }

    /// Return false only if the title shares no word with the target.
    #[must_use]
    pub fn may_share(&self, title: &Slots) -> bool {
        let (first, second) = title.slots.split_at(16);
        let any = |slots: &[u16]| {
            let taken = |&slot: &u16| self.taken[usize::from(slot) % N_SLOTS];
            slots.iter().fold(0, |any, slot| any | taken(slot)) != 0
        };
        any(first) || (second[0] != EMPTY && any(second))
    }

    /// Find up to `enough` words of the target in the titles hit.
    pub fn find(&mut self, words: &[i32], titles: &Titles, enough: usize) {
        for &item in &self.hits {
            for word in titles.of(item) {
                if self.taken[usize::from(slot(*word))] == 0 {
                    continue;
                }
                if let Ok(place) = words.binary_search(word)
                    && !std::mem::replace(&mut self.found[place], true)
                {
                    self.n_found += 1;
                    if self.n_found == enough {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::on;

    #[test]
    fn a_look_never_misses_a_shared_word() {
        // titles of 0 to 59 words, all multiples of 7, the last shared with the target
        let rows: Vec<Vec<i32>> = (0..60)
            .map(|n| (0..n).map(|w| 7 * w + 5).collect())
            .collect();
        let mut offsets = vec![0];
        offsets.extend((0..60).map(|n| n * (n + 1) / 2));
        let words = rows.concat();
        let titles = Titles::new(&offsets, &words).unwrap();
        let slots = on(1, |workers| slots(&titles, workers)).unwrap();
        let mut target = Target::default();
        for (title, row) in slots.iter().zip(&rows).skip(1) {
            let last = &row[row.len() - 1..];
            target.put(last);
            assert!(target.may_share(title));
            target.hits = vec![row.len() as i32];
            target.find(last, &titles, 1);
            assert_eq!(target.take(last), 1);
            target.put(&[1]);
            assert_eq!(
                target.may_share(title),
                row.len() > 30,
                "only titles with too many words"
            );
            assert_eq!(target.take(&[1]), 0);
        }
    }
}
