//! Words of titles, and overlaps, for Python.

use numpy::IntoPyArray;
use pyo3::prelude::*;

use super::{Ints, Longs, Vector, run, slice};
use crate::denoising;

#[pyfunction]
pub fn title_words(
    py: Python<'_>,
    titles: Vec<String>,
    stop_words: Vec<String>,
) -> (Vector<'_, i64>, Vector<'_, i32>) {
    let (offsets, words) = py.detach(|| denoising::title_words(&titles, &stop_words));
    (offsets.into_pyarray(py), words.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (word_offsets, words, items, starts, ends, targets, *, threads=None))]
pub fn overlaps<'py>(
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
    let overlaps = run(py, threads, |workers| {
        let words = denoising::Titles::new(offsets, words)?;
        denoising::overlaps(&words, &samples, workers)
    })?;
    Ok(overlaps.into_pyarray(py))
}
