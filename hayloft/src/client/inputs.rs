//! Inputs: a local folder as a Merkle tree of Directory messages.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use proto::wire::rev2;
use proto::{Digest, DigestFunction, Hasher};
use tokio::io::AsyncSeekExt;
use tokio_util::io::ReaderStream;

use super::{Client, blob};

/// Files up to this size travel in batches, larger ones as streams.
const BATCHED: u64 = 256 << 10;
/// How much is read into memory for one batch.
const BATCH: usize = 2 << 20;

/// A folder's tree: its root, and where its blobs are.
#[derive(Debug)]
pub struct Inputs {
    root: Digest,
    messages: Vec<(Digest, Bytes)>,
    files: Vec<(Digest, PathBuf)>,
}

impl Inputs {
    /// The tree without entries.
    #[must_use]
    pub fn empty() -> Self {
        let root = blob(&rev2::Directory::default());
        Self {
            root: root.0,
            messages: vec![root],
            files: Vec::new(),
        }
    }

    /// Reads a folder. Symbolic links are kept as they are; files must be regular.
    ///
    /// # Errors
    /// Something in it cannot be read, has a name that is not UTF-8, or is
    /// neither file, folder nor symbolic link.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut inputs = Self {
            root: Self::empty().root,
            messages: Vec::new(),
            files: Vec::new(),
        };
        inputs.root = inputs.add(folder)?;
        Ok(inputs)
    }

    /// The digest of the root Directory.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    fn add(&mut self, folder: &Path) -> Result<Digest> {
        let mut directory = rev2::Directory::default();
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                bail!("the name of {} is not UTF-8", path.display());
            };
            let kind = entry
                .file_type()
                .with_context(|| format!("cannot read {}", path.display()))?;
            if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                let Ok(target) = target.into_os_string().into_string() else {
                    bail!("the target of {} is not UTF-8", path.display());
                };
                directory.symlinks.push(rev2::SymlinkNode {
                    name,
                    target,
                    ..Default::default()
                });
            } else if kind.is_dir() {
                let digest = Some(self.add(&path)?.to_wire());
                directory
                    .directories
                    .push(rev2::DirectoryNode { name, digest });
            } else if kind.is_file() {
                let digest = hash(&path)?;
                let mode = entry.metadata()?.permissions().mode();
                self.files.push((digest, path));
                directory.files.push(rev2::FileNode {
                    name,
                    digest: Some(digest.to_wire()),
                    is_executable: mode & 0o100 != 0,
                    ..Default::default()
                });
            } else {
                bail!("{} is neither file, folder nor link", path.display());
            }
        }
        directory.files.sort_by(|a, b| a.name.cmp(&b.name));
        directory.directories.sort_by(|a, b| a.name.cmp(&b.name));
        directory.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
        let message = blob(&directory);
        let digest = message.0;
        self.messages.push(message);
        Ok(digest)
    }

    /// Uploads what the farm lacks, and gives how many blobs and bytes that was.
    ///
    /// # Errors
    /// The farm cannot be asked, or a file has changed meanwhile.
    pub async fn upload(self, client: &Client) -> Result<(usize, u64)> {
        let digests: Vec<Digest> = self
            .messages
            .iter()
            .map(|(digest, _)| *digest)
            .chain(self.files.iter().map(|(digest, _)| *digest))
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        let mut missing: HashSet<Digest> = client
            .blobs()
            .find_missing(client.instance(), &digests)
            .await?
            .into_iter()
            .collect();
        let sent = (missing.len(), missing.iter().map(Digest::size).sum());
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (digest, message) in self.messages {
            if missing.remove(&digest) {
                bytes += message.len();
                batch.push((digest, message));
            }
        }
        for (digest, path) in self.files {
            if !missing.remove(&digest) {
                continue;
            }
            if digest.size() <= BATCHED {
                let file =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                bytes += file.len();
                batch.push((digest, file.into()));
            } else {
                stream(client, digest, &path).await?;
            }
            if bytes > BATCH {
                client.upload(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        client.upload(batch).await?;
        Ok(sent)
    }
}

fn hash(path: &Path) -> Result<Digest> {
    let read = || -> std::io::Result<Digest> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut hasher = Hasher::new(DigestFunction::Sha256, size);
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finish()),
                count => hasher.update(&buffer[..count]),
            }
        }
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

async fn stream(client: &Client, digest: Digest, path: &Path) -> Result<()> {
    let name: Arc<Path> = path.into();
    let source = Arc::new(move |offset| {
        let failed = {
            let name = name.clone();
            move |reason| storage::Error::File {
                operation: "read",
                path: name.to_path_buf(),
                reason,
            }
        };
        let name = name.clone();
        let open = async move {
            let mut file = tokio::fs::File::open(&name).await?;
            file.seek(SeekFrom::Start(offset)).await?;
            Ok(ReaderStream::with_capacity(file, 256 << 10))
        };
        open.try_flatten_stream().map_err(failed).boxed()
    });
    client
        .blobs()
        .write_from(client.instance(), digest, source)
        .await
        .with_context(|| format!("cannot upload {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_a_sorted_tree_of_its_files_links_and_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("sub/b"), "b").unwrap();
        fs::write(path("z"), "z").unwrap();
        fs::write(path("a"), "a").unwrap();
        fs::set_permissions(path("a"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("nowhere/at/all", path("link")).unwrap();
        let inputs = Inputs::read(folder.path()).unwrap();
        assert_eq!((inputs.messages.len(), inputs.files.len()), (2, 3));
        let root = &inputs.messages.last().unwrap();
        assert_eq!(root.0, inputs.root());
        let root: rev2::Directory = prost::Message::decode(root.1.clone()).unwrap();
        let files: Vec<_> = root
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.is_executable))
            .collect();
        assert_eq!(files, [("a", true), ("z", false)]);
        assert_eq!(root.symlinks[0].target, "nowhere/at/all");
        assert_eq!(root.directories[0].name, "sub");
    }

    #[test]
    fn what_cannot_be_an_input_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let message = Inputs::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("socket"), "{message}");
    }
}
