//! What the service half asks of the launcher.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Launcher, MOST_REPLIES, Next, failed};
use crate::client::{Datagram, receive_datagram};
use crate::done::{Done, End, Usage};
use crate::helper::Helper;
use crate::limits::Limits;
use crate::message::{Reply, Request};
use crate::order::{Directions, Order};
use crate::paths::{self, Relative};
use crate::rejection::{Rejection, text};
use crate::rlimits::{MOST_RECLAIMS, MOST_RUNS};
use crate::sandbox::State;
use crate::split::Error;

/// Most messages that are taken before something else gets its turn.
const TURN: usize = 64;

impl Launcher<'_> {
    /// Takes what the service half sent; what it breaks, it is ended for.
    pub(super) fn receive(&mut self) -> Result<Next, Error> {
        for _ in 0..TURN {
            if self.replies.len() >= MOST_REPLIES {
                break;
            }
            let datagram = match receive_datagram(self.socket.as_fd()) {
                Ok(Some(datagram)) => datagram,
                // It closed its end, or is dead: its life tells.
                Ok(None) => return self.wait_for_service(),
                Err(error) => match error.kind() {
                    // For lack of memory it is taken later.
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => break,
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::ConnectionReset => return self.wait_for_service(),
                    _ => {
                        return Err(Error::Launcher {
                            step: "receive",
                            source: error,
                        });
                    }
                },
            };
            let request = Request::decode(&datagram.bytes).map_err(|error| Error::Launcher {
                step: "understand the service half",
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
            self.accept(request, datagram);
        }
        Ok(Next::Continue)
    }

    /// Without its socket the service half is of no use: it is given the time
    /// to leave by itself and no more.
    fn wait_for_service(&self) -> Result<Next, Error> {
        let life = PollFd::new(self.service.pidfd.as_fd(), PollFlags::POLLIN);
        poll(&mut [life], PollTimeout::from(1000_u16)).map_err(failed("poll"))?;
        Ok(Next::End)
    }

    fn accept(&mut self, request: Request, datagram: Datagram) {
        let (id, accepted) = match request {
            Request::Run { id, length } => (id, self.order(id, length, datagram)),
            Request::Kill { id } => {
                self.kill(id);
                return;
            }
            Request::Reclaim { id, path } => (id, self.reclaim(id, &path)),
            Request::CheckPath { id, path } => (id, self.check(id, &path)),
        };
        if let Err(rejection) = accepted {
            self.replies.push_back(rejection.reply(id));
        }
    }

    fn order(&mut self, id: u64, length: u64, datagram: Datagram) -> Result<(), Rejection> {
        let busy = |errno| Rejection::new("take on a run", "", errno);
        if datagram.lacks_descriptors {
            return Err(busy(Errno::EMFILE));
        }
        let memory = datagram.descriptors.into_iter().next();
        if self.runs().count() >= MOST_RUNS {
            return Err(busy(Errno::EAGAIN));
        }
        let memory = memory.ok_or_else(|| busy(Errno::EBADF))?;
        let order = Order::new(id, length, memory, &self.shared.plan)?;
        let taken = self.runs().find_map(|(other, directions)| {
            if other == id {
                Some("the id is in use")
            } else {
                let shared = directions.share_outputs(&order.directions);
                shared.then_some("another run has that output file")
            }
        });
        if let Some(taken) = taken {
            return Err(Rejection::new("run", taken, Errno::EEXIST));
        }
        self.orders.push_back(order);
        Ok(())
    }

    fn reclaim(&mut self, id: u64, path: &[u8]) -> Result<(), Rejection> {
        let reject = |errno| Rejection::new("reclaim a directory", text(path), errno);
        if self.helpers.len() >= MOST_RECLAIMS {
            return Err(reject(Errno::EAGAIN));
        }
        let relative = Relative::new(path).map_err(reject)?;
        let directory = paths::open_directory(self.build(), &relative).map_err(reject)?;
        let ids = self.shared.plan.host_ids;
        let worker = self.overlays.then_some(self.worker.uid);
        let helper = Helper::reclaim(id, directory.as_fd(), ids, worker).map_err(reject)?;
        self.helpers.push(helper);
        Ok(())
    }

    fn check(&mut self, id: u64, path: &[u8]) -> Result<(), Rejection> {
        let reject = |errno| Rejection::new("look for a path", text(path), errno);
        let relative = Relative::new(path).map_err(reject)?;
        paths::check(self.build(), &relative).map_err(reject)?;
        self.replies.push_back(Reply::Checked { id });
        Ok(())
    }

    fn build(&self) -> BorrowedFd<'_> {
        self.build.as_fd()
    }

    /// Those that wait and those that run.
    fn runs(&self) -> impl Iterator<Item = (u64, &Directions)> {
        let waiting = self.orders.iter();
        let running = self.sandboxes.iter().filter_map(|s| match &s.state {
            State::Running(running) => Some((running.id, &running.directions)),
            _ => None,
        });
        waiting
            .map(|order| (order.id, &order.directions))
            .chain(running)
    }

    fn kill(&mut self, id: u64) {
        if let Some(waiting) = self.orders.iter().position(|order| order.id == id) {
            self.orders.remove(waiting);
            self.replies.push_back(Reply::Done(Box::new(Done {
                id,
                end: End::Killed,
                exceeded: None,
                peak: Limits::none(),
                usage: Usage::default(),
                duration: Duration::ZERO,
            })));
        }
        for sandbox in &mut self.sandboxes {
            if let State::Running(running) = &mut sandbox.state
                && running.id == id
                && running.killed.is_none()
            {
                running.killed = Some(End::Killed);
                sandbox.kill();
            }
        }
    }
}
