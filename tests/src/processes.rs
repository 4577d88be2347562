//! The processes of this machine, as `/proc` shows them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// When it started, in clock ticks since boot: tells it from a later process
    /// that got the same id.
    pub started: u64,
    /// `R`, `S`, `Z`…
    pub state: char,
    /// Its words; none for a zombie.
    pub arguments: Vec<String>,
}

impl Process {
    /// Reads one process; none when there is none, or no longer.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from behind it
        // (proc_pid_stat(5): state is field 3, parent 4, start time 22).
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments)
            .split_terminator('\0')
            .map(ToOwned::to_owned)
            .collect();
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            arguments,
        })
    }

    /// Every process there is.
    ///
    /// # Panics
    /// There is no `/proc`.
    #[must_use]
    pub fn all() -> Vec<Self> {
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| Self::read(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// Every process that descends from one, in the order of their ids.
    #[must_use]
    pub fn descendants(root: i32) -> Vec<Self> {
        let all = Self::all();
        let mut family = HashSet::from([root]);
        // Ids are no order of birth once they have wrapped around.
        loop {
            let before = family.len();
            for process in &all {
                if family.contains(&process.parent) {
                    family.insert(process.pid);
                }
            }
            if family.len() == before {
                break;
            }
        }
        family.remove(&root);
        let mut found: Vec<_> = all
            .into_iter()
            .filter(|process| family.contains(&process.pid))
            .collect();
        found.sort();
        found
    }

    /// The processes that descend from one and have exactly these words.
    #[must_use]
    pub fn running(root: i32, words: &[&str]) -> Vec<Self> {
        let mut found = Self::descendants(root);
        found.retain(|process| process.arguments == words);
        found
    }

    /// Every process that has a word with `text` in it.
    #[must_use]
    pub fn mentioning(text: &str) -> Vec<Self> {
        Self::all()
            .into_iter()
            .filter(|process| process.arguments.iter().any(|word| word.contains(text)))
            .collect()
    }

    /// Whether this very process is still there, as a zombie too.
    #[must_use]
    pub fn is_there(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// How many descriptors a process has, but those of networks that a launcher keeps to
/// use them again: how many these are changes with the last burst of commands. That is
/// the namespace, and the files of its `/proc/net`, whose paths begin where that `/proc`
/// is mounted: for a launcher nowhere.
#[must_use]
pub fn descriptors_but_networks(pid: i32) -> usize {
    let is_network = |name: &Path| {
        name.parent().is_some_and(|parent| parent.ends_with("net"))
            || name.to_string_lossy().starts_with("net:")
    };
    let all = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let names = all.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    names.filter(|name| !is_network(name)).count()
}
