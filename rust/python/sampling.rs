//! Random choices for Python.

use numpy::{IntoPyArray, PyArrayMethods};
use pyo3::prelude::*;

use super::{Doubles, Ints, Longs, Table, Vector, run, slice};
use crate::alias::{self, Alias};
use crate::histories::Histories;
use crate::sampling;

#[pyfunction]
pub fn alias_table<'py>(
    py: Python<'py>,
    weights: Doubles<'py>,
) -> PyResult<(Vector<'py, f64>, Vector<'py, i32>)> {
    let weights = slice("weights", &weights)?;
    let (keep, other) = py.detach(|| alias::alias_table(weights))?;
    Ok((keep.into_pyarray(py), other.into_pyarray(py)))
}

#[pyfunction]
#[pyo3(signature = (seen_offsets, seen_items, users, n, n_items, *, alias=None, seed=0, step=0, first_row=0, threads=None))]
pub fn sample_negatives<'py>(
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
    let drawn = run(py, threads, |workers| {
        let seen = Histories::new(offsets, items, n_items)?;
        let alias = alias
            .map(|(keep, other)| Alias::new(keep, other))
            .transpose()?;
        sampling::sample_negatives(&seen, users, alias, draw, workers)
    })?;
    drawn.into_pyarray(py).reshape([users.len(), n])
}
