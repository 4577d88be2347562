//! Streams that are packed, and streams that break.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::{MIB, Server, Subject, blob, gather, open, root, sha256};
use daemon::{Address, Channel};
use proto::Digest;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{
    BatchReadBlobsRequest, BatchUpdateBlobsRequest, batch_update_blobs_request, compressor,
};
use storage::{Authorizers, BlobStore, RemoteStorage, internal_routes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Code, Status};

async fn served() -> (Subject, Server) {
    let subject = Subject::embedded().await;
    let routes = internal_routes(
        subject.blobs.clone(),
        subject.actions.clone(),
        Authorizers::default(),
    );
    let server = Server::start(routes).await;
    (subject, server)
}

/// Bytes that shrink a little.
fn text(size: usize) -> (Digest, Bytes) {
    let bytes: Bytes = blob(3, size).1.iter().map(|byte| byte & 63).collect();
    (sha256(&bytes), bytes)
}

fn message(name: &str, offset: usize, data: &[u8], finish: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.into(),
        write_offset: offset as i64,
        data: data.to_vec(),
        finish_write: finish,
    }
}

async fn committed(client: &mut ByteStreamClient<Channel>, name: &str) -> i64 {
    let request = QueryWriteStatusRequest {
        resource_name: name.into(),
    };
    let status = client.query_write_status(request).await.unwrap();
    status.into_inner().committed_size
}

/// Sends messages and then ends the stream, none of them having said that it is the
/// last.
async fn break_off(client: &mut ByteStreamClient<Channel>, messages: Vec<WriteRequest>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(messages.len());
    let name = messages[0].resource_name.clone();
    for message in messages {
        sender.send(message).await.unwrap();
    }
    let mut writing = client.clone();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let call = tokio::spawn(async move { writing.write(stream).await });
    // All is taken from the channel: it is on its way.
    while sender.capacity() < sender.max_capacity() {
        tokio::task::yield_now().await;
    }
    // A stream that ends without finish_write is broken; what was sent arrived.
    drop(sender);
    let broken = call.await.unwrap().unwrap_err();
    assert_eq!(broken.code(), Code::InvalidArgument, "{broken}");
    assert!(broken.message().contains(&name), "{broken}");
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_broke() {
    let (subject, server) = served().await;
    let mut client = ByteStreamClient::new(server.channel.clone());
    let (digest, bytes) = blob(1, 3 << 20);
    let name = format!("uploads/u/blobs/{}/{}", digest.hash(), digest.size());
    assert_eq!(committed(&mut client, &name).await, 0);
    let cut = 1 << 20;
    break_off(&mut client, vec![message(&name, 0, &bytes[..cut], false)]).await;
    assert_eq!(committed(&mut client, &name).await, cut as i64);
    assert!(!subject.has(digest).await);

    // Not anywhere else than where it broke.
    let wrong = message(&name, cut + 1, &bytes[cut + 1..], true);
    let wrong = client.write(futures::stream::iter([wrong])).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
    // And again, in between.
    break_off(
        &mut client,
        vec![message(&name, cut, &bytes[cut..2 * cut], false)],
    )
    .await;
    assert_eq!(committed(&mut client, &name).await, 2 * cut as i64);
    let rest = message(&name, 2 * cut, &bytes[2 * cut..], true);
    let written = client.write(futures::stream::iter([rest])).await.unwrap();
    assert_eq!(written.into_inner().committed_size, digest.size() as i64);
    let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
    assert!(gather(read).await.unwrap() == bytes);
    assert_eq!(committed(&mut client, &name).await, digest.size() as i64);
}

#[tokio::test]
async fn a_packed_upload_goes_on_at_an_offset_of_the_blob() {
    let (subject, server) = served().await;
    let mut client = ByteStreamClient::new(server.channel.clone());
    let (digest, bytes) = text(3 << 20);
    let name = format!(
        "uploads/u/compressed-blobs/zstd/{}/{}",
        digest.hash(),
        digest.size()
    );
    let cut = 2 << 20;
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let first = pack(&bytes[..cut]);
    let (a, b) = first.split_at(1000);
    let messages = vec![message(&name, 0, a, false), message("", 1000, b, false)];
    break_off(&mut client, messages).await;
    let kept = committed(&mut client, &name).await as usize;
    assert_eq!(kept, cut);
    let rest = message(&name, kept, &pack(&bytes[kept..]), true);
    client.write(futures::stream::iter([rest])).await.unwrap();
    let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
    assert!(gather(read).await.unwrap() == bytes);
    // REv2: what is there counts as -1 where it is sent packed.
    let again = message(&name, 0, &first, false);
    let written = client.write(futures::stream::iter([again])).await.unwrap();
    assert_eq!(written.into_inner().committed_size, -1);
}

#[tokio::test]
async fn a_packed_upload_that_is_a_bomb_is_refused() {
    let (subject, server) = served().await;
    let mut client = ByteStreamClient::new(server.channel.clone());
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    for size in [1000, 5 << 20] {
        let digest = blob(1, size).0;
        let name = format!("uploads/u/compressed-blobs/zstd/{}/{size}", digest.hash());
        let refused = client
            .write(futures::stream::iter([message(&name, 0, &bomb, true)]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(!subject.has(digest).await);
    }
}

#[tokio::test]
async fn so_many_uploads_are_unpacked_at_a_time_and_the_next_waits() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Arc::new(open(folder.path(), 1 << 30));
    let actions = Subject::embedded().await.actions;
    let routes = internal_routes(blobs.clone(), actions, Authorizers::default());
    let server = Server::start(routes).await;
    let upload = |seed: u64| {
        let (digest, bytes) = blob(seed, 100_000);
        let (hash, size) = (digest.hash(), digest.size());
        let name = format!("uploads/u/compressed-blobs/zstd/{hash}/{size}");
        (digest, name, zstd::bulk::compress(&bytes, 3).unwrap())
    };
    let mut waiting = Vec::new();
    let mut channel = server.channel.clone();
    for seed in 0..256 {
        if seed % 50 == 0 {
            channel = daemon::connect(&Address::Unix(server.socket())).unwrap();
        }
        let (_, name, packed) = upload(seed);
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let first = message(&name, 0, &packed[..packed.len() / 2], false);
        sender.send(first).await.unwrap();
        let mut client = ByteStreamClient::new(channel.clone());
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let call = tokio::spawn(async move { client.write(stream).await });
        waiting.push((sender, call));
    }
    // Each has its place when its file is there.
    let incoming = folder.path().join("incoming");
    while std::fs::read_dir(&incoming).unwrap().count() < waiting.len() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (last, name, packed) = upload(256);
    let mut client = ByteStreamClient::new(server.channel.clone());
    let whole = futures::stream::iter([message(&name, 0, &packed, true)]);
    let call = tokio::spawn(async move { client.write(whole).await });
    // Others are not kept waiting.
    let (other, bytes) = blob(257, 3 << 20);
    let client = RemoteStorage::new(server.channel.clone());
    let written = client.write(root(), other, common::stream(&bytes, 1 << 16));
    written.await.unwrap();
    assert!(!call.is_finished());
    let missing = blobs.find_missing(root(), &[last, other]).await.unwrap();
    assert_eq!(missing, [last]);
    let (sender, broken) = waiting.pop().unwrap();
    drop(sender);
    broken.await.unwrap().unwrap_err();
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn packed_reads_have_an_offset_and_no_limit() {
    let (subject, server) = served().await;
    let mut client = ByteStreamClient::new(server.channel.clone());
    let (digest, bytes) = text(3 << 20);
    subject.put(&bytes).await;
    let name = format!("compressed-blobs/zstd/{}/{}", digest.hash(), digest.size());
    let mut read = async |offset: i64, limit| {
        let request = ReadRequest {
            resource_name: name.clone(),
            read_offset: offset,
            read_limit: limit,
        };
        let mut stream = client.read(request).await?.into_inner();
        let mut packed = Vec::new();
        while let Some(message) = stream.message().await? {
            packed.extend(message.data);
        }
        Ok::<_, Status>(packed)
    };
    for offset in [0, 1_234_567] {
        let packed = read(offset as i64, 0).await.unwrap();
        assert!(packed.len() < bytes.len() - offset);
        assert!(zstd::stream::decode_all(&packed[..]).unwrap() == bytes[offset..]);
    }
    let refused = read(0, 5).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn batches_are_packed_each_blob_for_itself() {
    let (subject, server) = served().await;
    let mut cas = ContentAddressableStorageClient::new(server.channel.clone());
    let zstd = compressor::Value::Zstd as i32;
    let (packed, bytes) = text(10_000);
    let (plain, noise) = blob(4, 500);
    let request = |digest: Digest, data: Vec<u8>, compressor| batch_update_blobs_request::Request {
        digest: Some(digest.to_wire()),
        data,
        compressor,
    };
    let half_a_frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    let answer = cas
        .batch_update_blobs(BatchUpdateBlobsRequest {
            requests: vec![
                request(sha256(b"none"), half_a_frame, zstd),
                request(packed, zstd::bulk::compress(&bytes, 3).unwrap(), zstd),
                request(plain, noise.to_vec(), 0),
            ],
            ..Default::default()
        })
        .await
        .unwrap();
    let responses = answer.get_ref().responses.iter();
    let codes: Vec<_> = responses.map(|r| r.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [Code::InvalidArgument as i32, 0, 0]);
    assert!(subject.has(packed).await && subject.has(plain).await);

    let answer = cas
        .batch_read_blobs(BatchReadBlobsRequest {
            digests: vec![packed.to_wire(), plain.to_wire()],
            acceptable_compressors: vec![zstd],
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.responses[0].compressor, zstd);
    let data = &answer.responses[0].data;
    assert!(zstd::stream::decode_all(&data[..]).unwrap() == bytes);
    // What does not shrink goes as it is.
    assert_eq!(answer.responses[1].compressor, 0);
    assert!(answer.responses[1].data == noise);
    // What the batch would unpack to is bounded like one that is not packed.
    let large = Digest::new(proto::DigestFunction::Sha256, &packed.hash(), 1 << 30).unwrap();
    let refused = cas
        .batch_update_blobs(BatchUpdateBlobsRequest {
            requests: vec![request(large, vec![1], zstd)],
            ..Default::default()
        })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

/// Passes bytes on to a server, and cuts connections.
struct Cutter {
    channel: Channel,
    passed: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Cutter {
    /// Cuts the first few connections, each after so many bytes either way.
    async fn start(server: PathBuf, connections: usize, after: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let passed = Arc::new(AtomicU64::new(0));
        let counted = passed.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let server = UnixStream::connect(&server).await.unwrap();
                let left = if number < connections {
                    after
                } else {
                    u64::MAX
                };
                tokio::spawn(pass(client, server, left, counted.clone()));
            }
        });
        Self {
            channel: daemon::connect(&Address::Unix(path)).unwrap(),
            passed,
            _folder: folder,
        }
    }
}

async fn pass(
    mut client: UnixStream,
    mut server: UnixStream,
    mut left: u64,
    passed: Arc<AtomicU64>,
) {
    let (mut there, mut back) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    while left > 0 {
        let sent = tokio::select! {
            read = client.read(&mut there) => match read {
                Ok(count @ 1..) if server.write_all(&there[..count]).await.is_ok() => count,
                _ => return,
            },
            read = server.read(&mut back) => match read {
                Ok(count @ 1..) if client.write_all(&back[..count]).await.is_ok() => count,
                _ => return,
            },
        };
        left = left.saturating_sub(sent as u64);
        passed.fetch_add(sent as u64, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_reads_on_where_a_connection_broke() {
    let (subject, server) = served().await;
    let (digest, bytes) = blob(1, 16 << 20);
    subject.put(&bytes).await;
    let cutter = Cutter::start(server.socket(), 4, 3 * MIB).await;
    for compressing in [false, true] {
        let client = RemoteStorage::new(cutter.channel.clone()).compressing(compressing);
        let before = cutter.passed.load(Ordering::SeqCst);
        let read = client.read(root(), digest, 0, None).await.unwrap();
        assert!(gather(read).await.unwrap() == bytes);
        // Not from the start each time.
        let passed = cutter.passed.load(Ordering::SeqCst) - before;
        assert!(passed < 22 * MIB, "{passed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_writes_on_where_a_connection_broke() {
    let (subject, server) = served().await;
    let (digest, bytes) = blob(1, 32 << 20);
    let cutter = Cutter::start(server.socket(), 3, 12 * MIB).await;
    let client = RemoteStorage::new(cutter.channel.clone());
    let source = storage::store::source(bytes.clone());
    client.write_from(root(), digest, source).await.unwrap();
    let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
    assert!(gather(read).await.unwrap() == bytes);
    // From the start each time, 68 MiB would have passed.
    let passed = cutter.passed.load(Ordering::SeqCst);
    assert!(passed < 50 * MIB, "{passed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_writes_packed_bytes_again_when_a_connection_broke() {
    let (subject, server) = served().await;
    let (digest, bytes) = text(8 << 20);
    let cutter = Cutter::start(server.socket(), 2, 2 * MIB).await;
    let client = RemoteStorage::new(cutter.channel.clone()).compressing(true);
    let source = storage::store::source(bytes.clone());
    client.write_from(root(), digest, source).await.unwrap();
    let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
    assert!(gather(read).await.unwrap() == bytes);
}
