//! This module reads the bit masks that the instructions set for the lanes of a panel.

use crate::simd::LANES;

/// Return the bits that are set in the mask of any vector of a query.
#[inline]
pub fn any(masks: &[u32], query: usize, n_vectors: usize) -> u32 {
    if n_vectors == 1 {
        return masks[query];
    }
    let masks = &masks[query * n_vectors..][..n_vectors];
    masks.iter().fold(0, |all, mask| all | mask)
}

/// Return the lanes whose bits are set.
#[inline]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}
