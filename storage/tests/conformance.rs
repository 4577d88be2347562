//! What every storage must do: the same cases against the embedded store in
//! process, against it through the services and the client, plain and packed, and,
//! as far as it goes, against a foreign one.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{MIB, Subject, blob, bytes, gather, root, sha256, stream};
use futures::StreamExt;
use futures::future::join_all;
use prost::Message;
use proto::wire::rev2::{
    ActionResult, Directory, DirectoryNode, FileNode, OutputDirectory, OutputFile, Tree,
};
use proto::{Digest, DigestFunction, InstanceName};
use storage::Error;
use tonic::{Code, Status};

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $case() {
                super::$case(super::Subject::embedded().await).await;
            })*
        }
        mod over_grpc {
            $(#[tokio::test] async fn $case() {
                super::$case(super::Subject::over_grpc().await).await;
            })*
        }
        mod packed {
            $(#[tokio::test] async fn $case() {
                super::$case(super::Subject::packed().await).await;
            })*
        }
    };
}

cases!(
    the_empty_blob_is_always_there,
    what_is_written_is_read_back,
    any_part_of_a_blob_can_be_read,
    every_digest_function_works,
    what_is_absent_is_said_to_be,
    bytes_that_are_not_the_digests_are_refused,
    batches_of_any_size_keep_their_order,
    one_blob_written_many_times_at_once,
    an_upload_that_breaks_off_leaves_nothing,
    the_latest_result_of_an_action_is_given,
    instances_have_results_of_their_own,
    results_whose_files_are_gone_are_not_given,
    results_whose_trees_are_incomplete_are_not_given,
    results_whose_directories_are_incomplete_are_not_given,
);

macro_rules! foreign_cases {
    ($server:ident: $($case:ident),* $(,)?) => {
        mod $server {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $case() {
                match super::Subject::$server() {
                    Some(subject) => super::$case(subject).await,
                    None => println!("SKIP {}: no {}", stringify!($case), stringify!($server)),
                }
            })*
        }
    };
}

// What buildbox-casd promises: one digest function, and no results whose outputs it
// was not given.
foreign_cases!(
    casd: what_is_written_is_read_back,
    any_part_of_a_blob_can_be_read,
    what_is_absent_is_said_to_be,
    bytes_that_are_not_the_digests_are_refused,
    batches_of_any_size_keep_their_order,
    one_blob_written_many_times_at_once,
    an_upload_that_breaks_off_leaves_nothing,
    the_latest_result_of_an_action_is_given,
);

// BuildGrid forgets a result for good when its outputs are not there, and says
// UNIMPLEMENTED of a stream whose bytes are wrong.
foreign_cases!(
    buildgrid: the_empty_blob_is_always_there,
    what_is_written_is_read_back,
    any_part_of_a_blob_can_be_read,
    what_is_absent_is_said_to_be,
    batches_of_any_size_keep_their_order,
    one_blob_written_many_times_at_once,
    an_upload_that_breaks_off_leaves_nothing,
    the_latest_result_of_an_action_is_given,
);

fn code(error: Error) -> Code {
    Status::from(error).code()
}

async fn the_empty_blob_is_always_there(subject: Subject) {
    for function in DigestFunction::ALL {
        let empty = Digest::of(function, b"");
        assert!(subject.has(empty).await);
        let read = subject.blobs.read_batch(root(), &[empty]).await.unwrap();
        assert_eq!(read[0].as_ref().unwrap(), "");
        let read = subject.blobs.read(root(), empty, 0, None).await.unwrap();
        assert_eq!(gather(read).await.unwrap(), b"");
        let nothing = futures::stream::empty().boxed();
        subject.blobs.write(root(), empty, nothing).await.unwrap();
    }
}

/// Around every size at which something changes.
const SIZES: [usize; 10] = [
    1,
    200,
    16 << 10,
    (16 << 10) + 1,
    64 << 10,
    (64 << 10) + 1,
    1 << 20,
    (1 << 20) + 1,
    (4 << 20) - 1,
    (5 << 20) + 3,
];

async fn what_is_written_is_read_back(subject: Subject) {
    for (seed, size) in SIZES.into_iter().enumerate() {
        for piece in [1000, 64 << 10, usize::MAX] {
            let (digest, bytes) = blob((seed * 10 + piece % 7) as u64, size);
            assert!(!subject.has(digest).await, "{size}");
            let written = subject
                .blobs
                .write(root(), digest, stream(&bytes, piece))
                .await;
            written.unwrap();
            assert!(subject.has(digest).await, "{size}");
            let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
            assert!(gather(read).await.unwrap() == bytes, "{size}");
            let read = subject.blobs.read_batch(root(), &[digest]).await.unwrap();
            assert!(*read[0].as_ref().unwrap() == bytes, "{size}");
        }
    }
}

async fn any_part_of_a_blob_can_be_read(subject: Subject) {
    for size in [100, 3 << 20] {
        let (digest, bytes) = blob(7, size);
        let written = subject
            .blobs
            .write(root(), digest, stream(&bytes, 64 << 10));
        written.await.unwrap();
        let size = size as u64;
        let parts = [
            (0, None),
            (0, Some(size)),
            (0, Some(size * 2)),
            (0, Some(1)),
            (1, None),
            (size / 2, Some(size / 3)),
            (size - 1, None),
            (size, None),
            (5, Some(0)),
        ];
        for (offset, limit) in parts {
            let read = subject.blobs.read(root(), digest, offset, limit).await;
            let end = (offset + limit.unwrap_or(size)).min(size);
            let expected = &bytes[offset as usize..end as usize];
            assert!(
                gather(read.unwrap()).await.unwrap() == expected,
                "{size}: {offset} {limit:?}"
            );
        }
        let Err(error) = subject.blobs.read(root(), digest, size + 1, None).await else {
            panic!("read beyond the end of {size} bytes");
        };
        assert_eq!(code(error), Code::OutOfRange);
    }
}

async fn every_digest_function_works(subject: Subject) {
    let mut digests = Vec::new();
    for function in DigestFunction::ALL {
        for size in [300, 200 << 10] {
            let bytes = bytes(size, size as usize);
            let digest = Digest::of(function, &bytes);
            let written = subject
                .blobs
                .write(root(), digest, stream(&bytes, 64 << 10));
            written.await.unwrap();
            let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
            assert!(gather(read).await.unwrap() == bytes, "{digest:?}");
            digests.push(digest);
        }
    }
    let absent = Digest::of(DigestFunction::Md5, b"absent");
    digests.insert(3, absent);
    let missing = subject.blobs.find_missing(root(), &digests).await.unwrap();
    assert_eq!(missing, [absent]);
    let read = subject.blobs.read_batch(root(), &digests).await.unwrap();
    for (digest, read) in digests.iter().zip(read) {
        match read {
            Ok(bytes) => assert_eq!(Digest::of(digest.function(), &bytes), *digest),
            Err(error) => assert_eq!((*digest, code(error)), (absent, Code::NotFound)),
        }
    }
}

async fn what_is_absent_is_said_to_be(subject: Subject) {
    let there = subject.put(b"there").await;
    let absent: Vec<Digest> = (0..5).map(|n| blob(n, 100 + n as usize).0).collect();
    let asked = [
        absent[2], there, absent[0], absent[2], absent[1], there, absent[0],
    ];
    let missing = subject.blobs.find_missing(root(), &asked).await.unwrap();
    let once = [absent[2], absent[0], absent[1]];
    let as_often_as_asked = [absent[2], absent[0], absent[2], absent[1], absent[0]];
    assert!(
        missing == once || missing == as_often_as_asked,
        "{missing:?}"
    );
    let none = subject.blobs.find_missing(root(), &[]).await.unwrap();
    assert_eq!(none, []);

    let large = blob(1, 3 << 20).0;
    for digest in [absent[0], large] {
        let failed = match subject.blobs.read(root(), digest, 0, None).await {
            Ok(stream) => gather(stream).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(failed, Error::NotFound(named) if named == digest));
        let mut read = subject.blobs.read_batch(root(), &[digest]).await.unwrap();
        let failed = read.remove(0).unwrap_err();
        assert!(matches!(failed, Error::NotFound(named) if named == digest));
    }
}

async fn bytes_that_are_not_the_digests_are_refused(subject: Subject) {
    for size in [1, 500, 70 << 10, 3 << 20] {
        let (digest, right) = blob(3, size);
        let mut wrong = right.to_vec();
        wrong[size / 2] ^= 1;
        let longer = [&right[..], b"x"].concat();
        let shorter = right[..size - 1].to_vec();
        for bad in [wrong, longer, shorter] {
            let bad = Bytes::from(bad);
            let written = subject
                .blobs
                .write(root(), digest, stream(&bad, 300 << 10))
                .await;
            assert_eq!(code(written.unwrap_err()), Code::InvalidArgument, "{size}");
            let written = subject.blobs.write_batch(root(), vec![(digest, bad)]).await;
            let refused = written.unwrap().remove(0).unwrap_err();
            assert_eq!(code(refused), Code::InvalidArgument, "{size}");
            assert!(!subject.has(digest).await, "{size}");
        }
    }
}

async fn batches_of_any_size_keep_their_order(subject: Subject) {
    let sizes = [0, 10, 3 << 20, 1 << 20, 7, 1 << 20, 2 << 20, 5 << 20, 1, 10];
    let mut blobs: Vec<(Digest, Bytes)> = sizes
        .iter()
        .enumerate()
        .map(|(seed, size)| blob(seed as u64, *size))
        .collect();
    blobs.extend((100..1100).map(|seed| blob(seed, 300)));
    // One of them spoiled, one of them twice.
    blobs[4].1 = Bytes::from_static(b"seven!?");
    blobs.push(blobs[1].clone());
    let written = subject.blobs.write_batch(root(), blobs.clone());
    let refused: Vec<usize> = written
        .await
        .unwrap()
        .iter()
        .enumerate()
        .filter_map(|(at, result)| result.is_err().then_some(at))
        .collect();
    assert_eq!(refused, [4]);

    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let read = subject.blobs.read_batch(root(), &digests).await.unwrap();
    assert_eq!(read.len(), blobs.len());
    for (at, (read, (_, bytes))) in read.into_iter().zip(&blobs).enumerate() {
        match read {
            Ok(read) => assert!(read == bytes, "{at}"),
            Err(error) => assert_eq!((at, code(error)), (4, Code::NotFound)),
        }
    }
}

async fn one_blob_written_many_times_at_once(subject: Subject) {
    for size in [100, 2 << 20] {
        let (digest, bytes) = blob(9, size);
        let writes = (0..16).map(|_| {
            subject
                .blobs
                .write(root(), digest, stream(&bytes, 64 << 10))
        });
        for written in join_all(writes).await {
            written.unwrap();
        }
        let read = subject.blobs.read(root(), digest, 0, None).await.unwrap();
        assert!(gather(read).await.unwrap() == bytes);
    }
}

async fn an_upload_that_breaks_off_leaves_nothing(subject: Subject) {
    for size in [100, 3 * MIB] {
        let (digest, bytes) = blob(11, size as usize);
        let half = bytes.slice(..bytes.len() / 2);
        let broken = Err(Error::Source(Status::aborted("the disk under it failed")));
        let source = stream(&half, 64 << 10)
            .chain(futures::stream::iter([broken]))
            .boxed();
        let failed = subject.blobs.write(root(), digest, source).await;
        assert_eq!(code(failed.unwrap_err()), Code::Aborted);
        assert!(!subject.has(digest).await);
        // And does not stand in the way of the next.
        let written = subject
            .blobs
            .write(root(), digest, stream(&bytes, 64 << 10));
        written.await.unwrap();
        assert!(subject.has(digest).await);
    }
}

fn result(exit_code: i32) -> ActionResult {
    ActionResult {
        exit_code,
        stdout_raw: b"said".to_vec(),
        ..Default::default()
    }
}

async fn the_latest_result_of_an_action_is_given(subject: Subject) {
    let actions = &subject.actions;
    let action = sha256(b"action");
    assert_eq!(actions.get(root(), action).await.unwrap(), None);
    for exit_code in [0, 1] {
        let result = result(exit_code);
        let updated = actions.update(root(), action, result.clone()).await;
        updated.unwrap();
        assert_eq!(actions.get(root(), action).await.unwrap(), Some(result));
    }
}

async fn instances_have_results_of_their_own(subject: Subject) {
    let actions = &subject.actions;
    let action = sha256(b"action");
    let one = InstanceName::new("one").unwrap();
    actions.update(&one, action, result(0)).await.unwrap();
    assert_eq!(actions.get(root(), action).await.unwrap(), None);
    assert_eq!(actions.get(&one, action).await.unwrap(), Some(result(0)));
}

/// Stores `result`, and asserts that it is given only once `needed` is stored too.
async fn given_once_there(subject: &Subject, result: ActionResult, needed: &[u8]) {
    let action = sha256(b"action");
    let actions = &subject.actions;
    let updated = actions.update(root(), action, result.clone()).await;
    updated.unwrap();
    assert_eq!(actions.get(root(), action).await.unwrap(), None);
    subject.put(needed).await;
    assert_eq!(actions.get(root(), action).await.unwrap(), Some(result));
}

fn file(name: &str, bytes: &[u8]) -> FileNode {
    FileNode {
        name: name.into(),
        digest: Some(sha256(bytes).to_wire()),
        ..Default::default()
    }
}

async fn results_whose_files_are_gone_are_not_given(subject: Subject) {
    let output = |bytes: &[u8]| OutputFile {
        path: "out".into(),
        digest: Some(sha256(bytes).to_wire()),
        ..Default::default()
    };
    let there = subject.put(b"there").await;
    let files = ActionResult {
        output_files: vec![output(b"there"), output(b"file")],
        ..Default::default()
    };
    given_once_there(&subject, files, b"file").await;
    let stderr = ActionResult {
        stdout_digest: Some(there.to_wire()),
        stderr_digest: Some(sha256(b"log").to_wire()),
        ..Default::default()
    };
    given_once_there(&subject, stderr, b"log").await;
}

async fn results_whose_trees_are_incomplete_are_not_given(subject: Subject) {
    let child = Directory {
        files: vec![file("deep", b"deep")],
        ..Default::default()
    };
    let tree = Tree {
        root: Some(Directory {
            files: vec![file("flat", b"flat")],
            directories: vec![DirectoryNode {
                name: "child".into(),
                digest: Some(sha256(&child.encode_to_vec()).to_wire()),
            }],
            ..Default::default()
        }),
        children: vec![child],
    }
    .encode_to_vec();
    let result = ActionResult {
        output_directories: vec![OutputDirectory {
            path: "out".into(),
            tree_digest: Some(sha256(&tree).to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    subject.put(b"flat").await;
    subject.put(b"deep").await;
    given_once_there(&subject, result, &tree).await;

    // And what is only in the tree counts: another tree, whose file is absent.
    let tree = Tree {
        root: Some(Directory::default()),
        children: vec![Directory {
            files: vec![file("deep", b"deeper")],
            ..Default::default()
        }],
    }
    .encode_to_vec();
    subject.put(&tree).await;
    let result = ActionResult {
        output_directories: vec![OutputDirectory {
            path: "out".into(),
            tree_digest: Some(sha256(&tree).to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    given_once_there(&subject, result, b"deeper").await;
}

async fn results_whose_directories_are_incomplete_are_not_given(subject: Subject) {
    let child = Directory {
        files: vec![file("deep", b"deep")],
        ..Default::default()
    }
    .encode_to_vec();
    let node = |name: &str| DirectoryNode {
        name: name.into(),
        digest: Some(sha256(&child).to_wire()),
    };
    let directory = Directory {
        directories: vec![node("a"), node("b")],
        ..Default::default()
    }
    .encode_to_vec();
    subject.put(&directory).await;
    subject.put(b"deep").await;
    // BuildStream asks for directories without a tree.
    let result = ActionResult {
        output_directories: vec![OutputDirectory {
            path: "out".into(),
            root_directory_digest: Some(sha256(&directory).to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    given_once_there(&subject, result, &child).await;
}
