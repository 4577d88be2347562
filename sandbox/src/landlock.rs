//! Landlock domains: of the service half, and of commands.

use std::os::fd::{AsFd, BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::errno::Errno;

/// The newest ABI whose rights are used where they are.
const NEWEST: ABI = ABI::V7;

fn errno(_: RulesetError) -> Errno {
    // The crate's errors wrap the errno at varying depth; last_raw survives,
    // since nothing else is called in between.
    match Errno::last() {
        Errno::UnknownErrno => Errno::EINVAL,
        errno => errno,
    }
}

fn ruleset(scopes: bool, scopes_required: bool) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    if scopes {
        if scopes_required {
            ruleset = ruleset.set_compatibility(CompatLevel::HardRequirement);
        }
        ruleset = ruleset
            .scope(Scope::AbstractUnixSocket)?
            .scope(Scope::Signal)?;
    }
    ruleset.set_compatibility(CompatLevel::BestEffort).create()
}

/// Takes every right to the file system from this process; descriptors that
/// are open stay usable. Needs `no_new_privs`.
pub(crate) fn forbid_all_files() -> nix::Result<()> {
    ruleset(true, false)
        .and_then(|created| created.set_no_new_privs(false).restrict_self())
        .map(drop)
        .map_err(errno)
}

/// The rules of a command's domain, being collected.
pub(crate) struct Rules(RulesetCreated);

impl Rules {
    /// Nothing allowed yet.
    pub(crate) fn new(scopes: bool, scopes_required: bool) -> nix::Result<Self> {
        ruleset(scopes, scopes_required).map(Self).map_err(errno)
    }

    fn allow(&mut self, fd: BorrowedFd<'_>, access: BitFlags<AccessFs>) -> nix::Result<()> {
        (&mut self.0)
            .add_rule(PathBeneath::new(fd, access))
            .map(drop)
            .map_err(errno)
    }

    /// Read, list and execute what lies below.
    pub(crate) fn allow_reading(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        self.allow(fd, AccessFs::from_read(NEWEST))
    }

    /// Everything below a directory.
    pub(crate) fn allow_all(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        self.allow(fd, AccessFs::from_all(NEWEST))
    }

    /// Reading, writing, truncating and controlling one file or device.
    pub(crate) fn allow_file(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        self.allow(
            fd,
            AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
        )
    }

    /// Enters the domain. Needs `no_new_privs`.
    pub(crate) fn enter(&self) -> nix::Result<()> {
        let copy = self
            .0
            .try_clone()
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        copy.set_no_new_privs(false)
            .restrict_self()
            .map(drop)
            .map_err(errno)
    }
}

#[allow(unused)]
fn as_fd<T: AsFd>(t: &T) -> BorrowedFd<'_> {
    t.as_fd()
}
