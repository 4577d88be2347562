//! The configuration of `bb_worker`. Keys are named as Buildbarn's where they
//! mean the same (bb-remote-execution, pkg/proto/configuration/bb_worker).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use daemon::config::Configuration;
use daemon::{Global, Upstream};
use proto::{InstanceName, PlatformKey};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cache::ReplacementPolicy;
use crate::completed_actions::LoggerConfig;
use crate::cost::Prices;

/// What a worker is told. Addresses and directories must be given.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What all programs have: the diagnostics server.
    #[serde(default)]
    pub global: Global,
    /// Where blobs are: any REv2 storage.
    pub content_addressable_storage: Upstream,
    /// Where results are written. Absent: the same storage.
    #[serde(default)]
    pub action_cache: Option<Upstream>,
    /// The scheduler's port for workers.
    pub scheduler: Upstream,
    /// The directory that worker and runners share, and that the worker empties
    /// when it starts. Nobody but the worker may be able to write to it; the
    /// runner must be able to pass through it.
    pub build_directory_path: PathBuf,
    /// The file cache: on the same file system as the build directory, or inputs
    /// are copied. For the worker alone.
    pub cache_directory_path: PathBuf,
    /// How much the file cache may occupy on disk, beside what running actions
    /// use at the moment. 10 GiB.
    #[serde(default = "default_cache_size")]
    pub maximum_cache_size_bytes: u64,
    /// How many files it may hold. 1,000,000.
    #[serde(default = "default_cache_files")]
    pub maximum_cache_file_count: u64,
    /// Which of its files that no action uses makes room. `LEAST_RECENTLY_USED`.
    #[serde(default)]
    pub cache_replacement_policy: ReplacementPolicy,
    /// How many components of an action's instance name tell its tenant. Tenants
    /// share no cached files and messages, so that none learns what others hold.
    /// 0: all share.
    #[serde(default)]
    pub cache_tenant_components: usize,
    /// What must be free on the disks of build directory and cache for a slot to ask
    /// for work, in bytes; the cache makes room first. 256 MiB.
    #[serde(default = "default_free_space")]
    pub minimum_free_space_bytes: u64,
    /// And in inodes. 10,000.
    #[serde(default = "default_free_inodes")]
    pub minimum_free_inodes: u64,
    /// How many files, links and directories of input roots may be kept on disk as
    /// layers, hardlinks of cached files over which the input roots of later actions
    /// are laid. Each takes some 100 bytes of memory. 0: every input root is linked
    /// anew. 1,000,000.
    #[serde(default = "default_layer_entries")]
    pub maximum_layer_file_count: u64,
    /// Whether the modes of inputs are 0644 and 0755, so that actions which see them as
    /// their own may write them, rather than 0444 and 0555. false.
    #[serde(default)]
    pub writable_inputs: bool,
    /// Directory messages kept in memory, in bytes of memory. 128 MiB.
    #[serde(default = "default_memory")]
    pub maximum_memory_cached_directories_size_bytes: u64,
    /// Downloads under way at a time, of all slots together. 32.
    #[serde(default = "default_concurrency")]
    pub input_download_concurrency: usize,
    /// Uploads under way at a time, of all slots together. 32.
    #[serde(default = "default_concurrency")]
    pub output_upload_concurrency: usize,
    /// How many files, directories and links all outputs of an action may be.
    /// 1,000,000.
    #[serde(default = "default_output_entries")]
    pub maximum_output_entries: usize,
    /// How many bytes all outputs of an action may have, standard output and error
    /// included. What exceeds it is refused by its size, before any of it is read.
    /// 64 GiB.
    #[serde(default = "default_output_size")]
    pub maximum_output_size_bytes: u64,
    /// Store the Directory messages of output directories besides their Trees,
    /// whatever the client asks for.
    #[serde(default)]
    pub force_upload_trees_and_directories: bool,
    /// Buildbarn's browser, for links in responses.
    #[serde(default)]
    pub browser_url: Option<String>,
    /// Services that are told of each completed action.
    #[serde(default)]
    pub completed_action_loggers: Vec<LoggerConfig>,
    /// The runners, one at least.
    pub runners: Vec<RunnerConfig>,
}

/// A runner, and the slots that use it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerConfig {
    /// Where it is.
    pub endpoint: Upstream,
    /// How many actions it runs at a time: the number of slots. 1.
    #[serde(default = "one")]
    pub concurrency: usize,
    /// The platform that the slots serve: properties, in any order.
    #[serde(default)]
    pub platform: Platform,
    /// Names the slots to the scheduler, besides `thread`, which tells them apart
    /// where there are several. Absent: the host's name.
    #[serde(default)]
    pub worker_id: BTreeMap<String, String>,
    /// The prefix of the instance names that the slots serve.
    #[serde(default)]
    pub instance_name_prefix: String,
    /// Environment variables that every command gets; the command's own win.
    #[serde(default)]
    pub environment_variables: BTreeMap<String, String>,
    /// Names of character devices of this machine's `/dev` that are made in `dev` of
    /// every input root, for runners that make it the root directory and supply none.
    /// Takes `CAP_MKNOD`.
    #[serde(default)]
    pub input_root_character_device_nodes: Vec<String>,
    /// How large the slots are among those of their platform, where it has several
    /// sizes. 0: it has not.
    #[serde(default)]
    pub size_class: u32,
    /// What having a slot costs each second, by kind of expense. Absent: results
    /// say nothing of it.
    #[serde(default)]
    pub costs_per_second: Prices,
    /// How many actions in a row may report, on one slot, that a test's
    /// infrastructure failed, before the worker goes out of service. Absent or 0:
    /// any number.
    #[serde(default)]
    pub maximum_consecutive_test_infrastructure_failures: u32,
    /// Limits that actions may ask for by platform properties of these names (those of
    /// the runner's limits), and the most of each. Other properties have no effect.
    #[serde(default)]
    pub maximum_limits: BTreeMap<String, u64>,
}

/// A platform: a list of properties, or REv2's message with such a list.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Platform {
    /// The properties.
    Properties(Vec<Property>),
    /// As Buildbarn's configuration files have it.
    Message {
        /// The properties.
        properties: Vec<Property>,
    },
}

/// One property of a platform.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Default for Platform {
    fn default() -> Self {
        Self::Properties(Vec::new())
    }
}

impl Configuration for Config {
    const FREE_FORM: &'static [&'static str] =
        &["costs_per_second", "environment_variables", "worker_id"];
}

fn default_cache_size() -> u64 {
    10 << 30
}

fn default_cache_files() -> u64 {
    1_000_000
}

fn default_free_space() -> u64 {
    256 << 20
}

fn default_free_inodes() -> u64 {
    10_000
}

fn default_layer_entries() -> u64 {
    1_000_000
}

fn default_memory() -> u64 {
    128 << 20
}

fn default_concurrency() -> usize {
    32
}

fn default_output_entries() -> usize {
    1_000_000
}

fn default_output_size() -> u64 {
    64 << 30
}

fn one() -> usize {
    1
}

/// One slot, as configured.
#[derive(Clone, Debug)]
pub(crate) struct SlotConfig {
    pub(crate) worker_id: BTreeMap<String, String>,
    pub(crate) prefix: InstanceName,
    pub(crate) platform: PlatformKey,
    pub(crate) size_class: u32,
}

impl Config {
    /// Checks what is checked at the start, short of what needs directories and peers.
    ///
    /// # Errors
    /// [`Error::Configuration`], naming the key.
    pub fn check(&self) -> Result<(), Error> {
        self.slots().map(drop)
    }

    /// Checks what the types do not, and lists the slots of each runner.
    ///
    /// # Errors
    /// [`Error::Configuration`], naming the key.
    pub(crate) fn slots(&self) -> Result<Vec<Vec<SlotConfig>>, Error> {
        let refuse = |key, reason: &str| {
            Err(Error::Configuration {
                key,
                reason: reason.into(),
            })
        };
        if self.runners.is_empty() {
            return refuse("runners", "at least one is needed");
        }
        if self.input_download_concurrency == 0 {
            return refuse("input_download_concurrency", "must be positive");
        }
        if self.output_upload_concurrency == 0 {
            return refuse("output_upload_concurrency", "must be positive");
        }
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for runner in &self.runners {
            if runner.concurrency == 0 {
                return refuse("runners.concurrency", "must be positive");
            }
            runner.costs_per_second.check()?;
            let prefix = InstanceName::new(&runner.instance_name_prefix).map_err(|error| {
                Error::Configuration {
                    key: "runners.instance_name_prefix",
                    reason: error.to_string(),
                }
            })?;
            let platform = runner.platform.key();
            let mut slots = Vec::new();
            for thread in 0..runner.concurrency {
                let slot = SlotConfig {
                    worker_id: runner.worker_id(thread)?,
                    prefix: prefix.clone(),
                    platform: platform.clone(),
                    size_class: runner.size_class,
                };
                let identity = (
                    slot.prefix.clone(),
                    slot.platform.clone(),
                    slot.size_class,
                    slot.worker_id.clone(),
                );
                if !seen.insert(identity) {
                    return refuse(
                        "runners.worker_id",
                        "two slots of one platform, prefix and size class have the same",
                    );
                }
                slots.push(slot);
            }
            all.push(slots);
        }
        Ok(all)
    }
}

impl RunnerConfig {
    /// As Buildbarn's: the configured id, with the slot's number unless that
    /// says otherwise.
    fn worker_id(&self, thread: usize) -> Result<BTreeMap<String, String>, Error> {
        let mut id = self.worker_id.clone();
        if id.is_empty() {
            let name =
                nix::unistd::gethostname().map_err(Error::file("read", "the host's name"))?;
            id.insert("hostname".into(), name.to_string_lossy().into_owned());
        }
        if self.concurrency > 1 {
            let width = (self.concurrency - 1).to_string().len();
            id.entry("thread".into())
                .or_insert_with(|| format!("{thread:0width$}"));
        }
        Ok(id)
    }
}

impl Platform {
    fn key(&self) -> PlatformKey {
        let (Self::Properties(properties) | Self::Message { properties }) = self;
        let pairs = properties.iter();
        PlatformKey::from_properties(pairs.map(|p| (p.name.clone(), p.value.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(runners: &str) -> Config {
        let text = format!(
            r#"{{"content_addressable_storage": "h:1", "scheduler": "unix:/s",
                "build_directory_path": "/b", "cache_directory_path": "/c",
                "runners": {runners}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn slots_are_numbered_and_platforms_come_in_two_forms() {
        let config = config(
            r#"[{"endpoint": "unix:/r", "concurrency": 11, "worker_id": {"node": "a"},
                 "platform": [{"name": "b", "value": "1"}, {"name": "a", "value": "2"}]},
                {"endpoint": "unix:/r", "worker_id": {"node": "a"},
                 "platform": {"properties": [{"name": "a", "value": "1"}]}}]"#,
        );
        let slots = config.slots().unwrap();
        assert_eq!(slots[0].len(), 11);
        assert_eq!(slots[0][3].worker_id["thread"], "03");
        assert_eq!(slots[0][3].platform.to_string(), "{a=2, b=1}");
        assert_eq!(slots[1][0].worker_id.len(), 1);
        assert_eq!(slots[1][0].platform.to_string(), "{a=1}");
    }

    #[test]
    fn contradictions_are_refused_by_key() {
        let refused = |runners: &str| config(runners).slots().unwrap_err().to_string();
        assert!(refused("[]").contains("runners"));
        assert!(refused(r#"[{"endpoint": "unix:/r", "concurrency": 0}]"#).contains("concurrency"));
        assert!(
            refused(r#"[{"endpoint": "unix:/r", "instance_name_prefix": "/"}]"#)
                .contains("instance_name_prefix")
        );
        let twice = r#"[{"endpoint": "unix:/r"}, {"endpoint": "unix:/s"}]"#;
        assert!(refused(twice).contains("worker_id"));
    }

    #[test]
    fn without_an_id_a_worker_is_named_by_its_host() {
        let slots = config(r#"[{"endpoint": "unix:/r"}]"#).slots().unwrap();
        assert!(slots[0][0].worker_id.contains_key("hostname"));
    }
}
