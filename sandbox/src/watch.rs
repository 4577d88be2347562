//! What a running command uses, looked at from outside: what no limit of the kernel's
//! bounds, or what there is no control group for.
//!
//! The launcher looks every 100 ms, so that a command which does not last that long
//! costs nothing; what it wrote to its outputs is looked at in any case when it has
//! ended, so that the same command always comes to the same end.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use nix::unistd::{Pid, ftruncate};

use crate::disk::{DiskWatch, Place};
use crate::limits::{Limit, Limits};
use crate::process_tree;

/// How often.
const INTERVAL: Duration = Duration::from_millis(100);

/// One command's watch.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    /// Descriptors of its output files.
    outputs: [OwnedFd; 2],
    /// Where it may write.
    places: Vec<Place>,
    disk: Option<DiskWatch>,
    /// When to look next.
    next: Instant,
    /// What was exceeded first.
    pub(crate) exceeded: Option<Limit>,
    /// The most that was seen.
    pub(crate) peak: Limits,
}

impl Watch {
    /// `limits` are those that nothing else enforces.
    pub(crate) fn new(
        limits: Limits,
        outputs: [OwnedFd; 2],
        places: Vec<Place>,
        now: Instant,
    ) -> Self {
        Self {
            limits,
            outputs,
            places,
            disk: None,
            next: now + INTERVAL,
            exceeded: None,
            peak: Limits::none(),
        }
    }

    fn watches(&self, limits: &[Limit]) -> bool {
        limits.iter().any(|limit| self.limits[*limit].is_some())
    }

    /// When to look next, if at all.
    pub(crate) fn next(&self) -> Option<Instant> {
        let any = self.watches(&[
            Limit::Output,
            Limit::Memory,
            Limit::Processes,
            Limit::DiskBytes,
            Limit::DiskFiles,
        ]);
        (any && self.exceeded.is_none()).then_some(self.next)
    }

    /// Looks, if it is time to, at the command below `init`; whether that has used too
    /// much.
    /// `crowd`: how many others there are, which are looked at as well.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        proc: BorrowedFd<'_>,
        init: Pid,
        crowd: usize,
    ) -> bool {
        if self.next().is_none_or(|next| now < next) {
            return false;
        }
        // Looking at all of them takes a bounded part of the launcher's time.
        let times = u32::try_from(crowd / 16)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        self.next = now + INTERVAL.saturating_mul(times);
        self.look_at_outputs();
        if self.watches(&[Limit::Memory, Limit::Processes]) {
            let used = process_tree::total(proc, init);
            self.saw(Limit::Memory, used.memory);
            self.saw(Limit::Processes, used.processes);
            // Of processes the kernel gives no more than the limit; that is no end.
            self.exceed_if_over(Limit::Memory);
        }
        if self.watches(&[Limit::DiskBytes, Limit::DiskFiles]) {
            if self.disk.is_none() {
                // Tried again at the next look.
                self.disk = DiskWatch::start(&self.places, &self.limits, proc, init).ok();
            }
            if let Some(limit) = self
                .disk
                .as_mut()
                .and_then(|disk| disk.exceeded(&self.limits))
            {
                self.exceeded.get_or_insert(limit);
            }
        }
        self.exceeded.is_some()
    }

    /// The command has ended. Outputs that are too large are cut.
    pub(crate) fn finish(&mut self) {
        self.look_at_outputs();
        if let Some(most) = self.limits[Limit::Output] {
            for output in &self.outputs {
                let size = fstat(output).map_or(0, |stat| stat.st_size);
                if u64::try_from(size).is_ok_and(|size| size > most) {
                    // Should that fail, the worker meets all of it.
                    let _ = ftruncate(output, most.try_into().unwrap_or(i64::MAX));
                }
            }
        }
        if let Some(mut disk) = self.disk.take() {
            if let Some(limit) = disk.exceeded(&self.limits) {
                self.exceeded.get_or_insert(limit);
            }
            disk.peak(&mut self.peak);
        }
        self.places.clear();
    }

    /// Whether it had all the processes that it may have when it was looked at.
    pub(crate) fn was_crowded(&self) -> bool {
        let (seen, most) = (self.peak[Limit::Processes], self.limits[Limit::Processes]);
        // Init is one of them.
        seen.zip(most)
            .is_some_and(|(seen, most)| seen.saturating_add(1) >= most)
    }

    fn look_at_outputs(&mut self) {
        for index in 0..self.outputs.len() {
            let size = fstat(&self.outputs[index]).map_or(0, |stat| stat.st_size);
            self.saw(Limit::Output, size.try_into().unwrap_or(0));
        }
        self.exceed_if_over(Limit::Output);
    }

    fn saw(&mut self, limit: Limit, used: u64) {
        self.peak[limit] = Some(self.peak[limit].unwrap_or(0).max(used));
    }

    fn exceed_if_over(&mut self, limit: Limit) {
        if let (Some(seen), Some(most)) = (self.peak[limit], self.limits[limit])
            && seen > most
        {
            self.exceeded.get_or_insert(limit);
        }
    }
}
