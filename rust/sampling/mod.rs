//! This folder draws items and samples at random, and says how likely the draws were.

pub mod alias;
pub mod collisions;
pub mod exclusion;
pub mod filling;
pub mod negatives;
pub mod probability;
pub mod stratified;
