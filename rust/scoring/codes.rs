//! This module codes vectors as small whole numbers, and measures what the codes leave out.

// what `Level::wide` compiles must be inlined there
#![allow(clippy::inline_always)]

use crate::simd::{Codes, Level, Plain};

/// What float64 rounding can take from a bound, with room to spare.
pub const UP: f64 = 1.0 + 1e-9;
/// Places coded at once.
const WIDTH: usize = 8;
/// Adding and subtracting it rounds a float32 below 2^22 to a whole number.
const ROUND: f32 = (3 << 22) as f32;

/// Return the scale, or 1 if it is so small that what underflow may add would count. With that, all
/// codes are 0 and the vector is its own rest.
pub fn or_one(scale: f32) -> f32 {
    if scale >= 1e-18 { scale } else { 1.0 }
}

/// Return what is added to a query's codes so that they are not negative.
pub fn offset(level: Level, codes: Codes) -> i32 {
    match codes {
        Codes::Bytes => level.largest_codes(codes, 1).0 + 1,
        Codes::Shorts => 0,
    }
}

/// What is known of a vector's codes, all rounded up.
#[derive(Debug)]
pub struct Coded {
    /// Norm of the codes.
    pub codes: f64,
    /// Norm of what they leave out.
    pub rest: f64,
    /// Norm of the vector.
    pub norm: f64,
    /// Sum of the codes.
    pub sum: i32,
}

/// Writes the codes of a vector, `vector / scale` rounded, into as many places.
pub struct Code<'a> {
    pub vector: &'a [f32],
    pub scale: f32,
    /// Largest code.
    pub top: i32,
    pub codes: &'a mut [i32],
}

impl Plain for Code<'_> {
    type Output = Coded;

    #[inline(always)]
    fn run(self) -> Coded {
        let (inverse, scale, top) = (1.0 / self.scale, f64::from(self.scale), self.top as f32);
        // several sums of each kind side by side, and a last step filled up with zeros
        let mut squares = [[0.0_f64; WIDTH]; 3];
        let mut sums = [0; WIDTH];
        let (whole, rest) = self.vector.as_chunks::<WIDTH>();
        let mut last = [0.0; WIDTH];
        last[..rest.len()].copy_from_slice(rest);
        let values = whole.iter().chain((!rest.is_empty()).then_some(&last));
        for (values, codes) in values.zip(self.codes.chunks_mut(WIDTH)) {
            // the bits count up from those of ROUND
            let numbers = values.map(|value| {
                let rounded = (value * inverse).clamp(-top, top) + ROUND;
                rounded.to_bits().cast_signed() - ROUND.to_bits().cast_signed()
            });
            for index in 0..WIDTH {
                let (value, number) = (f64::from(values[index]), f64::from(numbers[index]));
                let left = value - scale * number;
                squares[0][index] += number * number;
                squares[1][index] += left * left;
                squares[2][index] += value * value;
                sums[index] += numbers[index];
            }
            codes.copy_from_slice(&numbers[..codes.len()]);
        }
        let [codes, rest, norm] = squares.map(|sums| sums.iter().sum::<f64>().sqrt() * UP);
        Coded {
            codes,
            rest,
            norm,
            sum: sums.iter().sum(),
        }
    }
}

/// Put codes, `per_word` to each word, the first in the lowest bits.
pub fn pack<'a>(codes: &[i32], kind: Codes, words: impl Iterator<Item = &'a mut i32>) {
    let per_word = kind.per_word();
    let (bits, mask) = (32 / per_word, u32::MAX >> (32 - 32 / per_word));
    for (codes, word) in codes.chunks(per_word).zip(words) {
        let last_first = codes.iter().rev();
        let packed = last_first.fold(0, |all, &code| all << bits | code.cast_unsigned() & mask);
        // the first code of a short word has nothing above it
        *word = packed.cast_signed();
    }
}

pub fn norm(vector: &[f32]) -> f64 {
    let squares = vector.iter().map(|&value| f64::from(value).powi(2));
    squares.sum::<f64>().sqrt() * UP
}

/// Return a float32 that is not below a value.
pub fn round_up(value: f64) -> f32 {
    (value as f32).next_up()
}

/// Return the whole number nearest to a value of less than 2^31.
#[inline(always)]
pub fn whole(value: f64) -> i32 {
    // the low bits of the sum count from here; a cast would check what is known
    const ROUND: f64 = (3_u64 << 51) as f64;
    (value + ROUND).to_bits() as i32
}
