//! This module holds the error that a job returns if its input is wrong.

/// A job refused its input; nothing was computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two lengths that must fit together do not.
    #[error("expected {name} of length {expected}, got {got}")]
    Length {
        name: &'static str,
        expected: usize,
        got: usize,
    },
    /// A number lies outside the range it indexes.
    #[error("expected {name} from 0 to {last}, got {got} (row {row})", last = i128::from(*limit) - 1)]
    OutOfRange {
        name: &'static str,
        row: usize,
        limit: i64,
        got: i64,
    },
    /// The offsets of a table of histories do not describe its items.
    #[error("expected offsets that start at 0, never fall and end at {n_items}, got {got}")]
    Offsets { n_items: usize, got: String },
    /// A row of seen items is not sorted, or holds an item twice.
    #[error(
        "expected the seen items of row {row} to be sorted and without repetition, got {first} before {second}"
    )]
    Order { row: usize, first: i32, second: i32 },
    /// A vector holds NaN or infinity.
    #[error("expected finite {name}, got {got} in row {row}")]
    NotFinite {
        name: &'static str,
        row: usize,
        got: String,
    },
    /// The inner product of two finite vectors may pass the largest float32.
    #[error(
        "expected vectors whose inner products fit float32, got norms up to {queries} (queries) and {items} (items)"
    )]
    Overflow { queries: String, items: String },
    /// A user without any item that could be drawn.
    #[error(
        "expected an item that user {user} has not seen and that is not excluded, got none of {n_items} (row {row})"
    )]
    NothingLeft {
        user: i32,
        row: usize,
        n_items: usize,
    },
    /// The job was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// Any other value that cannot be worked with.
    #[error("expected {expected}, got {got}")]
    Value { expected: String, got: String },
}

impl Error {
    /// Return the error of a value that is not what was asked for.
    pub fn value(expected: impl Into<String>, got: &impl ToString) -> Self {
        Self::Value {
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// Return `Ok` if the lengths are equal, else the error that names them.
    ///
    /// # Errors
    /// If `got` is not `expected`.
    pub fn check_length(name: &'static str, expected: usize, got: usize) -> Result<(), Self> {
        if expected == got {
            return Ok(());
        }
        Err(Self::Length {
            name,
            expected,
            got,
        })
    }

    /// Return `Ok` if a catalogue can have so many items: their numbers must fit an `i32`.
    ///
    /// # Errors
    /// If `n_items` is 0 or above 2147483647.
    pub fn check_items(n_items: usize) -> Result<(), Self> {
        if (1..=i32::MAX as usize).contains(&n_items) {
            return Ok(());
        }
        Err(Self::value(
            format!("n_items from 1 to {}", i32::MAX),
            &n_items,
        ))
    }

    /// Return the number as an index if it lies in `0..limit`, else the error that names it.
    ///
    /// # Errors
    /// If `got` is negative or not below `limit`.
    pub fn check_index(
        name: &'static str,
        row: usize,
        limit: usize,
        got: impl Into<i64>,
    ) -> Result<usize, Self> {
        let got = got.into();
        match usize::try_from(got) {
            Ok(index) if index < limit => Ok(index),
            _ => Err(Self::OutOfRange {
                name,
                row,
                limit: limit as i64,
                got,
            }),
        }
    }
}
