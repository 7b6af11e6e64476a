//! Random choices for Python.

use numpy::{
    Element, IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use super::{Doubles, Ints, Longs, Table, Vector, run, slice};
use crate::alias::{self, Distribution};
use crate::error::Error;
use crate::exclusion::Rows;
use crate::histories::Histories;
use crate::sampling;

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

    fn __len__(&self) -> usize {
        self.0.n_items()
    }

    /// The other process must draw the same, so the table itself goes there.
    fn __reduce__(slf: Bound<'_, Self>) -> PyResult<(Bound<'_, PyAny>, (Vector<'_, u64>,))> {
        let columns = slf.get().0.columns().to_vec().into_pyarray(slf.py());
        Ok((slf.get_type().getattr("from_columns")?, (columns,)))
    }
}

/// What is left out beside seen items: of all rows, and of each row.
type Excluded<'py> = (Option<Ints<'py>>, Option<PyReadonlyArray2<'py, i32>>);

/// Call `job` with the rows that these arrays describe.
fn with_rows<T: Send>(
    py: Python<'_>,
    (seen_offsets, seen_items): (&Longs<'_>, &Ints<'_>),
    users: &Ints<'_>,
    (everywhere, own): &Excluded<'_>,
    n_items: usize,
    threads: Option<i64>,
    job: impl FnOnce(&Rows, &crate::threads::Workers) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let offsets = slice("seen_offsets", seen_offsets)?;
    let items = slice("seen_items", seen_items)?;
    let users = slice("users", users)?;
    let everywhere = match everywhere {
        Some(items) => slice("exclude", items)?,
        None => &[],
    };
    let own = match own {
        Some(items) => {
            Error::check_length("exclude_by_row", users.len(), items.shape()[0])?;
            slice("exclude_by_row", items)?
        }
        None => &[],
    };
    run(py, threads, |workers| {
        let seen = Histories::new(offsets, items, n_items)?;
        let rows = Rows::new(&seen, users, everywhere, own, n_items)?;
        job(&rows, workers)
    })
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
    let draw = sampling::Draw {
        n,
        seed,
        step,
        first_row,
    };
    let seen = (&seen_offsets, &seen_items);
    let excluded = (exclude, exclude_by_row);
    let alias = alias.as_ref().map(|alias| &alias.get().0);
    if let Ok(ints) = out.cast::<PyArray2<i32>>() {
        let mut ints = writable("out", ints, shape)?;
        let ints = ints.as_slice_mut()?;
        with_rows(
            py,
            seen,
            &users,
            &excluded,
            n_items,
            threads,
            |rows, workers| sampling::sample_negatives(rows, alias, draw, ints, log_q, workers),
        )?;
    } else if let Ok(longs) = out.cast::<PyArray2<i64>>() {
        let mut longs = writable("out", longs, shape)?;
        let longs = longs.as_slice_mut()?;
        with_rows(
            py,
            seen,
            &users,
            &excluded,
            n_items,
            threads,
            |rows, workers| sampling::sample_negatives(rows, alias, draw, longs, log_q, workers),
        )?;
    } else {
        return Err(Error::value("out as an int32 or int64 array [B, n]", &out.get_type()).into());
    }
    Ok(out)
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
    let seen = (&seen_offsets, &seen_items);
    let excluded = (exclude, exclude_by_row);
    let alias = alias.as_ref().map(|alias| &alias.get().0);
    let mut out = vec![0.0; numbers.len()];
    with_rows(
        py,
        seen,
        &users,
        &excluded,
        n_items,
        threads,
        |rows, workers| sampling::log_probability(rows, alias, numbers, &mut out, workers),
    )?;
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
        crate::collisions::collisions(&seen, users, items, workers)
    })?;
    let n_pairs = pairs.len();
    pairs
        .into_flattened()
        .into_pyarray(py)
        .reshape([n_pairs, 2])
}
