//! Input roots: what is missing, malformed, shared.

use std::sync::atomic::Ordering;

use prost::Message;
use proto::wire::rev2::{Directory, DirectoryNode, FileNode, SymlinkNode};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

#[tokio::test]
async fn every_missing_blob_is_listed_at_once() {
    let mut farm = Farm::new(Manners::default()).await;
    let (file, large, directory) = (digest(b"1"), digest(&[0; 2 << 20]), digest(b"2"));
    let input = || Input::script("true").file(&farm.storage, "there", b"x");
    let missing = |response: &proto::wire::rev2::ExecuteResponse| {
        let status = proto::status::from_wire(response.status.as_ref().unwrap());
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let details = status.get_details_precondition_failure().unwrap();
        let mut subjects: Vec<String> = details
            .violations
            .into_iter()
            .map(|violation| {
                assert_eq!(violation.r#type, "MISSING");
                violation.subject
            })
            .collect();
        subjects.sort();
        subjects
    };
    let subjects = |digests: &[proto::Digest]| {
        let mut all: Vec<String> = digests
            .iter()
            .map(|digest| format!("blobs/{}/{}", digest.hash(), digest.size()))
            .collect();
        all.sort();
        all
    };
    let files = input().file_of("a", file).file_of("b", large);
    let everything = input()
        .file_of("a", file)
        .file_of("b", large)
        .directory_of("d", directory);
    let response = farm.execute(files).await;
    assert_eq!(missing(&response), subjects(&[file, large]));
    let response = farm.execute(everything).await;
    assert_eq!(missing(&response), subjects(&[file, large, directory]));

    let mut task = Input::script("true")
        .file_of("c", file)
        .store(&farm.storage);
    let command = digest(b"no such command");
    task.action.as_mut().unwrap().command_digest = Some(command.to_wire());
    let response = farm.execute_task(task).await;
    assert_eq!(missing(&response), subjects(&[file, command]));
    farm.end().await;
}

#[tokio::test]
async fn malformed_directories_are_refused_by_digest_and_entry() {
    let mut farm = Farm::new(Manners::default()).await;
    let empty = digest(b"").to_wire();
    let file = |name: &str| FileNode {
        name: name.into(),
        digest: Some(empty.clone()),
        ..Default::default()
    };
    let child = |name: &str| DirectoryNode {
        name: name.into(),
        digest: Some(empty.clone()),
    };
    let link = |name: &str, target: &str| SymlinkNode {
        name: name.into(),
        target: target.into(),
        ..Default::default()
    };
    let of = |files: Vec<FileNode>, directories: Vec<DirectoryNode>, symlinks: Vec<SymlinkNode>| {
        Directory {
            files,
            directories,
            symlinks,
            node_properties: None,
        }
    };
    let mut undigested = file("undigested");
    undigested.digest = None;
    let cases = [
        ("..", of(vec![file("..")], vec![], vec![])),
        ("a/b", of(vec![], vec![child("a/b")], vec![])),
        ("", of(vec![], vec![], vec![link("", "x")])),
        ("n\0", of(vec![file("n\0")], vec![], vec![])),
        (
            "unsorted",
            of(vec![file("z"), file("unsorted")], vec![], vec![]),
        ),
        ("same", of(vec![file("same"), file("same")], vec![], vec![])),
        ("both", of(vec![file("both")], vec![child("both")], vec![])),
        (
            "linked",
            of(vec![], vec![child("linked")], vec![link("linked", "x")]),
        ),
        ("nowhere", of(vec![], vec![], vec![link("nowhere", "")])),
        ("undigested", of(vec![undigested], vec![], vec![])),
    ];
    for (entry, directory) in cases {
        let directory = farm.storage.put(directory.encode_to_vec());
        let input = Input::script("true").directory_of("d", directory);
        let response = farm.execute(input).await;
        assert_eq!(code(&response), Code::InvalidArgument, "{entry}");
        let message = response.status.unwrap().message;
        assert!(message.contains(&directory.hash()), "{message}");
        assert!(message.contains(&format!("{entry:?}")), "{message}");
    }
    let garbage = farm.storage.put(b"\xff\xff".to_vec());
    let input = Input::script("true").directory_of("d", garbage);
    assert_eq!(code(&farm.execute(input).await), Code::InvalidArgument);
    farm.end().await;
}

#[tokio::test]
async fn trees_with_links_empty_directories_and_shared_messages_are_made() {
    let mut farm = Farm::new(Manners::default()).await;
    let inner = Directory {
        files: vec![FileNode {
            name: "file".into(),
            digest: Some(farm.storage.put("content").to_wire()),
            ..Default::default()
        }],
        directories: vec![DirectoryNode {
            name: "empty".into(),
            digest: Some(farm.storage.put("").to_wire()),
        }],
        ..Default::default()
    };
    let inner = farm.storage.put(inner.encode_to_vec());
    let script = "cat a/file b/file; readlink link; ls -d a/empty; touch a/new b/empty/new";
    let input = Input::script(script)
        .directory_of("a", inner)
        .directory_of("b", inner)
        .symlink("link", "../dangling");
    let response = farm.execute(input).await;
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 0);
    let output = b"contentcontent../dangling\na/empty\n";
    assert_eq!(result.stdout_digest, Some(digest(output).to_wire()));
    farm.end().await;
}

#[tokio::test]
async fn a_tree_that_unfolds_beyond_all_bounds_is_refused() {
    let mut farm = Farm::new(Manners::default()).await;
    let mut below = farm.storage.put("");
    for _ in 0..40 {
        let child = |name: &str| DirectoryNode {
            name: name.into(),
            digest: Some(below.to_wire()),
        };
        let directory = Directory {
            directories: vec![child("a"), child("b")],
            ..Default::default()
        };
        below = farm.storage.put(directory.encode_to_vec());
    }
    let input = Input::script("true").directory_of("d", below);
    assert_eq!(code(&farm.execute(input).await), Code::ResourceExhausted);
    farm.end().await;
}

#[tokio::test]
async fn an_output_below_an_input_file_is_refused() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = Input::script("true")
        .file(&farm.storage, "file", b"x")
        .outputs(&["file/out"]);
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::InvalidArgument);
    assert!(response.status.unwrap().message.contains("\"file\""));
    farm.end().await;
}

#[tokio::test]
async fn messages_and_files_are_read_once() {
    let mut farm = Farm::new(Manners::default()).await;
    let input = || Input::script("true").file(&farm.storage, "f", b"content");
    let (first, second) = (input(), input());
    farm.execute(first).await;
    let reads = farm.storage.reads.load(Ordering::SeqCst);
    farm.execute(second).await;
    assert_eq!(farm.storage.reads.load(Ordering::SeqCst), reads);
    farm.end().await;
}

#[tokio::test]
async fn a_blob_with_other_bytes_than_its_digest_says_is_never_used() {
    let mut farm = Farm::new(Manners::default()).await;
    let wanted = digest(b"right");
    let wrong = |bytes: &'static [u8]| {
        let mut blobs = farm.storage.blobs.lock().unwrap();
        blobs.insert(wanted, bytes.into());
    };
    wrong(b"wrong");
    let input = || Input::script("cat f").file_of("f", wanted);
    let first = input();
    let second = input();
    assert_eq!(code(&farm.execute(first).await), Code::Internal);
    farm.storage.put("right");
    assert_eq!(code(&farm.execute(second).await), Code::Ok);
    farm.end().await;
}

#[tokio::test]
async fn roots_deeper_than_the_descriptors_kept_are_made_completely() {
    let mut farm = Farm::new(Manners::default()).await;
    let file = Directory {
        files: vec![FileNode {
            name: "f".into(),
            digest: Some(farm.storage.put("content").to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let leaf = farm.storage.put(file.encode_to_vec());
    let mut below = leaf;
    for _ in 0..150 {
        let child = |name: &str, digest: proto::Digest| DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
        };
        // The second is made on the way back up.
        let directory = Directory {
            directories: vec![child("a", below), child("z", leaf)],
            ..Default::default()
        };
        below = farm.storage.put(directory.encode_to_vec());
    }
    let script = "find . -type f | wc -l; cat a/a/z/f";
    let response = farm
        .execute(Input::script(script).directory_of("a", below))
        .await;
    let result = response.result.unwrap();
    assert_eq!(
        result.stdout_digest,
        Some(digest(b"151\ncontent").to_wire())
    );
    farm.end().await;
}

#[tokio::test]
async fn messages_too_large_for_memory_are_refused_unread() {
    let mut farm = Farm::new(Manners::default()).await;
    let large = |salt: &[u8], size| {
        let hash = digest(salt).hash();
        proto::Digest::new(proto::DigestFunction::Sha256, &hash, size).unwrap()
    };
    let huge = large(b"huge", (64 << 20) + 1);
    let plain = || Input::script("true").store(&farm.storage);
    let (mut command, mut root) = (plain(), plain());
    command.action.as_mut().unwrap().command_digest = Some(huge.to_wire());
    root.action.as_mut().unwrap().input_root_digest = Some(huge.to_wire());
    let child = Input::script("true").directory_of("d", huge);
    let child = child.store(&farm.storage);
    // None is too large, but all of them are.
    let mut many = Input::script("true");
    for n in 0..9_u8 {
        many = many.directory_of(&n.to_string(), large(&[n], 60 << 20));
    }
    let many = many.store(&farm.storage);
    let named = many.action.as_ref().unwrap().input_root_digest.clone();
    let named = named.unwrap().hash;
    for (task, named) in [
        (command, huge.hash()),
        (root, huge.hash()),
        (child, huge.hash()),
        (many, named),
    ] {
        let response = farm.execute_task(task).await;
        assert_eq!(code(&response), Code::ResourceExhausted, "{response:?}");
        let message = response.status.unwrap().message;
        assert!(message.contains(&named), "{message}");
    }
    farm.end().await;
}
