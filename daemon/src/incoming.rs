//! Connections of a listener, each with who is at the other end.
//!
//! A connection is *accepted*; it is dropped at once where there are as many as the
//! listener may have. Where the listener has TLS, it is *shaking hands*, beside
//! others and for ten seconds at most, so that one who is silent holds up nobody.
//! Then it is handed to the server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::accept::Accept;
use crate::listener::{Accepted, Listener};
use crate::transport::{Transport, With};
use crate::{Principal, tls};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many there may be at a time; further connections wait in the socket's queue.
const HANDSHAKES: usize = 512;

/// The connections of a listener.
pub(crate) struct Incoming {
    accept: Accept<Listener>,
    tls: Option<Arc<tls::WatchedServer>>,
    room: Arc<Semaphore>,
    handshakes: JoinSet<Option<Connection>>,
}

impl Incoming {
    pub(crate) fn new(listener: Listener) -> Self {
        Self {
            tls: listener.reception.tls.clone(),
            room: Arc::new(Semaphore::new(listener.reception.maximum_connections)),
            accept: Accept::new(listener),
            handshakes: JoinSet::new(),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.handshakes.poll_join_next(context) {
                Poll::Ready(Some(Ok(Some(connection)))) => {
                    return Poll::Ready(Some(Ok(connection)));
                }
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.handshakes.len() >= HANDSHAKES {
                return Poll::Pending;
            }
            let accepted = match ready!(Pin::new(&mut self.accept).poll_next(context)) {
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                tracing::debug!("a connection too many is dropped");
                continue;
            };
            match (accepted, &self.tls) {
                (Accepted::Tcp(stream), None) => {
                    let connection = Connection::new(Transport::Tcp(stream), permit);
                    return Poll::Ready(Some(Ok(connection)));
                }
                (Accepted::Tcp(stream), Some(tls)) => {
                    let acceptor = TlsAcceptor::from(tls.get());
                    self.handshakes.spawn(shake(acceptor, stream, permit));
                }
                (Accepted::Unix(stream), _) => {
                    let connection = Connection::new(Transport::Unix(stream), permit);
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
        }
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
) -> Option<Connection> {
    let peer = stream.peer_addr().ok();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection::new(
            Transport::Tls(Box::new(stream.into())),
            permit,
        )),
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(?peer, "a TLS handshake took too long");
            None
        }
    }
}

/// A connection to a server, which has its place while it lasts.
pub(crate) type Connection = With<Place>;

/// Whose connection it is, and one of those that the listener may have.
#[derive(Debug)]
pub(crate) struct Place {
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

/// Who is at the other end, as far as the connection tells.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) principal: Principal,
}

impl Connection {
    fn new(transport: Transport, permit: OwnedSemaphorePermit) -> Self {
        let principal = match &transport {
            Transport::Tcp(_) => Principal::Anonymous,
            Transport::Tls(stream) => stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first)
                .map_or(Principal::Anonymous, Principal::of_certificate),
            Transport::Unix(stream) => {
                stream
                    .peer_cred()
                    .map_or(Principal::Anonymous, |peer| Principal::User {
                        uid: peer.uid(),
                        gid: peer.gid(),
                    })
            }
        };
        let kept = Place {
            peer: Peer { principal },
            _permit: permit,
        };
        Self { transport, kept }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.kept.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.kept.peer.clone()
    }
}
