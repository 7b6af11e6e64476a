//! This crate is the compiled part of rarec: negative sampling, exact scoring, data denoising.

pub mod denoising;
pub mod error;
pub mod histories;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod sampling;
pub mod scoring;
pub mod simd;
pub mod threads;
