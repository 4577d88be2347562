//! The service half's end of the socket to the launcher half.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use thiserror::Error;

use crate::limits::Limit;
use crate::message::{DATAGRAM_BYTES, MessageError, Reply, Request};
use crate::plan::Held;
use crate::run_request::RunRequest;

/// What the service half holds: the socket to the launcher, and what that does.
///
/// The socket is non-blocking. Each call moves at most one message and fails
/// with [`io::ErrorKind::WouldBlock`] where it would have to wait; wrap the
/// descriptor ([`AsFd`], [`AsRawFd`]) in an event loop (`tokio`'s `AsyncFd`) or
/// `poll(2)` it. Every method takes `&self`; messages are datagrams, so that
/// sending and receiving at the same time is sound.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    protections: Vec<Held>,
    overlays: bool,
    unenforced: Vec<Limit>,
}

/// A message that could not be exchanged.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The message itself is unusable.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The socket, or the memory of a request, failed.
    #[error("talking to the launcher failed: {0}")]
    Io(#[from] io::Error),
    /// The launcher half is gone, and with it every action.
    #[error("the launcher half is gone")]
    Gone,
}

/// A request ready to be sent, once or again after `WouldBlock`.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    memory: Option<OwnedFd>,
}

impl Frame {
    /// The request to run a command. Its content is put into sealed memory
    /// here, so that sending is small.
    ///
    /// # Errors
    /// A request that cannot be encoded (a fault of the request), or memory.
    pub fn run(id: u64, request: &RunRequest) -> Result<Self, ClientError> {
        let content = request.encode()?;
        let memory = memfd_create(
            c"run-request",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )
        .map_err(io::Error::from)?;
        let mut file = File::from(memory);
        file.write_all(&content)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(required_seals())).map_err(io::Error::from)?;
        let request = Request::Run {
            id,
            length: content.len() as u64,
        };
        Ok(Self {
            bytes: request.encode()?,
            memory: Some(file.into()),
        })
    }

    /// Any other request.
    ///
    /// # Errors
    /// A request that cannot be encoded.
    pub fn of(request: &Request) -> Result<Self, ClientError> {
        Ok(Self {
            bytes: request.encode()?,
            memory: None,
        })
    }
}

/// The seals that make a memfd's content and length final.
pub(crate) fn required_seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

impl Client {
    pub(crate) fn new(
        socket: OwnedFd,
        protections: Vec<Held>,
        overlays: bool,
        unenforced: Vec<Limit>,
    ) -> Self {
        Self {
            socket,
            protections,
            overlays,
            unenforced,
        }
    }

    /// Limits that are set and that nothing on this host enforces.
    #[must_use]
    pub fn unenforced(&self) -> &[Limit] {
        &self.unenforced
    }

    /// Whether input roots can be overlays, as far as the kernel and the ids of
    /// commands go.
    #[must_use]
    pub fn overlays(&self) -> bool {
        self.overlays
    }

    /// Every protection, and whether the sandboxes of this launcher have it.
    #[must_use]
    pub fn protections(&self) -> &[Held] {
        &self.protections
    }

    /// Sends one message.
    ///
    /// # Errors
    /// `WouldBlock` while the launcher has not taken earlier ones (nothing was
    /// sent; send the same frame again); [`ClientError::Gone`].
    pub fn send(&self, frame: &Frame) -> Result<(), ClientError> {
        let memory = frame.memory.as_ref().map(AsFd::as_fd);
        match send_datagram(self.socket.as_fd(), &frame.bytes, memory.as_slice()) {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) => Err(ClientError::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one message.
    ///
    /// # Errors
    /// `WouldBlock` while there is none; [`ClientError::Gone`].
    pub fn receive(&self) -> Result<Reply, ClientError> {
        match receive_datagram(self.socket.as_fd()) {
            Ok(Some(datagram)) => Ok(Reply::decode(&datagram.bytes)?),
            Ok(None) => Err(ClientError::Gone),
            Err(error) if is_gone(&error) => Err(ClientError::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// Sends one datagram with descriptors.
pub(crate) fn send_datagram(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Most descriptors that travel with one datagram.
const DESCRIPTORS: usize = 8;

/// One message of a socket.
pub(crate) struct Datagram {
    pub(crate) bytes: Vec<u8>,
    /// Close-on-exec; complete or none.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Descriptors came that this process has no room for.
    pub(crate) lacks_descriptors: bool,
}

/// Receives one datagram; `None` at end of file. One that exceeds the limit is an
/// error, never cut.
pub(crate) fn receive_datagram(socket: BorrowedFd<'_>) -> io::Result<Option<Datagram>> {
    let mut bytes = vec![0; DATAGRAM_BYTES];
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let mut descriptors = Vec::new();
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    // The launcher is sent one, which is then not installed; what came of several
    // cannot be told, and stays.
    let lacks_descriptors = message.flags.contains(MsgFlags::MSG_CTRUNC);
    let parts = (!lacks_descriptors).then(|| message.cmsgs()).transpose()?;
    for part in parts.into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(raw) = part {
            for fd in raw {
                // SAFETY: the kernel has just installed this descriptor for
                // us; nothing else knows its number.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let length = message.bytes;
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if length == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some(Datagram {
        bytes,
        descriptors,
        lacks_descriptors,
    }))
}
