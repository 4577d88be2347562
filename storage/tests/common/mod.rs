//! Stores to test, and blobs to put into them.

// Each test binary uses some of these.
#![allow(dead_code)]

pub mod buildgrid;
pub mod casd;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use daemon::{Address, Channel, Diagnostics, Shutdown};
use futures::{StreamExt, TryStreamExt};
use proto::{Digest, DigestFunction, InstanceName};
use storage::local::{Actions, Blobs, Limits};
use storage::{
    ActionCache, Authorizers, BlobStore, ByteStream, Complete, Error, RemoteStorage,
    internal_routes,
};
use tonic::service::Routes;

pub const MIB: u64 = 1 << 20;

/// The empty instance name.
pub fn root() -> &'static InstanceName {
    static ROOT: LazyLock<InstanceName> = LazyLock::new(InstanceName::empty);
    &ROOT
}

/// Bytes that no compression or repetition makes easy, distinct by seed.
pub fn bytes(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// A blob and its digest.
pub fn blob(seed: u64, size: usize) -> (Digest, Bytes) {
    let bytes = bytes(seed, size);
    (sha256(&bytes), bytes)
}

/// A stream of these bytes in pieces.
pub fn stream(bytes: &Bytes, piece: usize) -> ByteStream {
    let pieces: Vec<_> = bytes
        .chunks(piece.max(1))
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    futures::stream::iter(pieces).boxed()
}

pub async fn gather(stream: ByteStream) -> Result<Vec<u8>, Error> {
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat())
}

pub fn limits(disk: u64) -> Limits {
    Limits {
        disk,
        memory: 64 * MIB,
    }
}

pub fn open(folder: &Path, disk: u64) -> Blobs {
    Blobs::open(folder, limits(disk)).unwrap()
}

/// A server on a unix socket, stopped when dropped.
pub struct Server {
    pub channel: Channel,
    shutdown: Shutdown,
    folder: tempfile::TempDir,
}

impl Server {
    pub async fn start(routes: Routes) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Unix(folder.path().join("socket"));
        let shutdown = Shutdown::new();
        let listener = daemon::listen(&address).await.unwrap();
        tokio::spawn(daemon::serve(listener, routes, Diagnostics::new(&shutdown)));
        Self {
            channel: daemon::connect(&address).unwrap(),
            shutdown,
            folder,
        }
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// What is tested, and what must live as long.
pub struct Subject {
    pub blobs: Arc<dyn BlobStore>,
    pub actions: Arc<dyn ActionCache>,
    pub server: Option<Server>,
    _foreign: Option<Box<dyn Send + Sync>>,
    _folder: tempfile::TempDir,
}

impl Subject {
    /// The embedded store in process.
    pub async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let blobs: Arc<dyn BlobStore> = Arc::new(open(folder.path(), 1 << 30));
        let actions = Actions::open(&folder.path().join("actions.redb"), 64 * MIB).unwrap();
        Self {
            actions: Arc::new(Complete::new(actions, blobs.clone())),
            blobs,
            server: None,
            _foreign: None,
            _folder: folder,
        }
    }

    /// The embedded store through services and client.
    pub async fn over_grpc() -> Self {
        Self::through_client(false).await
    }

    /// The same, with blobs packed on the way.
    pub async fn packed() -> Self {
        Self::through_client(true).await
    }

    async fn through_client(packed: bool) -> Self {
        let Self {
            blobs,
            actions,
            _folder,
            ..
        } = Self::embedded().await;
        let server = Server::start(internal_routes(blobs, actions, Authorizers::default())).await;
        let client = RemoteStorage::new(server.channel.clone()).compressing(packed);
        Self {
            blobs: Arc::new(client.clone()),
            actions: Arc::new(client),
            server: Some(server),
            _foreign: None,
            _folder,
        }
    }

    /// buildbox-casd behind the client; none where it is not installed.
    pub fn casd() -> Option<Self> {
        let program = casd::program()?;
        let folder = tempfile::tempdir().unwrap();
        let casd = casd::Casd::start(program, folder.path());
        Some(Self::foreign(&casd.address.clone(), casd, folder))
    }

    /// BuildGrid behind the client; none where it is not installed.
    pub fn buildgrid() -> Option<Self> {
        let packages = buildgrid::packages()?;
        let folder = tempfile::tempdir().unwrap();
        let server = buildgrid::BuildGrid::start(packages, folder.path());
        Some(Self::foreign(&server.address.clone(), server, folder))
    }

    fn foreign(
        address: &Address,
        server: impl Send + Sync + 'static,
        folder: tempfile::TempDir,
    ) -> Self {
        let client = RemoteStorage::connect(&address.clone().into(), None).unwrap();
        Self {
            blobs: Arc::new(client.clone()),
            actions: Arc::new(client),
            server: None,
            _foreign: Some(Box::new(server)),
            _folder: folder,
        }
    }

    pub async fn has(&self, digest: Digest) -> bool {
        let missing = self.blobs.find_missing(root(), &[digest]).await.unwrap();
        missing.is_empty()
    }

    pub async fn put(&self, bytes: &[u8]) -> Digest {
        let digest = sha256(bytes);
        let blobs = vec![(digest, Bytes::copy_from_slice(bytes))];
        for written in self.blobs.write_batch(root(), blobs).await.unwrap() {
            written.unwrap();
        }
        digest
    }
}
