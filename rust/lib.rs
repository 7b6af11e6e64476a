//! The compiled part of rarec: negative sampling, exact scoring, data denoising.

pub mod alias;
pub mod best;
#[cfg(test)]
mod cases;
pub mod catalogue;
mod codes;
pub mod collisions;
pub mod denoising;
pub mod error;
pub mod exclusion;
pub mod filling;
pub mod histories;
mod offers;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod ranks;
pub mod sampling;
pub mod scoring;
pub mod screening;
pub mod simd;
pub mod stratified;
pub mod threads;
