//! Uploads that are not finished, and the room they take.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{MIB, blob, open, root, stream};
use futures::StreamExt;
use storage::{BlobStore, ByteStream, Error};

/// What all files take, in bytes. Some may vanish while this counts.
fn on_disk(folder: &Path) -> u64 {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

/// These bytes in pieces of a mebibyte; `before` is called before each, with its
/// number, and after the last one the stream does not end.
fn endless(bytes: &Bytes, mut before: impl FnMut(usize) + Send + 'static) -> ByteStream {
    let pieces: Vec<Bytes> = bytes
        .chunks(MIB as usize)
        .map(Bytes::copy_from_slice)
        .collect();
    let mut number = 0;
    futures::stream::poll_fn(move |_| {
        before(number);
        number += 1;
        match pieces.get(number - 1) {
            Some(piece) => std::task::Poll::Ready(Some(Ok(piece.clone()))),
            None => std::task::Poll::Pending,
        }
    })
    .boxed()
}

#[tokio::test]
async fn what_is_being_written_counts_and_complete_blobs_go_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 4 * MIB;
    let store = open(folder.path(), limit);
    for seed in 0..4 {
        let (digest, bytes) = blob(seed, MIB as usize);
        let written = store.write(root(), digest, stream(&bytes, 1 << 20));
        written.await.unwrap();
    }
    let (large, bytes) = blob(9, 4 << 20);
    let highest = Arc::new(Mutex::new(0));
    let (seen, path) = (highest.clone(), folder.path().to_owned());
    let (ready, told) = tokio::sync::oneshot::channel();
    let mut ready = Some(ready);
    let bytes = endless(&bytes, move |number| {
        let mut seen = seen.lock().unwrap();
        *seen = on_disk(&path).max(*seen);
        // The third piece is written when the fifth is asked for.
        if number == 4 {
            let _ = ready.take().unwrap().send(());
        }
    });
    let writer = store.clone();
    let upload = tokio::spawn(async move { writer.write(root(), large, bytes).await });
    told.await.unwrap();
    assert!(*highest.lock().unwrap() <= limit, "{highest:?}");
    assert!(store.size() <= MIB, "{}", store.size());

    // Uploads alone may not exceed the limit either.
    let (other, bytes) = blob(10, 2 << 20);
    let refused = store.write(root(), other, stream(&bytes, 1 << 20)).await;
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");

    // Given up, one leaves nothing behind; a piece of it may still be on its way.
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    let stored = async {
        while let Err(error) = store.write(root(), other, stream(&bytes, 1 << 20)).await {
            assert!(matches!(error, Error::Full { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored)
        .await
        .unwrap();
    let incoming = folder.path().join("incoming");
    assert_eq!(on_disk(&incoming), 0);
}

#[tokio::test]
async fn empty_and_tiny_pieces_make_a_blob_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), 4 * MIB);
    let (digest, bytes) = blob(1, 100_000);
    let pieces = bytes
        .chunks(1)
        .flat_map(|piece| [Ok(Bytes::new()), Ok(Bytes::copy_from_slice(piece))])
        .collect::<Vec<_>>();
    let pieces = futures::stream::iter(pieces).boxed();
    store.write(root(), digest, pieces).await.unwrap();
    let read = store.read(root(), digest, 0, None).await.unwrap();
    assert_eq!(common::gather(read).await.unwrap(), bytes);
}

#[tokio::test]
async fn under_a_lowered_limit_the_one_that_cannot_fit_goes_before_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let (small, bytes) = blob(1, 3000);
    let (large, more) = blob(2, 3 << 20);
    {
        let store = open(folder.path(), 8 * MIB);
        for (digest, bytes) in [(small, &bytes), (large, &more)] {
            let written = store.write(root(), digest, stream(bytes, 1 << 20));
            written.await.unwrap();
        }
    }
    let store = open(folder.path(), 2 * MIB);
    let missing = store.find_missing(root(), &[small, large]).await.unwrap();
    assert_eq!(missing, [large]);
    assert_eq!(on_disk(&folder.path().join("blobs")), 3000);
}

#[tokio::test]
async fn a_batch_that_stores_a_blob_again_renews_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (digest, bytes) = blob(1, 3000);
    let file = folder
        .path()
        .join("blobs/sha256")
        .join(&digest.hash()[..2])
        .join(digest.to_string());
    drop({
        let store = open(folder.path(), MIB);
        let written = store.write_batch(root(), vec![(digest, bytes.clone())]);
        written.await.unwrap().remove(0).unwrap();
        store
    });
    let old = SystemTime::now() - Duration::from_secs(7200);
    let opened = std::fs::File::open(&file).unwrap();
    opened.set_modified(old).unwrap();
    let store = open(folder.path(), MIB);
    let written = store.write_batch(root(), vec![(digest, bytes)]);
    written.await.unwrap().remove(0).unwrap();
    assert!(std::fs::metadata(&file).unwrap().modified().unwrap() > old);
}
