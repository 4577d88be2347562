//! The part of the configuration that says how actions are placed.

use daemon::Upstream;
use daemon::config::Duration;
use serde::{Deserialize, Serialize};

use super::platform::Platform;
use crate::service::invocation::KeyExtractor;

/// How it is found out where an action goes and whose it is. Named as Buildbarn's
/// (bb-remote-execution, pkg/proto/configuration/scheduler, ActionRouter).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ActionRouter {
    /// By rules.
    Simple(Simple),
    /// By one of several routers, according to instance name and platform.
    Demultiplexing(Demultiplexing),
    /// By another program, which serves `buildbarn.remoteactionrouter` there.
    Remote(Upstream),
}

impl Default for ActionRouter {
    fn default() -> Self {
        Self::Simple(Simple::default())
    }
}

/// Rules. What is absent is as at the top of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simple {
    /// Which platform counts.
    pub platform_key_extractor: PlatformKeyExtractor,
    /// What makes executions one invocation.
    pub invocation_key_extractors: Option<Vec<KeyExtractor>>,
    /// For actions that give no timeout.
    pub default_execution_timeout: Option<Duration>,
    /// The longest timeout an action may give.
    pub maximum_execution_timeout: Option<Duration>,
}

/// Which platform decides which workers may have an action.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlatformKeyExtractor {
    /// That of the action or, where that has none, of its command.
    #[default]
    #[serde(alias = "action_and_command")]
    Action,
    /// This one, whatever the action says.
    Static(Platform),
}

/// Several routers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Demultiplexing {
    /// What is compared with the platforms of backends.
    #[serde(default)]
    pub platform_key_extractor: PlatformKeyExtractor,
    /// The routers, the one with the longest prefix taking precedence.
    pub backends: Vec<Backend>,
    /// For actions that none of them is for.
    pub default_action_router: Box<ActionRouter>,
}

/// One of several routers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The prefix of the instance names that it is for; empty: all.
    #[serde(default)]
    pub instance_name_prefix: String,
    /// The platform that it is for. Absent: any.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// The router.
    pub action_router: ActionRouter,
}
