//! This module splits a text into words, as Unicode does (UAX 29). All spellings that differ only in
//! case or in compatible characters get the same form.

use unicode_segmentation::UnicodeSegmentation;

use crate::denoising::characters::{Class, Entry, LONGEST, normal_form};

/// Words one after the other, each given by where it ends; reused from text to text.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// What is held is `text[..length]`; the rest is room.
    text: Vec<u8>,
    length: usize,
    ends: Vec<usize>,
}

impl Words {
    /// Replace what is held by the words of `text`, in order and with repetition.
    ///
    /// The text is first brought to the form of [`normal_form`]. A word is a segment of UAX 29 that
    /// holds a letter or a digit. There is no dictionary in it: scripts written without spaces
    /// (Chinese, Thai, hiragana) come apart into characters.
    pub fn split(&mut self, text: &str) {
        if !self.split_simple(text) {
            self.split_any(text);
        }
    }

    /// Return for each word held its length, and its bytes with those that happen to follow.
    pub fn rests(&self) -> impl Iterator<Item = (&[u8], usize)> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let rest = (&self.text[start..], end - start);
            start = end;
            rest
        })
    }

    /// Do what `split` says, for any text: this defines the words.
    fn split_any(&mut self, text: &str) {
        self.text.clear();
        self.ends.clear();
        for word in normal_form(text).unicode_words() {
            self.text.extend_from_slice(word.as_bytes());
            self.ends.push(self.text.len());
        }
    }

    /// Do what `split_any` does if every character of the text can be looked up, or return false.
    fn split_simple(&mut self, text: &str) -> bool {
        let room = LONGEST * (text.len() + 1);
        if self.text.len() < room {
            self.text.resize(room, 0);
        }
        self.length = 0;
        self.ends.clear();
        let mut word = Open::default();
        let latin = Entry::block(0);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let entry = match latin.get(c as usize) {
                Some(entry) => *entry,
                None => Entry::of(c),
            };
            match entry.class {
                Class::Unknown => return false,
                Class::Ignored => (),
                Class::Letter | Class::Digit | Class::Katakana | Class::Underscore => {
                    if !word.goes_on(entry.class) {
                        self.end(&word);
                        word = Open::default();
                    } else if let Some(between) = word.between.take() {
                        self.push(between);
                    }
                    word.last = entry.class;
                    word.counts |= entry.class != Class::Underscore;
                    self.push(entry);
                    if entry.class == Class::Letter {
                        chars = self.take_letters(chars.as_str()).chars();
                    }
                }
                Class::InLetters | Class::InDigits | Class::InBoth => {
                    if word.between.is_none() && matches!(word.last, Class::Letter | Class::Digit) {
                        word.between = Some(entry);
                    } else {
                        self.end(&word);
                        word = Open::default();
                    }
                }
                Class::Word | Class::Other => {
                    self.end(&word);
                    word = Open::default();
                    if entry.class == Class::Word {
                        self.push(entry);
                        self.ends.push(self.length);
                    }
                }
            }
        }
        self.end(&word);
        true
    }

    /// Put the ASCII letters a text begins with behind what is held, and return the rest: a short
    /// way through what most texts consist of.
    fn take_letters<'a>(&mut self, text: &'a str) -> &'a str {
        let mut n_letters = 0;
        for (place, byte) in self.text[self.length..].iter_mut().zip(text.bytes()) {
            if !byte.is_ascii_alphabetic() {
                break;
            }
            *place = byte.to_ascii_lowercase();
            n_letters += 1;
        }
        self.length += n_letters;
        &text[n_letters..]
    }

    /// Put a form behind what is held. All its bytes are copied, which takes one instruction.
    fn push(&mut self, entry: Entry) {
        if let Some(room) = self.text[self.length..].first_chunk_mut() {
            *room = entry.form;
        }
        self.length += usize::from(entry.length);
    }

    /// End the word that stands at the end of the text held.
    fn end(&mut self, word: &Open) {
        if word.counts {
            self.ends.push(self.length);
        } else {
            // underscores alone are no word
            self.length = self.ends.last().copied().unwrap_or(0);
        }
    }
}

/// The word being read.
#[derive(Default)]
struct Open {
    /// Class of its last character; `Other` if there is none.
    last: Class,
    /// A character that belongs to it if the next one is of the same class as the last.
    between: Option<Entry>,
    /// Whether it holds a letter or a digit.
    counts: bool,
}

impl Open {
    fn goes_on(&self, next: Class) -> bool {
        if let Some(between) = self.between {
            return self.last == next
                && match next {
                    Class::Letter => between.class != Class::InDigits,
                    Class::Digit => between.class != Class::InLetters,
                    _ => false,
                };
        }
        match (self.last, next) {
            (Class::Other, _) => false,
            (Class::Katakana, other) | (other, Class::Katakana) => {
                matches!(other, Class::Katakana | Class::Underscore)
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denoising::characters::{BLOCK, BLOCKS};
    use crate::random::Random;

    fn held(words: &Words) -> impl Iterator<Item = &[u8]> {
        words.rests().map(|(rest, length)| &rest[..length])
    }

    fn words(text: &str) -> Vec<String> {
        let mut words = Words::default();
        words.split(text);
        let text = |word: &[u8]| String::from_utf8(word.to_vec()).unwrap();
        held(&words).map(text).collect()
    }

    /// Compare the two ways on texts put together by chance, and return how many were looked up.
    fn compare(characters: &[char], longest: u64) -> usize {
        let mut random = Random::new(1, 0, 0);
        let (mut first, mut second) = (Words::default(), Words::default());
        let same = |first: &Words, second: &Words| held(first).eq(held(second));
        let mut looked_up = 0;
        for _ in 0..20_000 {
            let draw =
                |random: &mut Random| characters[random.below(characters.len() as u64) as usize];
            let text: String = (0..random.below(longest))
                .map(|_| draw(&mut random))
                .collect();
            second.split_any(&text);
            if first.split_simple(&text) {
                looked_up += 1;
                assert!(same(&first, &second), "{text:?}");
            }
            first.split(&text);
            assert!(same(&first, &second), "{text:?}");
        }
        looked_up
    }

    #[test]
    fn ascii_is_always_looked_up_and_gives_the_same_words() {
        let all: Vec<char> = (0..128).map(char::from).collect();
        assert_eq!(compare(&all, 24), 20_000);
        assert_eq!(
            compare(&['a', 'B', '1', '_', '\'', '.', ',', ':', ' '], 12),
            20_000
        );
    }

    #[test]
    fn looked_up_words_are_those_of_unicode() {
        for block in 0..BLOCKS as u32 {
            // a character of the block among those that the rules are about
            let mut some: Vec<char> = "aZ9é'._,:·\u{2019}\u{301}\u{AD}\u{200B}ßアカ語 "
                .chars()
                .collect();
            let codes = (0..BLOCK as u32)
                .step_by(3)
                .map(|code| block * BLOCK as u32 + code);
            some.extend(codes.filter_map(char::from_u32));
            compare_few(&some);
        }
    }

    fn compare_few(characters: &[char]) {
        let mut random = Random::new(2, 0, 0);
        let (mut first, mut second) = (Words::default(), Words::default());
        let same = |first: &Words, second: &Words| held(first).eq(held(second));
        for round in 0..200 {
            let few = if round % 2 == 0 {
                18
            } else {
                characters.len() as u64
            };
            let mut text = String::new();
            for _ in 0..6 {
                text.push(characters[random.below(few) as usize]);
                text.push(characters[random.below(characters.len() as u64) as usize]);
            }
            first.split(&text);
            second.split_any(&text);
            assert!(same(&first, &second), "{text:?}");
        }
    }

    #[test]
    fn spellings_of_one_word_are_one_word() {
        for (spellings, word) in [
            (&["Amélie", "AME\u{301}LIE", "a\u{AD}mélie"][..], "amélie"),
            (&["Straße", "STRASSE", "STRAẞE"], "strasse"),
            (&["ΣΊΣΥΦΟΣ", "σίσυφος"], "σίσυφοσ"),
            (&["İstanbul", "i\u{307}stanbul"], "i\u{307}stanbul"),
            (&["ﬁlm", "FILM", "ｆｉｌｍ"], "film"),
            (&["２００１", "2001", "²⁰⁰¹"], "2001"),
            (
                &["Don\u{2019}t", "don\u{2018}t", "'DON'T'", "don＇t"],
                "don't",
            ),
            // the order of two marks, and iota below as a letter
            (&["a\u{323}\u{307}", "A\u{307}\u{323}"], "ạ\u{307}"),
            (&["ᾳ", "ΑΙ", "α\u{345}"], "αι"),
            (&["한", "\u{1112}\u{1161}\u{11AB}"], "한"),
            (&["ｶﾞ", "ガ"], "ガ"),
        ] {
            for spelling in spellings {
                assert_eq!(words(spelling), [word], "{spelling}");
            }
        }
    }

    #[test]
    fn words_are_those_of_uax_29() {
        for (text, expected) in [
            (
                "The Lion-King, 1,000.5 a.m.",
                &["the", "lion", "king", "1,000.5", "a.m"][..],
            ),
            ("snake_case __ _1", &["snake_case", "_1"]),
            ("🦁👍🏽 \u{2764}\u{FE0F} !?", &[]),
            ("東京 2020", &["東", "京", "2020"]),
            ("ไทย", &["ไ", "ท", "ย"]),
            ("カラオケ店", &["カラオケ", "店"]),
            ("a\u{200B}b", &["a", "b"]),
            ("l\u{2019}été l'\u{200D}été", &["l'été", "l'été"]),
            ("", &[]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn most_titles_are_looked_up() {
        let mut words = Words::default();
        for text in [
            "The Lion King (1994)",
            "Amélie",
            "Straße",
            "ΣΊΣΥΦΟΣ",
            "Война и мир",
            "ｆｕｌｌ ２００１",
            "千と千尋の神隠し",
            "カラオケ",
            "한국어",
            "don\u{2019}t",
            "🦁 king",
            "soft\u{AD}hyphen",
        ] {
            assert!(words.split_simple(text), "{text}");
        }
    }
}
