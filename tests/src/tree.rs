//! Input roots.

use std::collections::BTreeMap;

use bytes::Bytes;
use hayloft::client::blob;
use proto::wire::{protobuf, rev2};
use proto::{Digest, DigestFunction};

/// A directory tree to be an action's input root. Paths are relative, their
/// parents are made.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, File>,
    links: BTreeMap<String, String>,
    folders: BTreeMap<String, Tree>,
}

#[derive(Clone, Debug)]
struct File {
    bytes: Bytes,
    is_executable: bool,
    unix_mode: Option<u32>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file.
    #[must_use]
    pub fn file(self, path: &str, bytes: impl Into<Bytes>) -> Self {
        self.with(path, bytes.into(), false, None)
    }

    /// With an executable file.
    #[must_use]
    pub fn executable(self, path: &str, bytes: impl Into<Bytes>) -> Self {
        self.with(path, bytes.into(), true, None)
    }

    /// With an executable file whose node asks for a mode (`NodeProperties.unix_mode`).
    #[must_use]
    pub fn executable_of_mode(self, path: &str, bytes: impl Into<Bytes>, mode: u32) -> Self {
        self.with(path, bytes.into(), true, Some(mode))
    }

    fn with(
        mut self,
        path: &str,
        bytes: Bytes,
        is_executable: bool,
        unix_mode: Option<u32>,
    ) -> Self {
        let (folder, name) = self.place(path);
        let file = File {
            bytes,
            is_executable,
            unix_mode,
        };
        folder.files.insert(name, file);
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let (folder, name) = self.place(path);
        folder.links.insert(name, target.into());
        self
    }

    /// With a folder.
    #[must_use]
    pub fn folder(mut self, path: &str) -> Self {
        let (folder, name) = self.place(path);
        folder.folders.entry(name).or_default();
        self
    }

    fn place(&mut self, path: &str) -> (&mut Self, String) {
        match path.rsplit_once('/') {
            None => (self, path.into()),
            Some((parents, name)) => {
                let mut folder = self;
                for parent in parents.split('/') {
                    folder = folder.folders.entry(parent.into()).or_default();
                }
                (folder, name.into())
            }
        }
    }

    /// Its root's digest, and every blob of it.
    #[must_use]
    pub fn blobs(&self) -> (Digest, Vec<(Digest, Bytes)>) {
        let mut blobs = Vec::new();
        let root = self.add(&mut blobs);
        (root, blobs)
    }

    fn add(&self, blobs: &mut Vec<(Digest, Bytes)>) -> Digest {
        let mut directory = rev2::Directory::default();
        for (name, file) in &self.files {
            let digest = Digest::of(DigestFunction::Sha256, &file.bytes);
            blobs.push((digest, file.bytes.clone()));
            directory.files.push(rev2::FileNode {
                name: name.clone(),
                digest: Some(digest.to_wire()),
                is_executable: file.is_executable,
                node_properties: file.unix_mode.map(|mode| rev2::NodeProperties {
                    unix_mode: Some(protobuf::UInt32Value { value: mode }),
                    ..Default::default()
                }),
            });
        }
        for (name, target) in &self.links {
            directory.symlinks.push(rev2::SymlinkNode {
                name: name.clone(),
                target: target.clone(),
                ..Default::default()
            });
        }
        for (name, folder) in &self.folders {
            let digest = Some(folder.add(blobs).to_wire());
            directory.directories.push(rev2::DirectoryNode {
                name: name.clone(),
                digest,
            });
        }
        let message = blob(&directory);
        blobs.push(message.clone());
        message.0
    }
}
