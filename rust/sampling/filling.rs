//! This module fills one row with draws, block by block.

use crate::random::Random;
use crate::sampling::alias::Distribution;
use crate::sampling::exclusion::{Excluded, Left};

/// Draws of a row that are made together, so that their waits for memory overlap.
const BLOCK: usize = 128;
/// Draws of a row that may be thrown away, beyond one for each wanted, before it draws from what is
/// left: those cannot fail, but need a sum over the row's excluded items first.
const SPARE: usize = 64;

/// What is needed to fill one row.
pub struct Filling<'a, D> {
    distribution: &'a D,
    excluded: Excluded<'a>,
    random: Random,
    spare: usize,
    left: Option<Left>,
}

impl<'a, D: Distribution> Filling<'a, D> {
    /// Return what fills a row with `n` draws.
    pub fn new(distribution: &'a D, excluded: Excluded<'a>, random: Random, n: usize) -> Self {
        Self {
            distribution,
            excluded,
            random,
            spare: n.saturating_add(SPARE),
            left: None,
        }
    }

    /// Fill a stretch of the row, and with the log of what is left the log of how likely each item
    /// was; `None` if no item is left. `suspect` says at least of all excluded items that they may
    /// be.
    #[inline]
    pub fn fill<T: From<i32>>(
        &mut self,
        out: &mut [T],
        log_q: Option<(&mut [f32], f64)>,
        suspect: impl Fn(i32) -> bool,
    ) -> Option<()> {
        let Some((log_q, log_left)) = log_q else {
            // whole blocks have a length the compiler knows
            let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
            for block in blocks {
                self.fill_block(block, &suspect)?;
            }
            return self.fill_block(rest, &suspect);
        };
        for (out, log_q) in out.chunks_mut(BLOCK).zip(log_q.chunks_mut(BLOCK)) {
            let mut items = [0; BLOCK];
            let items = &mut items[..out.len()];
            self.fill_block(items, &suspect)?;
            for ((&item, out), log_q) in items.iter().zip(out).zip(log_q) {
                *log_q = ((self.distribution.units(item) as f64).ln() - log_left) as f32;
                *out = T::from(item);
            }
        }
        Some(())
    }

    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn fill_block<T: From<i32>>(
        &mut self,
        out: &mut [T],
        suspect: &impl Fn(i32) -> bool,
    ) -> Option<()> {
        if let Some(left) = &self.left {
            for out in out {
                *out = left.draw(self.distribution, &mut self.random).into();
            }
            return Some(());
        }
        let mut tickets = [D::Ticket::default(); BLOCK];
        let tickets = &mut tickets[..out.len()];
        self.distribution.tickets(&mut self.random, tickets);
        for (out, &mut ticket) in out.iter_mut().zip(tickets) {
            let mut item = self.distribution.item(ticket);
            if suspect(item) {
                item = self.accepted(item)?;
            }
            *out = item.into();
        }
        Some(())
    }

    /// Return the item, or another where it is excluded.
    #[cold]
    fn accepted(&mut self, mut item: i32) -> Option<i32> {
        while self.excluded.holds(item) {
            if self.left.is_none() && self.spare == 0 {
                self.left = Some(Left::new(&self.excluded, self.distribution)?);
            }
            if let Some(left) = &self.left {
                return Some(left.draw(self.distribution, &mut self.random));
            }
            self.spare -= 1;
            let ticket = self.distribution.ticket(&mut self.random);
            item = self.distribution.item(ticket);
        }
        Some(item)
    }
}

/// A set of bits that tells most items from those that are marked.
#[derive(Clone)]
pub struct Marks([u64; Marks::WORDS]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Self::WORDS])
    }
}

impl Marks {
    /// 32768 bits, of which a row with 40 items sets one in 800.
    const WORDS: usize = 512;

    #[inline]
    fn word(item: i32) -> usize {
        (item >> 6) as usize % Self::WORDS
    }

    /// Mark an item.
    #[inline]
    pub fn set(&mut self, item: i32) {
        self.0[Self::word(item)] |= 1 << (item & 63);
    }

    /// Take away the marks of an item's word that `common` has not.
    #[inline]
    pub fn reset(&mut self, item: i32, common: &Self) {
        self.0[Self::word(item)] = common.0[Self::word(item)];
    }

    /// Return whether the item, or another with the same bit, is marked.
    #[inline]
    #[must_use]
    pub fn may_hold(&self, item: i32) -> bool {
        self.0[Self::word(item)] >> (item & 63) & 1 != 0
    }
}
