//! Fetching: together, once, completely or not at all.

use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::{AMPLE, Fixture, key};
use crate::Error;
use crate::cache::Key;
use crate::testing::digest;

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
