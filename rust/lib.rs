//! The compiled part of rarec: negative sampling, exact scoring, data denoising.

pub mod alias;
pub mod characters;
pub mod denoising;
pub mod error;
pub mod histories;
pub mod numbers;
pub mod panels;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod sampling;
pub mod scoring;
pub mod simd;
pub mod slots;
pub mod stratified;
pub mod threads;
pub mod titles;
pub mod words;
