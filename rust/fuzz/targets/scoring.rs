//! Best items and ranks: whatever the input, an error or what a plain loop finds.
#![no_main]

use std::cmp::Ordering;

use arbitrary::Arbitrary;
use half::f16;
use libfuzzer_sys::fuzz_target;
use rarec::error::Error;
use rarec::histories::Histories;
use rarec::scoring::catalogue::{Items, Queries, Values};
use rarec::scoring::ranks::{ranks, ranks_among};
use rarec::scoring::screening::Screen;
use rarec::scoring::search::Search;
use rarec::scoring::top_k::{top_k, top_k_among};
use rarec::simd::{Codes, Level};
use rarec::threads::{Workers, run};

#[derive(Arbitrary, Debug)]
struct Input {
    halves: bool,
    items: Vec<u32>,
    queries: Vec<u32>,
    dim: u8,
    n_vectors: u8,
    k: u16,
    seen: Vec<Vec<i32>>,
    among: Vec<Vec<i32>>,
    targets: Vec<i32>,
    /// Whether to mend rows and targets, so that more than their errors is reached.
    mend: bool,
    codes: u8,
    level: u8,
    threads: u8,
}

/// Return rows as a table, mended if asked: one for each query, in order, of items that are there.
fn table(rows: &[Vec<i32>], n_rows: usize, n_items: usize, mend: bool) -> (Vec<i64>, Vec<i32>) {
    let mut rows = rows.to_vec();
    if mend {
        rows.resize(n_rows, Vec::new());
        for row in &mut rows {
            row.retain(|&item| (0..n_items as i32).contains(&item));
            row.sort_unstable();
            row.dedup();
        }
    }
    let mut offsets = vec![0];
    for row in &rows {
        offsets.push(offsets[offsets.len() - 1] + row.len() as i64);
    }
    (offsets, rows.concat())
}

fn search(input: &Input, items: Values, queries: &[f32], workers: &Workers) -> Result<(), Error> {
    let levels = Level::available();
    let level = levels[usize::from(input.level) % levels.len()];
    let items = Items::new(items, input.dim.into())?;
    let queries_of = Queries::new(queries, input.n_vectors.into(), &items)?;
    let screen = match input.codes % 3 {
        0 => None,
        1 => Screen::new(&items, Codes::Bytes, level, workers)?,
        _ => Screen::new(&items, Codes::Shorts, level, workers)?,
    };
    let (n_rows, n_items) = (queries_of.len(), items.n_items());
    let (offsets, seen) = table(&input.seen, n_rows, n_items, input.mend);
    let seen = Histories::new(&offsets, &seen, n_items)?;
    let search = Search::new(queries_of, items, &seen, level, screen.as_ref())?;
    let k = usize::from(input.k);
    if let Ok((numbers, scores)) = top_k(&search, k, workers) {
        check(&search, queries, k, &numbers, &scores);
    }
    let mut targets = input.targets.clone();
    if input.mend {
        targets.resize(n_rows, 0);
        targets
            .iter_mut()
            .for_each(|item| *item = item.rem_euclid(n_items.max(1) as i32));
    }
    let _ = ranks(&search, &targets, workers);
    let (offsets, among) = table(&input.among, n_rows, n_items, input.mend);
    let among = Histories::new(&offsets, &among, n_items)?;
    let _ = top_k_among(&search, &among, k, workers);
    let _ = ranks_among(&search, &targets, &among, workers);
    Ok(())
}

fn check(search: &Search, queries: &[f32], k: usize, numbers: &[i32], scores: &[f32]) {
    let (dim, n_items) = (search.items.dim(), search.items.n_items());
    let size = queries.len() / search.queries.len().max(1);
    let mut buffer = vec![0.0; dim];
    for (query, vectors) in queries.chunks(size.max(1)).enumerate() {
        let mut all = Vec::new();
        for item in
            (0..n_items as i32).filter(|item| search.seen[query].binary_search(item).is_err())
        {
            let item_of = search.items.vector(item as usize, &mut buffer);
            let product = |vector: &[f32]| {
                vector
                    .iter()
                    .zip(item_of)
                    .fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
            };
            all.push((
                item,
                vectors
                    .chunks(dim)
                    .map(product)
                    .fold(f32::NEG_INFINITY, f32::max),
            ));
        }
        all.sort_by(|a, b| {
            b.1.partial_cmp(&a.1)
                .unwrap_or(Ordering::Equal)
                .then(a.0.cmp(&b.0))
        });
        all.resize(all.len().max(k), (-1, f32::NEG_INFINITY));
        let found = numbers[query * k..][..k]
            .iter()
            .zip(&scores[query * k..][..k]);
        assert!(
            found
                .map(|(&item, &score)| (item, score))
                .eq(all[..k].iter().copied())
        );
    }
}

fuzz_target!(|input: Input| {
    let halves: Vec<f16> = input
        .items
        .iter()
        .map(|&bits| f16::from_bits(bits as u16))
        .collect();
    let floats: Vec<f32> = input
        .items
        .iter()
        .map(|&bits| f32::from_bits(bits))
        .collect();
    let queries: Vec<f32> = input
        .queries
        .iter()
        .map(|&bits| f32::from_bits(bits))
        .collect();
    let values = if input.halves {
        Values::F16(&halves)
    } else {
        Values::F32(&floats)
    };
    let threads = usize::from(input.threads % 2) + 1;
    let _ = run(
        Some(threads),
        |workers| search(&input, values, &queries, workers),
        || false,
    );
});
