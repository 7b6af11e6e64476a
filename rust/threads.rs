//! Thread pools: one for each size, made once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;

const VARIABLE: &str = "RAREC_NUM_THREADS";
const LARGEST: usize = 1024;

type Pools = HashMap<(u32, usize), Arc<ThreadPool>>;
static POOLS: Mutex<Option<Pools>> = Mutex::new(None);

/// Return the pool of the asked size, else of the size `RAREC_NUM_THREADS` says, else of as many
/// threads as there are processors.
///
/// # Errors
/// If the size is not from 1 to 1024, or the system refuses the threads.
pub fn pool(threads: Option<usize>) -> Result<Arc<ThreadPool>, Error> {
    let size = match threads {
        Some(size) => check(size, "threads")?,
        None => default_size(std::env::var(VARIABLE).ok().as_deref())?,
    };
    // the process is part of the key: a forked child has the table but none of the threads
    let key = (std::process::id(), size);
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let pools = pools.get_or_insert_default();
    if let Some(pool) = pools.get(&key) {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(size)
        .thread_name(|index| format!("rarec-{index}"))
        .build()
        .map_err(|error| Error::value(format!("a system that starts {size} threads"), &error))?;
    let pool = Arc::new(pool);
    pools.insert(key, Arc::clone(&pool));
    Ok(pool)
}

fn default_size(variable: Option<&str>) -> Result<usize, Error> {
    match variable {
        Some(text) => match text.trim().parse() {
            Ok(size) => check(size, VARIABLE),
            Err(_) => Err(Error::value(
                format!("{VARIABLE} from 1 to {LARGEST}"),
                &format!("{text:?}"),
            )),
        },
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get().min(LARGEST))),
    }
}

fn check(size: usize, name: &str) -> Result<usize, Error> {
    if (1..=LARGEST).contains(&size) {
        return Ok(size);
    }
    Err(Error::value(format!("{name} from 1 to {LARGEST}"), &size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_the_asked_size_and_is_made_once() {
        let first = pool(Some(2)).unwrap();
        assert_eq!(first.current_num_threads(), 2);
        assert!(Arc::ptr_eq(&first, &pool(Some(2)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &pool(Some(3)).unwrap()));
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        assert!(pool(Some(0)).is_err());
        assert!(pool(Some(1025)).is_err());
        for text in ["0", "", "two", "-1", "1.5"] {
            assert!(default_size(Some(text)).is_err(), "{text}");
        }
        assert_eq!(default_size(Some(" 3 ")), Ok(3));
        assert!(default_size(None).unwrap() >= 1);
    }
}
