//! What the host gives, found by trying.

use std::fmt;
use std::path::PathBuf;

use nix::unistd::{Uid, geteuid};

use crate::attempt::{self, Attempts};
use crate::subordinate::{self, Subordinate};
use crate::surroundings::Surroundings;

/// Something of the host that a protection rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`: Linux 5.12.
    MountCalls,
    /// User namespaces.
    UserNamespace,
    /// Mount namespaces.
    MountNamespace,
    /// Pid namespaces.
    PidNamespace,
    /// Ipc namespaces.
    IpcNamespace,
    /// Uts namespaces.
    UtsNamespace,
    /// Cgroup namespaces: used where they are.
    CgroupNamespace,
    /// Network namespaces, and bringing loopback up in one.
    NetworkNamespace,
    /// Mounting a `/proc` of a new pid namespace.
    OwnProc,
    /// Seccomp filters.
    Seccomp,
    /// Landlock, any ABI.
    Landlock,
    /// Landlock scopes: ABI 6, Linux 6.12.
    LandlockScopes,
    /// `fs.protected_hardlinks`.
    ProtectedHardlinks,
    /// Being root with the capabilities that mapping foreign uids takes.
    RootCapabilities,
    /// Configuring networks that belong to the host's user namespace.
    NetworkAdministration,
    /// `newuidmap(1)` and subordinate ids of this user.
    SubordinateIds,
}

impl Feature {
    /// All, in the order in which they are listed to people.
    pub const ALL: [Self; 16] = [
        Self::MountCalls,
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::NetworkNamespace,
        Self::OwnProc,
        Self::Seccomp,
        Self::Landlock,
        Self::LandlockScopes,
        Self::ProtectedHardlinks,
        Self::RootCapabilities,
        Self::NetworkAdministration,
        Self::SubordinateIds,
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountCalls => "the mount calls of Linux 5.12",
            Self::UserNamespace => "user namespaces",
            Self::MountNamespace => "mount namespaces",
            Self::PidNamespace => "pid namespaces",
            Self::IpcNamespace => "ipc namespaces",
            Self::UtsNamespace => "uts namespaces",
            Self::CgroupNamespace => "cgroup namespaces",
            Self::NetworkNamespace => "network namespaces",
            Self::OwnProc => "a /proc of its own",
            Self::Seccomp => "seccomp filters",
            Self::Landlock => "Landlock",
            Self::LandlockScopes => "Landlock scopes",
            Self::ProtectedHardlinks => "fs.protected_hardlinks",
            Self::RootCapabilities => "root's capabilities",
            Self::NetworkAdministration => "CAP_NET_ADMIN",
            Self::SubordinateIds => "subordinate ids",
        })
    }
}

/// One feature, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub feature: Feature,
    /// Whether it is usable.
    pub available: bool,
    /// Why (not), for people.
    pub why: String,
    /// What to do to get it; empty when available.
    pub remedy: String,
}

/// What the host gives. Plain data: tests make their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `uname -r`.
    pub kernel: String,
    /// The uid probed as.
    pub uid: u32,
    /// Landlock's ABI; 0: none.
    pub landlock_abi: i32,
    /// One for each feature.
    pub findings: Vec<Finding>,
    /// What of `/usr`, `/bin`, `/sbin` and `/lib*` there is, and whether each
    /// is a symbolic link.
    pub userland: Vec<(PathBuf, bool)>,
    /// This user's subordinate ids, that are both uids and gids.
    pub subordinate: Vec<Subordinate>,
    /// What the runner itself runs in.
    pub surroundings: Surroundings,
}

impl Probe {
    /// Tries everything, in a child process.
    ///
    /// Call it while the process is single-threaded: it forks.
    ///
    /// # Errors
    /// When no child can be made or it dies: that says nothing about the host.
    pub fn run() -> std::io::Result<Self> {
        let uid = geteuid();
        let subordinate = subordinate::of(uid);
        let surroundings = Surroundings::look();
        let tried = subordinate.first().map(|range| (range.start, 1));
        let attempts = attempt::run(tried)?;
        Ok(Self {
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
            uid: uid.as_raw(),
            landlock_abi: attempts.landlock_abi,
            findings: findings(&attempts, uid, &subordinate, &surroundings),
            userland: userland(),
            subordinate,
            surroundings,
        })
    }

    /// Reason and remedy, when `feature` is not usable.
    #[must_use]
    pub fn missing(&self, feature: Feature) -> Option<(String, String)> {
        match self.findings.iter().find(|f| f.feature == feature) {
            Some(finding) if finding.available => None,
            Some(finding) => Some((finding.why.clone(), finding.remedy.clone())),
            None => Some(("it was not probed".to_owned(), "probe again".to_owned())),
        }
    }
}

fn userland() -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    for name in ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let path = PathBuf::from("/").join(name);
        if let Ok(metadata) = path.symlink_metadata()
            && (metadata.is_symlink() || metadata.is_dir())
        {
            found.push((path, metadata.is_symlink()));
        }
    }
    found
}

fn findings(
    attempts: &Attempts,
    uid: Uid,
    subordinate: &[Subordinate],
    surroundings: &Surroundings,
) -> Vec<Finding> {
    use Feature as F;
    let mut findings = Vec::new();
    let mut add = |feature, result: Result<(), (String, String)>| {
        let available = result.is_ok();
        let (why, remedy) = result
            .err()
            .unwrap_or_else(|| ("tried, works".to_owned(), String::new()));
        findings.push(Finding {
            feature,
            available,
            why,
            remedy,
        });
    };
    let tried = |errno: i32, remedy: String| match errno {
        0 => Ok(()),
        attempt::NOT_REACHED => Err((
            "could not be tried: what it rests on failed".to_owned(),
            remedy,
        )),
        errno => Err((
            format!("tried: {}", std::io::Error::from_raw_os_error(errno)),
            remedy,
        )),
    };
    for (feature, errno) in [
        (F::UserNamespace, attempts.user),
        (F::MountNamespace, attempts.mount),
        (F::PidNamespace, attempts.pid),
        (F::IpcNamespace, attempts.ipc),
        (F::UtsNamespace, attempts.uts),
        (F::CgroupNamespace, attempts.cgroup),
        (F::NetworkNamespace, attempts.network),
    ] {
        add(feature, tried(errno, surroundings.allow_namespaces()));
    }
    add(
        F::MountCalls,
        tried(
            attempts.mount_calls,
            format!(
                "use Linux 5.12 or newer; {}",
                surroundings.allow_namespaces()
            ),
        ),
    );
    add(F::OwnProc, tried(attempts.proc, surroundings.allow_proc()));
    add(
        F::Seccomp,
        tried(
            attempts.seccomp,
            "use a kernel with CONFIG_SECCOMP_FILTER".to_owned(),
        ),
    );
    add(
        F::Landlock,
        tried(
            attempts.landlock,
            "use Linux 5.13 or newer with landlock among CONFIG_LSM or the lsm= boot parameter"
                .to_owned(),
        ),
    );
    add(
        F::LandlockScopes,
        if attempts.landlock_abi >= 6 {
            Ok(())
        } else {
            Err((
                format!("Landlock's ABI is {}, 6 is needed", attempts.landlock_abi),
                "use Linux 6.12 or newer".to_owned(),
            ))
        },
    );
    add(
        F::ProtectedHardlinks,
        match read_number("/proc/sys/fs/protected_hardlinks") {
            Some(0) => Err((
                "fs.protected_hardlinks is 0".to_owned(),
                "sysctl -w fs.protected_hardlinks=1".to_owned(),
            )),
            Some(_) => Ok(()),
            None => Err((
                "fs.protected_hardlinks cannot be read".to_owned(),
                "mount /proc".to_owned(),
            )),
        },
    );
    add(F::RootCapabilities, root_capabilities(attempts, uid));
    add(
        F::NetworkAdministration,
        if attempts.capabilities >> attempt::CAP_NET_ADMIN & 1 == 1 {
            Ok(())
        } else {
            Err((
                "CAP_NET_ADMIN is lacking".to_owned(),
                "grant CAP_NET_ADMIN".to_owned(),
            ))
        },
    );
    add(
        F::SubordinateIds,
        subordinate_ids(attempts, uid, subordinate),
    );
    findings
}

fn read_number(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn root_capabilities(attempts: &Attempts, uid: Uid) -> Result<(), (String, String)> {
    if !uid.is_root() {
        return Err((
            format!("running as uid {uid}"),
            "start as root, or use subordinate ids or the runner's own user for commands"
                .to_owned(),
        ));
    }
    let lacking: Vec<_> = attempt::ROOT_CAPABILITIES
        .iter()
        .filter(|(number, _)| attempts.capabilities >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let names = lacking.join(", ");
    Err((format!("{names} are lacking"), format!("grant {names}")))
}

fn subordinate_ids(
    attempts: &Attempts,
    uid: Uid,
    ranges: &[Subordinate],
) -> Result<(), (String, String)> {
    if !subordinate::installed() {
        return Err((
            "newuidmap is not installed".to_owned(),
            "install the package uidmap".to_owned(),
        ));
    }
    let give = format!(
        "give user {uid} the same range in /etc/subuid and /etc/subgid: \
         usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
    );
    if ranges.is_empty() {
        return Err((
            "this user has no subordinate uids that are its subordinate gids too".to_owned(),
            give,
        ));
    }
    match attempts.subordinate {
        0 => Ok(()),
        _ => Err((
            "newuidmap or newgidmap refused to map them".to_owned(),
            "see that both programs are set-uid root (or have their file capabilities), that \
             user namespaces are allowed, and that this user is in /etc/passwd"
                .to_owned(),
        )),
    }
}
