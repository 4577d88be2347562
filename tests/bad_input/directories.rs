//! Directory messages with names, orders, kinds and digests that REv2 forbids.

use hayloft::client::blob;
use proto::wire::rev2;
use tests::tree::Tree;
use tonic::Code;

use crate::{assert_refused, farm, leave, run_with_root};

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
