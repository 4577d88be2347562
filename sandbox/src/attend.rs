//! A process beside the two halves, which stays in the host's root.

use std::convert::Infallible;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::libc;

use crate::split::{Error, Signals, check_threads};
use crate::sys;

/// Starts a process that does what neither half can: the launcher has left the
/// host's files, and the service half has no rights. Call it before [`split`](crate::split),
/// while the process has a single thread.
///
/// It runs `body` with its end of a stream, as the user and with the rights of this
/// process, and leaves with the exit code that returns; of other descriptors it has
/// 0, 1 and 2. Signals that ask to stop do not reach it: it is to leave when its end
/// of the stream is at its end, which is when both halves are gone. The other end is
/// returned, and is the service half's if it is among
/// [`ServiceHalf::keep`](crate::ServiceHalf::keep).
///
/// # Errors
/// There are threads, or the process cannot be had.
pub fn attend(body: impl FnOnce(UnixStream) -> ExitCode) -> Result<UnixStream, Error> {
    check_threads()?;
    let start = |step: &'static str| {
        move |source| Error::Start {
            step: step.to_owned(),
            source,
        }
    };
    let (ours, theirs) = UnixStream::pair().map_err(start("connect the attendant"))?;
    let cloned = sys::clone_process(0).map_err(|errno| start("fork")(errno.into()))?;
    if cloned.is_some() {
        return Ok(ours);
    }
    drop(ours);
    sys::never_return(|| leave(theirs, body))
}

fn leave(stream: UnixStream, body: impl FnOnce(UnixStream) -> ExitCode) -> Infallible {
    let prepared = sys::close_all_but(&[stream.as_raw_fd()])
        .and_then(|()| Signals::block())
        .and_then(|_| sys::prctl(libc::PR_SET_DUMPABLE, 0));
    if let Err(errno) = prepared {
        eprintln!("the attendant cannot start: {errno}");
        std::process::exit(1);
    }
    crate::split::exit(body(stream))
}
