//! Many slots, a cache far too small, storage that is slow and fails, actions that
//! are given up, files that vanish, workers that are killed: what an action gets is
//! right all the same, and nothing stays behind.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::{Digest, InstanceName};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use storage::{BlobStore, ByteStream};
use tonic::Status;

use super::AMPLE;
use crate::cache::{FileCache, Key, Limits, LinkError, Pins, ReplacementPolicy, Tenant};
use crate::downloads::Downloads;
use crate::files;
use crate::testing::{FakeStorage, digest};

const SLOTS: usize = 16;
const BLOBS: u32 = 64;
const FILES: u64 = 12;
const BYTES: u64 = 8 << 20;
/// Where the child of the test of kills finds its cache.
const CHILD: &str = "HAYLOFT_TEST_CACHE";

/// Storage that takes its time, and fails now and then.
struct Slow {
    inner: Arc<FakeStorage>,
    /// One call of this many fails; none where it is zero.
    fails: u32,
}

impl Slow {
    async fn hesitate(&self) -> Result<(), storage::Error> {
        match rand::random_range(0..4) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_micros(rand::random_range(0..2000))).await,
        }
        if self.fails > 0 && rand::random_range(0..self.fails) == 0 {
            return Err(storage::Error::Remote(Status::unavailable("away")));
        }
        Ok(())
    }
}

#[async_trait]
impl BlobStore for Slow {
    async fn find_missing(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, storage::Error> {
        self.hesitate().await?;
        self.inner.find_missing(instance, digests).await
    }

    async fn read(
        &self,
        instance: &InstanceName,
        digest: Digest,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<ByteStream, storage::Error> {
        self.hesitate().await?;
        self.inner.read(instance, digest, offset, limit).await
    }

    async fn read_batch(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Vec<Result<Bytes, storage::Error>>, storage::Error> {
        self.hesitate().await?;
        self.inner.read_batch(instance, digests).await
    }

    async fn write(
        &self,
        instance: &InstanceName,
        digest: Digest,
        bytes: ByteStream,
    ) -> Result<(), storage::Error> {
        self.inner.write(instance, digest, bytes).await
    }

    async fn write_batch(
        &self,
        instance: &InstanceName,
        blobs: Vec<(Digest, Bytes)>,
    ) -> Result<Vec<Result<(), storage::Error>>, storage::Error> {
        self.inner.write_batch(instance, blobs).await
    }
}

/// Blobs of all sizes: none, small, and some so large that they are streamed.
fn blobs(storage: &FakeStorage) -> Vec<Digest> {
    let bytes = |n: u32| {
        let size = match n % 16 {
            0 => (1 << 20) + 1 + n as usize,
            1 => 0,
            _ => 100 * n as usize,
        };
        n.to_le_bytes().into_iter().cycle().take(size)
    };
    (0..BLOBS)
        .map(|n| storage.put(bytes(n).collect::<Vec<u8>>()))
        .collect()
}

/// Some of the blobs, some of them twice, half of them executable.
fn wanted(blobs: &[Digest], random: &mut StdRng) -> Vec<Key> {
    let one = |random: &mut StdRng| Key {
        tenant: Tenant::SHARED,
        digest: blobs[random.random_range(0..blobs.len())],
        executable: random.random_bool(0.5),
    };
    let count = random.random_range(1..10);
    (0..count).map(|_| one(random)).collect()
}

/// Does what an action does with its input files, and checks all of them. Whether
/// it succeeded: storage may fail it.
async fn action(
    cache: &Arc<FileCache>,
    target: &Path,
    keys: Vec<Key>,
    random: &mut StdRng,
) -> bool {
    let instance = InstanceName::empty();
    let directory = files::open_configured(target).unwrap();
    let Ok(_pins) = cache.acquire(&instance, keys.clone()).await else {
        return false;
    };
    let mut repaired: Vec<Pins> = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let name = n.to_string();
        let copy = random.random_bool(0.2);
        loop {
            let put = match copy {
                true => cache.copy(key, directory.as_fd(), &name),
                false => cache.link(key, directory.as_fd(), &name),
            };
            match put {
                Ok(()) => break,
                Err(LinkError::Vanished) => {
                    let Ok(more) = cache.repair(&instance, vec![*key]).await else {
                        return false;
                    };
                    repaired.push(more);
                }
                Err(LinkError::Errno(errno)) => panic!("{errno}"),
            }
        }
        let bytes = std::fs::read(target.join(&name)).unwrap();
        assert_eq!(digest(&bytes), key.digest);
        let mode = target.join(&name).metadata().unwrap().mode() & 0o7777;
        assert_eq!(mode, cache.mode(key));
    }
    true
}

/// The cached files, and what they occupy.
fn on_disk(cache: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in std::fs::read_dir(cache).unwrap() {
        let entry = entry.unwrap();
        let Some(key) = Key::parse(entry.file_name().to_str().unwrap()) else {
            continue;
        };
        let bytes = std::fs::read(entry.path()).unwrap();
        assert_eq!(digest(&bytes), key.digest);
        sum = (sum.0 + 1, sum.1 + entry.metadata().unwrap().blocks() * 512);
    }
    sum
}

/// Somewhere to have a cache, blobs, and folders for slots.
struct Arena {
    folder: PathBuf,
    storage: Arc<FakeStorage>,
    blobs: Vec<Digest>,
}

impl Arena {
    fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("cache")).unwrap();
        let storage = FakeStorage::new();
        Self {
            folder: folder.into(),
            blobs: blobs(&storage),
            storage,
        }
    }

    /// Opens the cache over storage of which one call of `fails` fails.
    fn open(&self, fails: u32, policy: ReplacementPolicy) -> Arc<FileCache> {
        let limits = Limits {
            files: FILES,
            bytes: BYTES,
            policy,
            ..AMPLE
        };
        let store = Arc::new(Slow {
            inner: Arc::clone(&self.storage),
            fails,
        });
        let downloads = Arc::new(Downloads::new(4));
        FileCache::open(&self.folder.join("cache"), limits, store, downloads).unwrap()
    }

    /// One slot's actions, some of them given up, with files vanishing under them.
    /// Tells of each that succeeded.
    async fn slot(&self, cache: &Arc<FileCache>, seed: usize, rounds: usize, told: impl Fn()) {
        let mut random = StdRng::seed_from_u64(seed as u64);
        let folder = self.folder.join(format!("slot{seed}"));
        for _ in 0..rounds {
            std::fs::create_dir(&folder).unwrap();
            let keys = wanted(&self.blobs, &mut random);
            let victim = self.folder.join("cache").join(keys[0].file_name());
            let patience = match random.random_bool(0.2) {
                true => Duration::from_micros(random.random_range(0..3000)),
                false => Duration::from_secs(600),
            };
            if random.random_bool(0.05) {
                let _ = std::fs::remove_file(victim);
            }
            let acting = action(cache, &folder, keys, &mut random);
            if let Ok(true) = tokio::time::timeout(patience, acting).await {
                told();
            }
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}

/// 4,800 actions in all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn churn_never_hands_out_a_wrong_or_missing_file() {
    const ROUNDS: usize = 100;
    for (policy, fails) in [
        (ReplacementPolicy::LeastRecentlyUsed, 0),
        (ReplacementPolicy::FirstInFirstOut, 20),
        (ReplacementPolicy::RandomReplacement, 5),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let arena = Arc::new(Arena::new(folder.path()));
        let cache = arena.open(fails, policy);
        let succeeded = Arc::new(AtomicUsize::new(0));
        let slots = (0..SLOTS).map(|seed| {
            let (arena, cache) = (Arc::clone(&arena), Arc::clone(&cache));
            let succeeded = Arc::clone(&succeeded);
            tokio::spawn(async move {
                let told = || {
                    succeeded.fetch_add(1, Ordering::Relaxed);
                };
                arena.slot(&cache, seed, ROUNDS, told).await;
            })
        });
        for slot in slots.collect::<Vec<_>>() {
            slot.await.unwrap();
        }
        let succeeded = succeeded.load(Ordering::Relaxed);
        assert!(succeeded > SLOTS * ROUNDS / 4, "{policy:?}: {succeeded}");
        // Writers of what was given up end by themselves.
        let incoming = arena.folder.join("cache/incoming");
        while std::fs::read_dir(&incoming).unwrap().next().is_some() {
            tokio::task::yield_now().await;
        }
        let (files, bytes, pinned) = cache.usage();
        assert_eq!(pinned, 0);
        assert!(files <= FILES && bytes <= BYTES, "{files} {bytes}");
        let (found, occupied) = on_disk(&arena.folder.join("cache"));
        // What was removed under the last actions is still counted.
        assert!(found <= files && occupied <= bytes, "{found} {occupied}");
    }
}

/// A worker in a process of its own is killed while its slots are at work. What it
/// leaves is taken over, whole files only, and none of another content.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kill_at_any_point_leaves_only_good_files() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return work_until_killed(Path::new(&folder)).await;
    }
    const KILLS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let arena = Arena::new(folder.path());
    let mut random = StdRng::seed_from_u64(7);
    let (mut actions, mut survived) = (0, 0);
    for _ in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("cache::tests::stress::a_kill_at_any_point_leaves_only_good_files")
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = random.random_range(1..100);
        let done = lines.by_ref().map_while(Result::ok);
        actions += done.filter(|line| line == DONE).take(enough).count();
        child.kill().unwrap();
        child.wait().unwrap();
        for slot in 0..SLOTS {
            let _ = std::fs::remove_dir_all(folder.path().join(format!("slot{slot}")));
        }
        let cache = arena.open(0, ReplacementPolicy::default());
        let (files, bytes, _) = cache.usage();
        assert!(files <= FILES && bytes <= BYTES, "{files} {bytes}");
        // All is hashed, in the background or because it is used.
        let keys: Vec<Key> = (0..4)
            .flat_map(|_| wanted(&arena.blobs, &mut random))
            .collect();
        let instance = InstanceName::empty();
        let hashing = FileCache::verify_all(Arc::downgrade(&cache));
        let (pins, ()) = tokio::join!(cache.acquire(&instance, keys), hashing);
        drop(pins.unwrap());
        assert_eq!(cache.counters.altered.get(), 0);
        assert_eq!(on_disk(&folder.path().join("cache")).0, cache.usage().0);
        assert_eq!(cache.usage().2, 0);
        survived += files;
    }
    assert!(actions >= KILLS && survived > 0, "{actions} {survived}");
}

/// What the child says of each action.
const DONE: &str = "done";

async fn work_until_killed(folder: &Path) {
    let arena = Arc::new(Arena::new(folder));
    let cache = arena.open(0, ReplacementPolicy::default());
    let hashing = FileCache::verify_all(Arc::downgrade(&cache));
    let slots = (0..SLOTS).map(|seed| {
        let (arena, cache) = (Arc::clone(&arena), Arc::clone(&cache));
        tokio::spawn(async move {
            // In the middle of other output of the test's frame.
            let told = || {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "\n{DONE}");
            };
            arena.slot(&cache, seed, usize::MAX, told).await;
        })
    });
    let slots: Vec<_> = slots.collect();
    hashing.await;
    for slot in slots {
        slot.await.unwrap();
    }
}
