//! What the runner itself runs in, and so what would have to be changed where the
//! host does not give what a sandbox needs.

use std::fmt;
use std::path::Path;

/// A program that runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// A pod of Kubernetes.
    Kubernetes,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Kubernetes => "Kubernetes",
        })
    }
}

/// What surrounds the runner. Plain data: tests make their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The container it is in, if any is recognised.
    pub container: Option<Container>,
    /// Whether a system call filter is on it already.
    pub filtered: bool,
    /// The AppArmor profile that confines it.
    pub apparmor: Option<String>,
    /// A setting of the kernel that forbids user namespaces, as `sysctl(8)` would
    /// allow them.
    pub forbidden_by: Option<&'static str>,
}

impl Surroundings {
    /// Looks.
    pub(crate) fn look() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let exists = |path: &str| Path::new(path).exists();
        let container = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
            || exists("/var/run/secrets/kubernetes.io")
        {
            Some(Container::Kubernetes)
        } else if exists("/run/.containerenv") {
            Some(Container::Podman)
        } else if exists("/.dockerenv") {
            Some(Container::Docker)
        } else {
            None
        };
        Self {
            container,
            filtered: text("/proc/self/status").contains("\nSeccomp:\t2"),
            apparmor: profile(&text("/proc/self/attr/apparmor/current"))
                .or_else(|| profile(&text("/proc/self/attr/current"))),
            forbidden_by: SETTINGS.into_iter().find_map(|(path, forbidding, cure)| {
                (text(path).trim() == forbidding).then_some(cure)
            }),
        }
    }

    /// What lets namespaces be made and mounts be made in them.
    #[must_use]
    pub fn allow_namespaces(&self) -> String {
        if let Some(cure) = self.forbidden_by {
            return format!("sysctl -w {cure}");
        }
        let mut cures = vec![
            match self.container {
                Some(Container::Docker | Container::Podman) => {
                    "run the container with --security-opt seccomp=deploy/seccomp-hayloft.json"
                }
                Some(Container::Kubernetes) => {
                    "give the container securityContext.seccompProfile {type: Localhost, \
                 localhostProfile: seccomp-hayloft.json} (the file lies in deploy/)"
                }
                None if self.filtered => {
                    "a system call filter is on the runner: use one that allows what \
                 deploy/seccomp-hayloft.json allows"
                }
                None => "use a kernel with CONFIG_NAMESPACES, CONFIG_USER_NS and CONFIG_NET_NS",
            }
            .to_owned(),
        ];
        cures.extend(self.unconfine());
        cures.join("; ")
    }

    /// What lets a `/proc` be mounted.
    #[must_use]
    pub fn allow_proc(&self) -> String {
        let mut cures = vec![
            match self.container {
                Some(Container::Docker) => {
                    "run the container with --security-opt systempaths=unconfined"
                }
                Some(Container::Podman) => "run the container with --security-opt unmask=ALL",
                Some(Container::Kubernetes) => {
                    "give the container securityContext.procMount: Unmasked, for which the \
                     pod needs hostUsers: false"
                }
                None => {
                    "nothing may be mounted over parts of /proc (mount_namespaces(7)): unmount it"
                }
            }
            .to_owned(),
        ];
        cures.extend(self.unconfine());
        cures.join("; ")
    }

    fn unconfine(&self) -> Option<String> {
        let profile = self.apparmor.as_ref()?;
        Some(match self.container {
            Some(Container::Docker | Container::Podman) => {
                format!(
                    "its AppArmor profile {profile} denies mounts: --security-opt apparmor=unconfined"
                )
            }
            Some(Container::Kubernetes) => format!(
                "its AppArmor profile {profile} denies mounts: \
                 securityContext.appArmorProfile {{type: Unconfined}}"
            ),
            None => format!("the AppArmor profile {profile} confines it: allow userns and mount"),
        })
    }
}

/// Files, the content that forbids user namespaces, and the cure.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user.max_user_namespaces=15000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0, or give the program an AppArmor \
         profile with `userns,`",
    ),
];

/// Of `PROFILE (MODE)`; none where nothing is enforced.
fn profile(attribute: &str) -> Option<String> {
    let (name, mode) = attribute.trim().rsplit_once(" (")?;
    (mode == "enforce)").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enforced_profiles_are_named() {
        assert_eq!(
            profile("docker-default (enforce)\n").unwrap(),
            "docker-default"
        );
        assert_eq!(profile("unconfined\n"), None);
        assert_eq!(profile("x (complain)"), None);
    }

    #[test]
    fn cures_are_those_of_the_surroundings() {
        let mut inside = Surroundings {
            container: Some(Container::Kubernetes),
            filtered: true,
            apparmor: Some("cri-containerd.apparmor.d".to_owned()),
            forbidden_by: None,
        };
        let cure = inside.allow_namespaces();
        assert!(cure.contains("seccompProfile"), "{cure}");
        assert!(cure.contains("appArmorProfile"), "{cure}");
        assert!(inside.allow_proc().contains("procMount: Unmasked"));
        inside.container = Some(Container::Docker);
        let cure = inside.allow_namespaces();
        assert!(cure.contains("--security-opt seccomp="), "{cure}");
        assert!(cure.contains("apparmor=unconfined"), "{cure}");
        // What the kernel forbids, no container's settings give.
        inside.forbidden_by = Some("user.max_user_namespaces=15000");
        assert_eq!(
            inside.allow_namespaces(),
            "sysctl -w user.max_user_namespaces=15000"
        );
    }
}
