//! Connections to one endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use daemon::Channel;
use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;

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
