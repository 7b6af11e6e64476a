//! This module holds the layout of the values that the instructions work on.

/// Items side by side in a panel.
pub const LANES: usize = 32;
/// Vectors that [`Level::products`] takes at once.
pub const CHAINS: usize = 8;

/// One place of each item of a panel.
pub type Column<T> = [T; LANES];

/// Plain code that [`Level::wide`] compiles for each level.
pub trait Plain {
    type Output;

    /// Do it; must be `#[inline(always)]`, or the level's instructions stop at the call.
    fn run(self) -> Self::Output;
}

/// Sums that are above a bar by so much that their scores must be: bit `lane` of `masks[row]` is set
/// where the sum is at least `bars[row] + widths[lane]`.
pub struct Sure<'a> {
    pub widths: &'a Column<i32>,
    pub bars: &'a [i32],
    pub masks: &'a mut [u32],
}

/// Return vectors in tiles of `rows`, each tile `[dim][rows]`, the last filled up with `padding`.
pub fn tiles<T: Copy>(vectors: &[T], dim: usize, rows: usize, padding: T) -> Vec<T> {
    let n_tiles = (vectors.len() / dim).div_ceil(rows);
    let mut tiles = vec![padding; n_tiles * rows * dim];
    for (index, vector) in vectors.chunks_exact(dim).enumerate() {
        let tile = &mut tiles[index / rows * rows * dim..][..rows * dim];
        for (place, &value) in vector.iter().enumerate() {
            tile[place * rows + index % rows] = value;
        }
    }
    tiles
}
