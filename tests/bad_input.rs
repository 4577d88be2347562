//! Wrong requests: each is refused with the code of its kind and a message that
//! names what is wrong, nothing is executed for it, and nothing of it is left.
//!
//! The codes are those of REv2's Execute: INVALID_ARGUMENT for what is wrong in
//! itself, FAILED_PRECONDITION for what is not there.

use bytes::Bytes;
use hayloft::client::blob;
use proto::wire::bytestream::WriteRequest;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::rev2;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::client::Outcome;
use tests::farm::{As, Farm, Setup};
use tests::seal::Seal;
use tests::tree::Tree;
use tonic::Code;
use tonic_types::StatusExt;

/// The code with which every command of these tests would end.
const EXECUTED: i32 = 42;

fn farm() -> Farm {
    Farm::start(As::possible()[0])
}

fn good() -> Action {
    Action::shell(&format!("echo executed; exit {EXECUTED}"))
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// Checks that a request was refused for these reasons and not executed.
fn assert_refused(outcome: Outcome, code: Code, words: &[&str]) -> Outcome {
    let outcome = outcome.refused(code, words);
    assert_eq!(
        (outcome.result.exit_code, &*outcome.stdout),
        (0, ""),
        "{outcome:#?}"
    );
    assert!(!outcome.cached);
    outcome
}

/// Checks that a request was refused for want of exactly these blobs.
fn assert_missing(outcome: Outcome, blobs: &[Digest]) {
    let words: Vec<_> = match blobs {
        [one] => vec![one.hash()],
        _ => Vec::new(),
    };
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let outcome = assert_refused(outcome, Code::FailedPrecondition, &words);
    let details = outcome.status.get_details_precondition_failure();
    let mut subjects: Vec<_> = details
        .expect("a list of what is missing")
        .violations
        .into_iter()
        .map(|violation| violation.subject)
        .collect();
    subjects.sort();
    let mut expected: Vec<_> = blobs
        .iter()
        .map(|blob| format!("blobs/{}/{}", blob.hash(), blob.size()))
        .collect();
    expected.sort();
    assert_eq!(subjects, expected);
}

/// Checks that the farm is as if nothing had been asked of it, and does what is
/// right.
fn leave(farm: Farm) {
    farm.wait_until_idle();
    let _ = farm.client().run(&good()).exited(EXECUTED);
    Seal::record(&farm.cache()).check();
    farm.stop();
}

#[test]
fn digests_that_are_none_are_refused() {
    let farm = farm();
    let hash = digest_of(b"x").hash();
    let long = "f".repeat(1000);
    for (hash, size, function, word) in [
        ("", 1, 1, "hash"),
        (&hash[1..], 1, 1, &hash[1..]),
        (&hash.to_uppercase(), 1, 1, &hash.to_uppercase()[..8]),
        (&hash.replace(&hash[..1], "g"), 1, 1, "g"),
        ("../../../../etc/passwd", 1, 0, "passwd"),
        (&long, 1, 0, "ffff"),
        (&hash, -1, 1, "-1"),
        (&hash, i64::MIN, 1, "-9223372036854775808"),
        // Functions that this farm does not compute: VSO, BLAKE3, and none at all.
        (&hash, 1, 4, "4"),
        (&hash, 1, 9, "9"),
        (&hash, 1, 12345, "12345"),
    ] {
        let request = rev2::ExecuteRequest {
            action_digest: Some(rev2::Digest {
                hash: hash.into(),
                size_bytes: size,
            }),
            digest_function: function,
            ..Default::default()
        };
        let outcome = farm.client().start_request(request).wait();
        assert_refused(outcome, Code::InvalidArgument, &[word]);
    }
    let nothing = rev2::ExecuteRequest::default();
    let outcome = farm.client().start_request(nothing).wait();
    assert_refused(outcome, Code::InvalidArgument, &["digest"]);
    leave(farm);
}

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

/// Runs a good command with a root Directory of this message.
fn run_with_root(farm: &Farm, root: &rev2::Directory) -> Outcome {
    let root = blob(root);
    farm.client().upload(vec![root.clone()]);
    let mut action = good();
    action.message.input_root_digest = Some(root.0.to_wire());
    farm.client().run(&action)
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

#[test]
fn actions_without_what_an_action_needs_are_refused() {
    let farm = farm();
    let client = farm.client();
    let (_, blobs) = good().blobs();
    client.upload(blobs);
    let (root, _) = Tree::new().blobs();
    let command = blob(&good().command).0;
    for (message, word) in [
        (
            rev2::Action {
                input_root_digest: Some(root.to_wire()),
                ..Default::default()
            },
            "command",
        ),
        (
            rev2::Action {
                command_digest: Some(command.to_wire()),
                ..Default::default()
            },
            "input",
        ),
    ] {
        let action = blob(&message);
        client.upload(vec![action.clone()]);
        assert_refused(client.run_digest(action.0), Code::InvalidArgument, &[word]);
    }
    let outcome = client.run(&Action::new([""; 0]));
    assert_refused(outcome, Code::InvalidArgument, &["argument"]);
    leave(farm);
}

#[test]
fn words_and_variables_that_no_program_can_get_are_refused() {
    let farm = farm();
    let client = farm.client();
    for words in [&["/bin/sh", "a\0b"][..], &["/bin/\0sh"], &[""]] {
        let outcome = client.run(&Action::new(words.iter().copied()));
        assert_refused(outcome, Code::InvalidArgument, &[]);
    }
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0y")] {
        let outcome = client.run(&good().environment(name, value));
        assert_refused(outcome, Code::InvalidArgument, &["nvironment"]);
    }
    leave(farm);
}

#[test]
fn paths_that_leave_the_input_root_are_refused() {
    let farm = farm();
    let client = farm.client();
    for path in [
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "/",
        "a\0b",
        "a/\0",
    ] {
        let outcome = client.run(&good().output(path));
        assert_refused(outcome, Code::InvalidArgument, &["output_paths"]);
        let outcome = client.run(&good().working_directory(path));
        assert_refused(outcome, Code::InvalidArgument, &["working_directory"]);
        #[allow(deprecated)]
        {
            let mut action = good();
            action.command.output_files = vec![path.into()];
            let outcome = client.run(&action);
            assert_refused(outcome, Code::InvalidArgument, &["output_files"]);
            let mut action = good();
            action.command.output_directories = vec![path.into()];
            let outcome = client.run(&action);
            assert_refused(outcome, Code::InvalidArgument, &["output_directories"]);
        }
    }
    // From further down the same climb stays inside, one more step does not.
    let tree = Tree::new().folder("a/b");
    let below = good().tree(&tree).working_directory("a/b");
    let _ = client
        .run(&below.clone().output("../../x"))
        .exited(EXECUTED);
    let outcome = client.run(&below.output("../../../x"));
    assert_refused(outcome, Code::InvalidArgument, &["output_paths"]);
    leave(farm);
}

#[test]
fn a_working_directory_that_is_none_is_named() {
    let farm = farm();
    let tree = Tree::new().file("file", "no folder").link("link", "/tmp");
    for path in ["file", "file/below", "link", "link/below"] {
        let outcome = farm
            .client()
            .run(&good().tree(&tree).working_directory(path));
        let (name, _) = path.split_once('/').unwrap_or((path, ""));
        assert_refused(outcome, Code::InvalidArgument, &[name]);
    }
    leave(farm);
}

#[test]
fn directories_that_break_the_protocol_are_refused() {
    let farm = farm();
    let empty = Tree::new().blobs().0.to_wire();
    let content = blob(&rev2::Action::default());
    farm.client().upload(vec![content.clone()]);
    let file = |name: &str| rev2::FileNode {
        name: name.into(),
        digest: Some(content.0.to_wire()),
        ..Default::default()
    };
    let folder = |name: &str| rev2::DirectoryNode {
        name: name.into(),
        digest: Some(empty.clone()),
    };
    let link = |name: &str, target: &str| rev2::SymlinkNode {
        name: name.into(),
        target: target.into(),
        ..Default::default()
    };
    let mut wrong = Vec::new();
    let long = "n".repeat(256);
    for name in ["", ".", "..", "a/b", "/a", "../x", "nu\0l", &long] {
        let files = vec![file(name)];
        wrong.push((
            name.to_owned(),
            rev2::Directory {
                files,
                ..Default::default()
            },
        ));
        let directories = vec![folder(name)];
        wrong.push((
            name.to_owned(),
            rev2::Directory {
                directories,
                ..Default::default()
            },
        ));
        let symlinks = vec![link(name, "target")];
        wrong.push((
            name.to_owned(),
            rev2::Directory {
                symlinks,
                ..Default::default()
            },
        ));
    }
    for target in ["", "nu\0l"] {
        let symlinks = vec![link("the-link", target)];
        wrong.push((
            "the-link".into(),
            rev2::Directory {
                symlinks,
                ..Default::default()
            },
        ));
    }
    for (first, second) in [("b", "a"), ("same", "same")] {
        let files = vec![file(first), file(second)];
        wrong.push((
            second.into(),
            rev2::Directory {
                files,
                ..Default::default()
            },
        ));
        let directories = vec![folder(first), folder(second)];
        wrong.push((
            second.into(),
            rev2::Directory {
                directories,
                ..Default::default()
            },
        ));
        let symlinks = vec![link(first, "x"), link(second, "x")];
        wrong.push((
            second.into(),
            rev2::Directory {
                symlinks,
                ..Default::default()
            },
        ));
    }
    // One name for two kinds.
    let (files, directories) = (vec![file("twice")], vec![folder("twice")]);
    let symlinks = vec![link("twice", "x")];
    for directory in [
        rev2::Directory {
            files: files.clone(),
            directories: directories.clone(),
            ..Default::default()
        },
        rev2::Directory {
            files: files.clone(),
            symlinks: symlinks.clone(),
            ..Default::default()
        },
        rev2::Directory {
            directories,
            symlinks,
            ..Default::default()
        },
    ] {
        wrong.push(("twice".into(), directory));
    }
    // Nodes without a digest, or with a wrong one.
    for digest in [
        None,
        Some(rev2::Digest {
            hash: "0".into(),
            size_bytes: 1,
        }),
    ] {
        let mut node = file("digestless");
        node.digest.clone_from(&digest);
        let files = vec![node];
        wrong.push((
            "digestless".into(),
            rev2::Directory {
                files,
                ..Default::default()
            },
        ));
        let mut node = folder("digestless");
        node.digest = digest;
        let directories = vec![node];
        wrong.push((
            "digestless".into(),
            rev2::Directory {
                directories,
                ..Default::default()
            },
        ));
    }

    for (name, directory) in &wrong {
        // At the root and further down: the Directory and its entry are named.
        let digest = blob(directory);
        farm.client().upload(vec![digest.clone()]);
        let parent = rev2::Directory {
            directories: vec![rev2::DirectoryNode {
                name: "below".into(),
                digest: Some(digest.0.to_wire()),
            }],
            ..Default::default()
        };
        // A name may be quoted, or shortened where it is too long.
        let name = format!("{name:?}");
        let name = name.trim_matches('"');
        let shown = &name[..name.len().min(40)];
        for root in [directory, &parent] {
            let outcome = run_with_root(&farm, root);
            assert_refused(outcome, Code::InvalidArgument, &[&digest.0.hash(), shown]);
        }
    }
    leave(farm);
}

#[test]
fn timeouts_that_are_none_are_refused() {
    let farm = farm();
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (i64::MIN, 0),
        (i64::MAX, 0),
    ] {
        let outcome = farm.client().run(&good().timeout_of(seconds, nanos));
        assert_refused(outcome, Code::InvalidArgument, &["timeout"]);
    }
    leave(farm);
}

#[test]
fn a_platform_that_nobody_serves_is_named() {
    let setup = Setup::new(As::possible()[0]);
    let farm = setup.arguments(&["--platform", "OSFamily=linux"]).start();
    let outcome = farm
        .client()
        .run(&good().platform(&[("OSFamily", "plan9")]));
    assert_refused(
        outcome,
        Code::FailedPrecondition,
        &["OSFamily", "plan9", "linux"],
    );
    // Properties must be in their order, and a name and value twice are once too often.
    for properties in [&[("b", "1"), ("a", "1")][..], &[("a", "1"), ("a", "1")]] {
        let outcome = farm.client().run(&good().platform(properties));
        assert_refused(outcome, Code::InvalidArgument, &["latform"]);
    }
    farm.wait_until_idle();
    farm.stop();
}
