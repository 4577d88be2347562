//! Tree and Directory messages of a directory that an action left.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use proto::wire::rev2;
use proto::{Digest, DigestFunction};

use super::collect::Collected;
use super::walk::Found;

/// A directory as messages.
pub(super) struct Messages {
    /// The Tree: root first, then every other Directory once, parents before
    /// their children (REv2 OutputDirectory.is_topologically_sorted).
    pub(super) tree: (Digest, Bytes),
    /// The root's Directory message.
    pub(super) root: Digest,
    /// Every Directory message once, the root's too.
    pub(super) directories: Vec<(Digest, Bytes)>,
}

/// Makes the messages. In `found`, parents come before their children: going
/// backwards, a directory comes after everything below it, so its children's
/// digests are known; and turning that order around once more, each message only
/// at its first appearance, puts every parent before its children. None if one of
/// the files could not be read.
pub(super) fn messages(
    found: &[Found],
    collected: &Collected,
    function: DigestFunction,
) -> Option<Messages> {
    let mut digests: HashMap<usize, Digest> = HashMap::new();
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    for (place, directory) in found.iter().enumerate().rev() {
        let message = message(directory, found, collected, &digests)?;
        let bytes = Bytes::from(message.encode_to_vec());
        let digest = Digest::of(function, &bytes);
        digests.insert(place, digest);
        if seen.insert(digest) {
            order.push((digest, message, bytes));
        }
    }
    order.reverse();
    let mut tree = rev2::Tree::default();
    let mut directories = Vec::with_capacity(order.len());
    for (digest, message, bytes) in order {
        if tree.root.is_none() {
            tree.root = Some(message);
        } else {
            tree.children.push(message);
        }
        directories.push((digest, bytes));
    }
    let root = directories.first().map(|(digest, _)| *digest)?;
    let bytes = Bytes::from(tree.encode_to_vec());
    Some(Messages {
        tree: (Digest::of(function, &bytes), bytes),
        root,
        directories,
    })
}

fn message(
    directory: &Found,
    found: &[Found],
    collected: &Collected,
    digests: &HashMap<usize, Digest>,
) -> Option<rev2::Directory> {
    let mut message = rev2::Directory::default();
    for (name, file) in &directory.files {
        message.files.push(rev2::FileNode {
            name: name.to_string(),
            digest: Some(collected.digest(file.id)?.to_wire()),
            is_executable: file.executable,
            node_properties: None,
        });
    }
    for child in &directory.directories {
        message.directories.push(rev2::DirectoryNode {
            name: collected.places.name(found[*child].place).into(),
            digest: digests.get(child).map(Digest::to_wire),
        });
    }
    for (name, target) in &directory.symlinks {
        message.symlinks.push(rev2::SymlinkNode {
            name: name.to_string(),
            target: target.clone(),
            node_properties: None,
        });
    }
    Some(message)
}
