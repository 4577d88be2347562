//! Policy and probe become a plan: an ordered list of steps, plain data.
//!
//! The launcher carries out the steps of [`Phase::Start`] once, a warm sandbox
//! those of [`Phase::Prepare`], the sandbox that gets a command those of
//! [`Phase::Request`], and the process that becomes the command those of
//! [`Phase::Command`]. What fails is reported as the step and its `errno`.

use std::fmt;

use thiserror::Error;

use crate::limits::{Limit, Limits};
use crate::policy::{HostIds, Need, Policy, Protection, Root};
use crate::policy_check;
use crate::probe::{Feature, Probe};
use crate::step::{Phase, Step};
use crate::subordinate::Subordinate;
use crate::without_namespaces::LANDLOCK_ABI;

/// Whether a protection holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub protection: Protection,
    /// Whether commands have it.
    pub held: bool,
    /// Why (not), for people.
    pub why: String,
    /// What to do to get it; empty when held.
    pub remedy: String,
}

/// Nothing may start: what is wanted cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The host lacks what a required protection rests on.
    #[error("{protection} is required but cannot be had: {why}; {remedy}")]
    Missing {
        /// Which protection.
        protection: Protection,
        /// What is missing.
        why: String,
        /// How to get it.
        remedy: String,
    },
    /// One protection rests on another that was switched off.
    #[error("{protection} needs {needs}, which is off; switch both off or none")]
    Depends {
        /// Which protection.
        protection: Protection,
        /// What it rests on.
        needs: Protection,
    },
    /// The host lacks something no sandbox can do without.
    #[error("the sandbox needs {feature}: {why}; {remedy}")]
    Host {
        /// What is missing.
        feature: Feature,
        /// Why it is.
        why: String,
        /// How to get it.
        remedy: String,
    },
    /// The policy makes no sense in itself.
    #[error("{0}")]
    Policy(&'static str),
}

/// What will be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By the launcher, once.
    pub start: Vec<Step>,
    /// By the init of each sandbox, ahead of any command.
    pub prepare: Vec<Step>,
    /// By init, when its command comes.
    pub request: Vec<Step>,
    /// By the process that becomes the command.
    pub command: Vec<Step>,
    /// Whether sandboxes are made of namespaces.
    pub namespaces: bool,
    /// Every protection, held or not.
    pub protections: Vec<Held>,
    /// What the command sees as `/`.
    pub root: Root,
    /// The command's host uid.
    pub host_ids: HostIds,
    /// The uid and gid that the command sees itself as.
    pub inner_id: u32,
    /// Limits of each command, where its request says nothing else.
    pub limits: Limits,
    /// The most that a request may ask for.
    pub maximum_limits: Limits,
}

/// Every step with the protections it gives, then every protection.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for phase in Phase::ALL {
            writeln!(f, "{phase}:")?;
            for step in self.steps(phase) {
                writeln!(f, "  {step}")?;
            }
        }
        writeln!(f, "protections:")?;
        for held in &self.protections {
            let (name, why) = (held.protection.name(), &held.why);
            if held.held {
                writeln!(f, "  held     {name}")?;
            } else {
                writeln!(f, "  missing  {name}: {why}")?;
            }
        }
        Ok(())
    }
}

impl Plan {
    /// Decides what will be done.
    ///
    /// # Errors
    /// What is required and missing, by name, with what to do about it.
    pub fn new(policy: &Policy, probe: &Probe) -> Result<Self, Refusal> {
        policy_check::check(policy)?;
        let mut protections = Vec::new();
        for (need, held) in decide(policy, probe) {
            if need == Need::Required && !held.held {
                return Err(Refusal::Missing {
                    protection: held.protection,
                    why: held.why,
                    remedy: held.remedy,
                });
            }
            protections.push(held);
        }
        let namespaces = policy.need(Protection::UserNamespace) != Need::Off;
        if namespaces {
            check_host(policy, probe)?;
        } else {
            check_without_namespaces(probe)?;
        }
        let held = |wanted| {
            protections
                .iter()
                .any(|h: &Held| h.protection == wanted && h.held)
        };
        Ok(Self {
            start: match namespaces {
                true => start(policy, probe, &held),
                false => Vec::new(),
            },
            prepare: match namespaces {
                true => prepare(policy, probe, &held),
                false => prepare_without_namespaces(policy, probe, &held),
            },
            request: match namespaces {
                true => request(policy, &held),
                false => Vec::new(),
            },
            command: command(policy, &held),
            namespaces,
            protections,
            root: policy.root,
            host_ids: policy.host_ids,
            inner_id: policy.inner_id,
            limits: policy.limits.clone(),
            maximum_limits: policy.maximum_limits.clone(),
        })
    }

    /// Every protection, as far as this host has it and the policy wants it, also where
    /// what is missing keeps sandboxes from being made.
    #[must_use]
    pub fn protections(policy: &Policy, probe: &Probe) -> Vec<Held> {
        let decided = decide(policy, probe).into_iter();
        decided.map(|(_, held)| held).collect()
    }

    /// The steps of one phase, in order.
    #[must_use]
    pub fn steps(&self, phase: Phase) -> &[Step] {
        match phase {
            Phase::Start => &self.start,
            Phase::Prepare => &self.prepare,
            Phase::Request => &self.request,
            Phase::Command => &self.command,
        }
    }

    /// Whether commands have this protection.
    #[must_use]
    pub fn holds(&self, protection: Protection) -> bool {
        self.protections
            .iter()
            .any(|held| held.protection == protection && held.held)
    }
}

/// How much each protection matters, and whether it is had.
fn decide(policy: &Policy, probe: &Probe) -> Vec<(Need, Held)> {
    let mut decided = Vec::new();
    for protection in Protection::ALL {
        let need = need(policy, protection, &decided);
        let (held, why, remedy) = match (need, missing(protection, policy, probe)) {
            (Need::Off, _) => {
                let remedy = format!("require {protection} in the policy");
                (false, "switched off".to_owned(), remedy)
            }
            (_, Some((why, remedy))) => (false, why, remedy),
            (_, None) => (true, "every command has it".to_owned(), String::new()),
        };
        let held = Held {
            protection,
            held,
            why,
            remedy,
        };
        decided.push((need, held));
    }
    decided
}

/// How much a protection matters, given those decided before it. On a network
/// that is shared, for whatever reason, nothing but scopes keeps commands from the
/// abstract sockets of others: there, only whoever switches them off goes without.
fn need(policy: &Policy, protection: Protection, decided: &[(Need, Held)]) -> Need {
    let shared_network = decided
        .iter()
        .any(|(_, other)| other.protection == Protection::NetworkNamespace && !other.held);
    match policy.need(protection) {
        Need::BestEffort if protection == Protection::LandlockScopes && shared_network => {
            Need::Required
        }
        need => need,
    }
}

fn check_host(policy: &Policy, probe: &Probe) -> Result<(), Refusal> {
    let mut needed = vec![Feature::MountCalls, Feature::OwnProc];
    if let HostIds::Range { start, count } = policy.host_ids {
        needed.push(foreign_ids(probe));
        let within = |range: &Subordinate| range.holds(start, count);
        if probe.uid != 0
            && probe.missing(Feature::SubordinateIds).is_none()
            && !probe.subordinate.iter().any(within)
        {
            let ranges = probe.subordinate.iter().map(ToString::to_string);
            let ranges = ranges.collect::<Vec<_>>().join(", ");
            return Err(Refusal::Host {
                feature: Feature::SubordinateIds,
                why: format!(
                    "the uid range {start}+{count} is not one of this user's subordinate ids, \
                     which are {ranges}"
                ),
                remedy: "choose a uid range within them".to_owned(),
            });
        }
    }
    for feature in needed {
        if let Some((why, remedy)) = probe.missing(feature) {
            return Err(Refusal::Host {
                feature,
                why,
                remedy,
            });
        }
    }
    Ok(())
}

fn check_without_namespaces(probe: &Probe) -> Result<(), Refusal> {
    if probe.uid == 0 {
        return Err(Refusal::Policy(
            "without namespaces the runner must not be root",
        ));
    }
    if probe.landlock_abi < LANDLOCK_ABI {
        let abi = probe.landlock_abi;
        return Err(Refusal::Missing {
            protection: Protection::LandlockFiles,
            why: format!(
                "without namespaces Landlock's ABI has to be {LANDLOCK_ABI}, and is {abi}"
            ),
            remedy: "use Linux 6.7 or newer".to_owned(),
        });
    }
    Ok(())
}

/// What mapping ids that are not the runner's own rests on.
fn foreign_ids(probe: &Probe) -> Feature {
    if probe.uid == 0 {
        Feature::RootCapabilities
    } else {
        Feature::SubordinateIds
    }
}

/// Why the host cannot give a protection, and what to do about it.
fn missing(protection: Protection, policy: &Policy, probe: &Probe) -> Option<(String, String)> {
    let feature = match protection {
        Protection::OwnUid => {
            return match policy.host_ids {
                HostIds::Range { .. } => probe.missing(foreign_ids(probe)),
                HostIds::SameUser => Some((
                    "commands run as the runner's own user".to_owned(),
                    "give the runner a range of host uids: root has them, other users have \
                     subordinate ones"
                        .to_owned(),
                )),
            };
        }
        Protection::ProtectedHardlinks => Feature::ProtectedHardlinks,
        Protection::UserNamespace => Feature::UserNamespace,
        Protection::MountNamespace => Feature::MountNamespace,
        Protection::PidNamespace => Feature::PidNamespace,
        Protection::IpcNamespace => Feature::IpcNamespace,
        Protection::UtsNamespace => Feature::UtsNamespace,
        Protection::NetworkNamespace => Feature::NetworkNamespace,
        Protection::NoCapabilities | Protection::NoNewPrivileges => return None,
        Protection::Seccomp => Feature::Seccomp,
        Protection::LandlockFiles => Feature::Landlock,
        Protection::LandlockScopes => {
            if policy.need(Protection::LandlockFiles) == Need::Off {
                return Some((
                    "landlock_files is off".to_owned(),
                    "switch landlock_files on".to_owned(),
                ));
            }
            Feature::LandlockScopes
        }
    };
    probe.missing(feature)
}

fn start(policy: &Policy, probe: &Probe, held: &dyn Fn(Protection) -> bool) -> Vec<Step> {
    let mut steps = Vec::new();
    match policy.host_ids {
        HostIds::SameUser => steps.push(Step::LauncherUserNamespace { subordinate: None }),
        HostIds::Range { start, count } if probe.uid != 0 => {
            let subordinate = Some((start, count));
            steps.push(Step::LauncherUserNamespace { subordinate });
        }
        HostIds::Range { .. } => {}
    }
    steps.push(Step::LauncherRoot);
    if policy.root == Root::Host {
        for (path, is_symlink) in &probe.userland {
            steps.push(if *is_symlink {
                Step::CopySymlink(path.clone())
            } else {
                Step::BindReadOnly(path.clone())
            });
        }
        let extra = policy.read_only_binds.iter().cloned();
        steps.extend(extra.map(Step::BindReadOnly));
        let extra = policy.read_write_binds.iter().cloned();
        steps.extend(extra.map(Step::BindReadWrite));
        let extra = policy.symlink_temporary_directories.iter().cloned();
        steps.extend(extra.map(Step::SymlinkTemporary));
        steps.push(Step::NeutralEtc {
            id: policy.inner_id,
            network: !held(Protection::NetworkNamespace),
        });
    }
    steps.push(Step::Devices);
    steps
}

fn prepare(policy: &Policy, probe: &Probe, held: &dyn Fn(Protection) -> bool) -> Vec<Step> {
    let network = held(Protection::NetworkNamespace);
    let pooled = network && pools_networks(policy, probe, held);
    let uts = held(Protection::UtsNamespace);
    let mut steps = Vec::new();
    if pooled {
        steps.push(Step::UnusedNetwork);
    }
    steps.extend([
        Step::UserAndPidNamespaces {
            inner: policy.inner_id,
        },
        Step::TakeIds(policy.inner_id),
        Step::DieWithLauncher,
        Step::Namespaces {
            // No protection of its own: all it hides is names of the host's.
            cgroup: probe.missing(Feature::CgroupNamespace).is_none(),
            ipc: held(Protection::IpcNamespace),
            uts,
            network: network && !pooled,
        },
    ]);
    if uts {
        steps.push(Step::Hostname(policy.hostname.clone()));
    }
    if network && !pooled {
        steps.push(Step::Loopback);
    }
    steps.extend([
        Step::AttachBase,
        Step::Proc,
        Step::PseudoTerminals,
        tmpfs("dev/shm", policy, Limit::Shm),
    ]);
    if held(Protection::NoCapabilities) {
        steps.push(Step::EmptyBoundingSet);
    }
    if policy.root == Root::Host {
        steps.extend([tmpfs("var/tmp", policy, Limit::Tmpfs), Step::PivotRoot]);
        steps.extend(landlock_rules(held));
    }
    steps
}

/// Of a sandbox that is a process like others, and sees what those see.
fn prepare_without_namespaces(
    policy: &Policy,
    probe: &Probe,
    held: &dyn Fn(Protection) -> bool,
) -> Vec<Step> {
    let mut steps = vec![Step::OwnProcessTree];
    steps.extend(landlock_rules(held));
    let places = probe.userland.iter().map(|(path, _)| path);
    let places = places.chain(&policy.read_only_binds);
    steps.extend(places.cloned().map(Step::AllowReading));
    let places = policy.read_write_binds.iter().cloned();
    steps.extend(places.map(Step::AllowWriting));
    steps
}

/// Whether networks are made by the launcher and used again while untouched. It must
/// have the right to enter them and to bring loopback up there; and the filter must
/// hold, since sockets of other families than it allows leave other traces.
fn pools_networks(policy: &Policy, probe: &Probe, held: &dyn Fn(Protection) -> bool) -> bool {
    matches!(policy.host_ids, HostIds::Range { .. })
        && held(Protection::Seccomp)
        && probe.missing(Feature::NetworkAdministration).is_none()
}

fn tmpfs(path: &'static str, policy: &Policy, limit: Limit) -> Step {
    Step::PrivateTmpfs {
        path,
        // The policy was checked to have one.
        bytes: policy.limits[limit].unwrap_or(1),
    }
}

fn request(policy: &Policy, held: &dyn Fn(Protection) -> bool) -> Vec<Step> {
    let temporary = Step::AttachTemporaryDirectory {
        bytes: policy.limits[Limit::Tmpfs].unwrap_or(1),
    };
    match policy.root {
        Root::Host => vec![
            Step::SizeMemoryDirectories,
            Step::AttachInputRoot("build/root"),
            temporary,
        ],
        Root::Input => {
            let mut steps = vec![
                Step::SizeMemoryDirectories,
                Step::AttachInputRoot("."),
                Step::MoveIntoInputRoot,
                temporary,
                Step::PivotRoot,
            ];
            steps.extend(landlock_rules(held));
            steps
        }
    }
}

fn landlock_rules(held: &dyn Fn(Protection) -> bool) -> Option<Step> {
    held(Protection::LandlockFiles).then(|| Step::LandlockRules {
        scopes: held(Protection::LandlockScopes),
    })
}

fn command(policy: &Policy, held: &dyn Fn(Protection) -> bool) -> Vec<Step> {
    let namespaces = held(Protection::UserNamespace);
    let mut steps = vec![
        Step::Session,
        Step::OutOfMemoryFirst,
        Step::ResourceLimits(policy.limits.clone()),
        match namespaces {
            true => Step::TakeIdsOfRequest,
            false => Step::EnterInputRoot,
        },
    ];
    if held(Protection::NoCapabilities) {
        steps.push(Step::DropCapabilities);
    }
    if held(Protection::NoNewPrivileges) {
        steps.push(Step::NoNewPrivileges);
    }
    steps.push(Step::DieWithInit);
    if held(Protection::LandlockFiles) {
        steps.push(Step::EnterLandlock);
    }
    // The action chooses the directory, also through links: it is resolved when
    // nothing but the command's own descriptors is left to go through /proc to.
    steps.extend([Step::Descriptors, Step::WorkingDirectory]);
    if held(Protection::Seccomp) {
        steps.push(Step::EnterSeccomp);
    }
    steps.push(Step::Execute);
    steps
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
