//! Blobs that are not there, are not what their digests say, or are no message.

use bytes::Bytes;
use proto::Digest;
use proto::wire::bytestream::WriteRequest;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::rev2;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use tests::action::Action;
use tests::farm::Farm;
use tests::seal::Seal;
use tests::tree::Tree;
use tonic::Code;
use tonic_types::StatusExt;

use crate::{assert_missing, assert_refused, digest_of, farm, good, leave, run_with_root};

#[test]
fn what_is_not_there_is_named() {
    let farm = farm();
    let client = farm.client();
    let unknown = digest_of(b"unknown");
    assert_missing(client.run_digest(unknown), &[unknown]);
    // Another size is another blob.
    let (digest, blobs) = good().blobs();
    client.upload(blobs);
    let resized = Digest::new(digest.function(), &digest.hash(), digest.size() + 1);
    let resized = resized.expect("a digest");
    assert_missing(client.run_digest(resized), &[resized]);

    let mut action = good();
    action.message.command_digest = Some(unknown.to_wire());
    assert_missing(client.run(&action), &[unknown]);

    let mut action = good();
    action.message.input_root_digest = Some(unknown.to_wire());
    assert_missing(client.run(&action), &[unknown]);

    // Below a Directory that is there: two Directories and two files that are not.
    let unknowns = [b"a", b"b", b"c", b"d"].map(|bytes| digest_of(bytes));
    let file = |name: &str, digest: &Digest| rev2::FileNode {
        name: name.into(),
        digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let folder = |name: &str, digest: &Digest| rev2::DirectoryNode {
        name: name.into(),
        digest: Some(digest.to_wire()),
    };
    let root = rev2::Directory {
        files: vec![file("file-c", &unknowns[2]), file("file-d", &unknowns[3])],
        directories: vec![folder("a", &unknowns[0]), folder("b", &unknowns[1])],
        ..Default::default()
    };
    let outcome = run_with_root(&farm, &root);
    let missing = outcome.status.get_details_precondition_failure();
    let missing = missing.expect("a list of what is missing").violations.len();
    // Files of Directories that are not there cannot be known; these two are.
    assert_eq!(missing, 4, "{outcome:#?}");
    assert_missing(outcome, &unknowns);
    leave(farm);
}

#[test]
fn an_input_of_another_size_than_its_digest_says_is_missing() {
    let farm = farm();
    let bytes = Bytes::from(tests::secret());
    let digest = digest_of(&bytes);
    farm.client().upload(vec![(digest, bytes)]);
    for size in [0, digest.size() - 1, digest.size() + 1, 1 << 60] {
        let resized = Digest::new(digest.function(), &digest.hash(), size).expect("a digest");
        let root = rev2::Directory {
            files: vec![rev2::FileNode {
                name: "file".into(),
                digest: Some(resized.to_wire()),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_missing(run_with_root(&farm, &root), &[resized]);
    }
    leave(farm);
}

#[test]
fn blobs_whose_bytes_are_not_their_digests_are_not_stored() {
    let farm = farm();
    let client = farm.client();
    let digest = digest_of(b"what it should be");
    let wrong: [&[u8]; 3] = [
        b"what it shouldn't",
        b"what it should b",
        b"what it should be!",
    ];
    for bytes in wrong {
        let stored = client.block_on(
            client
                .inner()
                .upload(vec![(digest, Bytes::from_static(bytes))]),
        );
        let error = format!("{:#}", stored.expect_err("it must not be stored"));
        assert!(error.contains(&digest.hash()), "{error}");

        let mut cas = ContentAddressableStorageClient::new(client.inner().channel());
        let response = client.block_on(cas.batch_update_blobs(rev2::BatchUpdateBlobsRequest {
            requests: vec![rev2::batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: bytes.into(),
                ..Default::default()
            }],
            ..Default::default()
        }));
        let responses = response
            .expect("one answer for each blob")
            .into_inner()
            .responses;
        let status = responses[0].status.clone().expect("a status");
        assert_eq!(Code::from(status.code), Code::InvalidArgument, "{status:?}");

        let mut stream = ByteStreamClient::new(client.inner().channel());
        let name = format!(
            "uploads/some-upload/blobs/{}/{}",
            digest.hash(),
            digest.size()
        );
        let written = client.block_on(stream.write(stream_of(WriteRequest {
            resource_name: name,
            write_offset: 0,
            finish_write: true,
            data: bytes.into(),
        })));
        let status = written.expect_err("it must not be stored");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let store = client.inner().blobs();
    let missing = client.block_on(store.find_missing(client.inner().instance(), &[digest]));
    assert_eq!(missing.expect("an answer"), [digest]);
    leave(farm);
}

fn stream_of(request: WriteRequest) -> impl futures::Stream<Item = WriteRequest> {
    futures::stream::iter([request])
}

/// Spoils a stored blob in the storage's own files, as a failing disk would.
#[test]
fn a_blob_that_has_rotted_in_the_storage_becomes_nobodys_input() {
    let farm = farm();
    // Too large to be kept in memory.
    let bytes = Bytes::from(tests::secret().repeat(32 << 10));
    let digest = digest_of(&bytes);
    let action = Action::shell("cat file").tree(&Tree::new().file("file", bytes.clone()));
    let (action_digest, blobs) = action.blobs();
    farm.client().upload(blobs);
    let stored = walkdir::WalkDir::new(farm.directory().join("storage"))
        .into_iter()
        .flatten()
        .filter(|entry| entry.file_type().is_file())
        .find(|entry| std::fs::read(entry.path()).is_ok_and(|found| found == bytes))
        .expect("the storage keeps the blob in a file");
    std::fs::remove_file(stored.path()).expect("the right bytes go");
    std::fs::write(stored.path(), "x".repeat(bytes.len())).expect("wrong ones come");
    let owner = std::os::unix::fs::chown(stored.path(), owner(&farm), owner(&farm));
    owner.expect("the storage's own");

    let outcome = farm.client().run_digest(action_digest);
    assert_ne!(outcome.status.code(), Code::Ok, "{outcome:#?}");
    assert_eq!(outcome.stdout, "");
    assert!(
        outcome.status.message().contains(&digest.hash()),
        "{outcome:#?}"
    );
    assert!(Seal::record(&farm.cache()).find(&digest).is_none());
    farm.wait_until_idle();
    // Uploaded again, it serves.
    farm.client().upload(action.blobs().1);
    let outcome = farm.client().run_digest(action_digest).success();
    assert_eq!(outcome.stdout.as_bytes(), bytes);
    leave(farm);
}

/// Who owns the files of the farm's storage.
fn owner(farm: &Farm) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(farm.directory().join("storage"));
    Some(metadata.expect("the storage").uid())
}

#[test]
fn messages_that_cannot_be_decoded_are_refused() {
    let farm = farm();
    let client = farm.client();
    let garbage = Bytes::from_static(b"\xff\xff\xff\xffneither an Action nor anything else");
    let digest = digest_of(&garbage);
    client.upload(vec![(digest, garbage)]);
    let hash = digest.hash();
    assert_refused(
        client.run_digest(digest),
        Code::InvalidArgument,
        &[&hash, "ction"],
    );
    let mut action = good();
    action.message.command_digest = Some(digest.to_wire());
    assert_refused(
        client.run(&action),
        Code::InvalidArgument,
        &[&hash, "ommand"],
    );
    let mut action = good();
    action.message.input_root_digest = Some(digest.to_wire());
    assert_refused(
        client.run(&action),
        Code::InvalidArgument,
        &[&hash, "irectory"],
    );
    leave(farm);
}
