//! Looking at a store from outside, whether or not a process has it open.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use proto::{DigestFunction, Hasher};

use super::files::{Files, QUARANTINE, failed, walk};
use super::key::Key;
use crate::error::Error;
use crate::verify;

/// How much is read at a time.
const PIECE: usize = 1 << 20;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blobs, and the bytes that their files take on disk, by digest function.
    pub blobs: Vec<(DigestFunction, u64, u64)>,
    /// When the blob was used that would go first, up to an hour later than this.
    pub oldest: Option<SystemTime>,
    /// Files that are no whole blobs; the store removes them when it is opened.
    pub strangers: u64,
    /// Damaged blobs that were put aside.
    pub quarantined: u64,
    /// What the action cache takes on disk, in bytes.
    pub action_cache: u64,
}

/// What reading every blob came to.
#[derive(Debug, Default)]
pub struct Verified {
    /// Blobs that are what their digests say, and their bytes.
    pub good: (u64, u64),
    /// What is wrong with the others.
    pub damaged: Vec<Error>,
    /// Whether these were put aside: not while a process has the store open, which
    /// finds them itself when it reads them.
    pub put_aside: bool,
}

/// Counts what is in a store's directory.
///
/// # Errors
/// It cannot be read.
pub fn stats(directory: &Path) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    check(directory)?;
    walk(directory, |_, key, metadata| {
        let Some(key) = key else {
            stats.strangers += 1;
            return Ok(());
        };
        let function = key.digest.function();
        let taken = metadata.blocks() * 512;
        match stats
            .blobs
            .iter_mut()
            .find(|(known, ..)| *known == function)
        {
            Some((_, count, bytes)) => {
                *count += 1;
                *bytes += taken;
            }
            None => stats.blobs.push((function, 1, taken)),
        }
        let used = metadata.modified().ok();
        stats.oldest = match (stats.oldest, used) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Ok(())
    })?;
    let quarantine = directory.join(QUARANTINE);
    stats.quarantined = fs::read_dir(&quarantine).map_or(0, |found| found.count() as u64);
    let actions = fs::metadata(directory.join(super::ACTIONS));
    stats.action_cache = actions.map_or(0, |metadata| metadata.blocks() * 512);
    Ok(stats)
}

/// Reads every blob and puts those aside that are damaged. `each` is told of each
/// blob that was read.
///
/// # Errors
/// The directory cannot be read; a single file that cannot counts as damaged.
pub fn verify(directory: &Path, mut each: impl FnMut(&Verified)) -> Result<Verified, Error> {
    check(directory)?;
    let owned = match Files::open(directory) {
        Ok(files) => Some(files),
        Err(Error::InUse(_)) => None,
        Err(error) => return Err(error),
    };
    let mut verified = Verified {
        put_aside: owned.is_some(),
        ..Verified::default()
    };
    walk(directory, |path, key, _| {
        let Some(key) = key else {
            return Ok(());
        };
        match whole(path, &key) {
            Ok(true) => {
                verified.good.0 += 1;
                verified.good.1 += key.digest.size();
            }
            // Evicted meanwhile.
            Ok(false) => {}
            Err(error) => {
                verified.damaged.push(error);
                if let Some(files) = &owned {
                    files.quarantine(&key);
                }
            }
        }
        each(&verified);
        Ok(())
    })?;
    Ok(verified)
}

/// Whether a directory is a store's. One that is not is not to become one by being
/// looked at.
fn check(directory: &Path) -> Result<(), Error> {
    let blobs = directory.join("blobs");
    fs::read_dir(&blobs)
        .map(drop)
        .map_err(failed("read", &blobs))
}

/// Whether a blob is there; the error says what is wrong with it.
fn whole(path: &Path, key: &Key) -> Result<bool, Error> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(failed("open", path))?,
    };
    let mut hasher = Hasher::new(key.digest.function(), key.digest.size());
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer).map_err(failed("read", path))? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    verify::hashed(key.digest, hasher).map(|()| true)
}
