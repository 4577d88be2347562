//! When something is to be done though nothing happens.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::PollTimeout;

use super::Launcher;
use crate::done::End;
use crate::sandbox::State;

impl Launcher<'_> {
    pub(super) fn next_deadline(&self, now: Instant) -> PollTimeout {
        let running = self.sandboxes.iter().filter_map(|s| match &s.state {
            State::Running(running) => Some(running),
            _ => None,
        });
        let ends = running.clone().filter_map(|running| running.left(now));
        let looks = running.filter_map(|running| running.watch.next());
        let pauses = [self.pause_until, self.quiet_until].into_iter().flatten();
        let others = looks.chain(pauses);
        let others = others.map(|until| until.saturating_duration_since(now));
        match ends.chain(others).min() {
            None => PollTimeout::NONE,
            // Rounded up: waking before the deadline would be for nothing.
            Some(left) => (left + Duration::from_micros(999))
                .try_into()
                .unwrap_or(PollTimeout::MAX),
        }
    }

    /// Ends commands whose time is over, or that used too much.
    ///
    /// Out of time they are `told to end → killed`; without a grace, killed at once.
    pub(super) fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        let crowd = self.sandboxes.len();
        for sandbox in &mut self.sandboxes {
            let State::Running(running) = &mut sandbox.state else {
                continue;
            };
            let proc = self.shared.proc.as_fd();
            if running.watch.look(now, proc, sandbox.pid, crowd) {
                running.killed = Some(End::Signaled(libc::SIGKILL));
                sandbox.kill();
                continue;
            }
            if running.left(now) != Some(Duration::ZERO) {
                continue;
            }
            if running.terminated || self.grace.is_zero() {
                running.killed = Some(End::TimedOut);
                running.terminated = true;
                sandbox.kill();
            } else {
                running.terminated = true;
                running.deadline = now.checked_add(self.grace);
                sandbox.terminate();
            }
        }
    }
}
