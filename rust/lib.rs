//! The compiled part of rarec: negative sampling, exact scoring, data denoising.

pub mod alias;
pub mod best;
mod bounds;
#[cfg(test)]
mod cases;
pub mod catalogue;
pub mod characters;
mod codes;
pub mod collisions;
pub mod denoising;
pub mod error;
pub mod exclusion;
pub mod filling;
pub mod histories;
pub mod numbers;
mod offers;
pub mod probability;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod ranks;
pub mod sampling;
pub mod scoring;
pub mod screening;
pub mod simd;
pub mod slots;
pub mod stratified;
pub mod threads;
pub mod titles;
pub mod words;
