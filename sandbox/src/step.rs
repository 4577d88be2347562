//! The steps that plans are made of, as plain data.

use std::fmt;
use std::path::PathBuf;

use crate::limits::Limits;
use crate::policy::Protection;

/// When a step is carried out, and by which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Once, by the launcher.
    Start,
    /// Ahead, for and by the init of each sandbox.
    Prepare,
    /// When a command comes, by init.
    Request,
    /// By the process that becomes the command.
    Command,
}

impl Phase {
    /// In the order in which they come.
    pub const ALL: [Self; 4] = [Self::Start, Self::Prepare, Self::Request, Self::Command];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "once, by the launcher",
            Self::Prepare => "ahead of a command, by the sandbox's init",
            Self::Request => "for a command, by the sandbox's init",
            Self::Command => "by the process that becomes the command",
        })
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The launcher's own user namespace, each id mapped to itself.
    LauncherUserNamespace {
        /// Subordinate ids (first and number) besides the launcher's own.
        subordinate: Option<(u32, u32)>,
    },
    /// The launcher's own mount namespace, with nothing but what sandboxes are made from.
    LauncherRoot,
    /// Show a host directory read-only in the base root.
    BindReadOnly(PathBuf),
    /// Show a host directory in the base root, writable.
    BindReadWrite(PathBuf),
    /// A symbolic link to `/tmp` in the base root.
    SymlinkTemporary(PathBuf),
    /// Reproduce a host symbolic link in the base root.
    CopySymlink(PathBuf),
    /// The neutral part of `/etc`, with passwd and group that name this id.
    NeutralEtc {
        /// Inner uid and gid.
        id: u32,
        /// With the host's way of finding names, since its network is shared.
        network: bool,
    },
    /// `/dev` with the harmless nodes.
    Devices,
    /// A network namespace of the launcher's making, with a loopback device that is
    /// up, in which nothing has happened yet.
    UnusedNetwork,
    /// New user and pid namespaces, one inner id mapped to one host id.
    UserAndPidNamespaces {
        /// Inner uid and gid.
        inner: u32,
    },
    /// New mount (and cgroup, ipc, uts, net) namespaces.
    Namespaces {
        /// Where control groups are seen from: what is above its own is hidden.
        cgroup: bool,
        /// System V and POSIX ipc.
        ipc: bool,
        /// Host name.
        uts: bool,
        /// Network.
        network: bool,
    },
    /// Become the inner id.
    TakeIds(u32),
    /// Die with the launcher.
    DieWithLauncher,
    /// Set the host name.
    Hostname(String),
    /// Bring the loopback device up.
    Loopback,
    /// Own copy of the base root.
    AttachBase,
    /// Own `/proc`, dangerous entries covered, `/proc/sys` read-only.
    Proc,
    /// Own `/dev/pts`.
    PseudoTerminals,
    /// An empty writable directory in memory.
    PrivateTmpfs {
        /// Where.
        path: &'static str,
        /// How much it holds.
        bytes: u64,
    },
    /// Attach the input root, which comes as a detached mount.
    AttachInputRoot(&'static str),
    /// Move `/proc` and `/dev` into the input root.
    MoveIntoInputRoot,
    /// Attach the temporary directory, which comes as a detached mount, at `/tmp`,
    /// or an empty one in memory.
    AttachTemporaryDirectory {
        /// How much one in memory holds.
        bytes: u64,
    },
    /// Make the new root the only one.
    PivotRoot,
    /// Empty the bounding set, which needs a capability itself.
    EmptyBoundingSet,
    /// Without namespaces: be told of all that the command leaves behind, and end it.
    OwnProcessTree,
    /// Without namespaces: let the command read below this path.
    AllowReading(PathBuf),
    /// Without namespaces: let the command do what it likes below this path.
    AllowWriting(PathBuf),
    /// Prepare the Landlock rules.
    LandlockRules {
        /// With scopes (ABI 6).
        scopes: bool,
    },
    /// New session, default signals, umask 022.
    Session,
    /// Be the first that the kernel kills when memory is short.
    OutOfMemoryFirst,
    /// Resource limits; the request may move them.
    ResourceLimits(Limits),
    /// Where the request asks for other ids than those of the sandbox: be these, in a
    /// user namespace of the command's own.
    TakeIdsOfRequest,
    /// Without namespaces: change to the input root, wherever that is.
    EnterInputRoot,
    /// Give the directories in memory the sizes that the request asks for.
    SizeMemoryDirectories,
    /// Empty every other capability set; being uid 0 means nothing.
    DropCapabilities,
    /// `no_new_privs`.
    NoNewPrivileges,
    /// Enter the command's Landlock domain.
    EnterLandlock,
    /// Enter the system call filter.
    EnterSeccomp,
    /// Die with init.
    DieWithInit,
    /// Only descriptors 0, 1 and 2.
    Descriptors,
    /// Change to the working directory.
    WorkingDirectory,
    /// Find and execute the command.
    Execute,
}

impl Step {
    /// The protections that this step gives (or is a part of).
    #[must_use]
    pub fn protections(&self) -> Vec<Protection> {
        use Protection as P;
        match self {
            Self::UnusedNetwork => vec![P::NetworkNamespace],
            Self::UserAndPidNamespaces { .. } => vec![P::UserNamespace, P::PidNamespace],
            Self::TakeIds(_) => vec![P::OwnUid],
            Self::Namespaces {
                ipc, uts, network, ..
            } => [
                (true, P::MountNamespace),
                (*ipc, P::IpcNamespace),
                (*uts, P::UtsNamespace),
                (*network, P::NetworkNamespace),
            ]
            .into_iter()
            .filter_map(|(on, protection)| on.then_some(protection))
            .collect(),
            Self::PivotRoot | Self::LauncherRoot | Self::AttachBase | Self::Proc => {
                vec![P::MountNamespace]
            }
            Self::Hostname(_) => vec![P::UtsNamespace],
            Self::DieWithLauncher | Self::DieWithInit => vec![P::PidNamespace],
            Self::EmptyBoundingSet | Self::DropCapabilities => vec![P::NoCapabilities],
            Self::NoNewPrivileges => vec![P::NoNewPrivileges],
            Self::EnterLandlock => vec![P::LandlockFiles],
            Self::LandlockRules { scopes: true, .. } => vec![P::LandlockScopes],
            Self::EnterSeccomp => vec![P::Seccomp],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LauncherUserNamespace { subordinate } => {
                f.write_str("make the launcher's user namespace")?;
                if let Some((start, count)) = subordinate {
                    write!(f, " with {count} subordinate ids from {start}")?;
                }
            }
            Self::LauncherRoot => f.write_str("make the launcher's own root")?,
            Self::BindReadOnly(path) => write!(f, "show {} read-only", path.display())?,
            Self::CopySymlink(path) => write!(f, "reproduce the link {}", path.display())?,
            Self::BindReadWrite(path) => write!(f, "show {} writable", path.display())?,
            Self::SymlinkTemporary(path) => write!(f, "lead {} to /tmp", path.display())?,
            Self::NeutralEtc { id, network } => {
                write!(f, "fill /etc for uid {id}")?;
                if *network {
                    f.write_str(" with the host's hosts and resolv.conf")?;
                }
            }
            Self::Devices => f.write_str("fill /dev")?,
            Self::UnusedNetwork => f.write_str("take a network in which nothing has happened")?,
            Self::UserAndPidNamespaces { inner } => {
                write!(f, "make user and pid namespaces, mapping uid {inner}")?;
            }
            Self::Namespaces {
                cgroup,
                ipc,
                uts,
                network,
            } => {
                f.write_str("make the mount")?;
                for (on, name) in [
                    (cgroup, "cgroup"),
                    (ipc, "ipc"),
                    (uts, "uts"),
                    (network, "network"),
                ] {
                    if *on {
                        write!(f, ", {name}")?;
                    }
                }
                f.write_str(" namespace")?;
            }
            Self::TakeIds(id) => write!(f, "become uid and gid {id}")?,
            Self::DieWithLauncher => f.write_str("bind init's life to the launcher's")?,
            Self::Hostname(name) => write!(f, "set the host name {name}")?,
            Self::Loopback => f.write_str("bring loopback up")?,
            Self::AttachBase => f.write_str("attach the base root")?,
            Self::Proc => f.write_str("mount /proc")?,
            Self::PseudoTerminals => f.write_str("mount /dev/pts")?,
            Self::PrivateTmpfs { path, bytes } => {
                write!(f, "mount an empty {path} of {bytes} bytes")?;
            }
            Self::AttachInputRoot(path) => write!(f, "attach the input root at {path}")?,
            Self::MoveIntoInputRoot => f.write_str("move /proc and /dev into the input root")?,
            Self::AttachTemporaryDirectory { bytes } => {
                write!(f, "attach /tmp, of {bytes} bytes if in memory")?;
            }
            Self::PivotRoot => f.write_str("make the new root the only one")?,
            Self::EmptyBoundingSet => f.write_str("empty the capability bounding set")?,
            Self::LandlockRules { .. } => f.write_str("prepare the Landlock rules")?,
            Self::OwnProcessTree => f.write_str("become whose orphans the command's are")?,
            Self::AllowReading(path) => write!(f, "allow reading {}", path.display())?,
            Self::AllowWriting(path) => write!(f, "allow writing {}", path.display())?,
            Self::EnterInputRoot => f.write_str("change to the input root")?,
            Self::Session => f.write_str("start a session")?,
            Self::OutOfMemoryFirst => f.write_str("be the first to go when memory is short")?,
            Self::ResourceLimits(limits) => write!(f, "set resource limits: {limits}")?,
            Self::SizeMemoryDirectories => f.write_str("size the directories in memory")?,
            Self::TakeIdsOfRequest => f.write_str("become who the request says, if it does")?,
            Self::DropCapabilities => f.write_str("drop all capabilities")?,
            Self::NoNewPrivileges => f.write_str("renounce new privileges")?,
            Self::EnterLandlock => f.write_str("enter the Landlock domain")?,
            Self::EnterSeccomp => f.write_str("enter the system call filter")?,
            Self::DieWithInit => f.write_str("bind the command's life to init's")?,
            Self::Descriptors => f.write_str("close all other descriptors")?,
            Self::WorkingDirectory => f.write_str("change to the working directory")?,
            Self::Execute => f.write_str("execute the command")?,
        }
        let protections = self.protections();
        if !protections.is_empty() {
            let names: Vec<_> = protections.iter().map(|p| p.name()).collect();
            write!(f, " [{}]", names.join(", "))?;
        }
        Ok(())
    }
}
