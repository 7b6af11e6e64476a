//! The Python module `rarec._rust`: borrows arrays, releases the GIL, maps errors.
//!
//! Python owns the arrays and the casts; an array of another type or layout is refused here.

// the arguments are those Python passes, and pyo3 hands them over by value
#![allow(
    clippy::needless_pass_by_value,
    clippy::similar_names,
    clippy::too_many_arguments
)]

use std::sync::Arc;

use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1,
    PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::ThreadPool;

use crate::alias::{self, Alias};
use crate::denoising;
use crate::error::Error;
use crate::histories::Histories;
use crate::panels::Catalogue;
use crate::sampling;
use crate::scoring;
use crate::threads;

type Ints<'py> = PyReadonlyArray1<'py, i32>;
type Longs<'py> = PyReadonlyArray1<'py, i64>;
type Doubles<'py> = PyReadonlyArray1<'py, f64>;
type Vector<'py, T> = Bound<'py, PyArray1<T>>;
type Table<'py, T> = Bound<'py, PyArray2<T>>;

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

fn pool(threads: Option<i64>) -> Result<Arc<ThreadPool>, Error> {
    // a negative number is as wrong as 0, and refused in the same words
    threads::pool(threads.map(|size| usize::try_from(size).unwrap_or(0)))
}

fn catalogue<'a>(
    queries: &'a PyReadonlyArray3<'_, f32>,
    items: &'a PyReadonlyArray2<'_, f32>,
) -> PyResult<(&'a [f32], &'a [f32], usize, usize)> {
    let (query_shape, item_shape) = (queries.shape(), items.shape());
    Error::check_length("items (their width)", query_shape[2], item_shape[1])?;
    let (queries, items) = (slice("queries", queries)?, slice("items", items)?);
    Ok((queries, items, query_shape[1], query_shape[2]))
}

#[pymodule]
mod _rust {
    #[allow(clippy::wildcard_imports)] // a #[pymodule] has no other way to see its file
    use super::*;

    #[pyfunction]
    fn alias_table<'py>(
        py: Python<'py>,
        weights: Doubles<'py>,
    ) -> PyResult<(Vector<'py, f64>, Vector<'py, i32>)> {
        let weights = slice("weights", &weights)?;
        let (keep, other) = py.detach(|| alias::alias_table(weights))?;
        Ok((keep.into_pyarray(py), other.into_pyarray(py)))
    }

    #[pyfunction]
    #[pyo3(signature = (seen_offsets, seen_items, users, n, n_items, *, alias=None, seed=0, step=0, first_row=0, threads=None))]
    fn sample_negatives<'py>(
        py: Python<'py>,
        seen_offsets: Longs<'py>,
        seen_items: Ints<'py>,
        users: Ints<'py>,
        n: usize,
        n_items: usize,
        alias: Option<(Doubles<'py>, Ints<'py>)>,
        seed: u64,
        step: u64,
        first_row: u64,
        threads: Option<i64>,
    ) -> PyResult<Table<'py, i32>> {
        let offsets = slice("seen_offsets", &seen_offsets)?;
        let items = slice("seen_items", &seen_items)?;
        let users = slice("users", &users)?;
        let alias = match &alias {
            Some((keep, other)) => Some((slice("alias", keep)?, slice("alias", other)?)),
            None => None,
        };
        let draw = sampling::Draw {
            n,
            n_items,
            seed,
            step,
            first_row,
        };
        let drawn = py.detach(|| {
            let seen = Histories::new(offsets, items, n_items)?;
            let alias = alias
                .map(|(keep, other)| Alias::new(keep, other))
                .transpose()?;
            sampling::sample_negatives(&seen, users, alias, draw, &*pool(threads)?)
        })?;
        drawn.into_pyarray(py).reshape([users.len(), n])
    }

    #[pyfunction]
    fn stratified_sample<'py>(
        py: Python<'py>,
        buckets: Ints<'py>,
        n_buckets: usize,
        budget: usize,
        seed: u64,
    ) -> PyResult<Vector<'py, i64>> {
        let buckets = slice("buckets", &buckets)?;
        let chosen = py.detach(|| sampling::stratified_sample(buckets, n_buckets, budget, seed))?;
        Ok(chosen.into_pyarray(py))
    }

    #[pyfunction]
    #[pyo3(signature = (queries, items, seen_offsets, seen_items, k, *, threads=None))]
    fn top_k<'py>(
        py: Python<'py>,
        queries: PyReadonlyArray3<'py, f32>,
        items: PyReadonlyArray2<'py, f32>,
        seen_offsets: Longs<'py>,
        seen_items: Ints<'py>,
        k: usize,
        threads: Option<i64>,
    ) -> PyResult<(Table<'py, i32>, Table<'py, f32>)> {
        let n_queries = queries.shape()[0];
        let (query_values, item_values, n_vectors, dim) = catalogue(&queries, &items)?;
        let offsets = slice("seen_offsets", &seen_offsets)?;
        let seen = slice("seen_items", &seen_items)?;
        let (numbers, scores) = py.detach(|| {
            let catalogue = Catalogue::new(query_values, item_values, n_vectors, dim)?;
            let seen = Histories::new(offsets, seen, catalogue.n_items())?;
            scoring::top_k(&catalogue, &seen, k, &*pool(threads)?)
        })?;
        let shape = [n_queries, k];
        Ok((
            numbers.into_pyarray(py).reshape(shape)?,
            scores.into_pyarray(py).reshape(shape)?,
        ))
    }

    #[pyfunction]
    #[pyo3(signature = (queries, items, targets, seen_offsets, seen_items, *, threads=None))]
    fn ranks<'py>(
        py: Python<'py>,
        queries: PyReadonlyArray3<'py, f32>,
        items: PyReadonlyArray2<'py, f32>,
        targets: Ints<'py>,
        seen_offsets: Longs<'py>,
        seen_items: Ints<'py>,
        threads: Option<i64>,
    ) -> PyResult<(Vector<'py, i32>, Vector<'py, i32>, Vector<'py, i32>)> {
        let (query_values, item_values, n_vectors, dim) = catalogue(&queries, &items)?;
        let targets = slice("targets", &targets)?;
        let offsets = slice("seen_offsets", &seen_offsets)?;
        let seen = slice("seen_items", &seen_items)?;
        let ranks = py.detach(|| {
            let catalogue = Catalogue::new(query_values, item_values, n_vectors, dim)?;
            let seen = Histories::new(offsets, seen, catalogue.n_items())?;
            scoring::ranks(&catalogue, targets, &seen, &*pool(threads)?)
        })?;
        Ok((
            ranks.greater.into_pyarray(py),
            ranks.equal.into_pyarray(py),
            ranks.candidates.into_pyarray(py),
        ))
    }

    #[pyfunction]
    fn title_words(
        py: Python<'_>,
        titles: Vec<String>,
        stop_words: Vec<String>,
    ) -> (Vector<'_, i64>, Vector<'_, i32>) {
        let (offsets, words) = py.detach(|| denoising::title_words(&titles, &stop_words));
        (offsets.into_pyarray(py), words.into_pyarray(py))
    }

    #[pyfunction]
    #[pyo3(signature = (word_offsets, words, items, starts, ends, targets, *, threads=None))]
    fn overlaps<'py>(
        py: Python<'py>,
        word_offsets: Longs<'py>,
        words: Ints<'py>,
        items: Ints<'py>,
        starts: Longs<'py>,
        ends: Longs<'py>,
        targets: Ints<'py>,
        threads: Option<i64>,
    ) -> PyResult<Vector<'py, i32>> {
        let (offsets, words) = (
            slice("word_offsets", &word_offsets)?,
            slice("words", &words)?,
        );
        let samples = denoising::Samples {
            items: slice("items", &items)?,
            starts: slice("starts", &starts)?,
            ends: slice("ends", &ends)?,
            targets: slice("targets", &targets)?,
        };
        let overlaps = py.detach(|| {
            let words = denoising::Titles::new(offsets, words)?;
            denoising::overlaps(&words, &samples, &*pool(threads)?)
        })?;
        Ok(overlaps.into_pyarray(py))
    }
}
