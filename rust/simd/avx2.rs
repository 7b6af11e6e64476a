//! This module uses AVX2 with FMA, on half of a panel at a time, so that the sums fit 16 registers.

use super::panels::{CHAINS, Column, LANES, Plain, Sure};
use super::portable;
use super::registers::{load_8, load_8_words, store_8};
use std::arch::x86_64::{
    __m256, __m256i, _CMP_GE_OQ, _CMP_GT_OQ, _mm256_add_epi32, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_movemask_ps, _mm256_permute2f128_ps, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
};

const HALF: usize = LANES / 2;

type Sums<const M: usize> = [[__m256; 2]; M];
type CodeSums<const M: usize> = [[__m256i; 2]; M];

#[target_feature(enable = "avx2")]
#[inline]
fn load(column: &Column<f32>, half: usize) -> [__m256; 2] {
    let (parts, _) = column.as_chunks::<8>();
    [load_8(&parts[2 * half]), load_8(&parts[2 * half + 1])]
}

#[target_feature(enable = "avx2")]
#[inline]
fn load_words(column: &Column<i32>, half: usize) -> [__m256i; 2] {
    let (parts, _) = column.as_chunks::<8>();
    [
        load_8_words(&parts[2 * half]),
        load_8_words(&parts[2 * half + 1]),
    ]
}

/// Return the bits of two comparisons in their place of a panel's mask.
#[target_feature(enable = "avx2")]
#[inline]
fn join(compared: [__m256; 2], half: usize) -> u32 {
    let bits = compared.map(|part| _mm256_movemask_ps(part).cast_unsigned());
    (bits[0] | bits[1] << 8) << (half * HALF)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn sums<const M: usize>(tile: &[f32], panel: &[Column<f32>], half: usize) -> Sums<M> {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (values, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let items = load(column, half);
        for (sums, &value) in sums.iter_mut().zip(values) {
            let value = _mm256_set1_ps(value);
            sums[0] = _mm256_fmadd_ps(value, items[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(value, items[1], sums[1]);
        }
    }
    sums
}

#[target_feature(enable = "avx2,fma")]
pub fn score<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    scores: &mut [Column<f32>],
    masks: &mut [u32],
) -> bool {
    let (bars, masks) = (&bars[..M], &mut masks[..M]);
    masks.fill(0);
    let mut any = 0;
    for half in 0..2 {
        let sums = sums::<M>(tile, panel, half);
        let mut here = 0;
        for row in 0..M {
            let bar = _mm256_set1_ps(bars[row]);
            let compared = sums[row].map(|sum| _mm256_cmp_ps::<_CMP_GE_OQ>(sum, bar));
            let bits = join(compared, half);
            masks[row] |= bits;
            here |= bits;
        }
        if here != 0 {
            for (row, sums) in scores.iter_mut().zip(sums) {
                let parts = row.as_chunks_mut::<8>().0;
                store_8(&mut parts[2 * half], sums[0]);
                store_8(&mut parts[2 * half + 1], sums[1]);
            }
        }
        any |= here;
    }
    any != 0
}

#[target_feature(enable = "avx2,fma")]
pub fn compare<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    at_least: &mut [u32],
    above: &mut [u32],
) {
    let (bars, at_least, above) = (&bars[..M], &mut at_least[..M], &mut above[..M]);
    at_least.fill(0);
    above.fill(0);
    for half in 0..2 {
        let sums = sums::<M>(tile, panel, half);
        for row in 0..M {
            let bar = _mm256_set1_ps(bars[row]);
            let compared = sums[row].map(|sum| _mm256_cmp_ps::<_CMP_GE_OQ>(sum, bar));
            at_least[row] |= join(compared, half);
            let compared = sums[row].map(|sum| _mm256_cmp_ps::<_CMP_GT_OQ>(sum, bar));
            above[row] |= join(compared, half);
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn code_sums<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    half: usize,
) -> CodeSums<M> {
    let mut sums = [load_words(start, half); M];
    let ones = _mm256_set1_epi16(1);
    for (words, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let items = load_words(column, half);
        for (sums, &word) in sums.iter_mut().zip(words) {
            let word = _mm256_set1_epi32(word);
            for (sum, item) in sums.iter_mut().zip(items) {
                let products = if BYTES {
                    // pairs fit 16 bits: see `Level::largest_codes`
                    _mm256_madd_epi16(_mm256_maddubs_epi16(word, item), ones)
                } else {
                    _mm256_madd_epi16(word, item)
                };
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
    }
    sums
}

/// Return the bits where a sum is at least its bar.
#[target_feature(enable = "avx2")]
#[inline]
fn at_least(sums: [__m256i; 2], bars: [__m256i; 2], half: usize) -> u32 {
    let below = [
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(bars[0], sums[0])),
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(bars[1], sums[1])),
    ];
    // the other way round, and only the bits of this half
    join(below, half) ^ 0xFFFF << (half * HALF)
}

#[target_feature(enable = "avx2")]
pub fn screen<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
) {
    let (bars, masks) = (&bars[..M], &mut masks[..M]);
    masks.fill(0);
    for half in 0..2 {
        let sums = code_sums::<M, BYTES>(tile, panel, start, half);
        for row in 0..M {
            masks[row] |= at_least(sums[row], [_mm256_set1_epi32(bars[row]); 2], half);
        }
    }
}

#[target_feature(enable = "avx2")]
pub fn bracket<const M: usize>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
    sure: &mut Sure,
) {
    let (bars, sure_bars) = (&bars[..M], &sure.bars[..M]);
    let (masks, sure_masks) = (&mut masks[..M], &mut sure.masks[..M]);
    masks.fill(0);
    sure_masks.fill(0);
    for half in 0..2 {
        let sums = code_sums::<M, false>(tile, panel, start, half);
        let widths = load_words(sure.widths, half);
        for row in 0..M {
            masks[row] |= at_least(sums[row], [_mm256_set1_epi32(bars[row]); 2], half);
            let bar = _mm256_set1_epi32(sure_bars[row]);
            let bars = widths.map(|width| _mm256_add_epi32(width, bar));
            sure_masks[row] |= at_least(sums[row], bars, half);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub fn wide<P: Plain>(code: P) -> P::Output {
    code.run()
}

// single chains, but several at once: each has to wait for its last step, together they do not
#[target_feature(enable = "avx2,fma")]
pub fn products(vector: &[f32], others: [&[f32]; CHAINS]) -> [f32; CHAINS] {
    let mut sums = [0.0_f32; CHAINS];
    let others = others.map(|other| &other[..vector.len()]);
    for (place, &value) in vector.iter().enumerate() {
        for (sum, other) in sums.iter_mut().zip(&others) {
            *sum = value.mul_add(other[place], *sum);
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
pub fn transpose(vectors: &[f32], dim: usize, panel: &mut [Column<f32>]) {
    let n_whole = vectors.len() / dim / 8;
    for (part, vectors) in vectors.chunks_exact(8 * dim).enumerate() {
        let vectors: [&[f32]; 8] = std::array::from_fn(|row| &vectors[row * dim..][..dim]);
        for (step, columns) in panel.chunks_exact_mut(8).enumerate() {
            let square = vectors.map(|vector| load_8(&vector.as_chunks::<8>().0[step]));
            for (column, register) in columns.iter_mut().zip(turn(square)) {
                store_8(&mut column.as_chunks_mut::<8>().0[part], register);
            }
        }
        for place in dim / 8 * 8..dim {
            for (lane, vector) in vectors.iter().enumerate() {
                panel[place][part * 8 + lane] = vector[place];
            }
        }
    }
    portable::transpose(&vectors[n_whole * 8 * dim..], dim, n_whole * 8, panel);
}

/// Return the columns of a square as rows.
#[target_feature(enable = "avx2")]
#[inline]
fn turn(rows: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = rows;
    for index in 0..4 {
        pairs[2 * index] = _mm256_unpacklo_ps(rows[2 * index], rows[2 * index + 1]);
        pairs[2 * index + 1] = _mm256_unpackhi_ps(rows[2 * index], rows[2 * index + 1]);
    }
    let mut fours = pairs;
    for half in [0, 4] {
        fours[half] = _mm256_shuffle_ps::<0x44>(pairs[half], pairs[half + 2]);
        fours[half + 1] = _mm256_shuffle_ps::<0xEE>(pairs[half], pairs[half + 2]);
        fours[half + 2] = _mm256_shuffle_ps::<0x44>(pairs[half + 1], pairs[half + 3]);
        fours[half + 3] = _mm256_shuffle_ps::<0xEE>(pairs[half + 1], pairs[half + 3]);
    }
    let mut turned = fours;
    for index in 0..4 {
        turned[index] = _mm256_permute2f128_ps::<0x20>(fours[index], fours[index + 4]);
        turned[index + 4] = _mm256_permute2f128_ps::<0x31>(fours[index], fours[index + 4]);
    }
    turned
}
