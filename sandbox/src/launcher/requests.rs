//! What the service half asks of the launcher.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Launcher, Next, failed};
use crate::base;
use crate::client::receive_datagram;
use crate::helper::Helper;
use crate::message::{Done, End, Failure, FailureKind, Reply, Request, Usage};
use crate::paths::{self, Relative};
use crate::sandbox::{Order, Rejection, State};
use crate::split::Error;

impl Launcher<'_> {
    /// Takes what the service half sent; what it breaks, it is ended for.
    pub(super) fn receive(&mut self) -> Result<Next, Error> {
        loop {
            let (bytes, descriptors) = match receive_datagram(self.socket.as_fd()) {
                Ok(Some(message)) => message,
                // It closed its end, or is dead: its life tells.
                Ok(None) => return self.wait_for_service(),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Next::Continue),
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
            let request = Request::decode(&bytes).map_err(|error| Error::Launcher {
                step: "understand the service half",
                source: io::Error::new(io::ErrorKind::InvalidData, error),
            })?;
            self.accept(request, descriptors);
        }
    }

    /// Without its socket the service half is of no use: it is given the time
    /// to leave by itself and no more.
    fn wait_for_service(&self) -> Result<Next, Error> {
        let life = PollFd::new(self.service.pidfd.as_fd(), PollFlags::POLLIN);
        poll(&mut [life], PollTimeout::from(1000_u16)).map_err(failed("poll"))?;
        Ok(Next::End)
    }

    fn accept(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        let reject = |(step, detail, errno): Rejection| Failure {
            kind: FailureKind::Request,
            step: step.to_owned(),
            errno: errno as i32,
            detail,
        };
        match request {
            Request::Run { id, length } => {
                let memory = descriptors.into_iter().next();
                let order = match memory {
                    _ if self.is_running(id) => {
                        Err(("run", "the id is in use".to_owned(), Errno::EEXIST))
                    }
                    None => Err(("read the request", String::new(), Errno::EBADF)),
                    Some(memory) => Order::new(id, length, memory),
                };
                match order {
                    Ok(order) => self.orders.push_back(order),
                    Err(rejection) => self.fail(id, reject(rejection)),
                }
            }
            Request::Kill { id } => self.kill(id),
            Request::Reclaim { id, path } => {
                let helper = open(&path).and_then(|directory| {
                    Helper::reclaim(id, directory.as_fd(), self.shared.plan.host_ids)
                        .map_err(|errno| ("start a helper", text(&path), errno))
                });
                match helper {
                    Ok(helper) => self.helpers.push(helper),
                    Err(rejection) => self.fail(id, reject(rejection)),
                }
            }
            Request::CheckPath { id, path } => match check(&path) {
                Ok(()) => self.replies.push_back(Reply::Checked { id }),
                Err(rejection) => self.fail(id, reject(rejection)),
            },
        }
    }

    fn is_running(&self, id: u64) -> bool {
        self.orders.iter().any(|order| order.id == id)
            || self
                .sandboxes
                .iter()
                .any(|s| matches!(&s.state, State::Running(running) if running.id == id))
    }

    pub(super) fn fail(&mut self, id: u64, failure: Failure) {
        self.replies.push_back(Reply::Failed { id, failure });
    }

    fn kill(&mut self, id: u64) {
        if let Some(waiting) = self.orders.iter().position(|order| order.id == id) {
            self.orders.remove(waiting);
            self.replies.push_back(Reply::Done(Done {
                id,
                end: End::Killed,
                usage: Usage::default(),
                duration: Duration::ZERO,
            }));
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

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn build() -> Result<OwnedFd, Rejection> {
    paths::open_place(base::BUILD)
        .map_err(|errno| ("open the build directory", String::new(), errno))
}

fn open(path: &[u8]) -> Result<OwnedFd, Rejection> {
    let reject = |errno| ("open a directory", text(path), errno);
    let relative = Relative::new(path).map_err(reject)?;
    paths::open_directory(build()?.as_fd(), &relative).map_err(reject)
}

fn check(path: &[u8]) -> Result<(), Rejection> {
    let reject = |errno| ("look for a path", text(path), errno);
    let relative = Relative::new(path).map_err(reject)?;
    paths::check(build()?.as_fd(), &relative).map_err(reject)
}
