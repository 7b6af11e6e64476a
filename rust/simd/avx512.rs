//! This module uses AVX-512 with VNNI.

use super::panels::{Column, LANES, Plain, Sure};
use super::registers::{load_16, load_16_words, store_16};
use std::arch::x86_64::{
    __m512, __m512i, _CMP_GE_OQ, _CMP_GT_OQ, _mm512_add_epi32, _mm512_cmp_ps_mask,
    _mm512_cmpge_epi32_mask, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};

type Sums<const M: usize> = [[__m512; 2]; M];
type CodeSums<const M: usize> = [[__m512i; 2]; M];

#[target_feature(enable = "avx512f")]
#[inline]
fn load(column: &Column<f32>) -> [__m512; 2] {
    let (halves, _) = column.as_chunks::<{ LANES / 2 }>();
    [load_16(&halves[0]), load_16(&halves[1])]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load_words(column: &Column<i32>) -> [__m512i; 2] {
    let (halves, _) = column.as_chunks::<{ LANES / 2 }>();
    [load_16_words(&halves[0]), load_16_words(&halves[1])]
}

#[inline]
fn join(masks: [u16; 2]) -> u32 {
    u32::from(masks[0]) | u32::from(masks[1]) << (LANES / 2)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn sums<const M: usize>(tile: &[f32], panel: &[Column<f32>]) -> Sums<M> {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for (values, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let items = load(column);
        for (sums, &value) in sums.iter_mut().zip(values) {
            let value = _mm512_set1_ps(value);
            sums[0] = _mm512_fmadd_ps(value, items[0], sums[0]);
            sums[1] = _mm512_fmadd_ps(value, items[1], sums[1]);
        }
    }
    sums
}

#[target_feature(enable = "avx512f")]
pub fn score<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    scores: &mut [Column<f32>],
    masks: &mut [u32],
) -> bool {
    let sums = sums::<M>(tile, panel);
    let (bars, masks) = (&bars[..M], &mut masks[..M]);
    let mut any = 0;
    for row in 0..M {
        let bar = _mm512_set1_ps(bars[row]);
        masks[row] = join(sums[row].map(|sum| _mm512_cmp_ps_mask::<_CMP_GE_OQ>(sum, bar)));
        any |= masks[row];
    }
    if any != 0 {
        for (row, sums) in scores.iter_mut().zip(sums) {
            for (half, sum) in row.as_chunks_mut::<{ LANES / 2 }>().0.iter_mut().zip(sums) {
                store_16(half, sum);
            }
        }
    }
    any != 0
}

#[target_feature(enable = "avx512f")]
pub fn compare<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    at_least: &mut [u32],
    above: &mut [u32],
) {
    let sums = sums::<M>(tile, panel);
    let (bars, at_least, above) = (&bars[..M], &mut at_least[..M], &mut above[..M]);
    for row in 0..M {
        let bar = _mm512_set1_ps(bars[row]);
        at_least[row] = join(sums[row].map(|sum| _mm512_cmp_ps_mask::<_CMP_GE_OQ>(sum, bar)));
        above[row] = join(sums[row].map(|sum| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sum, bar)));
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
fn code_sums<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
) -> CodeSums<M> {
    let mut sums = [load_words(start); M];
    for (words, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let items = load_words(column);
        for (sums, &word) in sums.iter_mut().zip(words) {
            let word = _mm512_set1_epi32(word);
            for (sum, item) in sums.iter_mut().zip(items) {
                *sum = if BYTES {
                    _mm512_dpbusd_epi32(*sum, word, item)
                } else {
                    _mm512_dpwssd_epi32(*sum, word, item)
                };
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f")]
#[inline]
fn at_least(sums: [__m512i; 2], bars: [__m512i; 2]) -> u32 {
    join([
        _mm512_cmpge_epi32_mask(sums[0], bars[0]),
        _mm512_cmpge_epi32_mask(sums[1], bars[1]),
    ])
}

#[target_feature(enable = "avx512f,avx512vnni")]
pub fn screen<const M: usize, const BYTES: bool>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
) {
    let sums = code_sums::<M, BYTES>(tile, panel, start);
    let (bars, masks) = (&bars[..M], &mut masks[..M]);
    for row in 0..M {
        masks[row] = at_least(sums[row], [_mm512_set1_epi32(bars[row]); 2]);
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
pub fn bracket<const M: usize>(
    tile: &[i32],
    panel: &[Column<i32>],
    start: &Column<i32>,
    bars: &[i32],
    masks: &mut [u32],
    sure: &mut Sure,
) {
    let sums = code_sums::<M, false>(tile, panel, start);
    let widths = load_words(sure.widths);
    let (bars, sure_bars) = (&bars[..M], &sure.bars[..M]);
    let (masks, sure_masks) = (&mut masks[..M], &mut sure.masks[..M]);
    for row in 0..M {
        masks[row] = at_least(sums[row], [_mm512_set1_epi32(bars[row]); 2]);
        let bar = _mm512_set1_epi32(sure_bars[row]);
        sure_masks[row] = at_least(sums[row], widths.map(|width| _mm512_add_epi32(width, bar)));
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512dq,avx512vl")]
pub fn wide<P: Plain>(code: P) -> P::Output {
    code.run()
}
