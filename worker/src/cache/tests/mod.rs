//! The cache against storage in memory.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::{Digest, InstanceName};

use super::{FileCache, Key, Limits, Pins, ReplacementPolicy, Tenant};
use crate::Error;
use crate::downloads::Downloads;
use crate::files;
use crate::testing::FakeStorage;

mod fetch;
mod limits;
mod links;
mod restart;
mod stress;

const AMPLE: Limits = Limits {
    bytes: 1 << 30,
    files: 1000,
    policy: ReplacementPolicy::LeastRecentlyUsed,
    tenant_components: 0,
    writable: false,
};

struct Fixture {
    directory: tempfile::TempDir,
    storage: Arc<FakeStorage>,
    cache: Arc<FileCache>,
    target: OwnedFd,
}

fn open(directory: &Path, storage: &Arc<FakeStorage>, limits: Limits) -> Arc<FileCache> {
    let downloads = Arc::new(Downloads::new(8));
    FileCache::open(&directory.join("cache"), limits, storage.clone(), downloads).unwrap()
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), limits)
    }

    /// One below this directory.
    fn at(path: &Path, limits: Limits) -> Self {
        Self::in_directory(tempfile::tempdir_in(path).unwrap(), limits)
    }

    fn in_directory(directory: tempfile::TempDir, limits: Limits) -> Self {
        for name in ["cache", "target"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let storage = FakeStorage::new();
        let cache = open(directory.path(), &storage, limits);
        let target = files::open_configured(&directory.path().join("target")).unwrap();
        Self {
            directory,
            storage,
            cache,
            target,
        }
    }

    fn cached(&self, key: &Key) -> PathBuf {
        self.directory.path().join("cache").join(key.file_name())
    }

    fn target(&self, name: &str) -> PathBuf {
        self.directory.path().join("target").join(name)
    }

    async fn acquire(&self, keys: &[Key]) -> Result<Pins, Error> {
        let instance = InstanceName::empty();
        self.cache.acquire(&instance, keys.to_vec()).await
    }

    /// A new process over the same directory.
    fn reopen(self, clean: bool) -> Self {
        self.reopen_with(clean, AMPLE)
    }

    fn reopen_with(self, clean: bool, limits: Limits) -> Self {
        if clean {
            self.cache.close().unwrap();
        }
        let Self {
            directory,
            storage,
            cache,
            target,
        } = self;
        drop(cache);
        let cache = open(directory.path(), &storage, limits);
        Self {
            directory,
            storage,
            cache,
            target,
        }
    }
}

fn key(digest: Digest) -> Key {
    Key {
        tenant: Tenant::SHARED,
        digest,
        executable: false,
    }
}
