//! What is in a tree of Directory messages: an input root, or an output directory.
//!
//! A tree is a graph in which a directory may occur in many places, so that a few
//! messages may stand for more files than there are in the world. It is therefore
//! counted by adding up each directory once, and listed up to a limit.

use std::collections::HashMap;

use anyhow::Result;
use prost::Message;
use proto::Digest;
use proto::wire::rev2::{self, Directory};

use super::Client;

/// Longer paths are not looked at: no action could have been given them (PATH_MAX).
const MAXIMUM_PATH: usize = 4096;

/// The directories that are reached from a root.
#[derive(Clone, Debug)]
pub struct Directories {
    root: Digest,
    /// None: the storage does not have it, or it is no Directory.
    all: HashMap<Digest, Option<Directory>>,
}

/// How much there is in a tree, each place counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Bytes of all the files.
    pub bytes: u64,
    /// Directories below the root.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Directories of those that cannot be looked into.
    pub missing: u64,
}

/// A thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the tree's root.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// What a thing in a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// Its content; none where the tree does not say it.
        digest: Option<rev2::Digest>,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory.
    Directory {
        /// Its message.
        digest: Option<rev2::Digest>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: String,
    },
}

impl Client {
    /// Fetches all the directories of a tree that the storage has.
    ///
    /// # Errors
    /// The storage cannot be asked.
    pub async fn directories(&self, root: Digest) -> Result<Directories> {
        let mut all = HashMap::new();
        let mut level = vec![root];
        while !level.is_empty() {
            let blobs = self.blobs().read_batch(self.instance(), &level).await?;
            let mut next = Vec::new();
            for (digest, blob) in level.into_iter().zip(blobs) {
                let directory = blob.ok().and_then(|blob| Directory::decode(blob).ok());
                next.extend(children(digest, directory.as_ref()).map(|(_, child)| child));
                all.insert(digest, directory);
            }
            next.sort_unstable();
            next.dedup();
            next.retain(|digest| !all.contains_key(digest));
            level = next;
        }
        Ok(Directories { root, all })
    }
}

/// The subdirectories of a directory, by name.
fn children(parent: Digest, directory: Option<&Directory>) -> impl Iterator<Item = (&str, Digest)> {
    let nodes = directory.map_or(&[][..], |directory| &directory.directories);
    nodes.iter().filter_map(move |node| {
        // What names nothing cannot be looked into.
        let digest = Digest::from_wire(parent.function(), node.digest.as_ref());
        Some((node.name.as_str(), digest.ok()?))
    })
}

impl Directories {
    /// The tree below `root` of directories that are at hand.
    #[must_use]
    pub fn of(root: Digest, at_hand: impl IntoIterator<Item = (Digest, Directory)>) -> Self {
        let all = at_hand.into_iter().map(|(digest, it)| (digest, Some(it)));
        Self {
            root,
            all: all.collect(),
        }
    }

    fn get(&self, digest: &Digest) -> Option<&Directory> {
        self.all.get(digest)?.as_ref()
    }

    /// Whether the root itself is there.
    #[must_use]
    pub fn has_root(&self) -> bool {
        self.get(&self.root).is_some()
    }

    /// How much there is in it; at most as much as can be counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut known: HashMap<Digest, Totals> = HashMap::new();
        // Children before their parents; not by recursion, as a tree may be deep.
        let mut pending = vec![(self.root, false)];
        while let Some((digest, children_are_known)) = pending.pop() {
            if known.contains_key(&digest) {
                continue;
            }
            let directory = self.get(&digest);
            if children_are_known {
                let each = children(digest, directory).map(|(_, child)| known.get(&child));
                let sum = each.flatten().fold(own(directory), Totals::plus);
                known.insert(digest, sum);
            } else {
                pending.push((digest, true));
                let below = children(digest, directory);
                pending.extend(below.map(|(_, child)| (child, false)));
            }
        }
        known.remove(&self.root).unwrap_or_default()
    }

    /// What is in it, each directory before what is in that, up to `limit` things.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut pending = vec![(String::new(), self.root)];
        while let Some((path, digest)) = pending.pop() {
            if !path.is_empty() {
                entries.push(Entry {
                    path: path.clone(),
                    kind: Kind::Directory {
                        digest: Some(digest.to_wire()),
                    },
                });
            }
            let looked_at = path.len() <= MAXIMUM_PATH;
            let Some(directory) = self.get(&digest).filter(|_| looked_at) else {
                continue;
            };
            let within = |name: &str| match path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}/{name}"),
            };
            entries.extend(directory.files.iter().map(|file| Entry {
                path: within(&file.name),
                kind: Kind::File {
                    digest: file.digest.clone(),
                    executable: file.is_executable,
                },
            }));
            entries.extend(directory.symlinks.iter().map(|link| Entry {
                path: within(&link.name),
                kind: Kind::Symlink {
                    target: link.target.clone(),
                },
            }));
            let below: Vec<_> = children(digest, Some(directory)).collect();
            let below = below.into_iter().rev();
            pending.extend(below.map(|(name, child)| (within(name), child)));
            if entries.len() >= limit {
                entries.truncate(limit);
                break;
            }
        }
        entries
    }
}

/// What is directly in a directory.
fn own(directory: Option<&Directory>) -> Totals {
    let Some(directory) = directory else {
        return Totals {
            missing: 1,
            ..Totals::default()
        };
    };
    let sizes = directory.files.iter().map(|file| {
        let size = file.digest.as_ref().map_or(0, |digest| digest.size_bytes);
        u64::try_from(size).unwrap_or(0)
    });
    Totals {
        files: directory.files.len() as u64,
        bytes: sizes.fold(0, u64::saturating_add),
        directories: directory.directories.len() as u64,
        symlinks: directory.symlinks.len() as u64,
        missing: 0,
    }
}

impl Totals {
    /// How many things that are.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.files
            .saturating_add(self.directories)
            .saturating_add(self.symlinks)
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
            directories: self.directories.saturating_add(other.directories),
            symlinks: self.symlinks.saturating_add(other.symlinks),
            missing: self.missing.saturating_add(other.missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::DigestFunction;

    use super::*;

    fn stored(all: &mut Vec<(Digest, Directory)>, directory: Directory) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &directory.encode_to_vec());
        all.push((digest, directory));
        digest
    }

    fn node(name: &str, digest: Digest) -> rev2::DirectoryNode {
        rev2::DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
        }
    }

    #[test]
    fn a_tree_is_counted_and_listed_in_the_order_of_its_paths() {
        let mut all = Vec::new();
        let content = Digest::of(DigestFunction::Sha256, b"content").to_wire();
        let leaf = stored(
            &mut all,
            Directory {
                files: vec![rev2::FileNode {
                    name: "f".into(),
                    digest: Some(content.clone()),
                    is_executable: true,
                    ..Default::default()
                }],
                ..Default::default()
            },
        );
        let lost = Digest::of(DigestFunction::Sha256, b"lost");
        let root = stored(
            &mut all,
            Directory {
                directories: vec![node("a", leaf), node("b", leaf), node("lost", lost)],
                symlinks: vec![rev2::SymlinkNode {
                    name: "l".into(),
                    target: "a/f".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        );
        let tree = Directories::of(root, all);
        let totals = Totals {
            files: 2,
            bytes: 14,
            directories: 3,
            symlinks: 1,
            missing: 1,
        };
        assert_eq!(tree.totals(), totals);
        let entries = tree.list(100);
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["l", "a", "a/f", "b", "b/f", "lost"]);
        let file = Kind::File {
            digest: Some(content),
            executable: true,
        };
        assert_eq!(entries[2].kind, file);
        assert_eq!(tree.list(3), entries[..3]);
    }

    #[test]
    fn a_tree_of_more_places_than_can_be_walked_is_counted_and_begun_to_be_listed() {
        let mut all = Vec::new();
        let mut root = stored(&mut all, Directory::default());
        for _ in 0..100_000 {
            let directories = vec![node("a", root), node("b", root)];
            root = stored(
                &mut all,
                Directory {
                    directories,
                    ..Default::default()
                },
            );
        }
        let tree = Directories::of(root, all);
        assert_eq!(tree.totals().directories, u64::MAX);
        assert_eq!(tree.list(5).len(), 5);
    }
}
