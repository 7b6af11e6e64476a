//! Titles as numbers of their words.

use std::collections::HashMap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use rayon::prelude::*;

use crate::error::Error;
use crate::simd::prefetch;
use crate::threads::Workers;
use crate::words::{Words, normal_form};

/// Titles whose words are looked up together.
const BLOCK: usize = 8;
/// Blocks between two looks at whether to go on.
const PIECE: usize = 128;
/// Fewest titles that are worth a thread of their own.
const MIN_TITLES: usize = 4096;

/// Return the words of each title as a CSR table: offsets `[C + 1]`, and word numbers, sorted and
/// without repetition inside a title.
///
/// Words are those of [`Words::split`], numbered by their first occurrence. Stop words, brought to
/// the same form, are left out and have no number.
///
/// # Errors
/// If there are more than 2^31 - 1 different words, or the job is interrupted.
pub fn title_words(
    titles: &[&str],
    stop_words: &[&str],
    workers: &Workers,
) -> Result<(Vec<i64>, Vec<i32>), Error> {
    let mut stops = Numbers::default();
    for word in stop_words {
        stops.leave_out(normal_form(word).as_bytes());
    }
    let length = titles.len().div_ceil(workers.count()).max(MIN_TITLES);
    let parts: Vec<Part> = titles
        .par_chunks(length)
        .map(|titles| Part::read(titles, stops.clone(), workers))
        .collect::<Result<_, _>>()?;
    join(parts, stops, workers)
}

/// Return the titles `text[offsets[c]..offsets[c + 1]]`.
///
/// # Errors
/// If the offsets do not describe the text, or a title is not UTF-8.
pub fn parted<'a>(text: &'a [u8], offsets: &[i64]) -> Result<Vec<&'a str>, Error> {
    check_offsets(offsets, text.len())?;
    let title = |(row, pair): (usize, &[i64])| {
        str::from_utf8(&text[pair[0] as usize..pair[1] as usize])
            .map_err(|error| Error::value(format!("UTF-8 in row {row} of titles"), &error))
    };
    offsets.windows(2).enumerate().map(title).collect()
}

fn check_offsets(offsets: &[i64], length: usize) -> Result<(), Error> {
    let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    let ends = (offsets.first().copied(), offsets.last().copied());
    if rising && ends == (Some(0), Some(length as i64)) {
        return Ok(());
    }
    Err(Error::Offsets {
        n_items: length,
        got: match ends {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "none".to_owned(),
        },
    })
}

/// The words of consecutive titles, with numbers of their own.
struct Part {
    lengths: Vec<usize>,
    words: Vec<i32>,
    numbers: Numbers,
}

impl Part {
    fn read(titles: &[&str], mut numbers: Numbers, workers: &Workers) -> Result<Self, Error> {
        let mut lengths = Vec::with_capacity(titles.len());
        let (mut words, mut row) = (Vec::new(), Vec::new());
        let (mut split, mut asked) = (Words::default(), Vec::new());
        let mut ends = [0; BLOCK];
        for (number, block) in titles.chunks(BLOCK).enumerate() {
            if number % PIECE == 0 {
                workers.go_on()?;
            }
            // first all words of some titles, so that their places are fetched at the same time
            asked.clear();
            for (title, end) in block.iter().zip(&mut ends) {
                split.split(title);
                asked.extend(split.iter().map(|word| numbers.ask(word)));
                *end = asked.len();
            }
            let mut asked = asked.drain(..);
            let mut start = 0;
            for &end in &ends[..block.len()] {
                row.clear();
                let title = asked.by_ref().take(end - start);
                row.extend(title.filter_map(|word| numbers.of(word)));
                row.sort_unstable();
                row.dedup();
                words.extend_from_slice(&row);
                lengths.push(row.len());
                start = end;
            }
        }
        numbers.check()?;
        Ok(Self {
            lengths,
            words,
            numbers,
        })
    }

    fn rename(&mut self, names: &[i32]) {
        let mut rest = &mut self.words[..];
        for &length in &self.lengths {
            let (row, after) = rest.split_at_mut(length);
            for word in &mut *row {
                *word = names[*word as usize];
            }
            row.sort_unstable();
            rest = after;
        }
    }
}

/// Put parts together: a word's number is the one it gets when they are read one after the other.
fn join(
    mut parts: Vec<Part>,
    stops: Numbers,
    workers: &Workers,
) -> Result<(Vec<i64>, Vec<i32>), Error> {
    let mut names: Vec<Vec<i32>> = Vec::new();
    let mut all = stops;
    for (place, part) in parts.iter_mut().enumerate() {
        workers.go_on()?;
        let numbers = std::mem::take(&mut part.numbers);
        if place == 0 {
            // the first part's numbers are final
            all = numbers;
            names.push(Vec::new());
        } else {
            names.push(numbers.renamed(&mut all));
        }
    }
    all.check()?;
    let others = parts.par_iter_mut().zip(&names).skip(1);
    others.try_for_each(|(part, names)| {
        part.rename(names);
        workers.go_on()
    })?;
    let mut offsets = vec![0];
    let lengths = parts.iter().flat_map(|part| &part.lengths);
    offsets.extend(lengths.scan(0, |end, &length| {
        *end += length as i64;
        Some(*end)
    }));
    let mut rest = parts.into_iter().map(|part| part.words);
    let mut words = rest.next().unwrap_or_default();
    rest.for_each(|part| words.extend(part));
    Ok((offsets, words))
}

/// Numbers of words in the order in which they were first asked for.
#[derive(Debug, Clone, Default)]
struct Numbers {
    /// Words that fit a key: nearly all, and a look at one takes a single cache line. At most half
    /// of the places are taken, and a word stands at the first free one after its own.
    short: Vec<(Key, i32)>,
    n_short: usize,
    long: HashMap<Vec<u8>, i32, RandomState>,
    n_words: usize,
    state: RandomState,
}

/// Up to 23 bytes and, in the last one, how many they are.
type Key = [u64; 3];
const FREE: Key = [0; 3];
const LEFT_OUT: i32 = -1;

/// A word to look up, and its hash.
enum Asked {
    Short(Key, u64),
    Long(Vec<u8>),
}

fn key(word: &[u8]) -> Option<Key> {
    let mut bytes = [0; 24];
    bytes[..23].get_mut(..word.len())?.copy_from_slice(word);
    bytes[23] = word.len() as u8;
    let (words, _) = bytes.as_chunks::<8>();
    Some([0, 1, 2].map(|place| u64::from_le_bytes(words[place])))
}

impl Numbers {
    /// Return the word to look up, whose place is fetched.
    fn ask(&self, word: &[u8]) -> Asked {
        key(word).map_or_else(|| Asked::Long(word.to_vec()), |key| self.ask_key(key))
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
    fn of(&mut self, word: Asked) -> Option<i32> {
        let next = self.n_words as i32;
        let number = self.number_or(word, next);
        self.n_words += usize::from(number == next);
        (number != LEFT_OUT).then_some(number)
    }

    fn leave_out(&mut self, word: &[u8]) {
        self.number_or(self.ask(word), LEFT_OUT);
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

    fn check(&self) -> Result<(), Error> {
        if self.n_words > i32::MAX as usize {
            let most = format!("at most {} different words", i32::MAX);
            return Err(Error::value(most, &self.n_words));
        }
        Ok(())
    }

    /// Return the number that `all` has for each of these words; it learns them in their order.
    fn renamed(self, all: &mut Self) -> Vec<i32> {
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
    /// If the offsets do not describe the words, or the words of a title are negative, not sorted
    /// or there twice.
    pub fn new(offsets: &'a [i64], words: &'a [i32]) -> Result<Self, Error> {
        check_offsets(offsets, words.len())?;
        let titles = Self {
            offsets,
            words,
            n_words: words.iter().max().map_or(0, |&word| word as usize + 1),
        };
        for row in 0..titles.n_titles() {
            let title = titles.of(row as i32);
            let mut pairs = title.iter().zip(title.iter().skip(1));
            if let Some((first, second)) = pairs.find(|(first, second)| first >= second) {
                return Err(Error::value(
                    format!("the words of title {row} sorted and without repetition"),
                    &format!("{first} before {second}"),
                ));
            }
            // sorted, so the ends bound all
            for &word in title.first().into_iter().chain(title.last()) {
                Error::check_index("words", row, i32::MAX as usize, word)?;
            }
        }
        Ok(titles)
    }

    #[must_use]
    pub fn n_titles(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Return a number above that of every word.
    #[must_use]
    pub fn n_words(&self) -> usize {
        self.n_words
    }

    /// Return the words of a title, which must exist.
    #[must_use]
    pub fn of(&self, item: i32) -> &'a [i32] {
        let item = item as usize;
        &self.words[self.offsets[item] as usize..self.offsets[item + 1] as usize]
    }

    /// Return the words of all titles, one after the other.
    #[must_use]
    pub fn words(&self) -> &'a [i32] {
        self.words
    }

    /// Return where the words of a title start.
    #[must_use]
    pub fn start(&self, item: i32) -> usize {
        self.offsets[item as usize] as usize
    }

    /// Fetch the place of a title's words, ahead of [`Titles::prefetch`].
    pub fn prefetch_place(&self, item: i32) {
        prefetch(self.offsets, item as usize);
    }

    /// Fetch the words of a title.
    pub fn prefetch(&self, item: i32) {
        prefetch(self.words, self.start(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::threads::on;

    fn read(titles: &[&str], stop_words: &[&str]) -> (Vec<i64>, Vec<i32>) {
        on(1, |workers| title_words(titles, stop_words, workers)).unwrap()
    }

    #[test]
    fn words_are_numbered_by_first_occurrence_sorted_and_unique() {
        let titles = ["The Lion King", "King of the lions, KING!", "", "The of"];
        let (offsets, words) = read(&titles, &["the", "OF"]);
        assert_eq!(offsets, [0, 2, 4, 4, 4]);
        assert_eq!(words, [0, 1, 1, 2]);
        assert_eq!(read(&[], &[]), (vec![0], vec![]));
    }

    #[test]
    fn words_of_any_length_are_told_apart() {
        let long = "a".repeat(22);
        let titles: Vec<String> = (0..4)
            .map(|more| format!("{long}{}", "a".repeat(more)))
            .collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        assert_eq!(read(&titles, &[]).1, [0, 1, 2, 3]);
        assert_eq!(
            read(&[&titles[..], &titles].concat(), &titles[2..]).1,
            [0, 1, 0, 1]
        );
    }

    #[test]
    fn numbers_do_not_depend_on_the_threads() {
        let mut random = Random::new(3, 0, 0);
        let word = |random: &mut Random| {
            let number = random.below(3000);
            format!("{number}{}", "x".repeat(number as usize % 40))
        };
        let titles: Vec<String> = (0..3 * MIN_TITLES)
            .map(|_| format!("{} {} The", word(&mut random), word(&mut random)))
            .collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let one = read(&titles, &["the"]);
        for threads in [2, 3] {
            let many = on(threads, |workers| title_words(&titles, &["the"], workers));
            assert_eq!(many.unwrap(), one);
        }
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        assert!(Titles::new(&[0, 2, 3], &[0, 4, 4]).is_ok());
        for (offsets, words) in [
            (&[][..], &[][..]),
            (&[0, 2, 1], &[0]),
            (&[1, 1], &[0]),
            (&[0, 1], &[-1]),
            (&[0, 1], &[i32::MAX]),
            (&[0, 2], &[1, 0]),
            (&[0, 2], &[1, 1]),
        ] {
            assert!(
                Titles::new(offsets, words).is_err(),
                "{offsets:?} {words:?}"
            );
        }
    }
}
