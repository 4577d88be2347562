//! What the launcher waits for.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The descriptors that are waited for, and what each belongs to.
#[derive(Default)]
pub(super) struct Polled<'a> {
    descriptors: Vec<PollFd<'a>>,
    sources: Vec<Source>,
}

impl<'a> Polled<'a> {
    pub(super) fn add(&mut self, fd: BorrowedFd<'a>, flags: PollFlags, source: Source) {
        self.descriptors.push(PollFd::new(fd, flags));
        self.sources.push(source);
    }

    pub(super) fn readable(&mut self, fd: BorrowedFd<'a>, source: Source) {
        self.add(fd, PollFlags::POLLIN, source);
    }

    /// Waits; when interrupted, nothing was found.
    pub(super) fn wait(mut self, timeout: PollTimeout) -> nix::Result<Events> {
        match poll(&mut self.descriptors, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Events::default()),
            Err(errno) => return Err(errno),
        }
        let mut events = Events::default();
        for (polled, source) in self.descriptors.iter().zip(self.sources) {
            if polled.any().unwrap_or(false) {
                events.add(source);
            }
        }
        Ok(events)
    }
}

/// What `poll(2)` found.
#[derive(Default)]
pub(super) struct Events {
    pub(super) socket: bool,
    pub(super) service: bool,
    pub(super) signals: bool,
    pub(super) reports: Vec<usize>,
    pub(super) deaths: Vec<usize>,
    pub(super) helpers: Vec<usize>,
}

/// What a polled descriptor belongs to; sandboxes and helpers by index.
pub(super) enum Source {
    Socket,
    Service,
    Signals,
    Report(usize),
    Death(usize),
    Helper(usize),
}

impl Events {
    fn add(&mut self, source: Source) {
        match source {
            Source::Socket => self.socket = true,
            Source::Service => self.service = true,
            Source::Signals => self.signals = true,
            Source::Report(index) => self.reports.push(index),
            Source::Death(index) => self.deaths.push(index),
            Source::Helper(index) => self.helpers.push(index),
        }
    }

    /// Nothing at all.
    pub(super) fn none(&self) -> bool {
        !self.socket
            && !self.service
            && !self.signals
            && self.reports.is_empty()
            && self.deaths.is_empty()
            && self.helpers.is_empty()
    }
}
