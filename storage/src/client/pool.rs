//! Connections to one endpoint.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use daemon::{Address, Channel, Upstream};
use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;

use crate::error::Error;

/// How many connections to a server on another machine.
const CONNECTIONS: usize = 4;

/// Several connections to one endpoint, taken in turn: one connection's calls
/// share a window, a thread and a limit of calls, at both ends.
#[derive(Debug)]
pub struct Pool {
    channels: Arc<[Channel]>,
    next: Arc<AtomicUsize>,
    /// The one that is ready for the next call.
    ready: Option<Channel>,
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        Self {
            channels: self.channels.clone(),
            next: self.next.clone(),
            ready: None,
        }
    }
}

impl Pool {
    /// One connection, and others.
    #[must_use]
    pub fn new(first: Channel, others: impl IntoIterator<Item = Channel>) -> Self {
        Self {
            channels: std::iter::once(first).chain(others).collect(),
            next: Arc::default(),
            ready: None,
        }
    }

    /// As many as a server's distance makes worth it.
    pub(super) fn connect(server: &Upstream) -> Result<Self, Error> {
        let first = server.connect()?;
        let others = if is_near(&server.address) {
            1
        } else {
            CONNECTIONS
        };
        let others: Result<Vec<_>, _> = (1..others).map(|_| server.connect()).collect();
        Ok(Self::new(first, others?))
    }
}

/// Whether a server is on this machine.
pub(super) fn is_near(address: &Address) -> bool {
    let Address::Tcp(host_port) = address else {
        return true;
    };
    let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

impl From<Channel> for Pool {
    fn from(channel: Channel) -> Self {
        Self::new(channel, [])
    }
}

impl Service<Request<Body>> for Pool {
    type Response = Response<Body>;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready
            .get_or_insert_with(|| {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                self.channels[turn % self.channels.len()].clone()
            })
            .poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Ready as poll_ready said; the next call is another connection's.
        let mut channel = self
            .ready
            .take()
            .unwrap_or_else(|| self.channels[0].clone());
        channel.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_of_this_machine_are_near() {
        for (address, near) in [
            ("unix:/run/storage", true),
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("localhost:80", true),
            ("10.0.0.1:80", false),
            ("storage:80", false),
        ] {
            assert_eq!(is_near(&address.parse().unwrap()), near, "{address}");
        }
    }
}
