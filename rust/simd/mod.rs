//! This module calls the instructions of each processor, and is the only file with `unsafe`.
//!
//! A panel is `LANES` items side by side, `[dim][LANES]`; a tile is a few query vectors side by
//! side, `[dim][rows]`. Every float score is one chain of fused multiply-adds over the vectors'
//! places in order, whatever the instructions: a score depends on its two vectors only.

#![allow(unsafe_code)]
// sums of codes are plain code there, and need no proof
#![cfg_attr(target_arch = "aarch64", allow(unused_unsafe))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod portable;

pub use panels::{CHAINS, Column, LANES, Plain, Sure, tiles};

use crate::error::Error;

/// Names the instructions to use.
const VARIABLE: &str = "RAREC_SIMD";
/// A set of instructions; a value is the proof that this processor has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// How wide the codes of screened vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// Four unsigned codes of a query, or four signed ones of an item, in each word.
    Bytes,
    /// Two signed codes in each word.
    Shorts,
}

impl Codes {
    /// Return the codes in a word.
    #[must_use]
    pub fn per_word(self) -> usize {
        match self {
            Self::Bytes => 4,
            Self::Shorts => 2,
        }
    }
}

/// Call a function of the level's module, compiled for the number of rows.
macro_rules! dispatch {
    ($level:expr, $rows:expr, $name:ident[$($kind:tt)*] $args:tt) => {
        match ($level.0, $rows) {
            (Kind::Portable, 1) => portable::$name::<1 $($kind)*> $args,
            (Kind::Portable, _) => portable::$name::<4 $($kind)*> $args,
            // SAFETY: a level of this kind exists only where the processor has its instructions
            #[cfg(target_arch = "aarch64")]
            (Kind::Neon, 1) => unsafe { neon::$name::<1 $($kind)*> $args },
            // SAFETY: as above
            #[cfg(target_arch = "aarch64")]
            (Kind::Neon, _) => unsafe { neon::$name::<8 $($kind)*> $args },
            // SAFETY: a level of this kind exists only where the processor has its instructions
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, 2) => unsafe { avx2::$name::<2 $($kind)*> $args },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, _) => unsafe { avx2::$name::<6 $($kind)*> $args },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, 4) => unsafe { avx512::$name::<4 $($kind)*> $args },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx512, _) => unsafe { avx512::$name::<12 $($kind)*> $args },
        }
    };
}

impl Level {
    /// Return what this processor has, the fastest last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            levels.push(Self(Kind::Neon));
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            levels.push(Self(Kind::Avx2));
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                levels.push(Self(Kind::Avx512));
            }
        }
        levels
    }

    /// Return the level that `RAREC_SIMD` names, or the fastest if it is not set.
    ///
    /// # Errors
    /// If this processor has no level of the name.
    pub fn choose() -> Result<Self, Error> {
        match std::env::var(VARIABLE) {
            Ok(name) => Self::named(&name),
            Err(_) => Ok(Self::available().pop().unwrap_or(Self(Kind::Portable))),
        }
    }

    fn named(name: &str) -> Result<Self, Error> {
        let available = Self::available();
        let found = available.iter().find(|level| level.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|level| level.name()).collect();
            Error::value(format!("instructions of {names:?}"), &format!("{name:?}"))
        })
    }

    /// Return the name of the instructions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Return whether screening by codes is faster than scoring everything in float32.
    #[must_use]
    pub fn screens(self) -> bool {
        match self.0 {
            Kind::Portable => false,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => false,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => true,
        }
    }

    /// Return the rows of a tile, for `n_rows` in all.
    #[must_use]
    pub fn rows(self, n_rows: usize) -> usize {
        match self.0 {
            Kind::Portable => [4, 1][usize::from(n_rows == 1)],
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => [8, 1][usize::from(n_rows == 1)],
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => [6, 2][usize::from(n_rows <= 2)],
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => [12, 4][usize::from(n_rows <= 4)],
        }
    }

    /// Return the largest code of a query and of an item; no sum of `dim` products of such codes
    /// passes half of what the instructions hold.
    #[must_use]
    pub fn largest_codes(self, codes: Codes, dim: usize) -> (i32, i32) {
        match (self.0, codes) {
            (_, Codes::Shorts) => {
                let largest = (f64::from(1 << 30) / dim.max(1) as f64).sqrt() as i32;
                (largest.min(32_767), largest.min(32_767))
            }
            // two products are summed in 16 bits: 2 * (63 + 64) * 127 <= 32767
            #[cfg(target_arch = "x86_64")]
            (Kind::Avx2, Codes::Bytes) => (63, 127),
            (_, Codes::Bytes) => (127, 127),
        }
    }

    /// Return what plain code returns, compiled with these instructions.
    #[inline]
    pub fn wide<P: Plain>(self, code: P) -> P::Output {
        match self.0 {
            Kind::Portable => code.run(),
            // the compiler has NEON everywhere
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => code.run(),
            // SAFETY: a level of this kind exists only where the processor has its instructions
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::wide(code) },
            // SAFETY: as above
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::wide(code) },
        }
    }

    /// Set bit `lane` of `masks[row]` where the inner product of a tile's row and a panel's lane is
    /// at least `bars[row]`, and `scores[row][lane]` at least there. Return whether there is one.
    #[inline]
    pub fn score(
        self,
        tile: &[f32],
        panel: &[Column<f32>],
        bars: &[f32],
        scores: &mut [Column<f32>],
        masks: &mut [u32],
    ) -> bool {
        dispatch!(self, bars.len(), score[](tile, panel, bars, scores, masks))
    }

    /// Set the bits of `at_least[row]` and of `above[row]` where the inner product is at least
    /// `bars[row]`, and where it is above.
    #[inline]
    pub fn compare(
        self,
        tile: &[f32],
        panel: &[Column<f32>],
        bars: &[f32],
        at_least: &mut [u32],
        above: &mut [u32],
    ) {
        dispatch!(self, bars.len(), compare[](tile, panel, bars, at_least, above)
        );
    }

    /// Set the bits of `masks[row]` where `start[lane]` and the inner product of the codes together
    /// are at least `bars[row]`.
    #[inline]
    pub fn screen(
        self,
        codes: Codes,
        tile: &[i32],
        panel: &[Column<i32>],
        start: &Column<i32>,
        bars: &[i32],
        masks: &mut [u32],
    ) {
        let rows = bars.len();
        match codes {
            Codes::Bytes => {
                dispatch!(self, rows, screen[, true](tile, panel, start, bars, masks));
            }
            Codes::Shorts => {
                dispatch!(self, rows, screen[, false](tile, panel, start, bars, masks));
            }
        }
    }

    /// Do what [`Level::screen`] does with shorts, and find the sums that are surely above.
    #[inline]
    pub fn bracket(
        self,
        tile: &[i32],
        panel: &[Column<i32>],
        start: &Column<i32>,
        bars: &[i32],
        masks: &mut [u32],
        sure: &mut Sure,
    ) {
        dispatch!(self, bars.len(), bracket[](tile, panel, start, bars, masks, sure));
    }

    /// Return the inner products of one vector and a few, all of one length.
    #[inline]
    #[must_use]
    pub fn products(self, vector: &[f32], others: [&[f32]; CHAINS]) -> [f32; CHAINS] {
        match self.0 {
            Kind::Portable => portable::products(vector, others),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => portable::products(vector, others),
            // SAFETY: both kinds exist only where the processor has AVX2 and FMA
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => unsafe { avx2::products(vector, others) },
        }
    }

    /// Write up to `LANES` vectors of `dim` values side by side; lanes left over become 0.
    pub fn transpose(self, vectors: &[f32], dim: usize, panel: &mut [Column<f32>]) {
        match self.0 {
            Kind::Portable => portable::transpose(vectors, dim, 0, panel),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => portable::transpose(vectors, dim, 0, panel),
            // SAFETY: both kinds exist only where the processor has AVX2
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => unsafe { avx2::transpose(vectors, dim, panel) },
        }
    }
}

/// Ask for the cache line of `values[index]`, if there is one, ahead of its use.
#[inline]
pub fn prefetch<T>(values: &[T], index: usize) {
    if let Some(value) = values.get(index) {
        #[cfg(target_arch = "x86_64")]
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing the program sees, and the address is a reference's
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = value;
    }
}

/// Registers and arrays of their size.
#[cfg(target_arch = "aarch64")]
mod registers {
    use std::arch::aarch64::{float32x4_t, uint32x4_t, vld1q_f32, vld1q_u32, vst1q_f32};

    #[target_feature(enable = "neon")]
    #[inline]
    pub fn load_4(values: &[f32; 4]) -> float32x4_t {
        // SAFETY: the array has the 16 bytes of the register, and needs no alignment
        unsafe { vld1q_f32(values.as_ptr()) }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    pub fn load_4_bits(values: &[u32; 4]) -> uint32x4_t {
        // SAFETY: the array has the 16 bytes of the register, and needs no alignment
        unsafe { vld1q_u32(values.as_ptr()) }
    }

    #[target_feature(enable = "neon")]
    #[inline]
    pub fn store_4(values: &mut [f32; 4], register: float32x4_t) {
        // SAFETY: the array has the 16 bytes of the register, and needs no alignment
        unsafe { vst1q_f32(values.as_mut_ptr(), register) }
    }
}

/// Registers and arrays of their size.
#[cfg(target_arch = "x86_64")]
mod registers {
    use std::arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_storeu_ps,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_storeu_ps,
    };

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn load_8(values: &[f32; 8]) -> __m256 {
        // SAFETY: the array has the 32 bytes of the register, and needs no alignment
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn load_8_words(values: &[i32; 8]) -> __m256i {
        // SAFETY: the array has the 32 bytes of the register, and needs no alignment
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub fn store_8(values: &mut [f32; 8], register: __m256) {
        // SAFETY: the array has the 32 bytes of the register, and needs no alignment
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), register) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub fn load_16(values: &[f32; 16]) -> __m512 {
        // SAFETY: the array has the 64 bytes of the register, and needs no alignment
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub fn load_16_words(values: &[i32; 16]) -> __m512i {
        // SAFETY: the array has the 64 bytes of the register, and needs no alignment
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub fn store_16(values: &mut [f32; 16], register: __m512) {
        // SAFETY: the array has the 64 bytes of the register, and needs no alignment
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), register) }
    }
}

#[cfg(test)]
mod tests;
