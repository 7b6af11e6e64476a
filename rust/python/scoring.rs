//! This module gives Python the exact best items and ranks.

use half::f16;
use numpy::{
    IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2, PyReadonlyArray3,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::arrays::{Ints, Longs, Table, Vector, slice};
use super::jobs::run;
use crate::error::Error;
use crate::histories::Histories;
use crate::scoring::catalogue::{Items, Measurements, Queries, Values};
use crate::scoring::ranks;
use crate::scoring::screening::Screen;
use crate::scoring::search::Search;
use crate::scoring::top_k;
use crate::simd::{Codes, Level};

type Csr<'py> = (Longs<'py>, Ints<'py>);

/// Item vectors that were checked once, and their codes.
#[pyclass(frozen, module = "rarec._rust")]
pub struct Catalogue {
    vectors: Vectors,
    measurements: Measurements,
    level: Level,
    screen: Option<Screen>,
}

/// Vectors that Python owns.
enum Vectors {
    F32(Py<PyArray2<f32>>),
    F16(Py<PyArray2<f16>>),
}

/// Vectors that Python owns, as long as Rust reads them.
enum Borrowed<'py> {
    F32(PyReadonlyArray2<'py, f32>),
    F16(PyReadonlyArray2<'py, f16>),
}

impl Vectors {
    fn borrow<'py>(&self, py: Python<'py>) -> PyResult<Borrowed<'py>> {
        Ok(match self {
            Self::F32(array) => Borrowed::F32(array.bind(py).try_readonly()?),
            Self::F16(array) => Borrowed::F16(array.bind(py).try_readonly()?),
        })
    }
}

impl Borrowed<'_> {
    fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Self::F32(array) => Values::F32(slice("items", array)?),
            Self::F16(array) => Values::F16(slice("items", array)?),
        })
    }
}

fn rows<'a>(name: &str, (offsets, items): &'a Csr<'_>, n_items: usize) -> PyResult<Histories<'a>> {
    Ok(Histories::new(
        slice(name, offsets)?,
        slice(name, items)?,
        n_items,
    )?)
}

#[pymethods]
impl Catalogue {
    #[new]
    #[pyo3(signature = (items, *, screen=None, threads=None))]
    fn new(
        py: Python<'_>,
        items: &Bound<'_, PyAny>,
        screen: Option<&str>,
        threads: Option<i64>,
    ) -> PyResult<Self> {
        let (vectors, dim) = if let Ok(array) = items.cast::<PyArray2<f32>>() {
            (Vectors::F32(array.clone().unbind()), array.shape()[1])
        } else if let Ok(array) = items.cast::<PyArray2<f16>>() {
            (Vectors::F16(array.clone().unbind()), array.shape()[1])
        } else {
            let message = "expected items [N, D] of float32 or float16";
            return Err(PyValueError::new_err(message));
        };
        let codes = match screen {
            None => None,
            Some("bytes") => Some(Codes::Bytes),
            Some("shorts") => Some(Codes::Shorts),
            Some(other) => {
                return Err(Error::value("screen of bytes or shorts", &other).into());
            }
        };
        let level = Level::choose()?;
        // where codes would be slower none are made
        let codes = codes.filter(|_| level.screens());
        let borrowed = vectors.borrow(py)?;
        let values = borrowed.values()?;
        let (measurements, screen) = run(py, threads, |workers| {
            let items = Items::new(values, dim)?;
            let screen = codes.map(|codes| Screen::new(&items, codes, level, workers));
            Ok((items.measurements(), screen.transpose()?.flatten()))
        })?;
        Ok(Self {
            vectors,
            measurements,
            level,
            screen,
        })
    }

    #[getter]
    fn instructions(&self) -> &'static str {
        self.level.name()
    }

    #[pyo3(signature = (queries, seen, k, *, among=None, threads=None))]
    fn top_k<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray3<'py, f32>,
        seen: Csr<'py>,
        k: usize,
        among: Option<Csr<'py>>,
        threads: Option<i64>,
    ) -> PyResult<(Table<'py, i32>, Table<'py, f32>)> {
        let shape = [queries.shape()[0], k];
        let found = self.search(
            py,
            &queries,
            &seen,
            among.as_ref(),
            threads,
            |search, among, workers| match among {
                Some(among) => top_k::top_k_among(search, among, k, workers),
                None => top_k::top_k(search, k, workers),
            },
        );
        let (numbers, scores) = found?;
        Ok((
            numbers.into_pyarray(py).reshape(shape)?,
            scores.into_pyarray(py).reshape(shape)?,
        ))
    }

    #[pyo3(signature = (queries, targets, seen, *, among=None, threads=None))]
    fn ranks<'py>(
        &self,
        py: Python<'py>,
        queries: PyReadonlyArray3<'py, f32>,
        targets: Ints<'py>,
        seen: Csr<'py>,
        among: Option<Csr<'py>>,
        threads: Option<i64>,
    ) -> PyResult<(Vector<'py, i32>, Vector<'py, i32>, Vector<'py, i32>)> {
        let targets = slice("targets", &targets)?;
        let counts = self.search(
            py,
            &queries,
            &seen,
            among.as_ref(),
            threads,
            |search, among, workers| match among {
                Some(among) => ranks::ranks_among(search, targets, among, workers),
                None => ranks::ranks(search, targets, workers),
            },
        )?;
        Ok((
            counts.greater.into_pyarray(py),
            counts.equal.into_pyarray(py),
            counts.candidates.into_pyarray(py),
        ))
    }
}

impl Catalogue {
    fn search<T: Send>(
        &self,
        py: Python<'_>,
        queries: &PyReadonlyArray3<'_, f32>,
        seen: &Csr<'_>,
        among: Option<&Csr<'_>>,
        threads: Option<i64>,
        job: impl FnOnce(&Search, Option<&Histories>, &crate::threads::Workers) -> Result<T, Error>
        + Send,
    ) -> PyResult<T> {
        let [_, n_vectors, dim] = *queries.shape() else {
            return Err(Error::value("queries of 3 axes", &queries.ndim()).into());
        };
        Error::check_length("queries (their width)", self.measurements.dim, dim)?;
        let values = slice("queries", queries)?;
        let borrowed = self.vectors.borrow(py)?;
        let items = borrowed.values()?;
        let seen = rows("seen items", seen, self.measurements.n_items)?;
        let among = among
            .map(|among| rows("candidates", among, self.measurements.n_items))
            .transpose()?;
        run(py, threads, |workers| {
            let items = Items::checked(items, self.measurements)?;
            let queries = Queries::new(values, n_vectors, &items)?;
            let search = Search::new(queries, items, &seen, self.level, self.screen.as_ref())?;
            job(&search, among.as_ref(), workers)
        })
    }
}
