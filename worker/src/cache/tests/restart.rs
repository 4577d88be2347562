//! What survives a stop and a kill.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{AMPLE, Fixture, key};
use crate::Error;
use crate::cache::{FileCache, Key, Limits};
use crate::downloads::Downloads;
use crate::files;

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
    assert_eq!(fixture.cache.counters.altered.get(), 1);
    drop(pins.unwrap());
    assert_eq!((fixture.cache.usage().0, fixture.cache.usage().2), (20, 0));
}

#[tokio::test]
async fn files_are_fetched_anew_when_their_modes_are_to_be_others() {
    let fixture = Fixture::new(AMPLE);
    let one = key(fixture.storage.put("one"));
    drop(fixture.acquire(&[one]).await.unwrap());
    let mode = |fixture: &Fixture| fixture.cached(&one).metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(&fixture), 0o444);
    let writable = Limits {
        writable: true,
        ..AMPLE
    };
    let fixture = fixture.reopen_with(true, writable);
    assert_eq!(fixture.cache.usage().0, 0);
    drop(fixture.acquire(&[one]).await.unwrap());
    assert_eq!(mode(&fixture), 0o644);
    let fixture = fixture.reopen_with(true, writable);
    assert_eq!(fixture.cache.usage().0, 1);
}
