//! This module is plain Rust, which defines the results and runs on every processor.

use super::panels::{CHAINS, Column, LANES, Sure};

/// Items that are summed at once, so that the sums stay in registers.
const PART: usize = 8;

/// Return `a * b + c`, rounded once.
#[inline]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        fused_by_odd(a, b, c)
    }
}

/// Return `a * b + c`, rounded once, by instructions every processor has.
///
/// The product is exact in float64. Where the sum is not, it is rounded to odd, after which rounding
/// to float32 is as if done once (Boldo & Melquiond 2008).
#[inline]
fn fused_by_odd(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let rounded = sum - product;
    let error = (product - (sum - rounded)) + (c - rounded);
    let bits = sum.to_bits();
    // rounded to nearest, an even sum is one step from the odd one on the side of the error
    let inexact = error != 0.0 && bits & 1 == 0;
    let outward = (error > 0.0) == (sum > 0.0);
    let step = u64::from(inexact);
    let odd = if outward {
        bits.wrapping_add(step)
    } else {
        bits.wrapping_sub(step)
    };
    f64::from_bits(odd) as f32
}

fn sums<const M: usize>(tile: &[f32], panel: &[Column<f32>], part: usize) -> [[f32; PART]; M] {
    let mut sums = [[0.0; PART]; M];
    for (values, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let column = &column.as_chunks::<PART>().0[part];
        for (sums, &value) in sums.iter_mut().zip(values) {
            for (sum, &item) in sums.iter_mut().zip(column) {
                *sum = fused(value, item, *sum);
            }
        }
    }
    sums
}

/// Return the bits of the lanes for which `test` holds.
fn mask<T: Copy>(values: &[T], part: usize, test: impl Fn(usize, T) -> bool) -> u32 {
    let bit = |(lane, &value): (usize, &T)| u32::from(test(part * PART + lane, value)) << lane;
    values.iter().enumerate().map(bit).sum::<u32>() << (part * PART)
}

pub fn score<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    scores: &mut [Column<f32>],
    masks: &mut [u32],
) -> bool {
    masks[..M].fill(0);
    for part in 0..LANES / PART {
        let sums = sums::<M>(tile, panel, part);
        for row in 0..M {
            masks[row] |= mask(&sums[row], part, |_, sum| sum >= bars[row]);
            scores[row][part * PART..][..PART].copy_from_slice(&sums[row]);
        }
    }
    masks[..M].iter().any(|&mask| mask != 0)
}

pub fn compare<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    at_least: &mut [u32],
    above: &mut [u32],
) {
    at_least[..M].fill(0);
    above[..M].fill(0);
    for part in 0..LANES / PART {
        let sums = sums::<M>(tile, panel, part);
        for row in 0..M {
            at_least[row] |= mask(&sums[row], part, |_, sum| sum >= bars[row]);
            above[row] |= mask(&sums[row], part, |_, sum| sum > bars[row]);
        }
    }
}

fn byte_products(query: i32, item: i32) -> i32 {
    let pairs = query.to_le_bytes().into_iter().zip(item.to_le_bytes());
    pairs
        .map(|(a, b)| i32::from(a) * i32::from(b.cast_signed()))
        .sum()
}

fn short_products(query: i32, item: i32) -> i32 {
    let halves = |word: i32| [i32::from(word as i16), i32::from((word >> 16) as i16)];
    let (a, b) = (halves(query), halves(item));
    a[0] * b[0] + a[1] * b[1]
}

fn code_sums<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    part: usize,
) -> [[i32; PART]; M] {
    let products = if BYTES { byte_products } else { short_products };
    let mut sums = [start.as_chunks::<PART>().0[part]; M];
    for (words, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let column = &column.as_chunks::<PART>().0[part];
        for (sums, &word) in sums.iter_mut().zip(words) {
            for (sum, &item) in sums.iter_mut().zip(column) {
                *sum += products(word, item);
            }
        }
    }
    sums
}

pub fn screen<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
) {
    masks[..M].fill(0);
    for part in 0..LANES / PART {
        let sums = code_sums::<M, BYTES>(tile, panel, start, part);
        for row in 0..M {
            masks[row] |= mask(&sums[row], part, |_, sum| sum >= bars[row]);
        }
    }
}

pub fn bracket<const M: usize>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
    sure: &mut Sure,
) {
    masks[..M].fill(0);
    sure.masks[..M].fill(0);
    for part in 0..LANES / PART {
        let sums = code_sums::<M, false>(tile, panel, start, part);
        for row in 0..M {
            masks[row] |= mask(&sums[row], part, |_, sum| sum >= bars[row]);
            let wide = |lane: usize, sum: i32| sum - sure.widths[lane] >= sure.bars[row];
            sure.masks[row] |= mask(&sums[row], part, wide);
        }
    }
}

pub fn products(vector: &[f32], others: [&[f32]; CHAINS]) -> [f32; CHAINS] {
    let mut sums = [0.0; CHAINS];
    let others = others.map(|other| &other[..vector.len()]);
    for (place, &value) in vector.iter().enumerate() {
        for (sum, other) in sums.iter_mut().zip(&others) {
            *sum = fused(value, other[place], *sum);
        }
    }
    sums
}

/// Write vectors side by side from lane `first` on; lanes left over become 0.
pub fn transpose(vectors: &[f32], dim: usize, first: usize, panel: &mut [Column<f32>]) {
    for column in panel.iter_mut() {
        column[first..].fill(0.0);
    }
    for (lane, vector) in (first..).zip(vectors.chunks_exact(dim)) {
        for (column, &value) in panel.iter_mut().zip(vector) {
            column[lane] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_product_and_a_sum_are_rounded_once() {
        let mut random = Random::new(0, 0, 0);
        let mut value = |spread: u64| {
            let exponent = 127 + random.below(spread) as u32 - spread as u32 / 2;
            f32::from_bits(random.bits() as u32 & 0x807F_FFFF | exponent << 23)
        };
        for _ in 0..200_000 {
            for spread in [1, 8, 60, 120] {
                let (a, b, c) = (value(spread), value(spread), value(spread));
                let wanted = a.mul_add(b, c);
                let got = fused_by_odd(a, b, c);
                assert_eq!(got.to_bits(), wanted.to_bits(), "{a:e} * {b:e} + {c:e}");
            }
        }
        // halfway between two floats in float64, but not quite: rounding twice would go wrong
        let (a, b, c) = (1.0 + f32::EPSILON, 1.0 + f32::EPSILON, f32::EPSILON / 2.0);
        assert_eq!(fused_by_odd(a, b, c).to_bits(), a.mul_add(b, c).to_bits());
        for c in [0.0, -0.0, 1e-45, -1e-45, f32::MIN_POSITIVE] {
            let got = fused_by_odd(1e-30, 1e-15, c);
            assert_eq!(got.to_bits(), 1e-30_f32.mul_add(1e-15, c).to_bits());
        }
    }
}
