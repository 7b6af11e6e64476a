//! This folder finds the words of titles, and counts those that a target shares with its history.

pub mod characters;
pub mod counts;

pub mod slots;
pub mod titles;
pub mod vocabulary;
pub mod words;
