//! Words and overlaps: whatever the input, an error or what sets of words say.
#![no_main]

use std::collections::HashSet;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rarec::denoising::counts::{Samples, overlaps, shares_word};
use rarec::denoising::titles::Titles;
use rarec::denoising::titles::{parted, title_words};
use rarec::error::Error;
use rarec::threads::{Workers, run};

#[derive(Arbitrary, Debug)]
struct Input {
    titles: Vec<String>,
    stop_words: Vec<String>,
    text: (Vec<u8>, Vec<i64>),
    items: Vec<i32>,
    samples: Vec<(u8, u8, i32)>,
    /// Whether to mend items, so that more than their errors is reached.
    mend: bool,
    threads: u8,
}

fn denoise(input: &Input, workers: &Workers) -> Result<(), Error> {
    if let Ok(titles) = parted(&input.text.0, &input.text.1) {
        title_words(&titles, &[], workers)?;
    }
    let titles: Vec<&str> = input.titles.iter().map(String::as_str).collect();
    let stop_words: Vec<&str> = input.stop_words.iter().map(String::as_str).collect();
    let (offsets, words) = title_words(&titles, &stop_words, workers)?;
    assert_eq!(offsets.len(), titles.len() + 1);
    let row =
        |item: i32| &words[offsets[item as usize] as usize..offsets[item as usize + 1] as usize];
    for item in 0..titles.len() as i32 {
        assert!(row(item).windows(2).all(|pair| pair[0] < pair[1]));
    }
    let mend = |item: i32| {
        if input.mend {
            item.rem_euclid(titles.len().max(1) as i32)
        } else {
            item
        }
    };
    let items: Vec<i32> = input.items.iter().map(|&item| mend(item)).collect();
    let targets: Vec<i32> = input.samples.iter().map(|sample| mend(sample.2)).collect();
    let starts: Vec<i64> = input.samples.iter().map(|sample| sample.0.into()).collect();
    let ends: Vec<i64> = input.samples.iter().map(|sample| sample.1.into()).collect();
    let samples = Samples {
        items: &items,
        starts: &starts,
        ends: &ends,
        targets: &targets,
    };
    let titles = Titles::new(&offsets, &words)?;
    let counts = overlaps(&titles, &samples, workers)?;
    let shares = shares_word(&titles, &samples, workers)?;
    for (index, &target) in targets.iter().enumerate() {
        let history = &items[starts[index] as usize..ends[index] as usize];
        let known: HashSet<i32> = history
            .iter()
            .flat_map(|&item| row(item))
            .copied()
            .collect();
        let expected = row(target)
            .iter()
            .filter(|word| known.contains(word))
            .count();
        assert_eq!(
            (counts[index], shares[index]),
            (expected as i32, expected > 0)
        );
    }
    Ok(())
}

fuzz_target!(|input: Input| {
    let threads = usize::from(input.threads % 2) + 1;
    let _ = run(Some(threads), |workers| denoise(&input, workers), || false);
});
