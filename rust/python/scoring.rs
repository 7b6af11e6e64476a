//! Exact best items and ranks for Python.

use numpy::{
    IntoPyArray, PyArrayMethods, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use super::{Ints, Longs, Table, Vector, run, slice};
use crate::error::Error;
use crate::histories::Histories;
use crate::panels::Catalogue;
use crate::scoring;

fn catalogue<'a>(
    queries: &'a PyReadonlyArray3<'_, f32>,
    items: &'a PyReadonlyArray2<'_, f32>,
) -> PyResult<(&'a [f32], &'a [f32], usize, usize)> {
    let (query_shape, item_shape) = (queries.shape(), items.shape());
    Error::check_length("items (their width)", query_shape[2], item_shape[1])?;
    let (queries, items) = (slice("queries", queries)?, slice("items", items)?);
    Ok((queries, items, query_shape[1], query_shape[2]))
}

#[pyfunction]
#[pyo3(signature = (queries, items, seen_offsets, seen_items, k, *, threads=None))]
pub fn top_k<'py>(
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
    let (numbers, scores) = run(py, threads, |workers| {
        let catalogue = Catalogue::new(query_values, item_values, n_vectors, dim)?;
        let seen = Histories::new(offsets, seen, catalogue.n_items())?;
        scoring::top_k(&catalogue, &seen, k, workers)
    })?;
    let shape = [n_queries, k];
    Ok((
        numbers.into_pyarray(py).reshape(shape)?,
        scores.into_pyarray(py).reshape(shape)?,
    ))
}

#[pyfunction]
#[pyo3(signature = (queries, items, targets, seen_offsets, seen_items, *, threads=None))]
pub fn ranks<'py>(
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
    let ranks = run(py, threads, |workers| {
        let catalogue = Catalogue::new(query_values, item_values, n_vectors, dim)?;
        let seen = Histories::new(offsets, seen, catalogue.n_items())?;
        scoring::ranks(&catalogue, targets, &seen, workers)
    })?;
    Ok((
        ranks.greater.into_pyarray(py),
        ranks.equal.into_pyarray(py),
        ranks.candidates.into_pyarray(py),
    ))
}
