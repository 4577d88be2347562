//! What is wanted of a sandbox, independent of what the host can give.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::limits::Limits;

/// One protection that a sandbox gives. [`crate::plan`] decides which hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// The command runs at a host uid that owns nothing else: in particular
    /// not the worker's file cache.
    OwnUid,
    /// `fs.protected_hardlinks`: a command cannot hardlink what it may not write.
    ProtectedHardlinks,
    /// A user namespace: capabilities inside mean nothing outside.
    UserNamespace,
    /// A mount namespace with a root of its own; the host's files are not there.
    MountNamespace,
    /// A pid namespace: other processes cannot be seen, and none outlives the action.
    PidNamespace,
    /// System V and POSIX message queues, semaphores and shared memory of its own.
    IpcNamespace,
    /// A neutral host name.
    UtsNamespace,
    /// A network namespace that holds only a loopback device.
    NetworkNamespace,
    /// No capability in any set, the bounding set included.
    NoCapabilities,
    /// `no_new_privs`: set-uid and file capabilities have no effect.
    NoNewPrivileges,
    /// A system call filter that closes kernel interfaces builds do not need.
    Seccomp,
    /// Landlock file-system rights (ABI 1): writes only where outputs belong.
    LandlockFiles,
    /// Landlock scopes (ABI 6): no abstract unix socket of, and no signal to,
    /// anything outside the sandbox, even on a shared network.
    LandlockScopes,
}

impl Protection {
    /// All protections, in the order in which they are listed to people.
    pub const ALL: [Self; 13] = [
        Self::OwnUid,
        Self::ProtectedHardlinks,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::NetworkNamespace,
        Self::NoCapabilities,
        Self::NoNewPrivileges,
        Self::Seccomp,
        Self::LandlockFiles,
        Self::LandlockScopes,
    ];

    /// The name used in configuration files, messages and `doctor`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnUid => "own_uid",
            Self::ProtectedHardlinks => "protected_hardlinks",
            Self::UserNamespace => "user_namespace",
            Self::MountNamespace => "mount_namespace",
            Self::PidNamespace => "pid_namespace",
            Self::IpcNamespace => "ipc_namespace",
            Self::UtsNamespace => "uts_namespace",
            Self::NetworkNamespace => "network_namespace",
            Self::NoCapabilities => "no_capabilities",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Seccomp => "seccomp",
            Self::LandlockFiles => "landlock_files",
            Self::LandlockScopes => "landlock_scopes",
        }
    }

    /// The protection of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Whether a sandbox is made of it: its reaper, its root and its mounts rest on
    /// all of these. Without them commands run
    /// [without namespaces](crate#without-namespaces).
    #[must_use]
    pub const fn is_structural(self) -> bool {
        matches!(
            self,
            Self::UserNamespace | Self::MountNamespace | Self::PidNamespace
        )
    }

    /// Whether it is a namespace, which takes a user namespace to be made.
    #[must_use]
    pub const fn is_namespace(self) -> bool {
        self.is_structural()
            || matches!(
                self,
                Self::IpcNamespace | Self::UtsNamespace | Self::NetworkNamespace
            )
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much a protection matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Without it nothing starts.
    Required,
    /// Used where the host has it.
    BestEffort,
    /// Not used, though the host may have it.
    Off,
}

/// What the command sees as `/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// The runner's userland, read-only (`/usr`, `/bin`, `/sbin`, `/lib*` and
    /// the neutral part of `/etc`); the input root at `/build/root`.
    Host,
    /// The input root itself; `/proc`, `/dev` and `/tmp` are supplied.
    Input,
}

/// Which host uid (and gid, the same number) a command runs at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostIds {
    /// Each sandbox takes one that no other sandbox alive has. The runner must
    /// be root, or they must be subordinate ids of its user. Warm sandboxes hold one each as well, so `count` is to be at
    /// least the number of concurrent actions plus [`crate::Config::pool_size`].
    Range {
        /// First uid of the range. None of the range may own anything that
        /// matters: above all not the worker's cache, and so not the build
        /// directory, which is refused.
        start: u32,
        /// How many.
        count: u32,
    },
    /// The runner's own uid. What the runner's user owns is protected by the
    /// mount namespace only; a worker of the same user must copy inputs.
    SameUser,
}

impl HostIds {
    /// Whether commands of this runner, whose own uid is `own`, run at this uid.
    #[must_use]
    pub const fn contain(self, uid: u32, own: u32) -> bool {
        match self {
            Self::Range { start, count } => uid >= start && uid - start < count,
            Self::SameUser => uid == own,
        }
    }
}

/// What is wanted. [`Policy::new`] gives the strict defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What the command sees as `/`.
    pub root: Root,
    /// The command's host uid.
    pub host_ids: HostIds,
    /// The uid and gid that the command sees itself as.
    pub inner_id: u32,
    /// Host name inside.
    pub hostname: String,
    /// Limits of each command.
    pub limits: Limits,
    /// The most that a request may ask for; where it has none, no more than `limits`.
    pub maximum_limits: Limits,
    /// Further absolute host directories to show read-only at the same place
    /// ([`Root::Host`] only); missing ones are an error when starting.
    pub read_only_binds: Vec<PathBuf>,
    /// The same, writable as far as the files' modes let the command's host uid. What
    /// one command writes there, others see.
    pub read_write_binds: Vec<PathBuf>,
    /// Absolute paths that lead to `/tmp`, for programs that know their temporary
    /// directory by another name ([`Root::Host`] only).
    pub symlink_temporary_directories: Vec<PathBuf>,
    needs: BTreeMap<Protection, Need>,
}

impl Policy {
    /// Everything required, but what the choice of `root` and `host_ids`
    /// itself gives up: [`Protection::OwnUid`] and
    /// [`Protection::ProtectedHardlinks`] are off for [`HostIds::SameUser`].
    /// [`Protection::LandlockScopes`] is a best effort while the network
    /// namespace, which separates already, is had.
    #[must_use]
    pub fn new(root: Root, host_ids: HostIds) -> Self {
        let mut needs: BTreeMap<_, _> = Protection::ALL
            .into_iter()
            .map(|p| (p, Need::Required))
            .collect();
        needs.insert(Protection::LandlockScopes, Need::BestEffort);
        if host_ids == HostIds::SameUser {
            needs.insert(Protection::OwnUid, Need::Off);
            needs.insert(Protection::ProtectedHardlinks, Need::Off);
        }
        Self {
            root,
            host_ids,
            inner_id: match root {
                Root::Host => 1000,
                Root::Input => 0,
            },
            hostname: "localhost".to_owned(),
            limits: Limits::usual(),
            maximum_limits: Limits::none(),
            read_only_binds: Vec::new(),
            read_write_binds: Vec::new(),
            symlink_temporary_directories: Vec::new(),
            needs,
        }
    }

    /// How much `protection` matters.
    #[must_use]
    pub fn need(&self, protection: Protection) -> Need {
        self.needs
            .get(&protection)
            .copied()
            .unwrap_or(Need::Required)
    }

    /// Sets how much `protection` matters. Where the network namespace is not had,
    /// a best effort of [`Protection::LandlockScopes`] counts as required.
    pub fn set_need(&mut self, protection: Protection, need: Need) {
        self.needs.insert(protection, need);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for protection in Protection::ALL {
            assert_eq!(Protection::from_name(protection.name()), Some(protection));
        }
        assert_eq!(Protection::from_name("luck"), None);
    }
}
