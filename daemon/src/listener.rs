//! Listening sockets: TCP, unix, or inherited.

use std::io;
use std::net;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_stream::Stream;

use crate::authenticate::AuthenticationPolicy;
use crate::tls::WatchedServer;
use crate::{Address, Error};

/// The sockets passed to this process, each until it is taken.
static INHERITED: OnceLock<Mutex<listenfd::ListenFd>> = OnceLock::new();

/// The first descriptor that `sd_listen_fds(3)` passes.
const FIRST_INHERITED: usize = 3;

/// Claims the sockets that were passed, and clears the variables that say so,
/// lest children claim them too.
pub(crate) fn take_inherited() {
    INHERITED.get_or_init(|| Mutex::new(listenfd::ListenFd::from_env()));
}

/// How those who connect are received.
#[derive(Clone, Debug)]
pub(crate) struct Reception {
    /// What is shown to them; none: they are talked to in the clear. On unix sockets
    /// there is no use for it, and it is not used.
    pub(crate) tls: Option<Arc<WatchedServer>>,
    /// Who may.
    pub(crate) policy: Arc<AuthenticationPolicy>,
    /// How many connections there may be at a time.
    pub(crate) maximum_connections: usize,
    /// How many calls each may have under way.
    pub(crate) maximum_calls: u32,
    /// The service that the health service tells about beside the empty name.
    pub(crate) health_check_service: Option<String>,
}

/// How many calls one connection may have under way. A worker's slots share one,
/// and each has a call that waits for work: it must exceed their number by far,
/// yet bound what one client can make the program hold.
pub(crate) const MAXIMUM_CALLS: u32 = 4096;

impl Default for Reception {
    fn default() -> Self {
        Self {
            tls: None,
            policy: Arc::default(),
            maximum_connections: tokio::sync::Semaphore::MAX_PERMITS,
            maximum_calls: MAXIMUM_CALLS,
            health_check_service: None,
        }
    }
}

#[derive(Debug)]
enum Kind<T, U> {
    Tcp(T),
    Unix(U),
}

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    kind: Kind<TcpListener, UnixListener>,
    pub(crate) reception: Reception,
}

/// A listening socket that no event loop knows yet: what a program binds before
/// it starts one, or before it gives up the right to.
#[derive(Debug)]
pub struct Socket {
    kind: Kind<net::TcpListener, unix::net::UnixListener>,
    pub(crate) reception: Reception,
}

/// A stream that was accepted, not yet talked to.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Listens on an address, for everybody and in the clear. A unix socket left behind
/// by a process that is gone is replaced; its permissions are the directory's business.
///
/// # Errors
/// The address cannot be resolved or bound, or names no inherited socket.
pub async fn listen(address: &Address) -> Result<Listener, Error> {
    bind(address)?.try_into().map_err(|reason| Error::Listen {
        address: address.clone(),
        reason,
    })
}

/// As [`listen`], outside of an event loop; [`Listener::try_from`] takes the socket
/// into one.
///
/// # Errors
/// As [`listen`].
pub fn bind(address: &Address) -> Result<Socket, Error> {
    let failed = |reason| Error::Listen {
        address: address.clone(),
        reason,
    };
    let kind = match address {
        Address::Tcp(host_port) => bind_tcp(host_port).map(Kind::Tcp).map_err(failed)?,
        Address::Unix(path) => bind_unix(path).map(Kind::Unix).map_err(failed)?,
        Address::Inherited(number) => inherited(*number)
            .map_err(failed)?
            .ok_or(Error::NotInherited(*number))?,
    };
    Ok(Socket {
        kind,
        reception: Reception::default(),
    })
}

/// Listens on `HOST:PORT`. `:PORT` is every address of the host: also those of IPv4,
/// which a socket of IPv6 takes as well, and those alone where the host has no IPv6.
///
/// # Errors
/// The host cannot be resolved, or the address not be had.
pub fn bind_tcp(host_port: &str) -> io::Result<net::TcpListener> {
    if host_port.starts_with(':') {
        net::TcpListener::bind(format!("[::]{host_port}"))
            .or_else(|_| net::TcpListener::bind(format!("0.0.0.0{host_port}")))
    } else {
        net::TcpListener::bind(host_port)
    }
}

fn bind_unix(path: &Path) -> io::Result<unix::net::UnixListener> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && unix::net::UnixStream::connect(path).is_err();
    if stale {
        std::fs::remove_file(path)?;
    }
    unix::net::UnixListener::bind(path)
}

fn inherited(number: usize) -> io::Result<Option<Kind<net::TcpListener, unix::net::UnixListener>>> {
    let Some(sockets) = INHERITED.get() else {
        return Ok(None);
    };
    let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
    let index = number.wrapping_sub(FIRST_INHERITED);
    // A socket of another kind is refused and stays where it is.
    if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
        return Ok(Some(Kind::Unix(socket)));
    }
    Ok(sockets.take_tcp_listener(index)?.map(Kind::Tcp))
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(socket) => socket.as_fd(),
            Kind::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Takes a socket into the event loop that runs.
impl TryFrom<Socket> for Listener {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        let kind = match socket.kind {
            Kind::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Kind::Tcp)?
            }
            Kind::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Kind::Unix)?
            }
        };
        Ok(Self {
            kind,
            reception: socket.reception,
        })
    }
}

impl Listener {
    /// Where it listens, for messages to people: `HOST:PORT` with the port that
    /// was chosen, or the socket's path.
    #[must_use]
    pub fn local_address(&self) -> String {
        match &self.kind {
            Kind::Tcp(socket) => socket.local_addr().map(|address| address.to_string()),
            Kind::Unix(socket) => socket.local_addr().map(|address| {
                address.as_pathname().map_or_else(
                    || format!("descriptor {}", socket.as_fd().as_raw_fd()),
                    |path| path.display().to_string(),
                )
            }),
        }
        .unwrap_or_else(|error| error.to_string())
    }
}

/// Each accepted connection. Small messages go out at once (TCP_NODELAY): a
/// stream of them would otherwise wait for the peer's delayed acknowledgements.
impl Stream for Listener {
    type Item = io::Result<Accepted>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &self.kind {
            Kind::Tcp(socket) => socket.poll_accept(context).map(|accepted| {
                Some(accepted.and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(Accepted::Tcp(stream))
                }))
            }),
            Kind::Unix(socket) => socket
                .poll_accept(context)
                .map(|accepted| Some(accepted.map(|(stream, _)| Accepted::Unix(stream)))),
        }
    }
}
