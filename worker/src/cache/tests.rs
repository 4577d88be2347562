//! The cache against storage in memory.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::{Digest, InstanceName};
use tokio::sync::Semaphore;

use super::{FileCache, Key, Limits, LinkError, Pins, ReplacementPolicy, Tenant};
use crate::Error;
use crate::downloads::Downloads;
use crate::files;
use crate::testing::{FakeStorage, digest};

const AMPLE: Limits = Limits {
    bytes: 1 << 30,
    files: 1000,
    policy: ReplacementPolicy::LeastRecentlyUsed,
    tenant_components: 0,
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
        let directory = tempfile::tempdir().unwrap();
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
        let cache = open(directory.path(), &storage, AMPLE);
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

#[tokio::test]
async fn files_are_as_promised_whether_small_or_large() {
    let fixture = Fixture::new(AMPLE);
    let small = key(fixture.storage.put("small"));
    let large = Key {
        tenant: Tenant::SHARED,
        digest: fixture.storage.put(vec![7; 3 << 20]),
        executable: true,
    };
    let twice = Key {
        executable: true,
        ..small
    };
    let empty = key(fixture.storage.put(""));
    let _pins = fixture
        .acquire(&[small, large, twice, empty])
        .await
        .unwrap();
    for (key, mode) in [
        (small, 0o444),
        (large, 0o555),
        (twice, 0o555),
        (empty, 0o444),
    ] {
        let bytes = std::fs::read(fixture.cached(&key)).unwrap();
        assert_eq!(digest(&bytes), key.digest);
        let metadata = fixture.cached(&key).metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert_eq!(metadata.mtime(), files::FIXED_TIME);
        fixture
            .cache
            .link(&key, fixture.target.as_fd(), "link")
            .unwrap();
        fixture
            .cache
            .copy(&key, fixture.target.as_fd(), "copy")
            .unwrap();
        let inode = |name: &str| fixture.target(name).metadata().unwrap();
        assert_eq!(inode("link").ino(), metadata.ino());
        assert_ne!(inode("copy").ino(), metadata.ino());
        assert_eq!(inode("copy").mode() & 0o7777, mode);
        assert_eq!(inode("copy").mtime(), files::FIXED_TIME);
        assert_eq!(std::fs::read(fixture.target("copy")).unwrap(), bytes);
        for name in ["link", "copy"] {
            std::fs::remove_file(fixture.target(name)).unwrap();
        }
    }
    assert_eq!(fixture.cache.usage().2, 4);
}

#[tokio::test]
async fn the_oldest_unpinned_files_make_room() {
    let fixture = Fixture::new(Limits { files: 2, ..AMPLE });
    let keys: Vec<Key> = (0..4_u8)
        .map(|n| key(fixture.storage.put(vec![n])))
        .collect();
    let held = fixture.acquire(&keys[..1]).await.unwrap();
    drop(fixture.acquire(&keys[1..2]).await.unwrap());
    drop(fixture.acquire(&keys[2..3]).await.unwrap());
    assert!(fixture.cached(&keys[0]).exists());
    assert!(!fixture.cached(&keys[1]).exists());
    assert!(fixture.cached(&keys[2]).exists());
    // What is in use at the same time may exceed the limit for as long.
    let more = fixture.acquire(&keys[1..]).await.unwrap();
    assert_eq!(fixture.cache.usage().0, 4);
    drop(more);
    drop(held);
    let (files, _, pinned) = fixture.cache.usage();
    assert_eq!((files, pinned), (2, 0));
}

#[tokio::test]
async fn bytes_are_counted_as_blocks_on_disk() {
    let fixture = Fixture::new(Limits {
        bytes: 3 << 20,
        ..AMPLE
    });
    for n in 0..4_u8 {
        let key = key(fixture.storage.put(vec![n; 1 << 20]));
        drop(fixture.acquire(&[key]).await.unwrap());
        let on_disk = fixture.cached(&key).metadata().unwrap().blocks() * 512;
        assert!(on_disk >= 1 << 20);
    }
    let (files, bytes, _) = fixture.cache.usage();
    assert!(bytes <= 3 << 20, "{bytes}");
    assert!((2..=3).contains(&files), "{files}");
}

#[tokio::test]
async fn many_who_want_a_file_fetch_it_once() {
    let fixture = Fixture::new(AMPLE);
    let wanted: Vec<Key> = (0..50_u8)
        .map(|n| key(fixture.storage.put(vec![n])))
        .collect();
    let fixture = &fixture;
    let all = (0..20).map(|n| {
        let mut keys = wanted.clone();
        keys.rotate_left(n);
        async move { fixture.acquire(&keys).await.unwrap() }
    });
    let pins = futures::future::join_all(all).await;
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), 50);
    assert_eq!(fixture.cache.usage().2, 50);
    drop(pins);
    assert_eq!(fixture.cache.usage().2, 0);
}

#[tokio::test]
async fn when_the_fetcher_gives_up_another_takes_over() {
    let fixture = Fixture::new(AMPLE);
    let keys = [key(fixture.storage.put("x"))];
    fixture.storage.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut first = Box::pin(fixture.acquire(&keys));
    let mut second = Box::pin(fixture.acquire(&keys));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    fixture.storage.gate.add_permits(10);
    let pins = second.await.unwrap();
    assert_eq!(fixture.cache.usage().2, 1);
    drop(pins);
}

/// All bytes are there, but not yet the word that they are right.
#[tokio::test]
async fn a_large_file_is_not_cached_before_its_verdict() {
    let fixture = Fixture::new(AMPLE);
    let key = key(digest(&[1; 3 << 20]));
    let wrong = vec![2; 3 << 20].into();
    fixture
        .storage
        .blobs
        .lock()
        .unwrap()
        .insert(key.digest, wrong);
    fixture.storage.end.forget_permits(Semaphore::MAX_PERMITS);
    let incoming = fixture.directory.path().join("cache/incoming");
    let writing = || std::fs::read_dir(&incoming).unwrap().next().is_some();
    let keys = [key];
    tokio::select! {
        _ = fixture.acquire(&keys) => panic!("there is no verdict"),
        () = fixture.storage.at_end.notified() => {}
    }
    // The action is cancelled; its writer ends by itself.
    while writing() {
        tokio::task::yield_now().await;
    }
    assert!(!fixture.cached(&key).exists());
    assert_eq!(fixture.cache.usage(), (0, 0, 0));

    fixture.storage.end.add_permits(1);
    let failed = fixture.acquire(&keys).await;
    let corrupt = |source: &storage::Error| matches!(source, storage::Error::Corrupt { .. });
    assert!(matches!(failed, Err(Error::Storage { source, .. }) if corrupt(&source)));
    assert!(!writing() && !fixture.cached(&key).exists());
    assert_eq!(fixture.cache.usage(), (0, 0, 0));
}

#[tokio::test]
async fn all_missing_blobs_are_named_and_nothing_is_fetched_for_them() {
    let fixture = Fixture::new(AMPLE);
    let there = key(fixture.storage.put(vec![1; 2 << 20]));
    let missing = [key(digest(b"a")), key(digest(b"b"))];
    let Err(Error::Missing { mut blobs, .. }) =
        fixture.acquire(&[there, missing[0], missing[1]]).await
    else {
        panic!("nothing is missing");
    };
    blobs.sort_unstable();
    let mut expected = missing.map(|key| key.digest);
    expected.sort_unstable();
    assert_eq!(blobs, expected);
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), 0);
    assert_eq!(fixture.cache.usage(), (0, 0, 0));
}

#[tokio::test]
async fn a_file_out_of_links_gets_a_fresh_inode() {
    let fixture = Fixture::new(AMPLE);
    let key = key(fixture.storage.put("popular"));
    let _pins = fixture.acquire(&[key]).await.unwrap();
    fixture.cache.link_limit.store(3, Ordering::Relaxed);
    let mut inodes = std::collections::BTreeSet::new();
    for n in 0..6 {
        let name = n.to_string();
        fixture
            .cache
            .link(&key, fixture.target.as_fd(), &name)
            .unwrap();
        let metadata = fixture.target(&name).metadata().unwrap();
        assert_eq!(std::fs::read(fixture.target(&name)).unwrap(), b"popular");
        assert_eq!(metadata.mode() & 0o7777, 0o444);
        assert_eq!(metadata.mtime(), files::FIXED_TIME);
        inodes.insert(metadata.ino());
    }
    assert_eq!(inodes.len(), 3);
    assert_eq!(fixture.cached(&key).metadata().unwrap().nlink(), 3);
}

#[tokio::test]
async fn a_file_that_vanished_is_fetched_anew() {
    let fixture = Fixture::new(AMPLE);
    let key = key(fixture.storage.put("fleeting"));
    let pins = fixture.acquire(&[key]).await.unwrap();
    std::fs::remove_file(fixture.cached(&key)).unwrap();
    let link = |name| fixture.cache.link(&key, fixture.target.as_fd(), name);
    assert!(matches!(link("a"), Err(LinkError::Vanished)));
    let more = fixture
        .cache
        .repair(&InstanceName::empty(), vec![key])
        .await
        .unwrap();
    link("a").unwrap();
    std::fs::remove_file(fixture.cached(&key)).unwrap();
    let copy = |name| fixture.cache.copy(&key, fixture.target.as_fd(), name);
    assert!(matches!(copy("b"), Err(LinkError::Vanished)));
    let yet_more = fixture
        .cache
        .repair(&InstanceName::empty(), vec![key])
        .await
        .unwrap();
    copy("b").unwrap();
    assert_eq!(std::fs::read(fixture.target("b")).unwrap(), b"fleeting");
    drop(yet_more);
    drop(pins);
    assert_eq!(fixture.cache.usage().2, 1);
    drop(more);
    assert_eq!(fixture.cache.usage().2, 0);
}

#[tokio::test]
async fn a_clean_stop_keeps_files_and_their_order() {
    let fixture = Fixture::new(AMPLE);
    let keys: Vec<Key> = (0..3_u8)
        .map(|n| key(fixture.storage.put(vec![n])))
        .collect();
    for n in [2, 0, 1] {
        drop(fixture.acquire(&keys[n..=n]).await.unwrap());
    }
    let fixture = fixture.reopen(true);
    let reads = fixture.storage.reads.load(Ordering::SeqCst);
    assert_eq!(
        fixture.cache.index().verified(),
        [keys[2], keys[0], keys[1]]
    );
    drop(fixture.acquire(&keys).await.unwrap());
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), reads);
}

#[tokio::test]
async fn after_a_kill_files_are_hashed_before_they_are_used() {
    let fixture = Fixture::new(AMPLE);
    let good = key(fixture.storage.put("good"));
    let bad = key(fixture.storage.put("evil"));
    drop(fixture.acquire(&[good, bad]).await.unwrap());
    // Of the same size, mode and time, so that only the hash tells.
    let path = fixture.cached(&bad);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, "live").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    files::set_fixed_time(std::fs::File::open(&path).unwrap()).unwrap();
    let inode = fixture.cached(&good).metadata().unwrap().ino();

    let fixture = fixture.reopen(false);
    assert_eq!(fixture.cache.usage().0, 2);
    assert!(fixture.cache.index().verified().is_empty());
    let pins = fixture.acquire(&[good, bad]).await.unwrap();
    assert_eq!(std::fs::read(fixture.cached(&bad)).unwrap(), b"evil");
    assert_eq!(fixture.cached(&good).metadata().unwrap().ino(), inode);
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), 3);
    drop(pins);
    assert_eq!((fixture.cache.usage().0, fixture.cache.usage().2), (2, 0));
}

#[tokio::test]
async fn files_that_are_not_as_the_cache_makes_them_are_removed_at_the_start() {
    let fixture = Fixture::new(AMPLE);
    let keys: Vec<Key> = (0..5_u8)
        .map(|n| key(fixture.storage.put(vec![n])))
        .collect();
    drop(fixture.acquire(&keys).await.unwrap());
    let path = |n: usize| fixture.cached(&keys[n]);
    std::fs::set_permissions(path(0), PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::open(path(1)).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    std::fs::hard_link(path(2), fixture.target("elsewhere")).unwrap();
    std::fs::remove_file(path(3)).unwrap();
    std::fs::create_dir(fixture.directory.path().join("cache/other")).unwrap();
    let fixture = fixture.reopen(true);
    assert_eq!(fixture.cache.usage().0, 1);
    for key in &keys[..4] {
        assert!(!fixture.cached(key).exists());
    }
    assert!(fixture.cached(&keys[4]).exists());
}

#[tokio::test]
async fn two_processes_cannot_have_one_cache() {
    let fixture = Fixture::new(AMPLE);
    let downloads = Arc::new(Downloads::new(1));
    let path = fixture.directory.path().join("cache");
    let second = FileCache::open(&path, AMPLE, fixture.storage.clone(), downloads);
    assert!(matches!(second, Err(Error::CacheInUse(_))));
}

/// Far too many files for the cache, wanted by many at once: what each gets is
/// right, and nothing stays pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn churn_never_hands_out_a_wrong_or_missing_file() {
    let fixture = Arc::new(Fixture::new(Limits { files: 8, ..AMPLE }));
    let keys: Vec<Key> = (0..32_u8)
        .map(|n| key(fixture.storage.put(vec![n; 100])))
        .collect();
    let slots = (0..8_usize).map(|slot| {
        let (fixture, keys) = (Arc::clone(&fixture), keys.clone());
        tokio::spawn(async move {
            for round in 0..40_usize {
                let wanted: Vec<Key> = (0..6)
                    .map(|n| keys[(slot * 7 + round * 5 + n * (1 + round % 4)) % keys.len()])
                    .collect();
                let pins = fixture.acquire(&wanted).await.unwrap();
                for (n, key) in wanted.iter().enumerate() {
                    let name = format!("{slot}-{n}");
                    fixture
                        .cache
                        .link(key, fixture.target.as_fd(), &name)
                        .unwrap();
                    let bytes = std::fs::read(fixture.target(&name)).unwrap();
                    assert_eq!(digest(&bytes), key.digest);
                    std::fs::remove_file(fixture.target(&name)).unwrap();
                }
                drop(pins);
            }
        })
    });
    for slot in slots.collect::<Vec<_>>() {
        slot.await.unwrap();
    }
    let (files, _, pinned) = fixture.cache.usage();
    assert_eq!(pinned, 0);
    assert!(files <= 8, "{files}");
    let on_disk = std::fs::read_dir(fixture.directory.path().join("cache")).unwrap();
    let names = on_disk.map(|entry| entry.unwrap().file_name());
    let on_disk = names.filter(|name| Key::parse(name.to_str().unwrap()).is_some());
    assert_eq!(on_disk.count() as u64, files);
}

#[tokio::test]
async fn a_file_that_was_altered_is_fetched_anew() {
    let fixture = Fixture::new(AMPLE);
    let key = key(fixture.storage.put("as it was"));
    let pins = fixture.acquire(&[key]).await.unwrap();
    let path = fixture.cached(&key);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, "as it is!").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    let target = fixture.target.as_fd();
    let lost = |result| matches!(result, Err(LinkError::Vanished));
    assert!(lost(fixture.cache.link(&key, target, "a")));
    assert!(lost(fixture.cache.copy(&key, target, "a")));
    let instance = InstanceName::empty();
    let repair = || fixture.cache.repair(&instance, vec![key, key]);
    let more = repair().await.unwrap();
    fixture.cache.link(&key, target, "a").unwrap();
    assert_eq!(std::fs::read(fixture.target("a")).unwrap(), b"as it was");
    // Who comes later with the same complaint finds it repaired.
    drop(repair().await.unwrap());
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), 2);
    assert_eq!(fixture.cache.metrics.altered.get(), 1);
    assert_eq!(fixture.cache.metrics.vanished.get(), 0);
    drop((pins, more));
    assert_eq!((fixture.cache.usage().0, fixture.cache.usage().2), (1, 0));
}

#[tokio::test]
async fn tenants_share_no_files() {
    let fixture = Fixture::new(Limits {
        tenant_components: 1,
        ..AMPLE
    });
    let digest = fixture.storage.put("secret");
    let key_of = |name: &str| Key {
        tenant: fixture.cache.tenant(&InstanceName::new(name).unwrap()),
        digest,
        executable: false,
    };
    let (one, other) = (key_of("one/main"), key_of("other/main"));
    assert_eq!(one, key_of("one/branch"));
    drop(fixture.acquire(&[one]).await.unwrap());
    // The other tenant's storage does not have it.
    fixture.storage.blobs.lock().unwrap().clear();
    drop(fixture.acquire(&[one]).await.unwrap());
    let refused = fixture.acquire(&[other]).await;
    assert!(matches!(refused, Err(Error::Missing { .. })));
}

#[tokio::test]
async fn what_is_hashed_in_the_background_is_used_at_once() {
    let fixture = Fixture::new(AMPLE);
    let keys: Vec<Key> = (0..20_u8)
        .map(|n| key(fixture.storage.put(vec![n; 1000])))
        .collect();
    drop(fixture.acquire(&keys).await.unwrap());
    let bad = fixture.cached(&keys[7]);
    std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&bad, [99; 1000]).unwrap();
    std::fs::set_permissions(&bad, PermissionsExt::from_mode(0o444)).unwrap();
    files::set_fixed_time(std::fs::File::open(&bad).unwrap()).unwrap();
    let fixture = fixture.reopen(false);
    let hashing = FileCache::verify_all(Arc::downgrade(&fixture.cache));
    // An action that wants them meanwhile waits for what is just being hashed.
    let (pins, ()) = tokio::join!(fixture.acquire(&keys[..10]), hashing);
    assert_eq!(std::fs::read(&bad).unwrap(), [7; 1000]);
    assert_eq!(fixture.cache.index().verified().len(), 20);
    assert_eq!(fixture.storage.reads.load(Ordering::SeqCst), 21);
    assert_eq!(fixture.cache.metrics.altered.get(), 1);
    drop(pins.unwrap());
    assert_eq!((fixture.cache.usage().0, fixture.cache.usage().2), (20, 0));
}

#[tokio::test]
async fn room_is_made_before_it_is_taken() {
    let fixture = Fixture::new(Limits {
        bytes: 4 << 20,
        ..AMPLE
    });
    let old = key(fixture.storage.put(vec![1; 3 << 20]));
    drop(fixture.acquire(&[old]).await.unwrap());
    let new = key(fixture.storage.put(vec![2; 3 << 20]));
    fixture.storage.gate.forget_permits(Semaphore::MAX_PERMITS);
    let wanted = [new];
    let mut fetching = Box::pin(fixture.acquire(&wanted));
    assert!(futures::poll!(&mut fetching).is_pending());
    assert!(!fixture.cached(&old).exists());
    assert_eq!(fixture.cache.usage(), (1, 3 << 20, 1));
    // What is given up takes no room.
    drop(fetching);
    assert_eq!(fixture.cache.usage(), (0, 0, 0));
}

#[tokio::test]
async fn what_another_file_system_cannot_link_is_copied() {
    let fixture = Fixture::new(AMPLE);
    let key = key(fixture.storage.put("far away"));
    let _pins = fixture.acquire(&[key]).await.unwrap();
    // Every Linux has this one in memory.
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let target = files::open_configured(elsewhere.path()).unwrap();
    fixture.cache.link(&key, target.as_fd(), "copy").unwrap();
    let copy = elsewhere.path().join("copy");
    assert_eq!(std::fs::read(&copy).unwrap(), b"far away");
    assert_eq!(copy.metadata().unwrap().mode() & 0o7777, 0o444);
    assert_eq!(copy.metadata().unwrap().mtime(), files::FIXED_TIME);
}

#[tokio::test]
async fn counters_say_what_happened() {
    let fixture = Fixture::new(Limits { files: 1, ..AMPLE });
    let keys = [vec![1; 10], vec![2; 20]].map(|bytes| key(fixture.storage.put(bytes)));
    drop(fixture.acquire(&keys[..1]).await.unwrap());
    drop(fixture.acquire(&keys[..1]).await.unwrap());
    drop(fixture.acquire(&keys[1..]).await.unwrap());
    let mut registry = prometheus_client::registry::Registry::default();
    fixture.cache.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "hayloft_worker_file_cache_hits_total 1",
        "hayloft_worker_file_cache_hit_bytes_total 10",
        "hayloft_worker_file_cache_misses_total 2",
        "hayloft_worker_file_cache_fetched_total 2",
        "hayloft_worker_file_cache_fetched_bytes_total 30",
        "hayloft_worker_file_cache_evicted_total 1",
        "hayloft_worker_file_cache_files 1",
        "hayloft_worker_file_cache_size_bytes 4096",
        "buildbarn_eviction_set_operations_total{name=\"HardlinkingFileFetcher\",operation=\"Remove\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
}
