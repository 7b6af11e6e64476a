//! This folder finds exact best items and ranks without a matrix of all scores.

pub mod best;
mod bounds;
#[cfg(test)]
mod cases;
pub mod catalogue;
mod codes;
mod masks;
mod offers;
pub mod ranks;
pub mod screening;
pub mod search;
pub mod top_k;
