//! A request that cannot be carried out.

use nix::errno::Errno;

use crate::message::{Failure, FailureKind, Reply};

/// What was done, to what, and why it failed.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) kind: FailureKind,
    step: &'static str,
    detail: String,
    pub(crate) errno: Errno,
}

impl Rejection {
    /// The errno says whose fault it is: the request's where it tells that a path
    /// is not as it should be, else, as for a lack of descriptors, memory or disk,
    /// the sandbox's.
    pub(crate) fn new(step: &'static str, detail: impl Into<String>, errno: Errno) -> Self {
        use Errno as E;
        let kind = match errno {
            E::EINVAL
            | E::ENOENT
            | E::ENOTDIR
            | E::ELOOP
            | E::EEXIST
            | E::EACCES
            | E::ENAMETOOLONG => FailureKind::Request,
            _ => FailureKind::Sandbox,
        };
        Self {
            kind,
            step,
            detail: detail.into(),
            errno,
        }
    }

    /// What the action brings makes its command impossible.
    pub(crate) fn of_command(step: &'static str, detail: &str, errno: Errno) -> Self {
        Self {
            kind: FailureKind::Command,
            ..Self::new(step, detail, errno)
        }
    }

    /// The reply to the request of this id.
    pub(crate) fn reply(self, id: u64) -> Reply {
        Reply::Failed {
            id,
            failure: Failure {
                kind: self.kind,
                step: self.step.to_owned(),
                errno: self.errno as i32,
                detail: self.detail,
            },
        }
    }
}

/// Bytes for people, of which a failure carries no more than this many.
pub(crate) fn text(bytes: &[u8]) -> String {
    const MOST: usize = 2048;
    String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned()
}
