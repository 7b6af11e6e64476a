//! This module holds what a search is given, and how its work is cut for the threads.

use std::ops::Range;

use crate::error::Error;
use crate::histories::Histories;
use crate::scoring::catalogue::{Items, Queries};
use crate::scoring::screening::Screen;
use crate::simd::{LANES, Level};

/// Floats of a task's queries that should stay in the second-level cache, beside a panel.
const TASK_FLOATS: usize = 128 * 1024;
/// Most query vectors of a task.
const TASK_ROWS: usize = 1024;

/// Queries, items, and what of them to leave out.
pub struct Search<'a> {
    pub queries: Queries<'a>,
    pub items: Items<'a>,
    /// Items to leave out, for each query.
    pub seen: Vec<&'a [i32]>,
    pub level: Level,
    /// Codes of the items, which spare most of the computing.
    pub screen: Option<&'a Screen>,
}

impl<'a> Search<'a> {
    /// Return the search, checked.
    ///
    /// # Errors
    /// If `seen` has not one row per query or is wrong.
    pub fn new(
        queries: Queries<'a>,
        items: Items<'a>,
        seen: &Histories<'a>,
        level: Level,
        screen: Option<&'a Screen>,
    ) -> Result<Self, Error> {
        Error::check_length("seen offsets (less 1)", queries.len(), seen.len())?;
        let seen = seen.rows()?;
        Ok(Self {
            queries,
            items,
            seen,
            level,
            screen,
        })
    }

    /// Return how the work is cut for a number of threads: queries in tasks of equal size, and where
    /// those are too few for the threads, panels in parts as well. Results do not depend on it.
    #[must_use]
    pub fn tasks(&self, n_threads: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let (n_queries, n_vectors) = (self.queries.len(), self.queries.n_vectors());
        let rows = (TASK_FLOATS / self.items.dim()).clamp(16, TASK_ROWS);
        let most = (rows / n_vectors).max(1);
        // a multiple of the threads, all with the same work
        let n_tasks = n_queries.div_ceil(most).next_multiple_of(n_threads);
        let queries = parts(n_queries, n_queries.div_ceil(n_tasks.max(1)));
        let n_panels = self.items.n_items().div_ceil(LANES);
        let n_parts = n_threads.div_ceil(queries.len().max(1));
        (queries, parts(n_panels, n_panels.div_ceil(n_parts)))
    }
}

fn parts(n: usize, size: usize) -> Vec<Range<usize>> {
    let size = size.max(1);
    (0..n)
        .step_by(size)
        .map(|first| first..(first + size).min(n))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::cases::Case;

    #[test]
    fn the_work_is_cut_for_the_threads() {
        let case = Case::new([100, 1, 640, 4], true);
        case.each_way(
            |search, workers| {
                let (queries, panels) = search.tasks(workers.count());
                Ok((queries, panels, workers.count()))
            },
            |(queries, panels, n_threads), _| {
                assert_eq!(queries.len(), *n_threads);
                assert_eq!((panels.len(), panels[0].clone()), (1, 0..20));
                assert_eq!(
                    queries.iter().map(ExactSizeIterator::len).sum::<usize>(),
                    100
                );
            },
        );
        let one = Case::new([1, 1, 640, 4], true);
        one.each_way(
            |search, workers| Ok((search.tasks(workers.count()).1.len(), workers.count())),
            |(n_parts, n_threads), _| assert_eq!(n_parts, n_threads),
        );
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let case = Case::new([2, 1, 5, 2], true);
        case.each_way(
            |search, _| {
                let one = Histories::new(&[0, 0], &[], 5)?;
                let screen = search.screen;
                assert!(
                    Search::new(search.queries, search.items, &one, search.level, screen).is_err()
                );
                Ok(())
            },
            |(), _| (),
        );
    }
}
