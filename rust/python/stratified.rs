//! The choice of samples for Python.

use numpy::IntoPyArray;
use pyo3::prelude::*;

use super::{Ints, Vector, slice};
use crate::stratified;

#[pyfunction]
pub fn stratified_sample<'py>(
    py: Python<'py>,
    buckets: Ints<'py>,
    n_buckets: usize,
    budget: usize,
    seed: u64,
) -> PyResult<Vector<'py, i64>> {
    let buckets = slice("buckets", &buckets)?;
    let chosen = py.detach(|| stratified::stratified_sample(buckets, n_buckets, budget, seed))?;
    Ok(chosen.into_pyarray(py))
}
