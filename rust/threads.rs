//! This module keeps one thread pool for each size, and runs jobs on them until told to stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;

const VARIABLE: &str = "RAREC_NUM_THREADS";
const LARGEST: usize = 1024;

/// How long a caller waits before it asks again whether its job should stop.
const POLL: Duration = Duration::from_millis(50);

type Pools = HashMap<(u32, usize), Arc<ThreadPool>>;
static POOLS: Mutex<Option<Pools>> = Mutex::new(None);

/// The threads of one job, and the sign for it to stop.
#[derive(Debug)]
pub struct Workers<'a> {
    pool: &'a ThreadPool,
    stop: &'a AtomicBool,
}

impl Workers<'_> {
    /// Return the number of threads.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Return `Ok` unless the job was told to stop. A job asks between pieces of work of a few
    /// milliseconds.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if it should stop.
    pub fn go_on(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}

/// Return what `job` returns, run on a pool as [`pool`] gives it; rayon's parallel iterators inside
/// the job use that pool.
///
/// Meanwhile the calling thread asks `interrupted` from time to time, and tells the job to stop once
/// it says yes.
///
/// # Errors
/// Those of the job and of [`pool`].
pub fn run<T: Send>(
    threads: Option<usize>,
    job: impl FnOnce(&Workers) -> Result<T, Error> + Send,
    mut interrupted: impl FnMut() -> bool,
) -> Result<T, Error> {
    let pool = pool(threads)?;
    let stop = AtomicBool::new(false);
    let workers = Workers {
        pool: &pool,
        stop: &stop,
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    let workers = &workers;
    let result = pool.in_place_scope(|scope| {
        scope.spawn(move |_| {
            // nobody listens only if the caller has panicked
            let _ = sender.send(job(workers));
        });
        loop {
            match receiver.recv_timeout(POLL) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Timeout) if interrupted() => {
                    stop.store(true, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => (),
                // the job has panicked, and the scope passes that on
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    });
    result.unwrap_or(Err(Error::Interrupted))
}

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

/// Run a job of a test.
#[cfg(test)]
#[allow(clippy::missing_errors_doc)]
pub fn on<T: Send>(
    threads: usize,
    job: impl FnOnce(&Workers) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    run(Some(threads), job, || false)
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
    fn a_job_runs_on_the_pool_and_its_result_comes_back() {
        let threads = run(
            Some(2),
            |workers| Ok((workers.count(), rayon::current_num_threads())),
            || false,
        );
        assert_eq!(threads, Ok((2, 2)));
        let error = run(Some(1), |_| Err::<(), _>(Error::value("x", &1)), || false);
        assert_eq!(error, Err(Error::value("x", &1)));
    }

    #[test]
    fn a_job_stops_when_it_is_told() {
        let stopped = run(
            Some(1),
            |workers| -> Result<(), Error> {
                loop {
                    workers.go_on()?;
                    std::thread::yield_now();
                }
            },
            || true,
        );
        assert_eq!(stopped, Err(Error::Interrupted));
    }

    #[test]
    #[should_panic(expected = "of the job")]
    fn a_panic_of_the_job_reaches_the_caller() {
        let _ = run(
            Some(1),
            |_| -> Result<(), Error> { panic!("of the job") },
            || false,
        );
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
