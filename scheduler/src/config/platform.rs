//! Platforms in the configuration, and queues that it predeclares.

use daemon::config::Duration;
use proto::PlatformKey;
use serde::{Deserialize, Serialize};

/// A platform queue that exists from the start.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PredeclaredPlatformQueue {
    /// The prefix of the instance names it serves; empty: all.
    #[serde(default)]
    pub instance_name_prefix: String,
    /// The platform it serves.
    #[serde(default)]
    pub platform: Platform,
    /// The sizes that its workers come in, ascending: say, their numbers of CPUs.
    /// Actions are tried on the smallest, and those that fail there once more on
    /// the largest. Absent: no sizes are told apart.
    #[serde(default)]
    pub size_classes: Vec<u32>,
    /// How long a worker stays with an invocation to which others are equal: a
    /// time for each level of the tree, the outermost first. Absent: not at all,
    /// so that workers take turns.
    #[serde(default)]
    pub worker_invocation_stickiness_limits: Vec<Duration>,
}

/// A platform: its properties in any order, as a list or, as Buildbarn's files
/// have it, in the form of REv2's message.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "expected a list of properties, each of a name and a value"
)]
pub enum Platform {
    /// The list.
    Properties(Vec<Property>),
    /// The message.
    Message(PlatformMessage),
}

impl Default for Platform {
    fn default() -> Self {
        Self::Properties(Vec::new())
    }
}

/// REv2's message.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformMessage {
    /// The list.
    pub properties: Vec<Property>,
}

impl Platform {
    pub(crate) fn key(&self) -> PlatformKey {
        let (Self::Properties(properties) | Self::Message(PlatformMessage { properties })) = self;
        let pairs = properties.iter();
        PlatformKey::from_properties(
            pairs.map(|property| (property.name.clone(), property.value.clone())),
        )
    }
}

/// A property of a platform.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}
