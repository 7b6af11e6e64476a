//! This module is `rarec._rust` in Python: it borrows arrays, releases the GIL and maps errors.
//!
//! Python owns the arrays and the casts; an array of another type or layout is refused here. The
//! functions stand in the files of this folder, one for each part of the crate.

// the arguments are those Python passes, and pyo3 hands them over by value
#![allow(
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::too_many_arguments
)]

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::Error;

mod arrays;
mod denoising;
mod jobs;
mod sampling;
mod scoring;

#[pymodule]
mod _rust {
    #[pymodule_export]
    use super::denoising::{overlaps, shares_word, title_words, utf8_title_words};
    #[pymodule_export]
    use super::sampling::{
        AliasTable, collisions, log_probability, sample_negatives, stratified_sample,
    };
    #[pymodule_export]
    use super::scoring::Catalogue;
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.to_string())
    }
}
