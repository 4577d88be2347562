//! Limits of commands in the configuration file.

use std::collections::BTreeMap;

use sandbox::{Limit, Limits};
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// What each command may use; what is null is as the runner's own, or unlimited.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandLimits {
    /// Memory of all processes together, directories in memory included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads of one command (before Linux 5.14, of its host uid).
    pub processes: Option<u64>,
    /// Processor time, in thousandths of one processor. Takes a control group.
    pub cpu_millis: Option<u64>,
    /// What a command writes to its input root and temporary directory, on disk.
    pub disk_bytes: Option<u64>,
    /// Files and directories that it makes there.
    pub disk_files: Option<u64>,
    /// Standard output, and as much standard error.
    pub output_bytes: Option<u64>,
    /// What `/var/tmp` holds at most, and `/tmp` where the action has no directory
    /// for it: both are in memory.
    pub tmpfs_size_bytes: u64,
    /// What `/dev/shm` holds at most.
    pub shm_size_bytes: u64,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// The largest file a process may write.
    pub file_size_bytes: Option<u64>,
    /// The stack of a process's first thread.
    pub stack_size_bytes: Option<u64>,
    /// A core dump; 0: none is written.
    pub core_size_bytes: Option<u64>,
}

impl Default for CommandLimits {
    fn default() -> Self {
        let limits = Limits::usual();
        Self {
            memory_bytes: limits[Limit::Memory],
            processes: limits[Limit::Processes],
            cpu_millis: limits[Limit::Cpu],
            disk_bytes: limits[Limit::DiskBytes],
            disk_files: limits[Limit::DiskFiles],
            output_bytes: limits[Limit::Output],
            tmpfs_size_bytes: limits[Limit::Tmpfs].unwrap_or_default(),
            shm_size_bytes: limits[Limit::Shm].unwrap_or_default(),
            open_files: limits[Limit::OpenFiles],
            file_size_bytes: limits[Limit::FileSize],
            stack_size_bytes: limits[Limit::Stack],
            core_size_bytes: limits[Limit::Core],
        }
    }
}

impl CommandLimits {
    /// As the sandbox has them.
    ///
    /// # Errors
    /// One that is 0 and must not be.
    pub(crate) fn checked(&self) -> Result<Limits, StartError> {
        let mut limits = Limits::none();
        for limit in Limit::ALL {
            limits[limit] = match limit {
                Limit::Memory => self.memory_bytes,
                Limit::Processes => self.processes,
                Limit::Cpu => self.cpu_millis,
                Limit::DiskBytes => self.disk_bytes,
                Limit::DiskFiles => self.disk_files,
                Limit::Output => self.output_bytes,
                Limit::Tmpfs => Some(self.tmpfs_size_bytes),
                Limit::Shm => Some(self.shm_size_bytes),
                Limit::OpenFiles => self.open_files,
                Limit::FileSize => self.file_size_bytes,
                Limit::Stack => self.stack_size_bytes,
                Limit::Core => self.core_size_bytes,
            };
        }
        positive("limits", &limits)?;
        Ok(limits)
    }
}

/// The most that requests may ask for, by the names of limits.
///
/// # Errors
/// A name that is no limit's, or a value of 0 that must not be.
pub(crate) fn maximum(table: &BTreeMap<String, u64>) -> Result<Limits, StartError> {
    let mut limits = Limits::none();
    for (name, value) in table {
        let Some(limit) = Limit::from_name(name) else {
            return Err(StartError::Config {
                key: format!("maximum_limits.{name}"),
                reason: format!(
                    "is no limit; there are {}",
                    Limit::ALL.map(Limit::name).join(", ")
                ),
            });
        };
        limits[limit] = Some(*value);
    }
    positive("maximum_limits", &limits)?;
    Ok(limits)
}

fn positive(table: &str, limits: &Limits) -> Result<(), StartError> {
    let wrong = limits
        .iter()
        .find(|(limit, value)| limit.is_positive() && *value == 0);
    match wrong {
        None => Ok(()),
        Some((limit, _)) => Err(StartError::Config {
            key: format!("{table}.{limit}"),
            reason: "must be at least 1".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_sandbox_s() {
        assert_eq!(CommandLimits::default().checked().unwrap(), Limits::usual());
    }

    #[test]
    fn every_limit_has_a_key_of_its_name() {
        let mut table = serde_json::Map::new();
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            table.insert(limit.name().into(), (index + 1).into());
        }
        let limits: CommandLimits = serde_json::from_value(table.into()).unwrap();
        for (index, (limit, value)) in limits.checked().unwrap().iter().enumerate() {
            assert_eq!((limit, value), (Limit::ALL[index], index as u64 + 1));
        }
    }

    #[test]
    fn the_most_is_told_by_name() {
        let table = BTreeMap::from([("memory_bytes".to_owned(), 5)]);
        assert_eq!(maximum(&table).unwrap()[Limit::Memory], Some(5));
        let wrong = BTreeMap::from([("memory".to_owned(), 5)]);
        let text = maximum(&wrong).unwrap_err().to_string();
        assert!(text.starts_with("maximum_limits.memory "), "{text}");
        let none = BTreeMap::from([("processes".to_owned(), 0)]);
        assert!(maximum(&none).is_err());
    }
}
