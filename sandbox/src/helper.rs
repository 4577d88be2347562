//! A short-lived child of the launcher that does something which may take
//! long, or must not have the launcher's rights.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{Pid, pipe2, write};

use crate::message::{Failure, FailureKind, Reply};
use crate::policy::HostIds;
use crate::{reclaim, sys};

/// The helper that reclaims a directory.
#[derive(Debug)]
pub(crate) struct Helper {
    id: u64,
    pid: Pid,
    pidfd: OwnedFd,
    result: OwnedFd,
}

impl Helper {
    /// Starts it.
    pub(crate) fn reclaim(
        id: u64,
        directory: BorrowedFd<'_>,
        ids: HostIds,
        worker: Option<u32>,
    ) -> nix::Result<Self> {
        let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC)?;
        let Some((pid, pidfd)) = sys::clone_process(0)? else {
            sys::never_return(|| {
                let (errno, changed) = match die_with_launcher(directory, &write_end)
                    .and_then(|()| reclaim::run(directory, ids, worker))
                {
                    Ok(changed) => (0, changed),
                    Err(errno) => (errno as i32, 0),
                };
                let mut result = changed.to_le_bytes().to_vec();
                result.extend_from_slice(&errno.to_le_bytes());
                let written = write(&write_end, &result);
                sys::exit_now(i32::from(written.is_err()))
            });
        };
        Ok(Self {
            id,
            pid,
            pidfd,
            result: read_end,
        })
    }

    /// Readable when it has ended.
    pub(crate) fn life(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Reaps it, and says what it did.
    pub(crate) fn finish(self) -> Reply {
        let id = self.id;
        self.reap();
        let mut result = [0; 12];
        let read = File::from(self.result).read_exact(&mut result);
        let (changed, errno) = result.split_at(8);
        let changed = u64::from_le_bytes(changed.try_into().unwrap_or_default());
        let errno = i32::from_le_bytes(errno.try_into().unwrap_or_default());
        match (read, errno) {
            (Ok(()), 0) => Reply::Reclaimed { id, changed },
            (read, errno) => Reply::Failed {
                id,
                failure: Failure {
                    kind: FailureKind::Sandbox,
                    step: "reclaim a directory".to_owned(),
                    errno: if read.is_ok() {
                        errno
                    } else {
                        Errno::ECHILD as i32
                    },
                    detail: String::new(),
                },
            },
        }
    }

    /// Kills and reaps it.
    pub(crate) fn end(self) {
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        self.reap();
    }

    fn reap(&self) {
        while matches!(sys::wait_with_usage(self.pid), Err(Errno::EINTR)) {}
    }
}

fn die_with_launcher(directory: BorrowedFd<'_>, result: &OwnedFd) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    sys::close_all_but(&[directory.as_raw_fd(), result.as_raw_fd()])?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).map(drop)
}
