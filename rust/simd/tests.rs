//! This module compares every set of instructions with plain loops.

use super::*;

#[test]
fn a_level_is_chosen_by_name() {
    for level in Level::available() {
        assert_eq!(Level::named(level.name()), Ok(level));
    }
    assert!(Level::named("mmx").is_err());
}

#[test]
fn every_level_turns_panels_alike() {
    for (n, dim) in [(32, 16), (31, 9), (8, 8), (3, 5), (1, 1)] {
        let vectors: Vec<f32> = (0..n * dim).map(|value| value as f32).collect();
        for level in Level::available() {
            let mut panel = vec![[f32::NAN; LANES]; dim];
            level.transpose(&vectors, dim, &mut panel);
            for (place, column) in panel.iter().enumerate() {
                for (lane, &value) in column.iter().enumerate() {
                    let expected = if lane < n {
                        vectors[lane * dim + place]
                    } else {
                        0.0
                    };
                    assert_eq!(value, expected, "{} {lane} {place}", level.name());
                }
            }
        }
    }
}

#[test]
fn every_level_scores_alike() {
    let dim = 5;
    let mut state = 1_u32;
    let mut bits = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut value = || bits() as f32 / 16_777_216.0 - 0.5;
    let panel: Vec<Column<f32>> = (0..dim).map(|_| [(); LANES].map(|()| value())).collect();
    let vectors: Vec<f32> = (0..12 * dim).map(|_| value()).collect();
    for level in Level::available() {
        for n_rows in [1, 12] {
            let rows = level.rows(n_rows);
            let tile = tiles(&vectors[..n_rows.min(rows) * dim], dim, rows, 0.0);
            let (mut scores, mut masks) = (vec![[f32::NAN; LANES]; rows], vec![0; rows]);
            let any = level.score(&tile, &panel, &vec![0.1; rows], &mut scores, &mut masks);
            let (mut at_least, mut above) = (vec![0; rows], vec![0; rows]);
            level.compare(&tile, &panel, &vec![0.1; rows], &mut at_least, &mut above);
            assert_eq!((&at_least, &above), (&masks, &masks));
            assert_eq!(any, masks.iter().any(|&mask| mask != 0));
            for row in 0..n_rows.min(rows) {
                let vector = &vectors[row * dim..][..dim];
                for lane in 0..LANES {
                    let places = vector.iter().zip(&panel);
                    let score = places.fold(0.0_f32, |sum, (a, b)| a.mul_add(b[lane], sum));
                    assert_eq!(masks[row] >> lane & 1 == 1, score >= 0.1);
                    if score >= 0.1 {
                        assert_eq!(scores[row][lane].to_bits(), score.to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn a_prefetch_of_nothing_is_nothing() {
    prefetch(&[1], 0);
    prefetch(&[1], 1);
    prefetch::<u8>(&[], 0);
}
