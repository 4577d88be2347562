//! What makes room, for whom, and what is counted.

use std::os::unix::fs::MetadataExt;

use proto::InstanceName;
use tokio::sync::Semaphore;

use super::{AMPLE, Fixture, key};
use crate::Error;
use crate::cache::{Key, Limits};

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
async fn counters_say_what_happened() {
    let fixture = Fixture::new(Limits { files: 1, ..AMPLE });
    let keys = [vec![1; 10], vec![2; 20]].map(|bytes| key(fixture.storage.put(bytes)));
    drop(fixture.acquire(&keys[..1]).await.unwrap());
    drop(fixture.acquire(&keys[..1]).await.unwrap());
    drop(fixture.acquire(&keys[1..]).await.unwrap());
    let metrics = daemon::Metrics::default();
    fixture.cache.register(&metrics);
    let text = metrics.to_text();
    for line in [
        "hayloft_worker_file_cache_hits_total 1",
        "hayloft_worker_file_cache_hit_bytes_total 10",
        "hayloft_worker_file_cache_misses_total 2",
        "hayloft_worker_file_cache_fetched_total 2",
        "hayloft_worker_file_cache_fetched_bytes_total 30",
        "hayloft_worker_file_cache_evicted_total 1",
        "hayloft_worker_file_cache_files 1.0",
        "hayloft_worker_file_cache_bytes 4096.0",
        "buildbarn_eviction_set_operations_total{name=\"HardlinkingFileFetcher\",operation=\"Remove\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
}
