//! Build directories: one per action, below one directory shared with the runner.
//!
//! `NAME/{root,tmp,server_logs}` are made by the worker, `NAME/{stdout,stderr}`
//! by the runner, or all of them are an earlier action's, emptied
//! ([`Spares`]). NAME is the beginning of the action's hash, so that absolute paths
//! that leak into outputs are the same each time; where that is taken, or
//! the result is not cached anyway, a number. Dropping a [`BuildDirectory`]
//! moves it into `trash`, where it is emptied to be used again or removed by the
//! [`Cleaner`].

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use proto::Digest;

use crate::Error;
use crate::clean::{self, Cleaner, Place};
use crate::files;
use crate::runner::Runner;
use crate::spare::{self, Spares};

const TRASH: &str = "trash";
/// Named as Buildbarn's.
const READINESS: &str = "check_readiness";
/// Holds the layers, which are not an action's.
const LAYERS: &str = "layers";
/// In the build directory of an action whose input root is an overlay: what the
/// runner needs for it, and below that what the action writes.
pub(crate) const SCRATCH: &str = "scratch";
const UPPER: &str = "upper";

/// The directory below which all build directories lie.
pub(crate) struct BuildDirectories {
    root: OwnedFd,
    trash: OwnedFd,
    layers: OnceLock<OwnedFd>,
    names: AtomicU64,
    cleaner: Cleaner,
    spares: Spares,
}

/// The build directory of one action.
pub(crate) struct BuildDirectory {
    parent: Arc<BuildDirectories>,
    name: String,
    directory: OwnedFd,
    runner: Arc<Runner>,
    place: Option<Place>,
    reusable: AtomicBool,
}

/// A directory that is there while this lives.
pub(crate) struct Readiness {
    parent: Arc<BuildDirectories>,
    name: String,
}

impl BuildDirectories {
    /// Opens the directory and removes what an earlier run left in it, which
    /// blocks. `backlog` is how many finished directories may wait for removal.
    ///
    /// # Errors
    /// It cannot be opened or emptied.
    pub(crate) fn open(path: &Path, backlog: usize) -> Result<Arc<Self>, Error> {
        let shown = path.display().to_string();
        let root =
            files::open_configured(path).map_err(Error::file("open build directory", &shown))?;
        let trash = files::ensure_directory(&root, TRASH)
            .map_err(Error::file("make", format!("{shown}/{TRASH}")))?;
        let directories = Arc::new(Self {
            root,
            trash,
            layers: OnceLock::new(),
            names: AtomicU64::new(0),
            cleaner: Cleaner::new(backlog),
            spares: Spares::new(backlog),
        });
        directories
            .remove_leftovers()
            .map_err(Error::file("empty build directory", &shown))?;
        Ok(directories)
    }

    /// Removes what actions left when the worker was killed. What belongs to
    /// another user and resists goes into the trash, for [`Self::clean_leftovers`].
    fn remove_leftovers(&self) -> Result<(), Errno> {
        for (name, _) in files::entries(&self.trash, usize::MAX)? {
            if let Ok(name) = name.into_string()
                && clean::remove(self.trash.as_fd(), &name).is_err()
            {
                self.cleaner.leave(name);
            }
        }
        for (name, _) in files::entries(&self.root, usize::MAX)? {
            let Ok(name) = name.to_str() else { continue };
            if name != TRASH && clean::remove(self.root.as_fd(), name).is_err() {
                self.cleaner.leave(self.discard(name)?);
            }
        }
        Ok(())
    }

    /// Removes, with the help of a runner that is new, what resisted so far: at
    /// the start, or because the runner before was away. Nothing else in the trash
    /// is touched, for directories wait there to be used again.
    pub(crate) async fn clean_leftovers(self: Arc<Self>, runner: Arc<Runner>) -> Result<(), Error> {
        for name in self.cleaner.leftovers() {
            let place = self.cleaner.place().await?;
            self.remove(name, Arc::clone(&runner), place);
        }
        Ok(())
    }

    /// Moves a directory into the trash, and says what it is called there.
    fn discard(&self, name: &str) -> Result<String, Errno> {
        loop {
            let trashed = self.number();
            // An empty directory would be replaced without a word.
            let no_replace = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&self.root, name, &self.trash, trashed.as_str(), no_replace) {
                Ok(()) => return Ok(trashed),
                // What an earlier run left has the name.
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn remove(&self, name: String, runner: Arc<Runner>, place: Place) {
        let path = format!("{TRASH}/{name}");
        match self.trash.try_clone() {
            Ok(trash) => self.cleaner.remove(trash, name, path, runner, place),
            Err(error) => tracing::error!(path, %error, "cannot remove"),
        }
    }

    /// Empties a directory in the trash and keeps it, or removes it.
    fn keep(self: Arc<Self>, name: String, runner: Arc<Runner>, place: Place) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn_blocking(move || {
            if !self.spares.keep(&self.trash, &name) {
                self.remove(name, runner, place);
            }
        });
    }

    /// Makes the directory of a layer; gives its name.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub(crate) fn make_layer(&self) -> Result<(String, OwnedFd), Error> {
        let name = self.number();
        let failed = || Error::file("make layer", &name);
        let layers = match self.layers.get() {
            Some(layers) => layers,
            None => {
                let made = files::ensure_directory(&self.root, LAYERS).map_err(failed())?;
                self.layers.get_or_init(|| made)
            }
        };
        let directory = files::make_directory(layers, &name, 0o777).map_err(failed())?;
        Ok((name, directory))
    }

    /// The path of a layer below the directory shared with the runner.
    pub(crate) fn layer_path(name: &str) -> String {
        format!("{LAYERS}/{name}")
    }

    /// Removes a layer, which blocks; one that was given up while it was made, too.
    pub(crate) fn remove_layer(&self, name: &str) {
        let removed = match self.layers.get() {
            Some(layers) => clean::remove_persistently(layers.as_fd(), name),
            None => Ok(()),
        };
        if let Err(errno) = removed {
            tracing::warn!(path = Self::layer_path(name), %errno, "cannot remove");
        }
    }

    fn number(&self) -> String {
        self.names.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Makes the build directory of an action that will run on this runner.
    /// Waits while too many finished ones still wait for their removal. `again`:
    /// it may be one that was used before, for the runner takes those.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub(crate) async fn make(
        self: &Arc<Self>,
        action: Option<&Digest>,
        runner: Arc<Runner>,
        again: bool,
    ) -> Result<Arc<BuildDirectory>, Error> {
        let place = self.cleaner.place().await?;
        let preferred = action.map(|action| action.hash()[..16].to_string());
        let directories = Arc::clone(self);
        // Moving a directory is quick, making seven inodes may not be.
        let short = again && self.spares.any();
        let making = files::blocking(short, move || {
            let (name, directory, empty) = directories.make_named(preferred, again)?;
            let build = BuildDirectory {
                parent: directories,
                name,
                directory,
                runner,
                place: Some(place),
                reusable: AtomicBool::new(false),
            };
            if !empty {
                return Ok(Arc::new(build));
            }
            // Whoever runs the command may be another user than the worker, and
            // other users cannot get here except through the runner.
            for name in spare::DIRECTORIES {
                files::make_directory(&build.directory, name, 0o777)
                    .map_err(Error::file("make", format!("{}/{name}", build.name)))?;
            }
            Ok(Arc::new(build))
        });
        making.await?
    }

    /// A directory of a name that is free, and whether it is still without what
    /// a build directory has.
    fn make_named(
        &self,
        preferred: Option<String>,
        again: bool,
    ) -> Result<(String, OwnedFd, bool), Error> {
        let mut name = preferred.unwrap_or_else(|| self.number());
        loop {
            let made = match again {
                true => self.spares.take(&self.trash, &self.root, &name),
                false => Ok(None),
            };
            let made = made.and_then(|kept| match kept {
                Some(kept) => Ok((kept, false)),
                None => Ok((files::make_directory(&self.root, &name, 0o777)?, true)),
            });
            match made {
                Ok((directory, empty)) => return Ok((name, directory, empty)),
                Err(Errno::EEXIST) => name = self.number(),
                Err(errno) => return Err(Error::file("make build directory", name)(errno)),
            }
        }
    }

    /// Makes a directory for the runner to look at: one that sees it shares the
    /// build directory with the worker, and can enter what actions are given.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub(crate) fn check_readiness(self: &Arc<Self>) -> Result<Readiness, Error> {
        let readiness = Readiness {
            parent: Arc::clone(self),
            name: self.number(),
        };
        files::make_directory(&self.root, &readiness.name, 0o777)
            .and_then(|directory| files::make_directory(directory, READINESS, 0o777))
            .map_err(Error::file("make", readiness.path()))?;
        Ok(readiness)
    }

    /// Returns when everything that was dropped is removed, what was kept too.
    pub(crate) async fn cleaned(&self) {
        self.cleaner.idle().await;
        for name in self.spares.clear() {
            if let Err(errno) = clean::remove(self.trash.as_fd(), &name) {
                tracing::warn!(path = format!("{TRASH}/{name}"), %errno, "cannot remove");
            }
        }
        // They are made again at the next start.
        let _ = unlinkat(&self.root, TRASH, UnlinkatFlags::RemoveDir);
    }

    /// Removes the directory of layers, when there are none.
    pub(crate) fn remove_layers(&self) {
        let _ = unlinkat(&self.root, LAYERS, UnlinkatFlags::RemoveDir);
    }
}

impl Readiness {
    /// Relative to the build directory.
    pub(crate) fn path(&self) -> String {
        format!("{}/{READINESS}", self.name)
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let Err(errno) = clean::remove(self.parent.root.as_fd(), &self.name) {
            tracing::warn!(path = self.name, %errno, "cannot remove");
        }
    }
}

impl BuildDirectory {
    /// Its name, which is its path below the directory shared with the runner.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Says that the action is over, all its processes dead, and that it could
    /// not change what the worker owns: the directory can be used again.
    pub(crate) fn end(&self) {
        self.reusable.store(true, Ordering::Release);
    }

    /// Makes what the runner needs to make the input root an overlay, and gives its
    /// path. Only the worker and root can get into it: what the action writes there
    /// is the worker's.
    pub(crate) fn make_scratch(&self) -> Result<String, Error> {
        let path = format!("{}/{SCRATCH}", self.name);
        files::make_directory(&self.directory, SCRATCH, 0o700)
            .and_then(|scratch| files::make_directory(&scratch, UPPER, 0o777))
            .map_err(Error::file("make", &path))?;
        Ok(path)
    }

    /// Keeps all but the worker and root out of it, from here on: what the action wrote
    /// in an overlay is the worker's, and a program that it made set-user-ID would be.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn close_off(&self) -> Result<(), Errno> {
        fchmod(&self.directory, Mode::S_IRWXU)
    }

    /// Opens what the action wrote in an input root that was an overlay.
    pub(crate) fn upper(&self) -> Result<OwnedFd, Errno> {
        let scratch = files::open_directory(&self.directory, SCRATCH)?;
        files::open_directory(&scratch, UPPER)
    }

    /// Opens the input root.
    pub(crate) fn input_root(&self) -> Result<OwnedFd, Errno> {
        files::open_directory(&self.directory, "root")
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }
}

impl Drop for BuildDirectory {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        match self.parent.discard(&self.name) {
            Ok(name) if self.reusable.load(Ordering::Acquire) => {
                Arc::clone(&self.parent).keep(name, Arc::clone(&self.runner), place);
            }
            Ok(name) => self.parent.remove(name, Arc::clone(&self.runner), place),
            Err(errno) => tracing::error!(path = self.name, %errno, "cannot move into the trash"),
        }
    }
}
