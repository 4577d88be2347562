//! What the host gives, found by trying.

use std::fmt;
use std::path::PathBuf;

use nix::unistd::{Uid, geteuid};

use crate::attempt::{self, Attempts};

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
    /// `newuidmap(1)` and subordinate ids of this user. Told, not used.
    SubordinateIds,
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
}

impl Probe {
    /// Tries everything, in a child process.
    ///
    /// Call it while the process is single-threaded: it forks.
    ///
    /// # Errors
    /// When no child can be made or it dies: that says nothing about the host.
    pub fn run() -> std::io::Result<Self> {
        let attempts = attempt::run()?;
        let uid = geteuid();
        Ok(Self {
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
            uid: uid.as_raw(),
            landlock_abi: attempts.landlock_abi,
            findings: findings(&attempts, uid),
            userland: userland(),
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

const CONTAINER: &str = "in a container, run it with a seccomp profile that also allows clone, \
     unshare, mount, umount2, pivot_root, open_tree, move_mount, mount_setattr and sethostname";

fn findings(attempts: &Attempts, uid: Uid) -> Vec<Finding> {
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
    let container = || CONTAINER.to_owned();
    add(
        F::UserNamespace,
        tried(attempts.user, user_namespace_remedy()),
    );
    for (feature, errno) in [
        (F::MountNamespace, attempts.mount),
        (F::PidNamespace, attempts.pid),
        (F::IpcNamespace, attempts.ipc),
        (F::UtsNamespace, attempts.uts),
        (F::CgroupNamespace, attempts.cgroup),
        (F::NetworkNamespace, attempts.network),
    ] {
        add(feature, tried(errno, container()));
    }
    add(
        F::MountCalls,
        tried(
            attempts.mount_calls,
            format!("use Linux 5.12 or newer; {CONTAINER}"),
        ),
    );
    add(
        F::OwnProc,
        tried(
            attempts.proc,
            "in a container, unmask /proc (Docker: --security-opt systempaths=unconfined)"
                .to_owned(),
        ),
    );
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
    add(F::SubordinateIds, subordinate_ids(uid));
    findings
}

fn read_number(path: &str) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn user_namespace_remedy() -> String {
    if read_number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return "sysctl -w user.max_user_namespaces=15000".to_owned();
    }
    if read_number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return "sysctl -w kernel.unprivileged_userns_clone=1".to_owned();
    }
    if read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return "give the program an AppArmor profile with `userns,`, or \
                sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
            .to_owned();
    }
    CONTAINER.to_owned()
}

fn root_capabilities(attempts: &Attempts, uid: Uid) -> Result<(), (String, String)> {
    if !uid.is_root() {
        return Err((
            format!("running as uid {uid}"),
            "start as root, or use the runner's own user for commands".to_owned(),
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

fn subordinate_ids(uid: Uid) -> Result<(), (String, String)> {
    let installed = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("newuidmap").is_file())
    });
    if !installed {
        return Err((
            "newuidmap is not installed".to_owned(),
            "install the package uidmap".to_owned(),
        ));
    }
    let name = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name);
    let number = uid.to_string();
    let listed = std::fs::read_to_string("/etc/subuid").is_ok_and(|text| {
        text.lines().any(|line| {
            let owner = line.split(':').next();
            owner == Some(&number) || (name.is_some() && owner == name.as_deref())
        })
    });
    if listed {
        Ok(())
    } else {
        Err((
            "this user has no line in /etc/subuid".to_owned(),
            "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER".to_owned(),
        ))
    }
}
