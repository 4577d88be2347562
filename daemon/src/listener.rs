//! Listening sockets: TCP, unix, or inherited.

use std::io;
use std::net;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo, UdsConnectInfo};

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

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix stream socket.
    Unix(UnixListener),
}

/// A listening socket that no event loop knows yet: what a program binds before
/// it starts one, or before it gives up the right to.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(net::TcpListener),
    /// A unix stream socket.
    Unix(unix::net::UnixListener),
}

/// Listens on an address. A unix socket left behind by a process that is gone is
/// replaced; its permissions are the directory's business.
///
/// # Errors
/// The address cannot be resolved or bound, or names no inherited socket.
pub async fn listen(address: &Address) -> Result<Listener, Error> {
    let failed = |reason| Error::Listen {
        address: address.clone(),
        reason,
    };
    match address {
        // Resolving a name may take a while.
        Address::Tcp(host_port) => TcpListener::bind(host_port)
            .await
            .map(Listener::Tcp)
            .map_err(failed),
        Address::Unix(_) | Address::Inherited(_) => bind(address)?.try_into().map_err(failed),
    }
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
    match address {
        Address::Tcp(host_port) => net::TcpListener::bind(host_port)
            .map(Socket::Tcp)
            .map_err(failed),
        Address::Unix(path) => bind_unix(path).map(Socket::Unix).map_err(failed),
        Address::Inherited(number) => inherited(*number)
            .map_err(failed)?
            .ok_or(Error::NotInherited(*number)),
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

fn inherited(number: usize) -> io::Result<Option<Socket>> {
    let Some(sockets) = INHERITED.get() else {
        return Ok(None);
    };
    let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
    let index = number.wrapping_sub(FIRST_INHERITED);
    // A socket of another kind is refused and stays where it is.
    if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
        return Ok(Some(Socket::Unix(socket)));
    }
    Ok(sockets.take_tcp_listener(index)?.map(Socket::Tcp))
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Takes a socket into the event loop that runs.
impl TryFrom<Socket> for Listener {
    type Error = io::Error;

    fn try_from(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Self::Tcp)
            }
            Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Self::Unix)
            }
        }
    }
}

impl Listener {
    /// Where it listens, for messages to people: `HOST:PORT` with the port that
    /// was chosen, or the socket's path.
    #[must_use]
    pub fn local_address(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(|address| address.to_string()),
            Self::Unix(socket) => socket.local_addr().map(|address| {
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
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &*self {
            Self::Tcp(socket) => socket.poll_accept(context).map(|accepted| {
                Some(accepted.and_then(|(stream, _)| {
                    stream.set_nodelay(true)?;
                    Ok(Connection::Tcp(stream))
                }))
            }),
            Self::Unix(socket) => socket
                .poll_accept(context)
                .map(|accepted| Some(accepted.map(|(stream, _)| Connection::Unix(stream)))),
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub enum Connection {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Its address.
    Tcp(TcpConnectInfo),
    /// Its credentials.
    Unix(UdsConnectInfo),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Tcp(stream) => Peer::Tcp(stream.connect_info()),
            Self::Unix(stream) => Peer::Unix(stream.connect_info()),
        }
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Self::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(context))
    }
}
