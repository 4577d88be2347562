//! Who runs a farm or a program.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::skip::is_root;

/// A plain user for farms that are not root's. It need not be in passwd.
pub const PLAIN_USER: u32 = 60_123;

/// The plain user's id.
#[must_use]
pub fn plain_uid() -> u32 {
    if is_root() {
        PLAIN_USER
    } else {
        nix::unistd::geteuid().as_raw()
    }
}

/// Who runs a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    /// Root: hardlinked inputs and a user for each slot.
    Root,
    /// A plain user: everything at one uid, with copied inputs. When the tests
    /// are not root's, their own user.
    PlainUser,
    /// A plain user with subordinate ids: hardlinked inputs, a user for each slot, and
    /// no root. It exists for its own processes only. To be had by root.
    SubordinateUser,
}

/// The first of the subordinate ids, and how many there are.
const SUBORDINATE: (u32, u32) = (1_900_700_000, 64);

impl As {
    /// Both, or the one that these tests can be.
    #[must_use]
    pub fn possible() -> &'static [Self] {
        if is_root() {
            &[Self::Root, Self::PlainUser]
        } else {
            &[Self::PlainUser]
        }
    }

    /// A program of this package, to be run by this user. `folder` is one that the
    /// user can reach: the tests' own may be closed to them.
    ///
    /// # Panics
    /// The program cannot be had.
    #[must_use]
    pub fn command(self, program: &str, folder: &Path) -> Command {
        let path = crate::program(program);
        if self == Self::Root || !is_root() {
            return Command::new(path);
        }
        let copy = folder.join(program);
        if !copy.exists() && fs::hard_link(&path, &copy).is_err() {
            fs::copy(&path, &copy).expect("a copy of the program");
        }
        self.run(copy)
    }

    /// Another program, to be run by this user.
    #[must_use]
    pub fn run(self, program: impl AsRef<OsStr>) -> Command {
        if self == Self::SubordinateUser {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &with_subordinate_ids()]);
            command.arg(program);
            return command;
        }
        let mut command = Command::new(program);
        if self == Self::PlainUser && is_root() {
            command.uid(PLAIN_USER).gid(PLAIN_USER);
        }
        command
    }

    /// Gives a file or folder to this user.
    ///
    /// # Panics
    /// It cannot be given.
    pub fn own(self, path: &Path) {
        if self != Self::Root && is_root() {
            chown(path, Some(PLAIN_USER), Some(PLAIN_USER)).expect("a new owner");
        }
    }

    /// A folder of this user that goes with what is returned.
    ///
    /// # Panics
    /// There can be none.
    #[must_use]
    pub fn folder(self) -> TempDir {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-test-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary folder");
        self.own(folder.path());
        folder
    }
}

/// A script that runs its arguments as the plain user, who is in passwd and has
/// subordinate ids as those processes see it.
fn with_subordinate_ids() -> String {
    let (first, count) = SUBORDINATE;
    let ids = format!("tester:{first}:{count}");
    let user = format!("tester:x:{PLAIN_USER}:{PLAIN_USER}::/:/bin/sh");
    format!(
        "set -e; d=$(mktemp -d); echo '{user}' > $d/passwd; \
         for f in subuid subgid; do echo '{ids}' > $d/$f; done; chmod -R a+rX $d; \
         for f in passwd subuid subgid; do [ -e /etc/$f ] || touch /etc/$f; \
         mount --bind $d/$f /etc/$f; done; rm -r $d; \
         exec setpriv --reuid={PLAIN_USER} --regid={PLAIN_USER} --clear-groups \
         env \"$0\" \"$@\""
    )
}
