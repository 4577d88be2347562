//! The storage daemon as a whole.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{blob, gather, root, sha256, stream};
use daemon::{Address, Shutdown};
use proto::wire::rev2::ActionResult;
use storage::{ActionCache, BlobStore, Config, Error, RemoteStorage, program};

fn client(socket: &Path) -> RemoteStorage {
    RemoteStorage::new(daemon::connect(&Address::Unix(socket.into())).unwrap())
}

#[tokio::test]
async fn it_serves_both_endpoints_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let [clients, internal] = ["clients", "internal"].map(|name| folder.path().join(name));
    let config = Config {
        client_listen_addresses: vec![Address::Unix(clients.clone()).into()],
        internal_listen_addresses: vec![Address::Unix(internal.clone()).into()],
        ..Config::new(folder.path().join("store"))
    };
    let (digest, bytes) = blob(1, 300 << 10);
    let action = sha256(b"action");
    for start in 0..2 {
        let shutdown = Shutdown::new();
        let running = tokio::spawn(program::run(config.clone(), shutdown.clone()));
        // The socket is there before the store is open.
        while !clients.exists() || !internal.exists() {
            tokio::task::yield_now().await;
        }
        let (client, worker) = (client(&clients), client(&internal));
        if start == 0 {
            let written = client.write(root(), digest, stream(&bytes, 65536)).await;
            written.unwrap();
            let result = ActionResult::default();
            let refused = client.update(root(), action, result.clone()).await;
            assert!(matches!(refused, Err(Error::Remote(_))));
            worker.update(root(), action, result).await.unwrap();
        }
        let read = worker.read(root(), digest, 0, None).await.unwrap();
        assert!(gather(read).await.unwrap() == bytes);
        assert!(client.get(root(), action).await.unwrap().is_some());
        drop((client, worker));
        shutdown.cancel();
        running.await.unwrap().unwrap();
        for socket in [&clients, &internal] {
            let _ = std::fs::remove_file(socket);
        }
    }
}
