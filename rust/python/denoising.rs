//! This module gives Python the words of titles, and their overlaps.

use numpy::{IntoPyArray, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::PyList;

use super::arrays::{Ints, Longs, Vector, slice};
use super::jobs::run;
use crate::denoising::counts::{self, Samples};
use crate::denoising::titles::{self, Titles};
use crate::error::Error;
use crate::threads::Workers;

type Bytes<'py> = PyReadonlyArray1<'py, u8>;
type Table<'py> = (Vector<'py, i64>, Vector<'py, i32>);

#[pyfunction]
#[pyo3(signature = (titles, stop_words, *, threads=None))]
pub fn title_words<'py>(
    py: Python<'py>,
    titles: &Bound<'py, PyList>,
    stop_words: &Bound<'py, PyList>,
    threads: Option<i64>,
) -> PyResult<Table<'py>> {
    let titles = strings("titles", titles)?;
    let stop_words = strings("stop_words", stop_words)?;
    let titles: Vec<&str> = titles.iter().map(|title| text(title.as_ref())).collect();
    let stop_words: Vec<&str> = stop_words.iter().map(|word| text(word.as_ref())).collect();
    read(py, &titles, &stop_words, threads)
}

#[pyfunction]
#[pyo3(signature = (text, text_offsets, stop_words, *, threads=None))]
pub fn utf8_title_words<'py>(
    py: Python<'py>,
    text: Bytes<'py>,
    text_offsets: Longs<'py>,
    stop_words: &Bound<'py, PyList>,
    threads: Option<i64>,
) -> PyResult<Table<'py>> {
    let (text, offsets) = (slice("text", &text)?, slice("text_offsets", &text_offsets)?);
    let titles = py.detach(|| titles::parted(text, offsets))?;
    let stop_words = strings("stop_words", stop_words)?;
    let stop_words: Vec<&str> = stop_words
        .iter()
        .map(|word| self::text(word.as_ref()))
        .collect();
    read(py, &titles, &stop_words, threads)
}

fn read<'py>(
    py: Python<'py>,
    titles: &[&str],
    stop_words: &[&str],
    threads: Option<i64>,
) -> PyResult<Table<'py>> {
    let (offsets, words) = run(py, threads, |workers| {
        titles::title_words(titles, stop_words, workers)
    })?;
    Ok((offsets.into_pyarray(py), words.into_pyarray(py)))
}

/// Borrow the strings of a list; the list may change meanwhile, the strings cannot.
fn strings(name: &str, list: &Bound<'_, PyList>) -> PyResult<Vec<Option<PyBackedStr>>> {
    let string = |(row, item): (usize, Bound<'_, PyAny>)| {
        item.extract().map_err(|_| {
            let expected = format!("{name} of str in valid Unicode or None in row {row}");
            // repr escapes what no text may hold
            let got = item
                .repr()
                .map_or_else(|_| String::from("?"), |repr| repr.to_string());
            Error::value(expected, &got).into()
        })
    };
    list.iter().enumerate().map(string).collect()
}

fn text(string: Option<&PyBackedStr>) -> &str {
    string.map_or("", |string| string)
}

/// Titles and samples as Python holds them.
struct Arrays<'py> {
    offsets: Longs<'py>,
    words: Ints<'py>,
    items: Ints<'py>,
    starts: Longs<'py>,
    ends: Longs<'py>,
    targets: Ints<'py>,
}

impl Arrays<'_> {
    /// Return what `job` finds for each sample.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        threads: Option<i64>,
        job: impl FnOnce(&Titles, &Samples, &Workers) -> Result<Vec<T>, Error> + Send,
    ) -> PyResult<Vec<T>> {
        let offsets = slice("word_offsets", &self.offsets)?;
        let words = slice("words", &self.words)?;
        let samples = Samples {
            items: slice("items", &self.items)?,
            starts: slice("starts", &self.starts)?,
            ends: slice("ends", &self.ends)?,
            targets: slice("targets", &self.targets)?,
        };
        run(py, threads, |workers| {
            job(&Titles::new(offsets, words)?, &samples, workers)
        })
    }
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
    let arrays = Arrays {
        offsets: word_offsets,
        words,
        items,
        starts,
        ends,
        targets,
    };
    Ok(arrays.run(py, threads, counts::overlaps)?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (word_offsets, words, items, starts, ends, targets, *, threads=None))]
pub fn shares_word<'py>(
    py: Python<'py>,
    word_offsets: Longs<'py>,
    words: Ints<'py>,
    items: Ints<'py>,
    starts: Longs<'py>,
    ends: Longs<'py>,
    targets: Ints<'py>,
    threads: Option<i64>,
) -> PyResult<Vector<'py, bool>> {
    let arrays = Arrays {
        offsets: word_offsets,
        words,
        items,
        starts,
        ends,
        targets,
    };
    Ok(arrays
        .run(py, threads, counts::shares_word)?
        .into_pyarray(py))
}
