//! Random choices: whatever the input, an error or items that may be drawn.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rarec::error::Error;
use rarec::histories::Histories;
use rarec::sampling::alias::AliasTable;
use rarec::sampling::collisions::collisions;
use rarec::sampling::exclusion::Rows;
use rarec::sampling::negatives::{Draw, sample_negatives};
use rarec::sampling::probability::log_probability;
use rarec::sampling::stratified::stratified_sample;
use rarec::threads::{Workers, run};

#[derive(Arbitrary, Debug)]
struct Input {
    seen: Vec<Vec<u8>>,
    /// Whether to sort the rows, so that more than their errors is reached.
    mend: bool,
    users: Vec<i32>,
    everywhere: Vec<i32>,
    own: Vec<i32>,
    n_items: u16,
    n: u8,
    weights: Option<Vec<f64>>,
    key: (u64, u64, u64),
    buckets: (Vec<i32>, u8, u16),
}

fn sample(input: &Input, workers: &Workers) -> Result<(), Error> {
    let (buckets, n_buckets, budget) = &input.buckets;
    let chosen = stratified_sample(buckets, (*n_buckets).into(), (*budget).into(), input.key.0);
    if let Ok(chosen) = chosen {
        assert_eq!(chosen.len(), usize::from(*budget));
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
    }
    let (mut offsets, mut items) = (vec![0], Vec::new());
    for row in &input.seen {
        let mut row: Vec<i32> = row.iter().map(|&item| item.into()).collect();
        if input.mend {
            row.retain(|&item| item < input.n_items.into());
            row.sort_unstable();
            row.dedup();
        }
        items.extend(row);
        offsets.push(items.len() as i64);
    }
    let n_items = usize::from(input.n_items);
    let seen = Histories::new(&offsets, &items, n_items)?;
    if let Ok(pairs) = collisions(&seen, &input.users, &input.own, workers) {
        for [row, column] in pairs {
            let row = seen.row(input.users[row as usize] as usize)?;
            assert!(row.contains(&input.own[column as usize]));
        }
    }
    let table = input.weights.as_deref().map(AliasTable::new).transpose()?;
    let rows = Rows::new(&seen, &input.users, &input.everywhere, &input.own, n_items)?;
    let n = usize::from(input.n % 32);
    let (seed, step, first_row) = input.key;
    let draw = Draw {
        n,
        seed,
        step,
        first_row,
    };
    let (mut out, mut log_q) = (vec![-1_i64; rows.len() * n], vec![f32::NAN; rows.len() * n]);
    sample_negatives(
        &rows,
        table.as_ref(),
        draw,
        &mut out,
        Some(&mut log_q),
        workers,
    )?;
    let width = input.own.len() / rows.len().max(1);
    for (row, (&user, drawn)) in input.users.iter().zip(out.chunks(n.max(1))).enumerate() {
        let seen = seen.row(user as usize)?;
        for &item in drawn {
            let item = i32::try_from(item).expect("an item");
            assert!((0..n_items as i32).contains(&item) && !seen.contains(&item));
            assert!(!input.everywhere.contains(&item));
            assert!(!input.own[row * width..][..width].contains(&item));
        }
    }
    assert!(
        log_q
            .iter()
            .all(|&log_q| log_q <= 1e-6 && log_q.is_finite())
    );
    let asked: Vec<i32> = out.iter().map(|&item| item as i32).collect();
    let mut exact = vec![f64::NAN; asked.len()];
    log_probability(&rows, table.as_ref(), &asked, &mut exact, workers)?;
    for (exact, log_q) in exact.iter().zip(&log_q) {
        assert!((exact - f64::from(*log_q)).abs() < 1e-3);
    }
    Ok(())
}

fuzz_target!(|input: Input| {
    let _ = run(Some(1), |workers| sample(&input, workers), || false);
});
