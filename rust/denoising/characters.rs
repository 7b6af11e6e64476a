//! This module says in which form characters are compared, and how they join or end words.

use std::sync::OnceLock;

use caseless::Caseless;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};
use unicode_segmentation::UnicodeSegmentation;

/// Return the form in which words are compared.
///
/// Two texts have the same form exactly where they are a compatibility caseless match (Unicode
/// 3.13, D146: full case folding, with NFD before it and NFKD, folding again, and normalisation
/// after it), but that code points which Unicode lets be ignored (soft hyphens, joiners, variation
/// selectors) are left out first, as `NFKC_Casefold` does, and that single curly quotes are
/// apostrophes. U+200B stays, since it parts words. The result is in NFKC.
#[must_use]
pub fn normal_form(text: &str) -> String {
    let folded = text.chars().filter(|&c| !is_ignored(c)).nfd();
    let folded = folded.default_case_fold().nfkd().default_case_fold().nfkc();
    let straight = |c| match c {
        '\u{2018}' | '\u{2019}' => '\'',
        other => other,
    };
    folded.map(straight).collect()
}

/// `Default_Ignorable_Code_Point`, but U+200B.
fn is_ignored(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200C}'..='\u{200F}' | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
        | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// What a character does to the word it is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Class {
    /// Ends a word.
    #[default]
    Other,
    Letter,
    Digit,
    Katakana,
    Underscore,
    /// Belongs to a word if it stands between two letters.
    InLetters,
    /// Belongs to a word if it stands between two digits.
    InDigits,
    /// Belongs to a word if it stands between two letters, or two digits.
    InBoth,
    /// Is a word by itself.
    Word,
    Ignored,
    /// Depends on what stands beside it in some other way.
    Unknown,
}

/// Most bytes a form can have here.
pub const LONGEST: usize = 6;

/// The class and the form of a character whose form does not depend on its neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry {
    pub class: Class,
    pub length: u8,
    pub form: [u8; LONGEST],
}

pub const BLOCK: usize = 256;
/// Characters up to U+1FFFF; the rest is rare.
pub const BLOCKS: usize = 0x200;
static TABLE: [OnceLock<Box<[Entry; BLOCK]>>; BLOCKS] = [const { OnceLock::new() }; BLOCKS];

impl Entry {
    const UNKNOWN: Self = Self {
        class: Class::Unknown,
        length: 0,
        form: [0; LONGEST],
    };

    /// Return the entry of a character.
    #[must_use]
    pub fn of(c: char) -> Self {
        let (block, place) = (c as usize / BLOCK, c as usize % BLOCK);
        if block < BLOCKS {
            Self::block(block)[place]
        } else {
            Self::UNKNOWN
        }
    }

    /// Return the entries of a block, which are worked out when they are first needed.
    #[must_use]
    pub fn block(block: usize) -> &'static [Self; BLOCK] {
        TABLE[block].get_or_init(|| {
            let code = |place: usize| char::from_u32((block * BLOCK + place) as u32);
            let entry = |place| code(place).map_or(Self::UNKNOWN, Self::work_out);
            Box::new(std::array::from_fn(entry))
        })
    }

    fn work_out(c: char) -> Self {
        if is_ignored(c) {
            return Self {
                class: Class::Ignored,
                ..Self::UNKNOWN
            };
        }
        let form = normal_form(c.encode_utf8(&mut [0; 4]));
        let mut classes = form.chars().map(class_of);
        let class = classes.next().unwrap_or(Class::Unknown);
        // more than one character only as letters: "ß" is "ss"
        let alike = classes.all(|other| other == class && class == Class::Letter);
        if class == Class::Unknown || !alike || !stands_alone(c) || form.len() > LONGEST {
            return Self::UNKNOWN;
        }
        let mut bytes = [0; LONGEST];
        bytes[..form.len()].copy_from_slice(form.as_bytes());
        Self {
            class,
            length: form.len() as u8,
            form: bytes,
        }
    }
}

/// Return whether a character never merges with what stands before it.
fn stands_alone(c: char) -> bool {
    let starter = |c: char| {
        canonical_combining_class(c) == 0
            && is_nfkc_quick(std::iter::once(c)) != IsNormalized::Maybe
    };
    let text = c.encode_utf8(&mut [0; 4]).to_owned();
    [text.nfkd().next(), normal_form(&text).nfkd().next()]
        .into_iter()
        .all(|first| first.is_some_and(starter))
}

/// Return what UAX 29 does with a character in normal form, asked by example.
fn class_of(c: char) -> Class {
    let one = |text: String| text.split_word_bounds().nth(1).is_none();
    let after = |start: &str| one(format!("{start}{c}"));
    let before = |end: &str| one(format!("{c}{end}"));
    let twice = one(format!("{c}{c}"));
    let around = [after("a"), after("1"), before("a"), before("1")];
    // a mark goes with whatever it follows; Hebrew has rules of its own for quotes
    if after("!") || before("'") {
        return Class::Unknown;
    }
    if c == '_' {
        return Class::Underscore;
    }
    let underscored = after("_") && before("_");
    if around == [true; 4] && c.is_alphanumeric() && !after("ア") && twice && underscored {
        return match (after("a.") && before(".a"), after("1.") && before(".1")) {
            (true, false) => Class::Letter,
            (false, true) => Class::Digit,
            _ => Class::Unknown,
        };
    }
    if around != [false; 4] {
        return Class::Unknown;
    }
    if after("ア") && before("ア") && c.is_alphanumeric() && twice && underscored {
        return Class::Katakana;
    }
    if after("ア") || before("ア") || after("_") || before("_") {
        return Class::Unknown;
    }
    let (letters, digits) = (one(format!("a{c}a")), one(format!("1{c}1")));
    match (letters, digits, c.is_alphanumeric()) {
        (true, false, false) => Class::InLetters,
        (false, true, false) => Class::InDigits,
        (true, true, false) => Class::InBoth,
        (false, false, false) => Class::Other,
        (false, false, true) if !twice => Class::Word,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_its_own_form() {
        for c in (0..0x0011_0000).filter_map(char::from_u32) {
            let form = normal_form(c.encode_utf8(&mut [0; 4]));
            assert_eq!(normal_form(&form), form, "{c:?}");
        }
    }

    #[test]
    fn classes_are_those_of_uax_29() {
        for (text, class) in [
            ("aßéжσ한ﬁ", Class::Letter),
            ("09²٣", Class::Digit),
            ("カｶー", Class::Katakana),
            ("_＿", Class::Underscore),
            (":·", Class::InLetters),
            (",;", Class::InDigits),
            (".'\u{2019}＇", Class::InBoth),
            ("語あไ", Class::Word),
            (" !\"-🦁\u{200B}\n", Class::Other),
            ("\u{AD}\u{200D}\u{FE0F}", Class::Ignored),
            ("\u{301}\u{3099}א\u{1161}½", Class::Unknown),
        ] {
            for c in text.chars() {
                assert_eq!(Entry::of(c).class, class, "{c:?}");
            }
        }
    }
}
