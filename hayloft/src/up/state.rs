//! The state directory of a farm.
//!
//! ```text
//! DIR/            0700, the user's own
//!   lock          held while a farm runs on it
//!   storage/      blobs and action results; owner: the storage role
//!   worker/       build/ and cache/, on one file system; their owner: the worker role
//!   run/          sockets and configuration of the running farm; gone afterwards
//! ```
//!
//! Roles other than the runner cannot reach DIR by its path when they run as
//! users of their own; they inherit descriptors of the folders they need. DIR,
//! `worker` and `run` belong to the user who started the farm, so that no role can
//! put something else in the place of a folder.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

use super::identity::Identities;

/// A state directory that this process holds.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    identities: Identities,
    _lock: Flock<File>,
}

impl State {
    /// Takes the directory, making what is not there, for a farm of so many slots.
    ///
    /// # Errors
    /// Another farm runs on it, or it cannot be made.
    pub fn take(path: &Path, slots: u16) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(path)
            .with_context(|| format!("cannot make the state directory {}", path.display()))?;
        let path = fs::canonicalize(path)
            .with_context(|| format!("cannot find the state directory {}", path.display()))?;
        // Its parents may be anybody's to read; what is in it is nobody else's.
        fs::set_permissions(&path, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot protect {}", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .with_context(|| format!("cannot open {}/lock", path.display()))?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            bail!("another farm runs on {}", path.display());
        };
        let kept = fs::symlink_metadata(path.join("worker/cache"))
            .map(|found| found.uid())
            .ok();
        let identities = Identities::choose(&path, kept, slots);
        let state = Self {
            path,
            identities,
            _lock: lock,
        };
        state.make_folders()?;
        Ok(state)
    }

    fn make_folders(&self) -> Result<()> {
        let _ = fs::remove_dir_all(self.run());
        let worker = self.identities.worker();
        for (folder, mode, owner) in [
            (self.storage(), 0o700, self.identities.storage()),
            (self.worker(), 0o711, None),
            (self.build(), 0o711, worker),
            (self.cache(), 0o700, worker),
            (self.run(), 0o711, None),
        ] {
            make_folder(&folder, mode, owner)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }

    /// Who the roles run as.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Blobs and action results.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.path.join("storage")
    }

    fn worker(&self) -> PathBuf {
        self.path.join("worker")
    }

    /// The build directory that worker and runner share.
    #[must_use]
    pub fn build(&self) -> PathBuf {
        self.worker().join("build")
    }

    /// The worker's file cache.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.worker().join("cache")
    }

    /// Sockets and configuration files.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        Self::run_of(&self.path)
    }

    /// The same of the farm that runs on a state directory.
    #[must_use]
    pub fn run_of(path: &Path) -> PathBuf {
        path.join("run")
    }
}

/// Makes a folder, or sees to it that the one that is there is of this mode and
/// owner (none: this process's user). What is there may not be a link.
fn make_folder(path: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let owner = owner.unwrap_or_else(|| geteuid().as_raw());
    if folder.metadata()?.uid() != owner {
        fchown(&folder, Some(owner), Some(owner))?;
    }
    folder.set_permissions(Permissions::from_mode(mode))
}

impl Drop for State {
    fn drop(&mut self) {
        // Best effort: the next farm on this directory begins by removing it too.
        let _ = fs::remove_dir_all(self.run());
        // A worker that was cut short had no time to clear up after its actions.
        for left in fs::read_dir(self.build()).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(left.path());
        }
    }
}

/// The state directory when none is named: `$XDG_DATA_HOME/hayloft`, else
/// `~/.local/share/hayloft` (XDG Base Directory Specification).
///
/// # Errors
/// Neither variable is set.
pub fn default_directory() -> Result<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("hayloft"))
        .context("neither XDG_DATA_HOME nor HOME is set: name a state directory with --dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_serves_one_farm_at_a_time_and_keeps_its_identities() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state");
        let first = State::take(&path, 2).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(State::take(&path, 2).is_err());
        let owner = first.identities().worker();
        assert!(first.run().is_dir());
        drop(first);
        assert!(!path.join("run").exists());
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        assert_eq!(State::take(&moved, 2).unwrap().identities().worker(), owner);
    }

    #[test]
    fn a_link_in_the_place_of_a_folder_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        drop(State::take(&path, 2).unwrap());
        let victim = folder.path().join("victim");
        fs::create_dir(&victim).unwrap();
        let before = fs::metadata(&victim).unwrap();
        fs::remove_dir(path.join("worker/build")).unwrap();
        std::os::unix::fs::symlink(&victim, path.join("worker/build")).unwrap();
        assert!(State::take(&path, 2).is_err());
        let after = fs::metadata(&victim).unwrap();
        assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
    }

    #[test]
    fn no_role_owns_the_folder_that_its_own_folders_are_in() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::take(&folder.path().join("state"), 2).unwrap();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let own = geteuid().as_raw();
        assert_eq!(owner(&state.worker()), own);
        assert_eq!(owner(&state.run()), own);
        let worker = state.identities().worker().unwrap_or(own);
        assert_eq!(owner(&state.build()), worker);
        assert_eq!(owner(&state.cache()), worker);
    }
}
