//! What the embedded store does with its directory.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{MIB, blob, gather, limits, open, root, sha256, stream};
use futures::StreamExt;
use prost::Message;
use proto::wire::rev2::{self, ActionResult};
use proto::{Digest, InstanceName};
use storage::local::{Actions, Blobs, Limits};
use storage::{ActionCache, BlobStore, Error, Holder};

fn place(folder: &Path, digest: &Digest) -> PathBuf {
    let hash = digest.hash();
    folder
        .join("blobs")
        .join(digest.function().name())
        .join(&hash[..2])
        .join(digest.to_string())
}

async fn put(store: &Blobs, bytes: &Bytes) -> Result<Digest, Error> {
    let digest = sha256(bytes);
    let written = store.write_batch(root(), vec![(digest, bytes.clone())]);
    written.await?.remove(0)?;
    Ok(digest)
}

async fn has(store: &Blobs, digest: Digest) -> bool {
    let missing = store.find_missing(root(), &[digest]).await.unwrap();
    missing.is_empty()
}

fn files_below(folder: &Path) -> usize {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .filter(|entry| entry.as_ref().unwrap().file_type().is_file())
        .count()
}

#[tokio::test]
async fn the_least_recently_used_go_and_their_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 10 * 4096);
    let mut digests = Vec::new();
    for seed in 0..10 {
        digests.push(put(&store, &blob(seed, 4000).1).await.unwrap());
    }
    // Found and read: both are uses.
    assert!(has(&store, digests[0]).await);
    let read = store.read(root(), digests[1], 0, None).await.unwrap();
    gather(read).await.unwrap();
    for seed in 10..15 {
        put(&store, &blob(seed, 4000).1).await.unwrap();
    }
    let missing = store.find_missing(root(), &digests).await.unwrap();
    assert_eq!(missing, digests[2..7]);
    for gone in &digests[2..7] {
        let read = store.read_batch(root(), &[*gone]).await.unwrap();
        assert!(matches!(read[0], Err(Error::NotFound(_))));
    }
    assert_eq!(files_below(&folder.path().join("blobs")), 10);
    assert_eq!(store.size(), 10 * 4096);
    // One that is large takes the room of many.
    let (large, bytes) = blob(99, 9 * 4096);
    let written = store.write(root(), large, stream(&bytes, 5000)).await;
    written.unwrap();
    assert_eq!(files_below(&folder.path().join("blobs")), 2);
}

#[tokio::test]
async fn a_blob_that_can_never_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), MIB);
    for size in [MIB as usize + 1, 3 << 20] {
        let (digest, bytes) = blob(1, size);
        let written = store.write(root(), digest, stream(&bytes, 65536)).await;
        assert!(matches!(written, Err(Error::Full { .. })));
        let written = store.write_batch(root(), vec![(digest, bytes)]).await;
        assert!(matches!(written.unwrap()[0], Err(Error::Full { .. })));
    }
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

#[tokio::test]
async fn a_reader_keeps_what_is_evicted_while_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 8 * MIB);
    let (digest, bytes) = blob(1, 5 << 20);
    let written = store.write(root(), digest, stream(&bytes, 1 << 20)).await;
    written.unwrap();
    let mut reading = store.read(root(), digest, 0, None).await.unwrap();
    let first = reading.next().await.unwrap().unwrap();
    let other = blob(2, 6 << 20);
    let written = store.write(root(), other.0, stream(&other.1, 1 << 20));
    written.await.unwrap();
    assert!(!has(&store, digest).await);
    let rest = gather(reading).await.unwrap();
    assert!([&first[..], &rest].concat() == bytes);
}

#[tokio::test]
async fn a_restart_finds_what_was_stored_and_how_lately_it_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), MIB);
    let mut digests = Vec::new();
    for seed in 0..6 {
        digests.push(put(&store, &blob(seed, 4000).1).await.unwrap());
    }
    drop(store);
    // Used in the order 3, 0, 1, 2, 4, 5.
    for (age, at) in [3, 0, 1, 2, 4, 5].into_iter().enumerate() {
        let file = File::open(place(folder.path(), &digests[at])).unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + age as u64);
        file.set_modified(used).unwrap();
    }
    // What a process leaves that died in the middle of things.
    fs::write(folder.path().join("incoming/7"), b"half").unwrap();
    let torn = place(folder.path(), &blob(77, 5000).0);
    fs::create_dir_all(torn.parent().unwrap()).unwrap();
    fs::write(&torn, b"").unwrap();
    let foreign = folder.path().join("blobs/sha256/zz");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("README"), b"").unwrap();

    let store = open(folder.path(), 4 * 4096);
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
    assert!(!torn.exists());
    assert!(!foreign.join("README").exists());
    let missing = store.find_missing(root(), &digests).await.unwrap();
    assert_eq!(missing, [digests[0], digests[3]]);
    assert!(!place(folder.path(), &digests[3]).exists());
    let read = store.read_batch(root(), &[digests[1]]).await.unwrap();
    assert!(*read[0].as_ref().unwrap() == blob(1, 4000).1);
}

#[tokio::test]
async fn a_use_is_noted_in_the_file_of_a_blob_not_used_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), MIB);
    let digest = put(&store, &blob(1, 100).1).await.unwrap();
    drop(store);
    let file = File::open(place(folder.path(), &digest)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let store = open(folder.path(), MIB);
    assert!(has(&store, digest).await);
    // It is noted in the background.
    while file.metadata().unwrap().modified().unwrap() == SystemTime::UNIX_EPOCH {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), MIB);
    let second = Blobs::open(folder.path(), limits(MIB));
    assert!(matches!(second, Err(Error::InUse(path)) if path == folder.path()));
    drop(store);
    open(folder.path(), MIB);
}

#[tokio::test]
async fn a_damaged_blob_is_noticed_and_can_be_stored_again() {
    let folder = tempfile::tempdir().unwrap();
    for size in [100, 50_000, 3 << 20] {
        // Without memory, so that files are read.
        let limits = Limits {
            disk: 64 * MIB,
            memory: 0,
        };
        let store = Blobs::open(folder.path(), limits).unwrap();
        let (digest, bytes) = blob(size as u64, size);
        let place = place(folder.path(), &digest);
        for damage in ["flip", "cut", "remove"] {
            let written = store.write(root(), digest, stream(&bytes, 65536)).await;
            written.unwrap();
            let mut damaged = bytes.to_vec();
            damaged[size / 2] ^= 1;
            match damage {
                "flip" => fs::write(&place, damaged).unwrap(),
                "cut" => fs::write(&place, &damaged[..size / 2]).unwrap(),
                _ => fs::remove_file(&place).unwrap(),
            }
            assert!(has(&store, digest).await);
            let failed = match store.read(root(), digest, 0, None).await {
                Ok(stream) => gather(stream).await.unwrap_err(),
                Err(error) => error,
            };
            match damage {
                "flip" => assert!(matches!(failed, Error::Corrupt { .. }), "{failed}"),
                "cut" => assert!(matches!(failed, Error::Size { .. }), "{failed}"),
                _ => assert!(matches!(failed, Error::NotFound(_)), "{failed}"),
            }
            assert!(!has(&store, digest).await, "{damage} {size}");
            assert!(!place.exists());
        }
    }
}

#[tokio::test]
async fn nobody_else_can_read_the_directory() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("a/store");
    open(&store, MIB);
    let mode = fs::metadata(&store).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

fn result(size: usize) -> ActionResult {
    ActionResult {
        stdout_raw: vec![1; size],
        ..Default::default()
    }
}

fn action(number: u64) -> Digest {
    sha256(&number.to_le_bytes())
}

#[tokio::test]
async fn results_nobody_asks_for_go_when_there_is_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("actions");
    let actions = Actions::open(&file, 100 * 1024).unwrap();
    for number in 0..500 {
        let updated = actions.update(root(), action(number), result(900)).await;
        updated.unwrap();
        // One is asked for all the time.
        assert!(actions.get(root(), action(0)).await.unwrap().is_some());
    }
    let mut kept = Vec::new();
    for number in 0..500 {
        if actions.get(root(), action(number)).await.unwrap().is_some() {
            kept.push(number);
        }
    }
    // Each takes 900 bytes and a bit.
    assert!((80..=110).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept[0], 0);
    assert_eq!(
        kept[1..],
        (501 - kept.len() as u64..500).collect::<Vec<_>>()
    );
    drop(actions);

    // Bounded in the file too, and the same after a restart.
    assert!(fs::metadata(&file).unwrap().len() < 4 << 20);
    let actions = Actions::open(&file, 100 * 1024).unwrap();
    for number in 0..500 {
        let there = actions.get(root(), action(number)).await.unwrap().is_some();
        assert_eq!(there, kept.contains(&number), "{number}");
    }
    // New ages follow the old ones.
    let updated = actions.update(root(), action(1000), result(900)).await;
    updated.unwrap();
    assert!(actions.get(root(), action(1000)).await.unwrap().is_some());
}

#[tokio::test]
async fn many_writers_at_once_are_all_heard() {
    let folder = tempfile::tempdir().unwrap();
    let actions = Actions::open(&folder.path().join("actions"), 64 * MIB).unwrap();
    let updates = (0..2000).map(|number| {
        let actions = &actions;
        async move {
            actions
                .update(root(), action(number), result(number as usize % 50))
                .await
        }
    });
    for updated in futures::future::join_all(updates).await {
        updated.unwrap();
    }
    for number in 0..2000 {
        let got = actions.get(root(), action(number)).await.unwrap();
        assert_eq!(got, Some(result(number as usize % 50)));
    }
}

#[tokio::test]
async fn a_damaged_database_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("actions");
    fs::write(&file, vec![7; 100_000]).unwrap();
    let actions = Actions::open(&file, MIB).unwrap();
    assert_eq!(actions.get(root(), action(1)).await.unwrap(), None);
    let updated = actions.update(root(), action(1), result(1)).await;
    updated.unwrap();
    drop(actions);
    assert!(folder.path().join("actions.damaged").exists());
    let actions = Actions::open(&file, MIB).unwrap();
    assert!(actions.get(root(), action(1)).await.unwrap().is_some());
}

/// What a power cut leaves: some of the pages that were written last are those of
/// before, or empty. Whatever is given after that is right.
#[tokio::test]
async fn a_database_that_lost_pages_gives_nothing_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("actions");
    let actions = Actions::open(&file, MIB).unwrap();
    let update = |number| actions.update(root(), action(number), result(number as usize % 2000));
    for number in 0..100 {
        update(number).await.unwrap();
    }
    let earlier = fs::read(&file).unwrap();
    for number in 100..200 {
        update(number).await.unwrap();
    }
    // Not closed: marked as in need of repair.
    let later = fs::read(&file).unwrap();
    let (mut kept, mut lost) = (0, 0);
    for cut in 0..60 {
        let mut torn = later.clone();
        let choice = common::bytes(cut, later.len() / 4096);
        for (at, page) in torn.chunks_mut(4096).enumerate() {
            // None in the first round, then more and more of them.
            if u64::from(choice[at % choice.len()]) >= cut {
                continue;
            }
            let from = at * 4096;
            match earlier.get(from..from + page.len()) {
                Some(older) if cut % 2 == 0 => page.copy_from_slice(older),
                _ => page.fill(0),
            }
        }
        let file = folder.path().join(format!("torn-{cut}"));
        fs::write(&file, torn).unwrap();
        let torn = Actions::open(&file, MIB).unwrap();
        for number in 0..200 {
            match torn.get(root(), action(number)).await.unwrap() {
                Some(got) => {
                    assert_eq!(got, result(number as usize % 2000));
                    kept += 1;
                }
                None => lost += 1,
            }
        }
        let updated = torn.update(root(), action(1), result(1)).await;
        updated.unwrap();
    }
    assert!(kept > 200 && lost > 200, "{kept} {lost}");
}

/// Eviction, writing and reading of the same few blobs, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_contention_what_is_there_is_right_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Blobs::open(
        folder.path(),
        Limits {
            disk: 40 * 4096,
            memory: 20_000,
        },
    )
    .unwrap();
    // Sixty small ones and two that are streamed, where about forty blocks fit.
    let blobs: Vec<(Digest, Bytes)> = (0..62)
        .map(|seed| blob(seed, if seed < 60 { 1000 } else { 70_000 }))
        .collect();
    let lanes = (0..8u64).map(|lane| {
        let (store, blobs) = (store.clone(), blobs.clone());
        tokio::spawn(async move {
            for step in common::bytes(lane, 1500) {
                let (digest, bytes) = &blobs[usize::from(step) % blobs.len()];
                if step & 128 == 0 {
                    let source = stream(bytes, 10_000);
                    match store.write(root(), *digest, source).await {
                        // Three of the large ones under way take all there is.
                        Ok(()) | Err(Error::Full { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                } else {
                    let read = match store.read(root(), *digest, 0, None).await {
                        Ok(stream) => gather(stream).await,
                        Err(error) => Err(error),
                    };
                    match read {
                        Ok(read) => assert!(read == *bytes),
                        Err(Error::NotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for lane in futures::future::join_all(lanes).await {
        lane.unwrap();
    }
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let missing = store.find_missing(root(), &digests).await.unwrap();
    for (digest, bytes) in &blobs {
        assert_eq!(
            place(folder.path(), digest).exists(),
            !missing.contains(digest)
        );
        if !missing.contains(digest) {
            let read = store.read(root(), *digest, 0, None).await.unwrap();
            assert!(gather(read).await.unwrap() == *bytes);
        }
    }
    assert!(store.size() <= 40 * 4096 && !missing.is_empty());
    // No upload has left room taken: one blob can have all of it.
    let (whole, bytes) = blob(99, 40 * 4096);
    let written = store.write(root(), whole, stream(&bytes, 10_000));
    written.await.unwrap();
    assert_eq!(store.size(), 40 * 4096);
    assert_eq!(files_below(&folder.path().join("incoming")), 0);
}

/// The rule that nothing is known of another's blobs, by any call.
#[tokio::test]
async fn an_instance_has_blobs_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, bytes) = blob(1, 3000);
    let (large, more) = blob(2, 300_000);
    let [one, other] = ["one", "other"].map(|name| InstanceName::new(name).unwrap());
    for reopened in [false, true] {
        let store = open(folder.path(), 4 * MIB);
        if !reopened {
            for (digest, bytes) in [(digest, &bytes), (large, &more)] {
                let written = store.write(&one, digest, stream(bytes, 10_000));
                written.await.unwrap();
            }
        }
        let both = [digest, large];
        for stranger in [&other, root()] {
            let missing = store.find_missing(stranger, &both).await.unwrap();
            assert_eq!(missing, both);
            for read in store.read_batch(stranger, &both).await.unwrap() {
                assert!(matches!(read, Err(Error::NotFound(_))));
            }
            for digest in both {
                let read = store.read(stranger, digest, 0, None).await;
                assert!(matches!(read, Err(Error::NotFound(_))));
            }
        }
        let missing = store.find_missing(&one, &both).await.unwrap();
        assert_eq!(missing, []);
        let read = store.read(&one, large, 0, None).await.unwrap();
        assert!(gather(read).await.unwrap() == more);
    }
    // Who wants to have it must send it, and then has it.
    let store = open(folder.path(), 4 * MIB);
    let wrong = store.write(&other, digest, stream(&blob(3, 3000).1, 3000));
    assert!(matches!(wrong.await, Err(Error::Corrupt { .. })));
    let right = store.write(&other, digest, stream(&bytes, 3000));
    right.await.unwrap();
    assert_eq!(files_below(&folder.path().join("blobs")), 3);
}

#[tokio::test]
async fn a_damaged_blob_is_put_aside_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        disk: 64 * MIB,
        memory: 0,
    };
    let store = Blobs::open(folder.path(), limits).unwrap();
    let quarantine = folder.path().join("quarantine");
    for number in 0..30 {
        let (digest, bytes) = blob(number, 100);
        put(&store, &bytes).await.unwrap();
        let spoiled = vec![number as u8; 100];
        fs::write(place(folder.path(), &digest), &spoiled).unwrap();
        let read = store.read_batch(root(), &[digest]).await.unwrap();
        assert!(matches!(read[0], Err(Error::Corrupt { .. })));
        assert_eq!(store.damaged(), number + 1);
        let aside = fs::read_dir(&quarantine).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            name.contains(&digest.hash()).then_some(path)
        });
        assert_eq!(fs::read(aside.unwrap()).unwrap(), spoiled);
    }
    // Not without end.
    assert_eq!(files_below(&quarantine), 16);
}

#[tokio::test]
async fn what_an_action_needs_stays_while_it_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 40 * 4096);
    let file = put(&store, &blob(1, 100).1).await.unwrap();
    let deep = put(&store, &blob(2, 100).1).await.unwrap();
    let message = async |message: Vec<u8>| put(&store, &message.into()).await.unwrap();
    let node = |digest: Digest| rev2::FileNode {
        name: "file".into(),
        digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let child = rev2::Directory {
        files: vec![node(deep)],
        ..Default::default()
    };
    let child = message(child.encode_to_vec()).await;
    let input = rev2::Directory {
        files: vec![node(file)],
        directories: vec![rev2::DirectoryNode {
            name: "child".into(),
            digest: Some(child.to_wire()),
        }],
        ..Default::default()
    };
    let input = message(input.encode_to_vec()).await;
    let command = rev2::Command {
        arguments: vec!["x".into()],
        ..Default::default()
    };
    let command = message(command.encode_to_vec()).await;
    let action = rev2::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(input.to_wire()),
        ..Default::default()
    };
    let action = message(action.encode_to_vec()).await;
    let needed = [file, deep, child, input, command, action];

    let held = Holder::new(store.clone()).hold(root(), action).await;
    let flood = async |seed| {
        for seed in seed..seed + 100 {
            put(&store, &blob(seed, 4000).1).await.unwrap();
        }
        store.find_missing(root(), &needed).await.unwrap()
    };
    assert_eq!(flood(1000).await, []);
    drop(held);
    assert_eq!(flood(2000).await, needed);
    assert!(store.size() <= 40 * 4096);
}

#[tokio::test]
async fn what_nobody_uses_goes_by_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let digest = put(&open(folder.path(), MIB), &blob(1, 100).1)
        .await
        .unwrap();
    let file = File::open(place(folder.path(), &digest)).unwrap();
    let used = SystemTime::now() - Duration::from_secs(10_000);
    file.set_modified(used).unwrap();
    let store = open(folder.path(), MIB);
    let young = put(&store, &blob(2, 100).1).await.unwrap();
    store.expire(used + Duration::from_secs(3600));
    assert_eq!(store.find_missing(root(), &[young]).await.unwrap(), []);
    assert!(place(folder.path(), &digest).exists());
    store.expire(used + Duration::from_secs(3601));
    assert!(!place(folder.path(), &digest).exists());
    assert!(!has(&store, digest).await && has(&store, young).await);
}
