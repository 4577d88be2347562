//! The seal: whether actions of a runner can alter cached files.
//!
//! A file's mode protects nothing from the inode's owner, nor from root. So before a
//! runner gets its first action, a tiny static program ([`PROBE`]) is run through
//! it beside a hardlink of a throw-away file that is made as cached files are. It
//! tries what an action could try. Then the worker looks at the inode, through a
//! descriptor of its own: only where nothing about it changed, and the program
//! did run, are inputs hardlinked. Everywhere else each action gets copies. The same
//! is tried once more with an overlay, where the runner offers any, before input
//! roots are laid over layers.
//! Configuration has no say in it.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use proto::wire::runner_extension::Overlay;
use tonic::{Code, Status};
use xattr::FileExt as _;

use crate::Error;
use crate::build_directory::{BuildDirectories, BuildDirectory};
use crate::cache::FileCache;
use crate::files;
use crate::root::{Materialise, Means};
use crate::runner::{Command, Runner};

/// The program, compiled from `probe.rs`.
static PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/seal_probe"));
/// What it exits with when it tried everything; agreed with `probe.rs`.
const ALL_TRIED: i64 = 42;
/// What the throw-away file holds.
const CONTENT: &[u8] = b"This file must stay as it is.\n";
const TIMEOUT: Duration = Duration::from_secs(30);

/// The throw-away file's name in the cache's directory for incoming files.
/// Dropping it unlinks it.
struct Victim<'a> {
    cache: &'a FileCache,
    name: String,
    file: std::fs::File,
}

/// What the kernel says of the throw-away file.
struct Inode {
    stat: FileStat,
    /// Of its extended attributes.
    names: Vec<OsString>,
}

impl Drop for Victim<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(
            self.cache.incoming_directory(),
            self.name.as_str(),
            UnlinkatFlags::NoRemoveDir,
        );
    }
}

/// Finds out how inputs may be given to this runner's actions; `layers`: whether
/// overlays are wanted.
///
/// # Errors
/// The worker's own disk fails, or the runner is away or fails in a way that may
/// pass: the probe is to be repeated. A runner that refuses to run it is no error:
/// its actions get copies.
pub(crate) async fn probe(
    cache: &Arc<FileCache>,
    builds: &Arc<BuildDirectories>,
    runner: &Arc<Runner>,
    layers: bool,
) -> Result<Means, Error> {
    let files = match attempt(cache, builds, runner, false).await? {
        Ok(()) => Materialise::Hardlink,
        Err(Failure::Passing(status)) => return Err(Error::Runner(status)),
        Err(Failure::Lasting(reason)) => {
            let address = runner.upstream();
            tracing::warn!("runner {address}: {reason}: inputs will be copied, not hardlinked");
            Materialise::Copy
        }
    };
    let offered = runner.description().is_some_and(|d| d.maximum_layers > 0);
    let layers = layers && offered && files == Materialise::Hardlink;
    let layers = layers
        && match attempt(cache, builds, runner, true).await? {
            Ok(()) => true,
            Err(Failure::Passing(status)) if Runner::is_away(&status) => {
                return Err(Error::Runner(status));
            }
            Err(failure) => {
                let address = runner.upstream();
                tracing::warn!("runner {address}: {failure}: input roots will not be overlays");
                false
            }
        };
    if cache.is_writable() && !layers && files == Materialise::Hardlink {
        let address = runner.upstream();
        tracing::warn!(
            "runner {address}: input roots are not overlays: commands can replace inputs, but \
             not write to them (writable_inputs)"
        );
    }
    tracing::info!(runner = %runner.upstream(), inputs = ?files, layers, "runner is ready");
    Ok(Means { files, layers })
}

/// Why the seal does not hold, or is not known to.
enum Failure {
    /// Another time it may be otherwise.
    Passing(Status),
    Lasting(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passing(status) => write!(f, "the seal probe failed: {status}"),
            Self::Lasting(reason) => f.write_str(reason),
        }
    }
}

/// Runs the probe once, in an input root that is an overlay or is none.
async fn attempt(
    cache: &Arc<FileCache>,
    builds: &Arc<BuildDirectories>,
    runner: &Arc<Runner>,
    overlay: bool,
) -> Result<Result<(), Failure>, Error> {
    let build = builds.make(None, Arc::clone(runner), false).await?;
    let file = |operation| move |errno| Error::file(operation, "seal probe")(errno);
    let victim = Victim::make(cache, build.name()).map_err(file("make"))?;
    let root = build.input_root().map_err(file("open"))?;
    match linkat(
        cache.incoming_directory(),
        victim.name.as_str(),
        &root,
        "victim",
        AtFlags::empty(),
    ) {
        Ok(()) => {}
        Err(errno @ (Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP)) => {
            let reason = format!("hardlinks of cached files cannot be made there: {errno}");
            return Ok(Err(Failure::Lasting(reason)));
        }
        Err(errno) => return Err(file("link")(errno)),
    }
    // Nothing in this process forks, and the program is closed when this
    // returns, so that its start cannot fail with ETXTBSY.
    place_program(&root).map_err(file("write"))?;
    let scratch = overlay.then(|| build.make_scratch()).transpose()?;
    let before = victim.inode().map_err(file("stat"))?;
    let outcome = match run(runner, &build, scratch).await {
        Ok(ALL_TRIED) => match victim.altered(&before, overlay).map_err(file("stat"))? {
            None if overlay && !was_copied(&build) => Err(Failure::Lasting(
                "what actions change in an overlay does not come to the worker".into(),
            )),
            None => Ok(()),
            Some(what) => Err(Failure::Lasting(format!(
                "actions can alter the {what} of cached files"
            ))),
        },
        Ok(code) => Err(Failure::Lasting(format!(
            "the seal probe ended with {code}"
        ))),
        Err(status) if is_passing(&status) => Err(Failure::Passing(status)),
        Err(status) => Err(Failure::Lasting(format!(
            "the seal probe cannot be run: {status}"
        ))),
    };
    Ok(outcome)
}

/// Whether the probe's changes to the throw-away file went to the upper directory,
/// into a file of the worker's.
fn was_copied(build: &BuildDirectory) -> bool {
    let stat = build
        .upper()
        .and_then(|upper| files::stat_at(upper, "victim"));
    stat.is_ok_and(|stat| stat.st_uid == nix::unistd::geteuid().as_raw())
}

/// Whether a failure says nothing about what the runner's actions can do.
fn is_passing(status: &Status) -> bool {
    let passing = [Code::Internal, Code::ResourceExhausted, Code::Unavailable];
    Runner::is_away(status) || passing.contains(&status.code())
}

async fn run(
    runner: &Runner,
    build: &BuildDirectory,
    scratch: Option<String>,
) -> Result<i64, Status> {
    let command = Command {
        arguments: vec!["./probe".into()],
        environment: std::collections::HashMap::new(),
        working_directory: String::new(),
        build: build.name().into(),
        timeout: Some(TIMEOUT),
        limits: std::collections::HashMap::new(),
        ids: crate::promises::Ids::default(),
        subject: daemon::Subject::default(),
        overlay: scratch.map(|scratch_directory| Overlay {
            lower_directories: Vec::new(),
            scratch_directory,
        }),
    };
    runner.run(command).await.map(|ran| ran.exit_code)
}

fn place_program(root: impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let program = openat(root.as_fd(), "probe", flags, Mode::S_IRWXU)?;
    let mut program = std::fs::File::from(program);
    program
        .write_all(PROBE)
        .map_err(|error| files::errno(&error))?;
    fchmod(&program, Mode::from_bits_truncate(0o555))
}

impl<'a> Victim<'a> {
    fn make(cache: &'a FileCache, build: &str) -> Result<Self, Errno> {
        let name = format!("victim.{build}");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(cache.incoming_directory(), name.as_str(), flags, owner)?;
        let mut victim = Self {
            cache,
            name,
            file: file.into(),
        };
        victim
            .file
            .write_all(CONTENT)
            .map_err(|error| files::errno(&error))?;
        let mode = cache.mode_of(false);
        fchmod(&victim.file, Mode::from_bits_truncate(mode))?;
        files::set_fixed_time(&victim.file)?;
        Ok(victim)
    }

    fn inode(&self) -> Result<Inode, Errno> {
        let names = match self.file.list_xattr() {
            Ok(names) => names.collect(),
            // A file system without extended attributes has none.
            Err(error) => match files::errno(&error) {
                Errno::EOPNOTSUPP => Vec::new(),
                errno => return Err(errno),
            },
        };
        Ok(Inode {
            stat: fstat(&self.file)?,
            names,
        })
    }

    /// What about the inode is not as it was. `changed`: whether the time of its last
    /// change counts, which without an overlay the worker's own links move.
    fn altered(&self, before: &Inode, changed: bool) -> Result<Option<&'static str>, Errno> {
        let Inode { stat: after, names } = self.inode()?;
        let same_names = names == before.names;
        let before = &before.stat;
        let mut bytes = vec![0; CONTENT.len() + 1];
        let read = self
            .file
            .read_at(&mut bytes, 0)
            .map_err(|error| files::errno(&error))?;
        let same = [
            ("bytes", bytes[..read] == *CONTENT),
            ("size", after.st_size == before.st_size),
            ("mode", after.st_mode == before.st_mode),
            ("owner", after.st_uid == before.st_uid),
            ("group", after.st_gid == before.st_gid),
            (
                "modification time",
                (after.st_mtime, after.st_mtime_nsec) == (before.st_mtime, before.st_mtime_nsec),
            ),
            (
                "change time",
                !changed
                    || (after.st_ctime, after.st_ctime_nsec)
                        == (before.st_ctime, before.st_ctime_nsec),
            ),
            ("links", after.st_nlink == before.st_nlink),
            ("extended attributes", same_names),
        ];
        Ok(same
            .into_iter()
            .find_map(|(what, same)| (!same).then_some(what)))
    }
}
