//! Where an action goes and whose it is.
//!
//! A router says for each action which platform counts, which invocation it belongs
//! to, and how long it may run. Most often one set of rules does for all; routers
//! by instance name and platform choose among others, and a remote one is another
//! program that is asked.

use std::time::Duration;

use daemon::Channel;
use proto::wire::remoteactionrouter::RouteActionRequest;
use proto::wire::remoteactionrouter::action_router_client::ActionRouterClient;
use proto::wire::rev2::Action;
use proto::{Digest, InstanceName, PlatformKey};

use super::invocation::{self, Caller, KeyExtractor};
use crate::config::{ActionRouter, Config, PlatformKeyExtractor, Simple};
use crate::error::Error;
use crate::queue::{InvocationKey, Timeouts};

/// How long another program may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Says where actions go.
#[derive(Clone, Debug)]
pub enum Router {
    /// By rules.
    Rules(Rules),
    /// By the first of these that is for the action, else by the other one.
    Choice {
        /// What is compared with the platforms of branches.
        platform: Which,
        /// The routers, those of the longest prefixes first, and of equal prefixes
        /// those for one platform.
        branches: Vec<Branch>,
        /// For what none is for.
        otherwise: Box<Router>,
    },
    /// By another program.
    Remote(ActionRouterClient<Channel>, Timeouts),
}

/// A router for some actions.
#[derive(Clone, Debug)]
pub struct Branch {
    prefix: InstanceName,
    platform: Option<PlatformKey>,
    router: Router,
}

/// Which platform counts.
#[derive(Clone, Debug)]
pub enum Which {
    /// The action's.
    Its,
    /// Always this one.
    This(PlatformKey),
}

impl Which {
    fn of(&self, action: &PlatformKey) -> PlatformKey {
        match self {
            Self::Its => action.clone(),
            Self::This(platform) => platform.clone(),
        }
    }
}

impl From<&PlatformKeyExtractor> for Which {
    fn from(extractor: &PlatformKeyExtractor) -> Self {
        match extractor {
            PlatformKeyExtractor::Action => Self::Its,
            PlatformKeyExtractor::Static(platform) => Self::This(platform.key()),
        }
    }
}

/// The rules of a router.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which platform counts.
    pub platform: Which,
    /// What makes executions one invocation.
    pub extractors: Vec<KeyExtractor>,
    /// Bounds on timeouts.
    pub timeouts: Timeouts,
}

/// What a router says of an action.
#[derive(Clone, Debug)]
pub struct Route {
    /// What is to be executed.
    pub action: Action,
    /// Which workers may have it.
    pub platform: PlatformKey,
    /// Whose it is, the outermost first.
    pub invocation: Vec<InvocationKey>,
    /// Bounds on how long it may run.
    pub timeouts: Timeouts,
}

impl Router {
    /// The router that a configuration describes.
    ///
    /// # Errors
    /// [`Error::Config`] where it contradicts itself, [`Error::Daemon`] where an
    /// address cannot be used.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Self::of(&config.action_router, config)
    }

    fn of(router: &ActionRouter, config: &Config) -> Result<Self, Error> {
        Ok(match router {
            ActionRouter::Simple(simple) => Self::Rules(Rules::of(simple, config)?),
            ActionRouter::Demultiplexing(choice) => {
                let branches = choice.backends.iter().map(|backend| {
                    let prefix = InstanceName::new(&backend.instance_name_prefix);
                    let prefix = prefix.map_err(|error| Error::Config {
                        key: "action_router.demultiplexing.backends.instance_name_prefix",
                        reason: error.to_string(),
                    })?;
                    Ok(Branch {
                        prefix,
                        platform: backend.platform.as_ref().map(|platform| platform.key()),
                        router: Self::of(&backend.action_router, config)?,
                    })
                });
                let mut branches = branches.collect::<Result<Vec<_>, Error>>()?;
                branches.sort_by_key(|branch| {
                    let length = branch.prefix.as_str().len();
                    (std::cmp::Reverse(length), branch.platform.is_none())
                });
                Self::Choice {
                    platform: (&choice.platform_key_extractor).into(),
                    branches,
                    otherwise: Box::new(Self::of(&choice.default_action_router, config)?),
                }
            }
            ActionRouter::Remote(upstream) => {
                let client = ActionRouterClient::new(upstream.connect()?);
                Self::Remote(client, config.timeouts(None, None)?)
            }
        })
    }

    /// Says where an action goes. `platform` is its own.
    ///
    /// # Errors
    /// Another program was to say it and does not: [`Error::Router`],
    /// [`Error::RouterAnswer`].
    pub async fn route(
        &self,
        digest: Digest,
        action: Action,
        platform: PlatformKey,
        caller: &Caller,
    ) -> Result<Route, Error> {
        let mut router = self;
        loop {
            match router {
                Self::Rules(rules) => return Ok(rules.route(action, &platform, caller)),
                Self::Choice {
                    platform: which,
                    branches,
                    otherwise,
                } => {
                    let asked = which.of(&platform);
                    let chosen = branches.iter().find(|branch| branch.is_for(caller, &asked));
                    router = chosen.map_or(otherwise, |branch| &branch.router);
                }
                Self::Remote(client, timeouts) => {
                    return ask(client.clone(), *timeouts, digest, action, caller).await;
                }
            }
        }
    }
}

impl Branch {
    fn is_for(&self, caller: &Caller, platform: &PlatformKey) -> bool {
        caller.instance.strip_prefix(&self.prefix).is_some()
            && self.platform.as_ref().is_none_or(|own| own == platform)
    }
}

impl Rules {
    fn of(simple: &Simple, config: &Config) -> Result<Self, Error> {
        let extractors = simple.invocation_key_extractors.as_ref();
        Ok(Self {
            platform: (&simple.platform_key_extractor).into(),
            extractors: extractors
                .unwrap_or(&config.invocation_key_extractors)
                .clone(),
            timeouts: config.timeouts(
                simple.default_execution_timeout,
                simple.maximum_execution_timeout,
            )?,
        })
    }

    fn route(&self, action: Action, platform: &PlatformKey, caller: &Caller) -> Route {
        Route {
            action,
            platform: self.platform.of(platform),
            invocation: invocation::keys(&self.extractors, caller),
            timeouts: self.timeouts,
        }
    }
}

/// Has another program say it.
async fn ask(
    mut client: ActionRouterClient<Channel>,
    timeouts: Timeouts,
    digest: Digest,
    action: Action,
    caller: &Caller,
) -> Result<Route, Error> {
    let request = RouteActionRequest {
        instance_name: caller.instance.to_string(),
        digest_function: digest.function().to_wire(),
        action: Some(action),
        request_metadata: caller.metadata.clone(),
    };
    let answer = tokio::time::timeout(ANSWER, client.route_action(request)).await;
    let answer = answer.map_err(|_| {
        let status = tonic::Status::unavailable(format!("no answer in {} s", ANSWER.as_secs()));
        Error::Router(Box::new(status))
    })?;
    let answer = answer.map_err(|status| Error::Router(Box::new(status)))?;
    let answer = answer.into_inner();
    let action = answer
        .action
        .ok_or(Error::RouterAnswer("its action is missing".into()))?;
    if action.platform.is_none() {
        return Err(Error::RouterAnswer("its action has no platform".into()));
    }
    let platform = PlatformKey::from_wire(action.platform.as_ref())
        .map_err(|error| Error::RouterAnswer(error.to_string()))?;
    if answer.invocation_keys.is_empty() {
        return Err(Error::RouterAnswer("it has no invocation keys".into()));
    }
    let invocation = answer.invocation_keys.into_iter();
    Ok(Route {
        action,
        platform,
        invocation: invocation.map(Into::into).collect(),
        timeouts,
    })
}
