//! The configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use daemon::duration::Duration;
use daemon::{AuthenticationPolicy, Endpoint, Global, Upstream};
use sandbox::{CgroupChoice, HostIds, Need, Policy, Protection, ServiceHalf};
use serde::{Deserialize, Serialize};

use crate::attendant::Duties;
use crate::error::StartError;
use crate::limits::{self, CommandLimits};

/// The configuration of a runner.
///
/// Keys that mean the same in Buildbarn's `bb_runner` bear its names
/// (bb-remote-execution, `pkg/proto/configuration/bb_runner`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What all programs have: the diagnostics server.
    #[serde(default)]
    pub global: Global,
    /// The absolute directory that worker and runner share; every path of a
    /// request is relative to it. Each of the two may know it by a path of its own.
    pub build_directory_path: PathBuf,
    /// Where to serve. Whoever can connect can run commands: a unix socket is
    /// made connectable for every user, since the worker is another one, so its
    /// directory is to be closed to all but the worker.
    pub grpc_servers: Vec<Endpoint>,
    /// What commands see as `/`.
    #[serde(default)]
    pub root: Root,
    /// The host uids (and gids, the same numbers) that commands run at, one per
    /// sandbox. A runner that root starts needs them; for any other they are
    /// subordinate ids of its user (`subuid(5)`, `subgid(5)`), which `newuidmap(1)` maps.
    /// Without it commands run as the runner's own user, and a worker of the same
    /// user must copy inputs instead of hardlinking them.
    pub uid_range: Option<UidRange>,
    /// Who the half that speaks gRPC is when root starts the runner: neither root
    /// nor of `uid_range`, and best nobody else.
    pub service_uid: Option<u32>,
    /// Its group; `service_uid`'s number when absent.
    pub service_gid: Option<u32>,
    /// How many sandboxes are kept ready ahead of commands; at least 1.
    #[serde(default = "default_pool_size")]
    pub pool_size: usize,
    /// How many commands run at a time; further ones wait for their turn. Absent:
    /// 256, or what `uid_range`, `pool_size` and the hard limit of open files
    /// (`RLIMIT_NOFILE`) allow when that is less.
    pub maximum_concurrent: Option<usize>,
    /// Sets `TMPDIR` to the action's temporary directory, unless the action sets it.
    #[serde(default)]
    pub set_tmpdir_environment_variable: bool,
    /// Further absolute host directories that commands see, read-only, at the same
    /// place; with `root = "host"` only.
    #[serde(default)]
    pub read_only_binds: Vec<PathBuf>,
    /// The same, writable as far as modes let commands' uids. What one command writes
    /// there every other sees: nothing of it is hermetic.
    #[serde(default)]
    pub read_write_binds: Vec<PathBuf>,
    /// Absolute paths that lead to `/tmp` inside, which is each action's own; with
    /// `root = "host"` only.
    #[serde(default)]
    pub symlink_temporary_directories: Vec<PathBuf>,
    /// Absolute paths of the host that must exist for the runner to be ready, say of a
    /// file system that is mounted. Where one is missing when a command failed, that is
    /// no result but UNAVAILABLE.
    #[serde(default)]
    pub readiness_checking_pathnames: Vec<PathBuf>,
    /// A program of the host's and its arguments, run as the runner's user, before the
    /// first command and after the last one of those that run at a time.
    #[serde(default)]
    pub run_command_cleaner: Vec<String>,
    /// Who is told of each command's temporary directory before that starts
    /// (`buildbarn.tmp_installer`).
    pub temporary_directory_installer: Option<Upstream>,
    /// Limits of each command.
    #[serde(default)]
    pub limits: CommandLimits,
    /// The most that a request may ask for, by the names of `limits`; where it has
    /// none, no more than `limits`.
    #[serde(default)]
    pub maximum_limits: BTreeMap<String, u64>,
    /// The control group (v2) that each command gets one of its own in.
    #[serde(default)]
    pub cgroup: Cgroup,
    /// How long a command whose timeout passed has to end when it, and all its
    /// processes, were sent SIGTERM, before they are killed. 2 s; at most 30 s, for
    /// workers do not wait longer. 0: they are killed at once.
    #[serde(default = "default_termination_grace")]
    pub termination_grace: Duration,
    /// How much a protection matters, where more than by default.
    #[serde(default)]
    pub protections: BTreeMap<String, Importance>,
    /// How much a protection matters, where less than by default. Each one gives
    /// up what the documentation of that protection promises.
    #[serde(default)]
    pub unsafe_protections: BTreeMap<String, Importance>,
}

impl daemon::config::Configuration for Config {}

/// What commands see as `/`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// The runner's userland, read-only, with the input root at `/build/root`.
    #[default]
    Host,
    /// The input root (Buildbarn's `chroot_into_input_root`).
    Input,
}

/// Where control groups are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroup {
    /// In the runner's own, if that was delegated to it.
    #[default]
    Own,
    /// Nowhere.
    None,
    /// In this directory, which was delegated to the runner's user.
    #[serde(untagged)]
    At(PathBuf),
}

impl Cgroup {
    fn choice(&self) -> CgroupChoice {
        match self {
            Self::Own => CgroupChoice::Own,
            Self::None => CgroupChoice::None,
            Self::At(path) => CgroupChoice::At(path.clone()),
        }
    }
}

/// Host uids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UidRange {
    /// The first. None of the range may own anything else on the host.
    pub start: u32,
    /// How many: at least `maximum_concurrent` and `pool_size` together.
    pub count: u32,
}

/// How much a protection matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// Not used, though the host may have it.
    Off,
    /// Used where the host has it.
    BestEffort,
    /// Without it the runner does not start.
    Required,
}

const fn default_termination_grace() -> Duration {
    Duration(std::time::Duration::from_secs(2))
}

const fn default_pool_size() -> usize {
    4
}

/// How many commands run at a time unless something says otherwise.
const DEFAULT_MAXIMUM_CONCURRENT: usize = 256;

impl From<Importance> for Need {
    fn from(importance: Importance) -> Self {
        match importance {
            Importance::Off => Self::Off,
            Importance::BestEffort => Self::BestEffort,
            Importance::Required => Self::Required,
        }
    }
}

impl From<Need> for Importance {
    fn from(need: Need) -> Self {
        match need {
            Need::Off => Self::Off,
            Need::BestEffort => Self::BestEffort,
            Need::Required => Self::Required,
        }
    }
}

fn invalid<T>(key: &str, reason: impl Into<String>) -> Result<T, StartError> {
    Err(StartError::Config {
        key: key.into(),
        reason: reason.into(),
    })
}

impl Config {
    /// Checks the values against one another, and writes out what absent ones mean.
    ///
    /// `as_root`: whether root starts the runner.
    ///
    /// # Errors
    /// [`StartError::Config`], naming the key.
    pub fn effective(mut self, as_root: bool) -> Result<Self, StartError> {
        if !self.build_directory_path.is_absolute() {
            return invalid("build_directory_path", "is not an absolute path");
        }
        if self.grpc_servers.is_empty() {
            return invalid("grpc_servers", "is empty");
        }
        if self.pool_size == 0 {
            return invalid("pool_size", "must be at least 1");
        }
        if self.termination_grace.0 > std::time::Duration::from_secs(30) {
            return invalid("termination_grace", "is more than 30 s");
        }
        let relative = |path: &&PathBuf| !path.is_absolute();
        if let Some(path) = self.readiness_checking_pathnames.iter().find(relative) {
            let reason = format!("has {}, which is not an absolute path", path.display());
            return invalid("readiness_checking_pathnames", reason);
        }
        if self
            .run_command_cleaner
            .first()
            .is_some_and(String::is_empty)
        {
            return invalid("run_command_cleaner", "names no program");
        }
        self.check_users(as_root)?;
        self.check_callers(nix::unistd::geteuid().as_raw())?;
        let most = sandbox::most_concurrent(self.pool_size);
        self.maximum_concurrent = Some(self.concurrent(most)?);
        self.policy()?;
        Ok(self)
    }

    /// Without namespaces commands reach every socket with a path, the runner's as well,
    /// as the runner's own user (`own`).
    fn check_callers(&self, own: u32) -> Result<(), StartError> {
        let protection = Protection::UserNamespace.name();
        if self.unsafe_protections.get(protection) != Some(&Importance::Off) {
            return Ok(());
        }
        let tells_apart = |server: &Endpoint| match &server.authentication_policy {
            AuthenticationPolicy::PeerCredentials(allowed) => {
                allowed.gids.is_empty() && !allowed.uids.contains(&own)
            }
            _ => false,
        };
        if !self.grpc_servers.iter().all(tells_apart) {
            return invalid(
                "grpc_servers",
                "has one that commands can call, which without namespaces reach it: give each \
                 an authentication_policy of peer_credentials, with uids and without the \
                 runner's own",
            );
        }
        Ok(())
    }

    /// How many commands run at a time; the launcher can run `most`.
    fn concurrent(&self, most: usize) -> Result<usize, StartError> {
        let possible = match self.uid_range {
            Some(range) => {
                let count = usize::try_from(range.count).unwrap_or(usize::MAX);
                count.saturating_sub(self.pool_size)
            }
            None => usize::MAX,
        };
        let concurrent = self
            .maximum_concurrent
            .unwrap_or(DEFAULT_MAXIMUM_CONCURRENT.min(possible).min(most));
        if possible == 0 || concurrent > possible {
            return invalid(
                "uid_range.count",
                "is less than maximum_concurrent and pool_size together",
            );
        }
        if concurrent > most {
            return invalid(
                "maximum_concurrent",
                format!(
                    "is more than the {most} that the hard limit of open files (ulimit -Hn) and \
                     pool_size leave room for"
                ),
            );
        }
        if concurrent == 0 {
            return invalid("maximum_concurrent", "must be at least 1");
        }
        Ok(concurrent)
    }

    fn check_users(&mut self, as_root: bool) -> Result<(), StartError> {
        match (as_root, self.uid_range) {
            (true, None) => invalid(
                "uid_range",
                "is needed when root starts the runner: commands would run as root",
            ),
            (true, Some(range)) => {
                let Some(uid) = self.service_uid else {
                    return invalid("service_uid", "is needed when root starts the runner");
                };
                let gid = *self.service_gid.get_or_insert(uid);
                for (key, id) in [("service_uid", uid), ("service_gid", gid)] {
                    if id == 0 {
                        return invalid(key, "must not be root's");
                    }
                    if id >= range.start && id - range.start < range.count {
                        return invalid(key, "lies in uid_range, which belongs to commands");
                    }
                }
                Ok(())
            }
            // Subordinate ids: whether they are is found out when they are mapped.
            (false, _) => Ok(()),
        }
    }

    /// What is to be done around commands.
    pub(crate) fn duties(&self) -> Duties {
        Duties {
            pathnames: self.readiness_checking_pathnames.clone(),
            cleaner: self.run_command_cleaner.clone(),
            installer: self.temporary_directory_installer.clone(),
        }
    }

    /// The sandbox's policy.
    ///
    /// # Errors
    /// A protection that is unknown, or weakened outside `unsafe_protections`.
    pub fn policy(&self) -> Result<Policy, StartError> {
        let root = match self.root {
            Root::Host => sandbox::Root::Host,
            Root::Input => sandbox::Root::Input,
        };
        let host_ids = match self.uid_range {
            Some(UidRange { start, count }) => HostIds::Range { start, count },
            None => HostIds::SameUser,
        };
        let mut policy = Policy::new(root, host_ids);
        policy.limits = self.limits.checked()?;
        policy.maximum_limits = limits::maximum(&self.maximum_limits)?;
        policy.read_only_binds.clone_from(&self.read_only_binds);
        policy.read_write_binds.clone_from(&self.read_write_binds);
        policy
            .symlink_temporary_directories
            .clone_from(&self.symlink_temporary_directories);
        let named = |table: &str, name: &str| match Protection::from_name(name) {
            Some(protection) => Ok(protection),
            None => invalid(
                &format!("{table}.{name}"),
                format!(
                    "is no protection; there are {}",
                    Protection::ALL.map(Protection::name).join(", ")
                ),
            ),
        };
        for (name, importance) in &self.unsafe_protections {
            let protection = named("unsafe_protections", name)?;
            policy.set_need(protection, (*importance).into());
        }
        for (name, importance) in &self.protections {
            let protection = named("protections", name)?;
            if *importance < policy.need(protection).into() {
                return invalid(
                    &format!("protections.{name}"),
                    "is less than by default; what weakens the sandbox belongs in \
                     unsafe_protections",
                );
            }
            policy.set_need(protection, (*importance).into());
        }
        Ok(policy)
    }

    /// What the sandbox needs to know, for an [`effective`](Self::effective) configuration
    /// and its listening sockets.
    ///
    /// # Errors
    /// As [`policy`](Self::policy).
    pub fn sandbox(&self, keep: Vec<std::os::fd::RawFd>) -> Result<sandbox::Config, StartError> {
        let uid = self
            .service_uid
            .unwrap_or_else(|| nix::unistd::geteuid().as_raw());
        let gid = self
            .service_gid
            .unwrap_or_else(|| nix::unistd::getegid().as_raw());
        Ok(sandbox::Config {
            policy: self.policy()?,
            build_directory: self.build_directory_path.clone(),
            pool_size: self.pool_size,
            cgroup: self.cgroup.choice(),
            termination_grace: self.termination_grace.0,
            service: ServiceHalf { uid, gid, keep },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        let text = format!(
            r#"{{"build_directory_path": "/worker/build",
                "grpc_servers": ["unix:/worker/runner"]{extra}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn complaint(extra: &str, as_root: bool) -> String {
        config(extra).effective(as_root).unwrap_err().to_string()
    }

    const RANGE: &str = r#", "uid_range": {"start": 1000, "count": 10}, "service_uid": 900"#;

    #[test]
    fn absent_keys_are_written_out() {
        let plain = config("").effective(false).unwrap();
        assert_eq!(plain.maximum_concurrent, Some(256));
        assert_eq!(plain.root, Root::Host);
        assert_eq!(plain.policy().unwrap().host_ids, HostIds::SameUser);
        let root = config(RANGE).effective(true).unwrap();
        assert_eq!(root.maximum_concurrent, Some(6), "uids less warm sandboxes");
        assert_eq!(root.service_gid, Some(900));
        let again: Config = serde_json::from_str(&serde_json::to_string(&root).unwrap()).unwrap();
        assert_eq!(again.effective(true).unwrap().service_gid, Some(900));
    }

    #[test]
    fn commands_never_run_as_root_nor_as_the_service_half() {
        assert!(complaint("", true).starts_with("uid_range "));
        config(RANGE).effective(false).unwrap();
        let range = r#", "uid_range": {"start": 1000, "count": 10}"#;
        assert!(complaint(range, true).starts_with("service_uid "));
        for bad in [0, 1000, 1009] {
            let with = format!(r#"{range}, "service_uid": {bad}"#);
            assert!(complaint(&with, true).starts_with("service_uid "), "{bad}");
            let with = format!(r#"{range}, "service_uid": 900, "service_gid": {bad}"#);
            assert!(complaint(&with, true).starts_with("service_gid "), "{bad}");
        }
        for good in [999, 1010] {
            let with = format!(r#"{range}, "service_uid": {good}"#);
            config(&with).effective(true).unwrap();
        }
    }

    #[test]
    fn without_namespaces_commands_cannot_call_the_runner() {
        let policy = |text: &str| -> Result<(), String> {
            let mut config = config("");
            config.unsafe_protections =
                BTreeMap::from([(Protection::UserNamespace.name().to_owned(), Importance::Off)]);
            config.grpc_servers[0].authentication_policy = serde_json::from_str(text).unwrap();
            config.check_callers(7).map_err(|error| error.to_string())
        };
        assert_eq!(policy(r#"{"peer_credentials": {"uids": [8, 9]}}"#), Ok(()));
        for reached in [
            r#"{"allow": {}}"#,
            r#"{"peer_credentials": {"uids": [8, 7]}}"#,
            r#"{"peer_credentials": {"uids": [8], "gids": [8]}}"#,
            r#"{"any": {"policies": [{"peer_credentials": {"uids": [8]}}]}}"#,
        ] {
            let said = policy(reached).unwrap_err();
            assert!(said.contains("grpc_servers"), "{said}");
        }
    }

    #[test]
    fn there_are_uids_for_all_sandboxes() {
        let with = format!(r#"{RANGE}, "maximum_concurrent": 6, "pool_size": 4"#);
        config(&with).effective(true).unwrap();
        let with = format!(r#"{RANGE}, "maximum_concurrent": 7, "pool_size": 4"#);
        assert!(complaint(&with, true).starts_with("uid_range.count "));
        let with = format!(r#"{RANGE}, "pool_size": 10"#);
        assert!(complaint(&with, true).starts_with("uid_range.count "));
    }

    #[test]
    fn there_are_files_for_all_sandboxes() {
        assert_eq!(config("").concurrent(1000).unwrap(), 256);
        assert_eq!(config("").concurrent(10).unwrap(), 10);
        let asked = config(r#", "maximum_concurrent": 11"#);
        assert_eq!(asked.concurrent(11).unwrap(), 11);
        let message = asked.concurrent(10).unwrap_err().to_string();
        assert!(message.starts_with("maximum_concurrent "), "{message}");
        assert!(config("").concurrent(0).is_err());
    }

    #[test]
    fn only_the_unsafe_key_weakens() {
        let strict = config(r#", "protections": {"landlock_scopes": "required"}"#);
        let policy = strict.policy().unwrap();
        assert_eq!(policy.need(Protection::LandlockScopes), Need::Required);
        let weak = config(r#", "protections": {"seccomp": "best_effort"}"#);
        let message = weak.policy().unwrap_err().to_string();
        assert!(message.contains("protections.seccomp"), "{message}");
        assert!(message.contains("unsafe_protections"), "{message}");
        let weak = config(r#", "unsafe_protections": {"seccomp": "off"}"#);
        assert_eq!(weak.policy().unwrap().need(Protection::Seccomp), Need::Off);
        let message = complaint(r#", "unsafe_protections": {"luck": "off"}"#, false);
        assert!(message.contains("unsafe_protections.luck"), "{message}");
        assert!(message.contains("own_uid"), "{message}");
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for (extra, key) in [
            (r#", "pool_size": 0"#, "pool_size"),
            (r#", "maximum_concurrent": 0"#, "maximum_concurrent"),
            (
                r#", "limits": {"tmpfs_size_bytes": 0}"#,
                "limits.tmpfs_size_bytes",
            ),
        ] {
            assert!(complaint(extra, false).starts_with(key));
        }
        let mut relative = config("");
        relative.build_directory_path = "build".into();
        assert!(relative.effective(false).is_err());
        let mut silent = config("");
        silent.grpc_servers.clear();
        assert!(silent.effective(false).is_err());
    }
}
