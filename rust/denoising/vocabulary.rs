//! This module numbers words in the order in which they first come.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use crate::error::Error;
use crate::simd::prefetch;

/// Numbers of words in the order in which they were first asked for.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// Words that fit a key: nearly all, and a look at one takes a single cache line. At most half
    /// of the places are taken, and a word stands at the first free one after its own.
    short: Vec<(Key, i32)>,
    n_short: usize,
    long: HashMap<Vec<u8>, i32, RandomState>,
    n_words: usize,
    state: RandomState,
}

/// Up to 23 bytes and, in the last one, how many they are.
type Key = (u64, u64, u64);
const FREE: Key = (0, 0, 0);
const LEFT_OUT: i32 = -1;

/// A word to look up, and its hash.
#[derive(Debug)]
pub enum Asked {
    Short(Key, u64),
    Long(Vec<u8>),
}

/// Return the key of the first `length` bytes, if they are few enough.
fn key(rest: &[u8], length: usize) -> Option<Key> {
    if length > 23 {
        return None;
    }
    // all bytes at once and then a mask, since a copy of so many and no more is slower
    let bytes: [u8; 24] = rest.first_chunk().copied().unwrap_or_else(|| {
        let mut bytes = [0; 24];
        bytes[..length].copy_from_slice(&rest[..length]);
        bytes
    });
    let (words, _) = bytes.as_chunks::<8>();
    let part = |place: usize| {
        let n_bits = 8 * length.saturating_sub(8 * place).min(8) as u32;
        u64::from_le_bytes(words[place]) & 1_u64.checked_shl(n_bits).map_or(u64::MAX, |bit| bit - 1)
    };
    Some((part(0), part(1), part(2) | (length as u64) << 56))
}

impl Vocabulary {
    /// Return the word to look up, the first `length` bytes; its place is fetched.
    #[must_use]
    pub fn ask(&self, rest: &[u8], length: usize) -> Asked {
        match key(rest, length) {
            Some(key) => self.ask_key(key),
            None => Asked::Long(rest[..length].to_vec()),
        }
    }

    fn ask_key(&self, key: Key) -> Asked {
        let hash = self.state.hash_one(key);
        prefetch(
            &self.short,
            hash as usize & self.short.len().wrapping_sub(1),
        );
        Asked::Short(key, hash)
    }

    /// Return the number of a word, unless it is to be left out.
    pub fn of(&mut self, word: Asked) -> Option<i32> {
        let next = self.n_words as i32;
        let number = self.number_or(word, next);
        self.n_words += usize::from(number == next);
        (number != LEFT_OUT).then_some(number)
    }

    /// Let a word, which was not asked for before, have no number.
    pub fn leave_out(&mut self, word: &[u8]) {
        self.number_or(self.ask(word, word.len()), LEFT_OUT);
    }

    /// Return the number of a word, `new` if it had none.
    fn number_or(&mut self, word: Asked, new: i32) -> i32 {
        let (key, hash) = match word {
            Asked::Long(word) => return *self.long.entry(word).or_insert(new),
            Asked::Short(key, hash) => (key, hash),
        };
        if 2 * self.n_short >= self.short.len() {
            self.grow();
        }
        let place = self.place(key, hash);
        let (held, number) = &mut self.short[place];
        if *held == FREE {
            (*held, *number) = (key, new);
            self.n_short += 1;
        }
        *number
    }

    /// Return where a key stands, or would.
    fn place(&self, key: Key, hash: u64) -> usize {
        let last = self.short.len() - 1;
        let mut place = hash as usize & last;
        while self.short[place].0 != key && self.short[place].0 != FREE {
            place = (place + 1) & last;
        }
        place
    }

    fn grow(&mut self) {
        let larger = vec![(FREE, 0); (2 * self.short.len()).max(1024)];
        let old = std::mem::replace(&mut self.short, larger);
        for (key, number) in old.into_iter().filter(|&(key, _)| key != FREE) {
            let place = self.place(key, self.state.hash_one(key));
            self.short[place] = (key, number);
        }
    }

    /// Return `Ok` if all numbers fit.
    ///
    /// # Errors
    /// If there are more than 2^31 - 1 words.
    pub fn check(&self) -> Result<(), Error> {
        if self.n_words > i32::MAX as usize {
            let most = format!("at most {} different words", i32::MAX);
            return Err(Error::value(most, &self.n_words));
        }
        Ok(())
    }

    /// Return the number that `all` has for each of these words; it learns them in their order.
    pub fn renamed(self, all: &mut Self) -> Vec<i32> {
        let known = self.short.into_iter().filter(|&(key, _)| key != FREE);
        let short = known.map(|(key, number)| (number, all.ask_key(key)));
        let long = self
            .long
            .into_iter()
            .map(|(word, number)| (number, Asked::Long(word)));
        let mut words: Vec<(i32, Asked)> = short
            .chain(long)
            .filter(|&(number, _)| number != LEFT_OUT)
            .collect();
        words.sort_unstable_by_key(|&(number, _)| number);
        // a word that is left out has no number in any part
        words
            .into_iter()
            .filter_map(|(_, word)| all.of(word))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(numbers: &mut Vocabulary, word: &str) -> Option<i32> {
        let word = numbers.ask(word.as_bytes(), word.len());
        numbers.of(word)
    }

    #[test]
    fn words_of_any_length_and_number_are_told_apart() {
        let words: Vec<String> = (0..2000)
            .map(|n| format!("{n}{}", "a".repeat(n % 40)))
            .collect();
        let mut numbers = Vocabulary::default();
        numbers.leave_out(b"0");
        numbers.leave_out(words[39].as_bytes());
        for _ in 0..2 {
            let mut next = 0..;
            for (place, word) in words.iter().enumerate() {
                let expected = if place == 0 || place == 39 {
                    None
                } else {
                    next.next()
                };
                assert_eq!(number(&mut numbers, word), expected, "{word}");
            }
        }
        assert_eq!(number(&mut numbers, "b"), Some(1998));
        assert!(numbers.check().is_ok());
    }

    #[test]
    fn a_key_holds_the_word_and_nothing_behind_it() {
        let long = [b'a'; 60];
        for length in 0..30 {
            let mut other = [b'b'; 60];
            other[..length].fill(b'a');
            let alone = key(&long[..length], length);
            assert_eq!(alone.is_some(), length < 24);
            assert_eq!(key(&long, length), alone);
            assert_eq!(key(&other, length), alone);
            assert!(alone.is_none() || alone != key(&long, length + 1));
        }
    }

    #[test]
    fn words_asked_for_together_may_be_new_and_alike() {
        let mut numbers = Vocabulary::default();
        let asked = ["b", "a", "b"].map(|word| numbers.ask(word.as_bytes(), word.len()));
        assert_eq!(
            asked.map(|word| numbers.of(word)),
            [Some(0), Some(1), Some(0)]
        );
    }

    #[test]
    fn renamed_words_get_the_numbers_they_would_have_got() {
        let mut all = Vocabulary::default();
        all.leave_out(b"x");
        let (mut first, mut second) = (all.clone(), all.clone());
        let long = "long".repeat(9);
        for word in ["a", "b"] {
            number(&mut first, word);
        }
        for word in ["c", &long, "x", "b"] {
            number(&mut second, word);
        }
        assert_eq!(second.renamed(&mut first), [2, 3, 1]);
        assert_eq!(number(&mut first, &long), Some(3));
    }
}
