//! How files get into input roots.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::Ordering;

use proto::InstanceName;

use super::{AMPLE, Fixture, key};
use crate::cache::{Key, LinkError, Tenant};
use crate::files;
use crate::testing::{Disk, digest, may_share};

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
    assert_eq!(fixture.cache.counters.altered.get(), 1);
    assert_eq!(fixture.cache.counters.vanished.get(), 0);
    drop((pins, more));
    assert_eq!((fixture.cache.usage().0, fixture.cache.usage().2), (1, 0));
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
async fn copies_take_no_room_where_files_can_share_blocks() {
    if !may_share("copies_take_no_room_where_files_can_share_blocks") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("disk");
    std::fs::create_dir(&at).unwrap();
    let disk = Disk::sharing(&at, &folder.path().join("image"));
    let fixture = Fixture::at(&at, AMPLE);
    let bytes: Vec<u8> = (0..32_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let key = key(fixture.storage.put(bytes.clone()));
    let _pins = fixture.acquire(&[key]).await.unwrap();
    nix::unistd::syncfs(&fixture.target).unwrap();
    let before = disk.free();
    for n in 0..8 {
        let name = n.to_string();
        let target = fixture.target.as_fd();
        fixture.cache.copy(&key, target, &name).unwrap();
        let copy = fixture.target(&name);
        assert_ne!(
            copy.metadata().unwrap().ino(),
            fixture.cached(&key).metadata().unwrap().ino()
        );
        assert!(std::fs::read(copy).unwrap() == bytes);
    }
    nix::unistd::syncfs(&fixture.target).unwrap();
    let taken = before.saturating_sub(disk.free());
    assert!(taken < 1 << 20, "eight copies of 32 MiB took {taken} bytes");
}
