//! Making an input root.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::symlinkat;
use proto::InstanceName;

use super::plan::Plan;
use crate::Error;
use crate::cache::{FileCache, Key, LinkError, Pins, Tenant};
use crate::directory::{FileEntry, Properties};
use crate::files;

/// How cached files get into an input root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Materialise {
    /// By hardlinks: the sandbox keeps actions from altering the inodes.
    Hardlink,
    /// By private copies.
    Copy,
}

/// Entries that one thread makes without help: handing work to another takes as
/// long as making some ten.
const SHARE: u64 = 128;
/// A few hardlinks are made sooner than handed to another thread.
const SHORT: u64 = 8;
/// Directories of the current path that one thread keeps open.
const OPEN: usize = 64;
/// How often files that vanish from the cache under the worker's eyes are
/// fetched again before the action is given up.
const REPAIRS: usize = 3;

/// What to do with a stretch of the plan.
#[derive(Clone)]
struct Pass {
    directories: bool,
    files: bool,
    /// Nobody waits for it any more.
    stop: Arc<AtomicBool>,
}

/// Stops the threads that make a root, when it is dropped: they were given up with
/// whoever waited for them, or one of them failed.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file that was gone from the cache: which, and the directory it belongs to.
struct Vanished {
    key: Key,
    directory: usize,
    name: String,
    properties: Option<Properties>,
}

/// Makes everything in the plan below a directory. All of
/// the plan's files must be pinned; the pins of those that had to be fetched
/// again are returned. Where this fails or is dropped, what it began goes on for no
/// longer than a directory takes.
///
/// # Errors
/// The disk fails or is full; a vanished file cannot be fetched again.
pub(crate) async fn build(
    cache: &Arc<FileCache>,
    instance: &InstanceName,
    plan: Arc<Plan>,
    target: Arc<OwnedFd>,
    how: Materialise,
) -> Result<Option<Pins>, Error> {
    // The root alone is there already.
    if plan.entries <= 1 {
        return Ok(None);
    }
    let threads = files::processors();
    let tenant = cache.tenant(instance);
    let stop = Stop::default();
    let all = Pass {
        directories: true,
        files: true,
        stop: Arc::clone(&stop.0),
    };
    let mut vanished = if plan.entries <= SHARE || threads == 1 {
        let whole = 0..plan.directories.len();
        stretch(cache, tenant, &plan, &target, whole, how, all).await?
    } else {
        let whole = 0..plan.directories.len();
        let made = Pass {
            files: false,
            ..all.clone()
        };
        stretch(cache, tenant, &plan, &target, whole, how, made).await?;
        let filled = Pass {
            directories: false,
            ..all
        };
        let stretches = split(&plan, threads * 4)
            .into_iter()
            .map(|range| stretch(cache, tenant, &plan, &target, range, how, filled.clone()));
        futures::future::try_join_all(stretches)
            .await?
            .into_iter()
            .flatten()
            .collect()
    };
    let mut pins: Option<Pins> = None;
    for _ in 0..REPAIRS {
        if vanished.is_empty() {
            break;
        }
        let mut keys: Vec<Key> = Vec::new();
        for file in &vanished {
            if !keys.contains(&file.key) {
                keys.push(file.key);
            }
        }
        let repaired = cache.repair(instance, keys).await?;
        match &mut pins {
            None => pins = Some(repaired),
            Some(pins) => pins.merge(repaired),
        }
        let (cache, plan, target) = (Arc::clone(cache), Arc::clone(&plan), Arc::clone(&target));
        let again =
            tokio::task::spawn_blocking(move || retry(&cache, &plan, &target, vanished, how));
        vanished = again.await??;
    }
    match vanished.first() {
        None => Ok(pins),
        Some(file) => Err(Error::file("link", file.key.file_name())(Errno::ENOENT)),
    }
}

/// Cuts the plan into stretches of about equal work.
fn split(plan: &Plan, parts: usize) -> Vec<Range<usize>> {
    let share = plan.entries / parts as u64 + 1;
    let mut ranges = Vec::new();
    let (mut start, mut work) = (0, 0);
    for (place, planned) in plan.directories.iter().enumerate() {
        work += planned.count();
        if work >= share {
            ranges.push(start..place + 1);
            (start, work) = (place + 1, 0);
        }
    }
    ranges.push(start..plan.directories.len());
    ranges
}

/// Does one stretch, on a thread for blocking work unless it is a matter of moments.
async fn stretch(
    cache: &Arc<FileCache>,
    tenant: Tenant,
    plan: &Arc<Plan>,
    target: &Arc<OwnedFd>,
    range: Range<usize>,
    how: Materialise,
    pass: Pass,
) -> Result<Vec<Vanished>, Error> {
    let (cache, plan, target) = (Arc::clone(cache), Arc::clone(plan), Arc::clone(target));
    let short = plan.entries <= SHORT && how == Materialise::Hardlink;
    let work = move || walk(&cache, tenant, &plan, &target, range, how, &pass);
    files::blocking(short, work).await?
}

/// Walks a stretch of the plan with the descriptors of the current path, or of
/// its lower end where it is long.
fn walk(
    cache: &FileCache,
    tenant: Tenant,
    plan: &Plan,
    target: &OwnedFd,
    range: Range<usize>,
    how: Materialise,
    pass: &Pass,
) -> Result<Vec<Vanished>, Error> {
    let mut vanished = Vec::new();
    let mut path: VecDeque<(usize, OwnedFd)> = VecDeque::new();
    for place in range {
        if pass.stop.load(Ordering::Relaxed) {
            break;
        }
        let planned = &plan.directories[place];
        while path.back().is_some_and(|(top, _)| *top != planned.parent) {
            path.pop_back();
        }
        let shown = || shown(plan, place);
        if path.is_empty() && planned.name.is_some() {
            // The stretch begins below the root, or comes back to a directory
            // that was closed.
            let parent = open(plan, target, planned.parent)
                .map_err(Error::file("open input directory", shown()))?;
            path.push_back((planned.parent, parent));
        }
        let directory = match (&planned.name, path.back()) {
            (Some(name), Some((_, parent))) if pass.directories => {
                files::make_directory(parent, name.as_str(), 0o777)
            }
            (Some(name), Some((_, parent))) => files::open_directory(parent, name.as_str()),
            _ => files::open_directory(target, "."),
        }
        .map_err(Error::file("make input directory", shown()))?;
        if pass.files {
            for file in planned.files() {
                let key = Key {
                    tenant,
                    digest: file.digest,
                    executable: file.executable,
                };
                match put(cache, &key, &directory, file.name, how, file.properties) {
                    Ok(()) => {}
                    Err(LinkError::Vanished) => vanished.push(Vanished {
                        key,
                        directory: place,
                        name: file.name.to_string(),
                        properties: file.properties,
                    }),
                    Err(LinkError::Errno(errno)) => {
                        let path = format!("{}/{}", shown(), file.name);
                        return Err(Error::file("make input file", path)(errno));
                    }
                }
            }
            for (name, target) in planned.symlinks() {
                symlinkat(target, &directory, name.as_str()).map_err(Error::file(
                    "make symbolic link",
                    format!("{}/{name}", shown()),
                ))?;
            }
            for name in planned.removed() {
                hide(&directory, name.as_str())
                    .map_err(Error::file("hide", format!("{}/{name}", shown())))?;
            }
        }
        if path.len() == OPEN {
            path.pop_front();
        }
        path.push_back((place, directory));
    }
    Ok(vanished)
}

/// Makes what hides a name of the layers below: a whiteout, which takes no
/// capability (since Linux 5.8).
fn hide(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    mknodat(directory, name, SFlag::S_IFCHR, Mode::empty(), 0)
}

/// Puts a file of the cache, which is pinned, into a directory by hardlink, or by
/// copy where it has an own mode or time.
pub(crate) fn place(
    cache: &FileCache,
    tenant: Tenant,
    file: &FileEntry<'_>,
    directory: &OwnedFd,
) -> Result<(), LinkError> {
    let key = Key {
        tenant,
        digest: file.digest,
        executable: file.executable,
    };
    let how = Materialise::Hardlink;
    put(cache, &key, directory, file.name, how, file.properties)
}

fn put(
    cache: &FileCache,
    key: &Key,
    directory: &OwnedFd,
    name: &str,
    how: Materialise,
    properties: Option<Properties>,
) -> Result<(), LinkError> {
    match (properties, how) {
        (None, Materialise::Hardlink) => cache.link(key, directory.as_fd(), name),
        (None, Materialise::Copy) => cache.copy(key, directory.as_fd(), name),
        (Some(own), _) => {
            // Mode and time are the inode's: this one needs its own.
            let mode = own.unix_mode.unwrap_or_else(|| cache.mode(key));
            let mtime = own.mtime.unwrap_or((files::FIXED_TIME, 0));
            cache.copy_with(key, directory.as_fd(), name, mode, mtime)
        }
    }
}

fn retry(
    cache: &FileCache,
    plan: &Plan,
    target: &OwnedFd,
    files: Vec<Vanished>,
    how: Materialise,
) -> Result<Vec<Vanished>, Error> {
    let mut vanished = Vec::new();
    for file in files {
        let path = || format!("{}/{}", shown(plan, file.directory), file.name);
        let directory = open(plan, target, file.directory).map_err(Error::file("open", path()))?;
        match put(
            cache,
            &file.key,
            &directory,
            &file.name,
            how,
            file.properties,
        ) {
            Ok(()) => {}
            Err(LinkError::Vanished) => vanished.push(file),
            Err(LinkError::Errno(errno)) => {
                return Err(Error::file("make input file", path())(errno));
            }
        }
    }
    Ok(vanished)
}

/// The names from the root down to a directory of the plan.
fn names(plan: &Plan, place: usize) -> Vec<&str> {
    let mut names = Vec::new();
    let mut at = place;
    while let Some(name) = &plan.directories[at].name {
        names.push(name.as_str());
        at = plan.directories[at].parent;
    }
    names.reverse();
    names
}

fn shown(plan: &Plan, place: usize) -> String {
    names(plan, place).join("/")
}

fn open(plan: &Plan, target: &OwnedFd, place: usize) -> Result<OwnedFd, Errno> {
    use nix::fcntl::OFlag;
    files::open_beneath(
        target,
        names(plan, place),
        OFlag::O_RDONLY | OFlag::O_DIRECTORY,
    )
}
