//! This module borrows the arrays that Python passes.

use numpy::{
    Element, PyArray1, PyArray2, PyReadonlyArray, PyReadonlyArray1, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::error::Error;

pub type Ints<'py> = PyReadonlyArray1<'py, i32>;
pub type Longs<'py> = PyReadonlyArray1<'py, i64>;
pub type Doubles<'py> = PyReadonlyArray1<'py, f64>;
pub type Vector<'py, T> = Bound<'py, PyArray1<T>>;
pub type Table<'py, T> = Bound<'py, PyArray2<T>>;

/// Return the values of an array, which must be C-contiguous.
pub fn slice<'a, T: Element, D: numpy::ndarray::Dimension>(
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
