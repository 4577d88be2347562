//! The configuration of `bb_scheduler`. Keys are named as Buildbarn's where they
//! mean the same (bb-remote-execution, pkg/proto/configuration/bb_scheduler).

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::PathBuf;

use daemon::config::{Configuration, Duration};
use daemon::{Authorizer, Endpoint, Global, Upstream};
use proto::InstanceName;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::queue::{After, Ignored, Limits, Predeclared, Settings, Timeouts};
use crate::service::Authorizers;
use crate::service::invocation::KeyExtractor;

mod action_router;
mod platform;

pub use action_router::{ActionRouter, Backend, Demultiplexing, PlatformKeyExtractor, Simple};
pub use platform::{Platform, PlatformMessage, PredeclaredPlatformQueue, Property};

/// What `bb_scheduler` is told. Only the addresses must be given.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What all programs have: the diagnostics server.
    #[serde(default)]
    pub global: Global,
    /// Where clients reach Execution, Operations and Capabilities.
    pub client_grpc_servers: Vec<Endpoint>,
    /// Where workers reach the OperationQueue. Whoever can connect here is
    /// trusted with every action, so keep it from clients.
    pub worker_grpc_servers: Vec<Endpoint>,
    /// Where operators reach the BuildQueueState. Whoever can connect here can end
    /// every action and keep every worker from work. None: nowhere.
    #[serde(default)]
    pub build_queue_state_grpc_servers: Vec<Endpoint>,
    /// A directory in which the scheduler notes that it runs. One that finds the note
    /// of an earlier one, which therefore did not end in order, first lets workers
    /// report what they execute, and takes it over: see `expected_workers`. Absent:
    /// actions are handed out at once after any start.
    #[serde(default)]
    pub state_directory: Option<PathBuf>,
    /// How many workers there are in all. After an unclean end nothing is handed out
    /// until so many have called, or for 15 seconds. Absent: for 15 seconds.
    #[serde(default)]
    pub expected_workers: Option<NonZeroU32>,
    /// Who may execute. Everybody who can connect.
    #[serde(default)]
    pub execute_authorizer: Authorizer,
    /// Who may be a worker, by the prefix of instance names that it serves. Everybody
    /// who can connect.
    #[serde(default)]
    pub synchronize_authorizer: Authorizer,
    /// Who may add and remove drains. Everybody who can connect.
    #[serde(default)]
    pub modify_drains_authorizer: Authorizer,
    /// Who may end operations. Everybody who can connect.
    #[serde(default)]
    pub kill_operations_authorizer: Authorizer,
    /// Where actions are read from: any REv2 storage.
    pub content_addressable_storage: Upstream,
    /// Asked for a result before an action is queued. Absent: clients ask
    /// themselves, as Bazel does, and everything that is sent is executed.
    #[serde(default)]
    pub action_cache: Option<Upstream>,
    /// The largest Command that is read, and the largest report of a worker that is
    /// taken. 16 MiB.
    #[serde(default = "default_maximum_message_size")]
    pub maximum_message_size_bytes: u64,
    /// The largest Action that is read. It is kept until it has been executed; a usual
    /// one has a few hundred bytes. 1 MiB.
    #[serde(default = "default_maximum_action_size")]
    pub maximum_action_size_bytes: u64,
    /// For actions that give no timeout. 30 minutes.
    #[serde(default = "default_execution_timeout")]
    pub default_execution_timeout: Duration,
    /// The longest timeout an action may give. 2 hours.
    #[serde(default = "maximum_execution_timeout")]
    pub maximum_execution_timeout: Duration,
    /// How long a platform queue outlives its last worker; and for how long
    /// after the start clients are asked to try again where no worker matches,
    /// instead of being refused for good. 15 minutes.
    #[serde(default = "no_workers_timeout")]
    pub platform_queue_with_no_workers_timeout: Duration,
    /// Platform queues that exist without workers: actions wait in them.
    #[serde(default)]
    pub predeclared_platform_queues: Vec<PredeclaredPlatformQueue>,
    /// Platform properties that do not decide which workers may run an action:
    /// a list of names, or `"*"` for all. Workers get them all the same.
    #[serde(default)]
    pub ignored_properties: IgnoredProperties,
    /// What makes executions one invocation, the outermost first: each invocation
    /// gets its share of the workers, and of that each invocation within it.
    /// `["correlated_invocations_id", "tool_invocation_id"]`.
    #[serde(default = "invocation_key_extractors")]
    pub invocation_key_extractors: Vec<KeyExtractor>,
    /// How it is found out where an action goes and whose it is, where that differs
    /// from action to action. Absent: by the keys here.
    #[serde(default)]
    pub action_router: ActionRouter,
    /// How many actions of one tenant may be queued at a platform; further ones are
    /// refused as RESOURCE_EXHAUSTED. A tenant is an outermost invocation: who
    /// calls, say, if the first of `invocation_key_extractors` is
    /// `authentication_metadata`. Absent: any number.
    #[serde(default)]
    pub maximum_queued_actions_per_tenant: Option<NonZeroU32>,
    /// How many workers of a platform one tenant may have at a time. Absent: any
    /// number.
    #[serde(default)]
    pub maximum_executing_actions_per_tenant: Option<NonZeroU32>,
    /// In which time a queued operation becomes one point of priority more
    /// urgent, so that the less urgent are not queued without end. 100 points
    /// count as much as twice the workers. `"0s"`: never. 1 minute.
    #[serde(default = "priority_aging_interval")]
    pub priority_aging_interval: Duration,
    /// How often an action is started in all, where workers disappear or fail while
    /// they execute it. 3.
    #[serde(default = "maximum_attempts")]
    pub maximum_attempts: NonZeroU32,
    /// Whether a worker that reports INTERNAL counts as one that failed. If not, the
    /// client is told so at once. true.
    #[serde(default = "retry_internal_errors")]
    pub retry_internal_errors: bool,
    /// How many actions of one innermost invocation may be queued at a platform;
    /// further ones are refused as RESOURCE_EXHAUSTED. Absent: any number.
    #[serde(default)]
    pub maximum_queued_actions_per_invocation: Option<NonZeroU32>,
    /// How many workers of a platform one invocation may have at a time; further
    /// actions stay queued even if workers are idle. Absent: any number.
    #[serde(default)]
    pub maximum_executing_actions_per_invocation: Option<NonZeroU32>,
}

/// The value of `ignored_properties`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a list of property names, or \"*\"")]
pub enum IgnoredProperties {
    /// Those of these names.
    Names(BTreeSet<String>),
    /// All.
    All(All),
}

/// `"*"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum All {
    /// The one value.
    #[serde(rename = "*")]
    Star,
}

impl Default for IgnoredProperties {
    fn default() -> Self {
        Self::Names(BTreeSet::new())
    }
}

impl Configuration for Config {}

/// After a failed call a worker calls again in this time at the latest, Buildbarn's
/// as ours.
const BACK_OFF: std::time::Duration = std::time::Duration::from_secs(5);

fn default_maximum_message_size() -> u64 {
    16 << 20
}

fn default_maximum_action_size() -> u64 {
    1 << 20
}

fn default_execution_timeout() -> Duration {
    Duration(Settings::default().timeouts.default)
}

fn maximum_execution_timeout() -> Duration {
    Duration(Settings::default().timeouts.maximum)
}

fn invocation_key_extractors() -> Vec<KeyExtractor> {
    vec![
        KeyExtractor::CorrelatedInvocationsId,
        KeyExtractor::ToolInvocationId,
    ]
}

fn priority_aging_interval() -> Duration {
    Duration(Settings::default().aging_interval.unwrap_or_default())
}

fn maximum_attempts() -> NonZeroU32 {
    let usual = u32::try_from(Settings::default().maximum_attempts);
    usual
        .ok()
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN)
}

fn retry_internal_errors() -> bool {
    Settings::default().retry_internal_errors
}

fn no_workers_timeout() -> Duration {
    Duration(Settings::default().no_workers_timeout)
}

impl Config {
    /// Checks what is checked at the start, short of what needs the network.
    ///
    /// # Errors
    /// As of [`run`](crate::run) for a configuration that contradicts itself.
    pub fn check(&self) -> Result<(), Error> {
        self.settings()?;
        self.predeclared()?;
        Ok(())
    }

    /// Who may do what.
    #[must_use]
    pub fn authorizers(&self) -> Authorizers {
        Authorizers {
            execute: self.execute_authorizer.clone(),
            synchronize: self.synchronize_authorizer.clone(),
            modify_drains: self.modify_drains_authorizer.clone(),
            kill_operations: self.kill_operations_authorizer.clone(),
        }
    }

    /// The numbers the queue is to go by.
    ///
    /// # Errors
    /// [`Error::Config`] when the default timeout is none or exceeds the maximum.
    pub fn settings(&self) -> Result<Settings, Error> {
        let timeouts = self.timeouts(None, None)?;
        Ok(Settings {
            ignored: match &self.ignored_properties {
                IgnoredProperties::Names(names) => Ignored::Names(names.clone()),
                IgnoredProperties::All(_) => Ignored::All,
            },
            timeouts,
            maximum_attempts: usize::try_from(self.maximum_attempts.get()).unwrap_or(usize::MAX),
            retry_internal_errors: self.retry_internal_errors,
            aging_interval: Some(self.priority_aging_interval.0),
            limits: Limits {
                queued: self
                    .maximum_queued_actions_per_invocation
                    .map(NonZeroU32::get),
                executing: self
                    .maximum_executing_actions_per_invocation
                    .map(NonZeroU32::get),
                queued_per_tenant: self.maximum_queued_actions_per_tenant.map(NonZeroU32::get),
                executing_per_tenant: self
                    .maximum_executing_actions_per_tenant
                    .map(NonZeroU32::get),
            },
            no_workers_timeout: self.platform_queue_with_no_workers_timeout.0,
            check_action_cache: self.action_cache.is_some(),
            ..Settings::default()
        })
    }

    /// Bounds on timeouts; those not given are as here.
    ///
    /// # Errors
    /// [`Error::Config`] when the default is none or exceeds the maximum.
    pub(crate) fn timeouts(
        &self,
        default: Option<Duration>,
        maximum: Option<Duration>,
    ) -> Result<Timeouts, Error> {
        let timeouts = Timeouts {
            default: default.unwrap_or(self.default_execution_timeout).0,
            maximum: maximum.unwrap_or(self.maximum_execution_timeout).0,
        };
        if timeouts.default.is_zero() || timeouts.default > timeouts.maximum {
            return Err(Error::Config {
                key: "default_execution_timeout",
                reason: format!(
                    "{} s is not between 0 and maximum_execution_timeout ({} s)",
                    timeouts.default.as_secs_f64(),
                    timeouts.maximum.as_secs_f64()
                ),
            });
        }
        Ok(timeouts)
    }

    /// What there is to wait for after an unclean end: every worker calls at least
    /// once in the busy interval, and again not much later if that fails.
    #[must_use]
    pub fn recovery(&self) -> After {
        let workers = self.expected_workers.map(NonZeroU32::get);
        After {
            longest: Settings::default().busy_interval + BACK_OFF,
            workers: workers.and_then(|workers| usize::try_from(workers).ok()),
        }
    }

    /// The platform queues that exist from the start.
    ///
    /// # Errors
    /// [`Error::Config`] when a prefix is no instance name, or size classes are not
    /// ascending or, there being several, zero.
    pub fn predeclared(&self) -> Result<Vec<Predeclared>, Error> {
        self.predeclared_platform_queues
            .iter()
            .map(|queue| {
                let prefix = InstanceName::new(&queue.instance_name_prefix).map_err(|error| {
                    Error::Config {
                        key: "predeclared_platform_queues.instance_name_prefix",
                        reason: error.to_string(),
                    }
                })?;
                let classes = &queue.size_classes;
                let ascending = classes.is_sorted_by(|a, b| a < b);
                if !ascending || (classes.len() > 1 && classes.contains(&0)) {
                    return Err(Error::Config {
                        key: "predeclared_platform_queues.size_classes",
                        reason: format!("{classes:?} are not ascending and above zero"),
                    });
                }
                let limits = &queue.worker_invocation_stickiness_limits;
                Ok(Predeclared {
                    prefix,
                    platform: queue.platform.key(),
                    size_classes: classes.clone(),
                    stickiness_limits: limits.iter().map(|limit| limit.0).collect(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: &str = "client_grpc_servers = ['unix:/run/clients']
        worker_grpc_servers = ['[::]:8983', 'fd:3']
        content_addressable_storage = 'grpc://storage:8980'
        ";

    fn load(rest: &str) -> Result<Config, daemon::Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scheduler.toml");
        std::fs::write(&path, format!("{ADDRESSES}{rest}")).unwrap();
        daemon::config::load(&path)
    }

    #[test]
    fn only_addresses_must_be_given() {
        let config = load("").unwrap();
        let (settings, usual) = (config.settings().unwrap(), Settings::default());
        assert_eq!(settings.timeouts.default, usual.timeouts.default);
        assert_eq!(settings.timeouts.maximum, usual.timeouts.maximum);
        assert_eq!(settings.no_workers_timeout, usual.no_workers_timeout);
        assert_eq!(settings.ignored, Ignored::default());
        assert!(!settings.check_action_cache);
        assert_eq!(settings.aging_interval, usual.aging_interval);
        assert_eq!(settings.maximum_attempts, usual.maximum_attempts);
        assert!(settings.retry_internal_errors);
        assert_eq!(
            (settings.limits.queued, settings.limits.executing),
            (None, None)
        );
        assert!(config.predeclared().unwrap().is_empty());
    }

    #[test]
    fn every_key_reaches_the_queue() {
        let config = load(
            "actionCache = 'grpc://storage:8980'
            default_execution_timeout = '10s'
            maximum_execution_timeout = '20s'
            platform_queue_with_no_workers_timeout = '30s'
            ignored_properties = ['network']
            invocation_key_extractors = ['tool_invocation_id']
            priority_aging_interval = '40s'
            maximum_attempts = 70
            retry_internal_errors = false
            maximum_queued_actions_per_invocation = 50
            maximum_executing_actions_per_invocation = 60
            [[predeclared_platform_queues]]
            instance_name_prefix = 'main'
            platform = { properties = [{ name = 'os', value = 'linux' }] }
            worker_invocation_stickiness_limits = ['1s', '2s']
            size_classes = [2, 8]
            [[predeclared_platform_queues]]
            platform = [{ name = 'os', value = 'plan9' }]",
        );
        let config = config.unwrap();
        let settings = config.settings().unwrap();
        assert_eq!(settings.timeouts.default.as_secs(), 10);
        assert_eq!(settings.timeouts.maximum.as_secs(), 20);
        assert_eq!(settings.no_workers_timeout.as_secs(), 30);
        assert!(settings.check_action_cache);
        let names = BTreeSet::from(["network".to_string()]);
        assert_eq!(settings.ignored, Ignored::Names(names));
        let queues = config.predeclared().unwrap();
        let queues: Vec<_> = queues
            .iter()
            .map(|queue| {
                let (prefix, platform) = (&queue.prefix, &queue.platform);
                let (classes, limits) = (&queue.size_classes, &queue.stickiness_limits);
                format!("{prefix} {platform} {classes:?} {limits:?}")
            })
            .collect();
        assert_eq!(
            queues,
            ["main {os=linux} [2, 8] [1s, 2s]", " {os=plan9} [] []"]
        );
        assert_eq!(
            config.invocation_key_extractors,
            [KeyExtractor::ToolInvocationId]
        );
        assert_eq!(
            settings.aging_interval.map(|interval| interval.as_secs()),
            Some(40)
        );
        assert_eq!(settings.maximum_attempts, 70);
        assert!(!settings.retry_internal_errors);
        assert_eq!(settings.limits.queued, Some(50));
        assert_eq!(settings.limits.executing, Some(60));

        let all = load("ignored_properties = '*'")
            .unwrap()
            .settings()
            .unwrap();
        assert_eq!(all.ignored, Ignored::All);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = load("ignored_properties = 'all'").unwrap_err().to_string();
        assert!(
            refused.contains("at ignored_properties: expected a list"),
            "{refused}"
        );
        let contradictory = load("default_execution_timeout = '3h'").unwrap().settings();
        let refused = contradictory.unwrap_err().to_string();
        assert!(
            refused.contains("default_execution_timeout: 10800 s"),
            "{refused}"
        );
        let reserved = "[[predeclared_platform_queues]]\ninstance_name_prefix = 'blobs'";
        assert!(load(reserved).unwrap().predeclared().is_err());
        for classes in ["[8, 2]", "[2, 2]", "[0, 2]"] {
            let rest = format!("[[predeclared_platform_queues]]\nsize_classes = {classes}");
            let refused = load(&rest).unwrap().predeclared().unwrap_err().to_string();
            assert!(refused.contains("size_classes"), "{refused}");
        }
    }
}
