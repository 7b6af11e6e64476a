//! This module computes how likely a draw gives an item.

use rayon::prelude::*;

use crate::error::Error;
use crate::sampling::alias::{AliasTable, Distribution, Uniform};
use crate::sampling::exclusion::Rows;
use crate::threads::Workers;

/// Rows a thread takes at least.
const MIN_ROWS: usize = 32;

/// Fill `out`, which is `[B, M]` like `items`, with the log of how likely a draw for the row gives
/// each item; minus infinity for an excluded one.
///
/// # Errors
/// If a length does not fit, an item is out of range, or a row of seen items is wrong.
pub fn log_probability(
    rows: &Rows,
    table: Option<&AliasTable>,
    items: &[i32],
    out: &mut [f64],
    workers: &Workers,
) -> Result<(), Error> {
    Error::check_length("out", items.len(), out.len())?;
    let width = items.len().checked_div(rows.len()).unwrap_or(0);
    Error::check_length("items", rows.len() * width, items.len())?;
    for (place, &item) in items.iter().enumerate() {
        Error::check_index("items", place / width.max(1), rows.n_items(), item)?;
    }
    if let Some(table) = table {
        Error::check_length("alias table", rows.n_items(), table.n_items())?;
        return log_probability_in(rows, table, items, out, workers);
    }
    log_probability_in(rows, &Uniform::new(rows.n_items())?, items, out, workers)
}

fn log_probability_in(
    rows: &Rows,
    distribution: &impl Distribution,
    items: &[i32],
    out: &mut [f64],
    workers: &Workers,
) -> Result<(), Error> {
    if items.is_empty() {
        return Ok(());
    }
    let width = items.len() / rows.len();
    let common = common_units(rows, distribution);
    let failed = out
        .par_chunks_mut(width)
        .zip(items.par_chunks(width))
        .with_min_len(MIN_ROWS)
        .enumerate()
        .filter_map(|(row, (out, items))| {
            let mut fill = || -> Result<(), Error> {
                workers.go_on()?;
                let excluded = rows.excluded(row)?;
                let log_left = ((common - excluded.units(distribution)) as f64).ln();
                for (out, &item) in out.iter_mut().zip(items) {
                    let units = distribution.units(item);
                    *out = if units == 0 || excluded.holds(item) {
                        f64::NEG_INFINITY
                    } else {
                        (units as f64).ln() - log_left
                    };
                }
                Ok(())
            };
            fill().err().map(|error| (row, error))
        })
        .min_by_key(|&(row, _)| row);
    failed.map_or(Ok(()), |(_, error)| Err(error))
}

/// Return the units of all items that are not left out for every row.
pub fn common_units(rows: &Rows, distribution: &impl Distribution) -> u64 {
    let out = rows.everywhere().iter();
    distribution.total() - out.map(|&item| distribution.units(item)).sum::<u64>()
}
