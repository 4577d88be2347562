//! The configuration of the storage daemon.

use std::path::PathBuf;

use daemon::config::Duration;
use daemon::{Endpoint, Global, Upstream};
use serde::{Deserialize, Serialize};

use crate::authorizers::Authorizers;
use crate::updates::Updates;

/// A storage daemon: the embedded store, the endpoint for clients and the one for
/// workers and schedulers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What all programs have: the diagnostics server.
    #[serde(default)]
    pub global: Global,
    /// Where the store is kept. One process at a time.
    pub directory: PathBuf,
    /// What all blobs may take on disk together, in bytes. Those used longest ago
    /// go when it is exceeded. Default: 20 GiB.
    #[serde(default = "maximum_size_bytes")]
    pub maximum_size_bytes: u64,
    /// What all action results may take, in bytes. Default: 512 MiB.
    #[serde(default = "maximum_action_cache_size_bytes")]
    pub maximum_action_cache_size_bytes: u64,
    /// What small blobs may take in memory as well, in bytes. Default: 64 MiB.
    #[serde(default = "memory_cache_size_bytes")]
    pub memory_cache_size_bytes: u64,
    /// Where clients are served: storage, and execution if there is a scheduler.
    #[serde(default)]
    pub client_listen_addresses: Vec<Endpoint>,
    /// Where workers and schedulers are served: storage, and updates of the action
    /// cache. Whoever reaches these can write results that every client believes.
    #[serde(default)]
    pub internal_listen_addresses: Vec<Endpoint>,
    /// The scheduler that execution is passed on to. Default: none.
    #[serde(default)]
    pub scheduler: Option<Upstream>,
    /// Which clients may update the action cache: true, false, or instance name
    /// prefixes. Default: none.
    #[serde(default)]
    pub allow_client_action_cache_updates: Updates,
    /// Who may make which calls where clients are served. Default: all who can connect
    /// may make all.
    #[serde(default)]
    pub client_authorizers: Authorizers,
    /// The same where workers and schedulers are served.
    #[serde(default)]
    pub internal_authorizers: Authorizers,
    /// Blobs that nobody used for so long go, even if there is room. Default: never.
    #[serde(default)]
    pub maximum_age: Option<Duration>,
}

impl daemon::config::Configuration for Config {}

fn maximum_size_bytes() -> u64 {
    20 << 30
}

fn maximum_action_cache_size_bytes() -> u64 {
    512 << 20
}

fn memory_cache_size_bytes() -> u64 {
    64 << 20
}

impl Config {
    /// One with the defaults, which listens nowhere yet.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            global: Global::default(),
            directory,
            maximum_size_bytes: maximum_size_bytes(),
            maximum_action_cache_size_bytes: maximum_action_cache_size_bytes(),
            memory_cache_size_bytes: memory_cache_size_bytes(),
            client_listen_addresses: Vec::new(),
            internal_listen_addresses: Vec::new(),
            scheduler: None,
            allow_client_action_cache_updates: Updates::Never,
            client_authorizers: Authorizers::default(),
            internal_authorizers: Authorizers::default(),
            maximum_age: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directory_is_needed_and_unknown_keys_are_refused() {
        let read = |text| serde_json::from_str::<Config>(text);
        assert_eq!(
            read(r#"{"directory": "/d"}"#).unwrap(),
            Config::new("/d".into())
        );
        assert!(read("{}").is_err());
        assert!(read(r#"{"directory": "/d", "size": 1}"#).is_err());
        let full = Config {
            scheduler: Some("unix:/s".parse().unwrap()),
            client_listen_addresses: vec!["127.0.0.1:8980".parse().unwrap()],
            ..Config::new("/d".into())
        };
        let printed = serde_json::to_string(&full).unwrap();
        assert_eq!(read(&printed).unwrap(), full);
    }
}
