//! Tree and Directory messages of a directory that an action left.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::Message;
use proto::wire::rev2;
use proto::{Digest, DigestFunction};

use super::collect::Collected;
use super::walk::Found;
use crate::Error;

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
/// at its first appearance, puts every parent before its children.
pub(super) fn messages(
    found: &[Found],
    collected: &Collected,
    function: DigestFunction,
) -> Result<Messages, Error> {
    let mut digests: HashMap<usize, Digest> = HashMap::new();
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    for (place, directory) in found.iter().enumerate().rev() {
        let message = message(directory, collected, &digests)?;
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
    let root = directories
        .first()
        .map(|(digest, _)| *digest)
        .ok_or_else(|| Error::Internal("an output directory has no root".into()))?;
    let bytes = Bytes::from(tree.encode_to_vec());
    Ok(Messages {
        tree: (Digest::of(function, &bytes), bytes),
        root,
        directories,
    })
}

fn message(
    directory: &Found,
    collected: &Collected,
    digests: &HashMap<usize, Digest>,
) -> Result<rev2::Directory, Error> {
    let mut message = rev2::Directory::default();
    for (name, file) in &directory.files {
        message.files.push(rev2::FileNode {
            name: name.clone(),
            digest: Some(collected.digest(file.id)?.to_wire()),
            is_executable: file.executable,
            node_properties: None,
        });
    }
    for (name, place) in &directory.directories {
        message.directories.push(rev2::DirectoryNode {
            name: name.clone(),
            digest: digests.get(place).map(Digest::to_wire),
        });
    }
    for (name, target) in &directory.symlinks {
        message.symlinks.push(rev2::SymlinkNode {
            name: name.clone(),
            target: target.clone(),
            node_properties: None,
        });
    }
    Ok(message)
}
