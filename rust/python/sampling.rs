//! This module gives Python the random choices.

use numpy::{
    Element, IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use super::arrays::{Doubles, Ints, Longs, Table, Vector, slice};
use super::jobs::run;
use crate::error::Error;
use crate::histories::Histories;
use crate::sampling::alias;
use crate::sampling::exclusion::Rows;
use crate::sampling::negatives;
use crate::sampling::probability;
use crate::sampling::stratified;
use crate::threads::Workers;

/// A distribution over items; made once, it is not checked again.
#[pyclass(frozen, module = "rarec._rust")]
pub struct AliasTable(alias::AliasTable);

#[pymethods]
impl AliasTable {
    #[new]
    fn new(py: Python<'_>, weights: Doubles<'_>) -> PyResult<Self> {
        let weights = slice("weights", &weights)?;
        Ok(Self(py.detach(|| alias::AliasTable::new(weights))?))
    }

    #[staticmethod]
    fn from_columns(py: Python<'_>, columns: numpy::PyReadonlyArray1<'_, u64>) -> PyResult<Self> {
        let columns = slice("columns", &columns)?;
        Ok(Self(
            py.detach(|| alias::AliasTable::from_columns(columns))?,
        ))
    }

    /// The other process must draw the same, so the table itself goes there.
    fn __reduce__(slf: Bound<'_, Self>) -> PyResult<(Bound<'_, PyAny>, (Vector<'_, u64>,))> {
        let columns = slf.get().0.columns().to_vec().into_pyarray(slf.py());
        Ok((slf.get_type().getattr("from_columns")?, (columns,)))
    }
}

/// The rows of a call, as Python holds them.
struct RowArrays<'py> {
    seen_offsets: Longs<'py>,
    seen_items: Ints<'py>,
    users: Ints<'py>,
    n_items: usize,
    exclude: Option<Ints<'py>>,
    exclude_by_row: Option<PyReadonlyArray2<'py, i32>>,
}

impl RowArrays<'_> {
    /// Return what `job` makes of the rows.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        threads: Option<i64>,
        job: impl FnOnce(&Rows, &Workers) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let offsets = slice("seen_offsets", &self.seen_offsets)?;
        let items = slice("seen_items", &self.seen_items)?;
        let users = slice("users", &self.users)?;
        let everywhere = match &self.exclude {
            Some(items) => slice("exclude", items)?,
            None => &[],
        };
        let own = match &self.exclude_by_row {
            Some(items) => {
                Error::check_length("exclude_by_row", users.len(), items.shape()[0])?;
                slice("exclude_by_row", items)?
            }
            None => &[],
        };
        let n_items = self.n_items;
        run(py, threads, |workers| {
            let seen = Histories::new(offsets, items, n_items)?;
            job(&Rows::new(&seen, users, everywhere, own, n_items)?, workers)
        })
    }
}

/// Return a table that may be written to, and that has this shape.
fn writable<'py, T: Element>(
    name: &str,
    array: &Table<'py, T>,
    shape: [usize; 2],
) -> PyResult<PyReadwriteArray2<'py, T>> {
    if array.shape() != shape || !array.is_c_contiguous() {
        let expected = format!("{name} as a C-contiguous array of shape {shape:?}");
        return Err(Error::value(expected, &format!("{:?}", array.shape())).into());
    }
    let borrowed = array.try_readwrite();
    borrowed.map_err(|error| Error::value(format!("{name} that can be written to"), &error).into())
}

#[pyfunction]
#[pyo3(signature = (seen_offsets, seen_items, users, n, n_items, *, alias=None, exclude=None, exclude_by_row=None, seed=0, step=0, first_row=0, out=None, log_q=None, threads=None))]
pub fn sample_negatives<'py>(
    py: Python<'py>,
    seen_offsets: Longs<'py>,
    seen_items: Ints<'py>,
    users: Ints<'py>,
    n: usize,
    n_items: usize,
    alias: Option<Bound<'py, AliasTable>>,
    exclude: Option<Ints<'py>>,
    exclude_by_row: Option<PyReadonlyArray2<'py, i32>>,
    seed: u64,
    step: u64,
    first_row: u64,
    out: Option<Bound<'py, PyAny>>,
    log_q: Option<Table<'py, f32>>,
    threads: Option<i64>,
) -> PyResult<Bound<'py, PyAny>> {
    let shape = [users.len(), n];
    let out = match out {
        Some(out) => out,
        None => PyArray2::<i32>::zeros(py, shape, false).into_any(),
    };
    let log_q = log_q.map(|log_q| writable("log_q", &log_q, shape));
    let mut log_q = log_q.transpose()?;
    let log_q = match &mut log_q {
        Some(log_q) => Some(log_q.as_slice_mut()?),
        None => None,
    };
    let draw = negatives::Draw {
        n,
        seed,
        step,
        first_row,
    };
    let alias = alias.as_ref().map(|alias| &alias.get().0);
    let rows = RowArrays {
        seen_offsets,
        seen_items,
        users,
        n_items,
        exclude,
        exclude_by_row,
    };
    if let Ok(ints) = out.cast::<PyArray2<i32>>() {
        fill(py, &rows, alias, draw, ints, log_q, threads)?;
    } else if let Ok(longs) = out.cast::<PyArray2<i64>>() {
        fill(py, &rows, alias, draw, longs, log_q, threads)?;
    } else {
        return Err(Error::value("out as an int32 or int64 array [B, n]", &out.get_type()).into());
    }
    Ok(out)
}

fn fill<T: Element + From<i32>>(
    py: Python<'_>,
    rows: &RowArrays<'_>,
    alias: Option<&alias::AliasTable>,
    draw: negatives::Draw,
    out: &Table<'_, T>,
    log_q: Option<&mut [f32]>,
    threads: Option<i64>,
) -> PyResult<()> {
    let mut out = writable("out", out, [rows.users.len(), draw.n])?;
    let out = out.as_slice_mut()?;
    rows.run(py, threads, |rows, workers| {
        negatives::sample_negatives(rows, alias, draw, out, log_q, workers)
    })
}

#[pyfunction]
#[pyo3(signature = (seen_offsets, seen_items, users, items, n_items, *, alias=None, exclude=None, exclude_by_row=None, threads=None))]
pub fn log_probability<'py>(
    py: Python<'py>,
    seen_offsets: Longs<'py>,
    seen_items: Ints<'py>,
    users: Ints<'py>,
    items: PyReadonlyArray2<'py, i32>,
    n_items: usize,
    alias: Option<Bound<'py, AliasTable>>,
    exclude: Option<Ints<'py>>,
    exclude_by_row: Option<PyReadonlyArray2<'py, i32>>,
    threads: Option<i64>,
) -> PyResult<Table<'py, f64>> {
    let [n_rows, width] = [items.shape()[0], items.shape()[1]];
    Error::check_length("items", users.len(), n_rows)?;
    let numbers = slice("items", &items)?;
    let alias = alias.as_ref().map(|alias| &alias.get().0);
    let rows = RowArrays {
        seen_offsets,
        seen_items,
        users,
        n_items,
        exclude,
        exclude_by_row,
    };
    let mut out = vec![0.0; numbers.len()];
    rows.run(py, threads, |rows, workers| {
        probability::log_probability(rows, alias, numbers, &mut out, workers)
    })?;
    out.into_pyarray(py).reshape([n_rows, width])
}

#[pyfunction]
#[pyo3(signature = (seen_offsets, seen_items, users, items, n_items, *, threads=None))]
pub fn collisions<'py>(
    py: Python<'py>,
    seen_offsets: Longs<'py>,
    seen_items: Ints<'py>,
    users: Ints<'py>,
    items: Ints<'py>,
    n_items: usize,
    threads: Option<i64>,
) -> PyResult<Table<'py, i64>> {
    let offsets = slice("seen_offsets", &seen_offsets)?;
    let seen_items = slice("seen_items", &seen_items)?;
    let users = slice("users", &users)?;
    let items = slice("items", &items)?;
    let pairs = run(py, threads, |workers| {
        let seen = Histories::new(offsets, seen_items, n_items)?;
        crate::sampling::collisions::collisions(&seen, users, items, workers)
    })?;
    let n_pairs = pairs.len();
    pairs
        .into_flattened()
        .into_pyarray(py)
        .reshape([n_pairs, 2])
}

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
