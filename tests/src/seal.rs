//! The seal: nothing that an action does changes a file of the worker's cache.
//!
//! What counts is a cached inode's bytes, mode, owner, group, size, modification
//! time and extended attributes. Its link count and change time move with each
//! hardlink that the worker itself makes and removes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::{Digest, DigestFunction};
use walkdir::WalkDir;

/// What one cached file is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inode {
    number: u64,
    digest: Digest,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    attributes: Vec<(String, Vec<u8>)>,
    /// Links, and the time of the last change, where they count.
    links: Option<(u64, (i64, i64))>,
}

/// The state of a cache at one moment.
#[derive(Debug)]
pub struct Seal {
    cache: PathBuf,
    files: BTreeMap<PathBuf, Inode>,
    strictly: bool,
}

impl Seal {
    /// Records what a cache holds now.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn record(cache: &Path) -> Self {
        Self::of(cache, false)
    }

    /// Records, and later compares, also how many links each file has and when it was
    /// last changed: where nobody links or unlinks cached files, nothing else may
    /// move these.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn record_strictly(cache: &Path) -> Self {
        Self::of(cache, true)
    }

    fn of(cache: &Path, strictly: bool) -> Self {
        Self {
            cache: cache.into(),
            files: files(cache, strictly),
            strictly,
        }
    }

    /// The cached file of a blob.
    ///
    /// # Panics
    /// There is none: whoever asks means to protect it.
    #[must_use]
    pub fn file(&self, digest: &Digest) -> PathBuf {
        self.find(digest)
            .unwrap_or_else(|| panic!("{digest} is not in {}", self.cache.display()))
    }

    /// The cached file of a blob, if there is one.
    #[must_use]
    pub fn find(&self, digest: &Digest) -> Option<PathBuf> {
        self.files
            .iter()
            .find(|(_, inode)| inode.digest == *digest)
            .map(|(path, _)| path.clone())
    }

    /// Checks that every file is as it was and where it was, and that every file,
    /// new ones too, has the bytes, the mode and the name of a cached blob.
    ///
    /// # Panics
    /// The seal is broken.
    pub fn check(&self) {
        let now = files(&self.cache, self.strictly);
        for (path, before) in &self.files {
            assert_eq!(
                now.get(path),
                Some(before),
                "the seal is broken: {}",
                path.display()
            );
        }
        for (path, inode) in &now {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            assert!(
                name.contains(&inode.digest.to_string()),
                "{} has the bytes of {}",
                path.display(),
                inode.digest
            );
        }
        // Where inputs are to be written, all files have modes that would let their
        // owner do so; elsewhere none has.
        let modes: BTreeSet<_> = now.values().map(|inode| inode.mode & 0o7777).collect();
        let is_either = [[0o444, 0o555], [0o644, 0o755]]
            .iter()
            .any(|either| modes.iter().all(|mode| either.contains(mode)));
        assert!(is_either, "modes are {modes:?}");
    }
}

/// The cached files that have other links than the cache's own and those of layers:
/// an input root holds them.
#[must_use]
pub fn linked(cache: &Path, layers: &Path) -> Vec<PathBuf> {
    let mut expected: HashMap<u64, u64> = HashMap::new();
    for entry in WalkDir::new(layers).into_iter().flatten() {
        if let Ok(found) = entry.metadata() {
            *expected.entry(found.ino()).or_default() += 1;
        }
    }
    let more = |path: &PathBuf| {
        fs::symlink_metadata(path).is_ok_and(|found| {
            found.nlink() != 1 + expected.get(&found.ino()).copied().unwrap_or(0)
        })
    };
    blobs(cache).filter(more).collect()
}

fn files(cache: &Path, strictly: bool) -> BTreeMap<PathBuf, Inode> {
    blobs(cache)
        .map(|path| {
            let inode = inode(&path, strictly);
            (path, inode)
        })
        .collect()
}

/// The cached files: those whose name holds a hash. The others are books about them.
fn blobs(cache: &Path) -> impl Iterator<Item = PathBuf> {
    WalkDir::new(cache)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != "incoming")
        .map(|entry| entry.expect("the cache can be read"))
        .filter(|entry| entry.file_type().is_file())
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy();
            name.split('-').any(|part| part.len() >= 32)
        })
        .map(walkdir::DirEntry::into_path)
}

fn inode(path: &Path, strictly: bool) -> Inode {
    let bytes = fs::read(path).expect("a cached file");
    let metadata = fs::symlink_metadata(path).expect("a cached file");
    let attributes = xattr::list(path)
        .expect("a cached file's attributes")
        .map(|name| {
            let value = xattr::get(path, &name).expect("an attribute");
            let name = name.to_string_lossy().into_owned();
            (name, value.unwrap_or_default())
        })
        .collect();
    Inode {
        number: metadata.ino(),
        digest: Digest::of(DigestFunction::Sha256, &bytes),
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        attributes,
        links: strictly.then(|| {
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (metadata.nlink(), changed)
        }),
    }
}
