//! The Python module `rarec._rust`: borrows arrays, releases the GIL, maps errors.
//!
//! Python owns the arrays and the casts; an array of another type or layout is refused here. The
//! functions stand in the files of this folder, one for each job.

// the arguments are those Python passes, and pyo3 hands them over by value
#![allow(
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::too_many_arguments
)]

use numpy::{
    Element, PyArray1, PyArray2, PyReadonlyArray, PyReadonlyArray1, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::Error;
use crate::threads::{self, Workers};

mod denoising;
mod sampling;
mod scoring;
mod stratified;

type Ints<'py> = PyReadonlyArray1<'py, i32>;
type Longs<'py> = PyReadonlyArray1<'py, i64>;
type Doubles<'py> = PyReadonlyArray1<'py, f64>;
type Vector<'py, T> = Bound<'py, PyArray1<T>>;
type Table<'py, T> = Bound<'py, PyArray2<T>>;

#[pymodule]
mod _rust {
    #[pymodule_export]
    use super::denoising::{overlaps, shares_word, title_words, utf8_title_words};
    #[pymodule_export]
    use super::sampling::{AliasTable, collisions, log_probability, sample_negatives};
    #[pymodule_export]
    use super::scoring::Catalogue;
    #[pymodule_export]
    use super::stratified::stratified_sample;
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.to_string())
    }
}

fn slice<'a, T: Element, D: numpy::ndarray::Dimension>(
    name: &str,
    array: &'a PyReadonlyArray<'_, T, D>,
) -> PyResult<&'a [T]> {
    // as_slice alone also takes an array in Fortran order, and gives its places in that order
    array
        .as_slice()
        .ok()
        .filter(|_| array.is_c_contiguous())
        .ok_or_else(|| {
            Error::value(
                format!("{name} as a C-contiguous array"),
                &"gaps or another order",
            )
            .into()
        })
}

/// Return what the job returns, run without the GIL; Ctrl-C stops it and raises what Python raises.
fn run<T: Send>(
    py: Python<'_>,
    threads: Option<i64>,
    job: impl FnOnce(&Workers) -> Result<T, Error> + Send,
) -> PyResult<T> {
    // a negative number is as wrong as 0, and refused in the same words
    let threads = threads.map(|size| usize::try_from(size).unwrap_or(0));
    let mut signal = None;
    let result = py.detach(|| {
        threads::run(threads, job, || {
            if signal.is_none() {
                // the method itself has one lifetime, and attach asks for any
                #[allow(clippy::redundant_closure_for_method_calls)]
                let checked = Python::attach(|py| py.check_signals());
                signal = checked.err();
            }
            signal.is_some()
        })
    });
    match signal {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}
