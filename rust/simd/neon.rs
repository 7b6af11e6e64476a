//! This module uses NEON, which every aarch64 processor has, on a quarter of a panel at a time, so
//! that the sums of eight rows stay in registers. Sums of codes are left to the compiler.

use super::panels::{Column, LANES};
pub use super::portable::{bracket, screen};
use super::registers::{load_4, load_4_bits, store_4};
use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddvq_u32, vandq_u32, vcgeq_f32, vcgtq_f32, vdupq_n_f32, vfmaq_n_f32,
};

const PART: usize = 8;

type Sums<const M: usize> = [[float32x4_t; 2]; M];

#[target_feature(enable = "neon")]
#[inline]
fn sums<const M: usize>(tile: &[f32], panel: &[Column<f32>], part: usize) -> Sums<M> {
    let mut sums = [[vdupq_n_f32(0.0); 2]; M];
    for (values, column) in tile.as_chunks::<M>().0.iter().zip(panel) {
        let (quads, _) = column.as_chunks::<4>();
        let items = [load_4(&quads[2 * part]), load_4(&quads[2 * part + 1])];
        for (sums, &value) in sums.iter_mut().zip(values) {
            sums[0] = vfmaq_n_f32(sums[0], items[0], value);
            sums[1] = vfmaq_n_f32(sums[1], items[1], value);
        }
    }
    sums
}

/// Return the bits of two comparisons in their place of a panel's mask.
#[target_feature(enable = "neon")]
#[inline]
fn join(compared: [uint32x4_t; 2], part: usize) -> u32 {
    let low = vaddvq_u32(vandq_u32(compared[0], load_4_bits(&[1, 2, 4, 8])));
    let high = vaddvq_u32(vandq_u32(compared[1], load_4_bits(&[16, 32, 64, 128])));
    (low | high) << (part * PART)
}

#[target_feature(enable = "neon")]
pub fn score<const M: usize>(
    tile: &[f32],
    panel: &[Column<f32>],
    bars: &[f32],
    scores: &mut [Column<f32>],
    masks: &mut [u32],
) -> bool {
    let (bars, masks) = (&bars[..M], &mut masks[..M]);
    masks.fill(0);
    for part in 0..LANES / PART {
        let sums = sums::<M>(tile, panel, part);
        for row in 0..M {
            let bar = vdupq_n_f32(bars[row]);
            let [left, right] = sums[row];
            masks[row] |= join([vcgeq_f32(left, bar), vcgeq_f32(right, bar)], part);
            let (quads, _) = scores[row].as_chunks_mut::<4>();
            store_4(&mut quads[2 * part], left);
            store_4(&mut quads[2 * part + 1], right);
        }
    }
    masks.iter().any(|&mask| mask != 0)
}

#[target_feature(enable = "neon")]
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
    for part in 0..LANES / PART {
        let sums = sums::<M>(tile, panel, part);
        for row in 0..M {
            let bar = vdupq_n_f32(bars[row]);
            let [left, right] = sums[row];
            at_least[row] |= join([vcgeq_f32(left, bar), vcgeq_f32(right, bar)], part);
            above[row] |= join([vcgtq_f32(left, bar), vcgtq_f32(right, bar)], part);
        }
    }
}
