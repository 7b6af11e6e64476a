//! This module runs jobs without the GIL, and stops them on Ctrl-C.

use pyo3::prelude::*;

use crate::error::Error;
use crate::threads::{self, Workers};

/// Return what the job returns, run without the GIL; Ctrl-C stops it and raises what Python raises.
pub fn run<T: Send>(
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
