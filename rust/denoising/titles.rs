//! This module turns titles into the numbers of their words.

use rayon::prelude::*;

use crate::denoising::characters::normal_form;
use crate::denoising::vocabulary::Vocabulary;
use crate::denoising::words::Words;
use crate::error::Error;
use crate::simd::prefetch;
use crate::threads::Workers;

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
    let mut stops = Vocabulary::default();
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
    vocabulary: Vocabulary,
}

impl Part {
    fn read(titles: &[&str], mut vocabulary: Vocabulary, workers: &Workers) -> Result<Self, Error> {
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
                asked.extend(
                    split
                        .rests()
                        .map(|(rest, length)| vocabulary.ask(rest, length)),
                );
                *end = asked.len();
            }
            let mut asked = asked.drain(..);
            let mut start = 0;
            for &end in &ends[..block.len()] {
                row.clear();
                let title = asked.by_ref().take(end - start);
                row.extend(title.filter_map(|word| vocabulary.of(word)));
                row.sort_unstable();
                row.dedup();
                words.extend_from_slice(&row);
                lengths.push(row.len());
                start = end;
            }
        }
        vocabulary.check()?;
        Ok(Self {
            lengths,
            words,
            vocabulary,
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
    stops: Vocabulary,
    workers: &Workers,
) -> Result<(Vec<i64>, Vec<i32>), Error> {
    let mut names: Vec<Vec<i32>> = Vec::new();
    let mut all = stops;
    for (place, part) in parts.iter_mut().enumerate() {
        workers.go_on()?;
        let vocabulary = std::mem::take(&mut part.vocabulary);
        if place == 0 {
            // the first part's numbers are final
            all = vocabulary;
            names.push(Vec::new());
        } else {
            names.push(vocabulary.renamed(&mut all));
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
