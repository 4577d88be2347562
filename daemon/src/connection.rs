//! Connections to peers.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::TryFutureExt as _;
use futures::future::MapErr;
use http::HeaderValue;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tonic::transport::{self, Endpoint, Uri};
use tonic::{Code, Status};
use tower::Service;

use crate::context::CallContext;
use crate::dial::Dialer;
use crate::watched::Watched;
use crate::{Address, Error, Upstream};

/// How much of a stream may be under way before its reader must say it keeps up.
/// The protocol's default of 64 KiB would make each blob wait on round trips.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// A peer that vanished without a word is noticed after two minutes. HTTP/2 pings
/// would be sooner, but servers of gRPC for Go take those that come more often than
/// every five minutes for an attack.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
pub(crate) const KEEPALIVE_RETRIES: u32 = 3;

/// A channel to a peer. It connects on first use and again whenever the
/// connection is lost; calls made meanwhile fail with UNAVAILABLE. Calls carry the
/// [`CallContext`] they are made in, and the token of the peer's configuration.
#[derive(Clone, Debug)]
pub struct Channel {
    pub(crate) transport: transport::Channel,
    pub(crate) token: Option<Arc<Watched<HeaderValue>>>,
}

/// A channel to a peer that is talked to in the clear.
///
/// # Errors
/// The address is one that can only be listened on.
pub fn connect(address: &Address) -> Result<Channel, Error> {
    Upstream::from(address.clone()).connect()
}

impl Upstream {
    /// A channel to it. Certificates and the token are read now, and again when their
    /// files change.
    ///
    /// # Errors
    /// The address is one that can only be listened on; a file cannot be read or
    /// used; or a token would go over the network in the clear.
    pub fn connect(&self) -> Result<Channel, Error> {
        let token = self.token()?;
        let transport = match (&self.address, &self.tls) {
            (Address::Tcp(host_port), None) => {
                endpoint(&format!("http://{}", to_connect(host_port)))?.connect_lazy()
            }
            (Address::Tcp(host_port), Some(_)) => {
                let host_port = to_connect(host_port);
                let dialer = Dialer::new(self)?;
                // The library's own TLS does not read certificates again.
                endpoint(&format!("http://{host_port}"))?
                    .origin(
                        Uri::try_from(format!("https://{host_port}"))
                            .map_err(|_| Error::NotConnectable(self.address.clone()))?,
                    )
                    .connect_with_connector_lazy(tower::service_fn(move |_| {
                        let dialer = dialer.clone();
                        async move { dialer.dial().await.map(TokioIo::new) }
                    }))
            }
            // Nobody but the kernel is between the two.
            (Address::Unix(path), _) => {
                endpoint(&format!("unix:{}", path.display()))?.connect_lazy()
            }
            (Address::Inherited(_), _) => {
                return Err(Error::NotConnectable(self.address.clone()));
            }
        };
        Ok(Channel { transport, token })
    }

    /// The token that calls carry.
    pub(crate) fn token(&self) -> Result<Option<Arc<Watched<HeaderValue>>>, Error> {
        let Some(path) = self.bearer_token_path.clone() else {
            return Ok(None);
        };
        if self.tls.is_none() && matches!(self.address, Address::Tcp(_)) {
            return Err(Error::TokenInTheClear(self.address.clone()));
        }
        watch_token(path).map(Some)
    }
}

/// `:PORT` is this host.
pub(crate) fn to_connect(host_port: &str) -> String {
    if host_port.starts_with(':') {
        format!("localhost{host_port}")
    } else {
        host_port.into()
    }
}

pub(crate) fn endpoint(uri: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(uri.to_owned())?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Some(KEEPALIVE))
        .tcp_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .tcp_keepalive_retries(Some(KEEPALIVE_RETRIES))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

fn watch_token(path: PathBuf) -> Result<Arc<Watched<HeaderValue>>, Error> {
    let watched = Watched::new(vec![path.clone()], move || {
        let unreadable = |reason: String| Error::Token {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| unreadable("it holds what no header may".into()))?;
        // Kept out of logs and of the compression's tables.
        value.set_sensitive(true);
        Ok(value)
    })?;
    Ok(Arc::new(watched))
}

/// What became of a call that was not answered at all. That the connection is gone is
/// what gRPC calls UNAVAILABLE, also where nobody said why: a server that does not
/// believe a certificate may close the connection only after the client thinks that
/// the handshake is done (RFC 8446, 4.4.4), and calls are under way by then.
fn unanswered(error: transport::Error) -> Status {
    let mut reasons = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(reason) = source {
        // Chains repeat themselves.
        let text = reason.to_string();
        if !reasons.contains(&text) {
            reasons.push(text);
        }
        source = reason.source();
    }
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown => Status::unavailable(reasons.join(": ")),
        _ => status,
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = MapErr<ResponseFuture, fn(transport::Error) -> Status>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.transport.poll_ready(context).map_err(unanswered)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        CallContext::add_current(headers);
        if let Some(token) = &self.token {
            headers.insert(
                http::header::AUTHORIZATION,
                HeaderValue::clone(&token.get()),
            );
        }
        self.transport.call(request).map_err(unanswered)
    }
}
