//! Many who write the same few blobs into a store that is too small for them.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{blob, open, root};
use proto::Digest;
use storage::local::inspect::{stats, verify};
use storage::{BlobStore, Error};

const WRITERS: u64 = 8;
const ROUNDS: u64 = 400;
/// Of one block each, and of two: room is for half of them.
const BLOBS: u64 = 12;
const ROOM: u64 = 9 * 4096;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_evicts_what_others_write_holds_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), ROOM);
    let blobs: Vec<(Digest, Bytes)> = (0..BLOBS)
        .map(|seed| blob(seed, 3000 + 3000 * (seed as usize % 2)))
        .collect();
    let blobs = Arc::new(blobs);
    let writers = (0..WRITERS).map(|writer| {
        let (store, blobs) = (store.clone(), blobs.clone());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let chosen = (writer * 7 + round * (writer + 1)) % BLOBS;
                let (digest, bytes) = blobs[chosen as usize].clone();
                let batch = vec![(digest, bytes.clone())];
                match store.write_batch(root(), batch).await.unwrap().remove(0) {
                    // The others write into all the room there is.
                    Ok(()) | Err(Error::Full { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                match store.read_batch(root(), &[digest]).await.unwrap().remove(0) {
                    Ok(read) => assert!(read == bytes),
                    Err(Error::NotFound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(store.damaged(), 0);
    assert!(store.size() <= ROOM && store.size() > 0);
    // What it says to have it has, and on the disk is nothing else.
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let missing = store.find_missing(root(), &digests).await.unwrap();
    let there = BLOBS - missing.len() as u64;
    let found = stats(folder.path()).unwrap();
    assert_eq!(
        found.blobs.iter().map(|(_, count, _)| count).sum::<u64>(),
        there
    );
    assert_eq!(found.strangers, 0);
    let verified = verify(folder.path(), |_| ()).unwrap();
    assert_eq!((verified.good.0, verified.damaged.len()), (there, 0));
}
