//! Landlock domains: of the service half, and of commands.

use std::error::Error;
use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use nix::errno::Errno;

/// The newest ABI whose rights are used where they are.
const NEWEST: ABI = ABI::V7;

/// The first that knows TCP.
const TCP: ABI = ABI::V4;

fn errno(error: RulesetError) -> Errno {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(errno) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Errno::from_raw(errno);
        }
        cause = error.source();
    }
    // The crate refused by itself: the kernel lacks what is required.
    Errno::ENOSYS
}

/// With scopes (ABI 6) as far as that level says, if at all.
fn ruleset(scopes: Option<CompatLevel>) -> Result<Ruleset, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?;
    if let Some(level) = scopes {
        ruleset = ruleset
            .set_compatibility(level)
            .scope(Scope::AbstractUnixSocket)?
            .scope(Scope::Signal)?;
    }
    Ok(ruleset)
}

/// Takes every right to the file system from this process; descriptors that
/// are open stay usable. Where the kernel has scopes, it reaches no abstract
/// socket and no process outside either. Needs `no_new_privs`.
pub(crate) fn forbid_all_files() -> nix::Result<()> {
    ruleset(Some(CompatLevel::BestEffort))
        .and_then(|ruleset| ruleset.set_compatibility(CompatLevel::BestEffort).create())
        .and_then(|created| created.no_new_privs(false).restrict_self())
        .map(drop)
        .map_err(errno)
}

/// The rules of a command's domain, being collected.
pub(crate) struct Rules(RulesetCreated);

impl Rules {
    /// Nothing allowed yet. With `scopes` the kernel has to have them.
    pub(crate) fn new(scopes: bool) -> nix::Result<Self> {
        ruleset(scopes.then_some(CompatLevel::HardRequirement))
            .and_then(|ruleset| ruleset.set_compatibility(CompatLevel::BestEffort).create())
            .map(Self)
            .map_err(errno)
    }

    /// The same, and no TCP: neither connecting nor listening.
    pub(crate) fn without_tcp(scopes: bool) -> nix::Result<Self> {
        ruleset(scopes.then_some(CompatLevel::HardRequirement))
            .and_then(|ruleset| {
                ruleset
                    .set_compatibility(CompatLevel::HardRequirement)
                    .handle_access(AccessNet::from_all(TCP))?
                    .set_compatibility(CompatLevel::BestEffort)
                    .create()
            })
            .map(Self)
            .map_err(errno)
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

    /// Everything below a directory, but making device nodes.
    pub(crate) fn allow_all(&mut self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        let nodes = AccessFs::MakeChar | AccessFs::MakeBlock;
        self.allow(fd, AccessFs::from_all(NEWEST) & !nodes)
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
        copy.no_new_privs(false)
            .restrict_self()
            .map(drop)
            .map_err(errno)
    }
}
