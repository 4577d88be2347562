//! A disk that is full: writes are refused, reads go on, and it passes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{MIB, blob, gather, open, root, sha256, stream};
use proto::wire::rev2::ActionResult;
use storage::local::Actions;
use storage::local::inspect::stats;
use storage::{ActionCache, BlobStore};
use tonic::{Code, Status};

/// Where the small disk is, for the process that has one.
const DISK: &str = "HAYLOFT_TEST_SMALL_DISK";

/// Runs as the process that has a disk of 8 MiB to itself.
#[tokio::test]
async fn on_the_small_disk() {
    let Ok(disk) = std::env::var(DISK) else {
        return;
    };
    let disk = Path::new(&disk);
    // The store thinks that it may take much more than there is.
    let store = open(&disk.join("store"), 1 << 30);
    let actions = Actions::open(&disk.join("store/actions"), 64 * MIB).unwrap();
    let (kept, bytes) = blob(1, 300_000);
    let written = store.write(root(), kept, stream(&bytes, 65536));
    written.await.unwrap();
    let update = |number: u64| {
        let action = sha256(&number.to_le_bytes());
        let result = ActionResult {
            stdout_raw: vec![1; 200_000],
            ..Default::default()
        };
        actions.update(root(), action, result)
    };
    update(0).await.unwrap();

    let filler = disk.join("filler");
    let filled = fs::write(&filler, vec![1; 16 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let exhausted = |error: storage::Error| {
        assert_eq!(Status::from(error).code(), Code::ResourceExhausted);
    };
    for (seed, size) in [(2, 3000), (3, 60_000), (4, 3 << 20)] {
        let (digest, bytes) = blob(seed, size);
        let written = store.write(root(), digest, stream(&bytes, 65536)).await;
        exhausted(written.unwrap_err());
        let written = store.write_batch(root(), vec![(digest, bytes)]).await;
        exhausted(written.unwrap().remove(0).unwrap_err());
        let missing = store.find_missing(root(), &[digest]).await.unwrap();
        assert_eq!(missing, [digest]);
    }
    // Nothing is left of what was begun.
    let found = stats(&disk.join("store")).unwrap();
    assert_eq!((found.strangers, found.blobs[0].1), (0, 1));
    let mut number = 1;
    // The database has some room left in its file.
    while let Ok(()) = update(number).await {
        number += 1;
    }
    exhausted(update(number).await.unwrap_err());
    let read = store.read(root(), kept, 0, None).await.unwrap();
    assert!(gather(read).await.unwrap() == bytes);

    fs::remove_file(&filler).unwrap();
    let (digest, bytes) = blob(4, 3 << 20);
    let written = store.write(root(), digest, stream(&bytes, 65536));
    written.await.unwrap();
    let opened = async {
        while update(number).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(60), opened).await;
    opened.unwrap();
    let got = actions.get(root(), sha256(&0u64.to_le_bytes())).await;
    assert!(got.unwrap().is_some());
    assert_eq!(
        fs::read_dir(disk.join("store/incoming")).unwrap().count(),
        0
    );
}

#[test]
fn a_full_disk_refuses_writes_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    // As the root of a user namespace, if not as root: mounts of one's own.
    let script = "mount -t tmpfs -o size=8m none \"$1\" && exec \"$2\" --exact on_the_small_disk --nocapture";
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            script,
            "sh",
        ])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .env(DISK, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // No test of that name would be a success too.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{output:?}"
    );
}
