//! Outputs: what an action made, written into a local folder.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use proto::wire::rev2;
use proto::{Component, Digest, DigestFunction, RelativePath};
use tokio::io::AsyncWriteExt;

use super::Client;

/// REv2 Tree, with its directories as the bytes they came in: those are what the
/// digests of children name. An encoder may write the same message otherwise.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Tree {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) root: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(crate) children: Vec<Bytes>,
}

impl Client {
    /// The bytes of a result's standard output or error: inline, or by digest.
    ///
    /// # Errors
    /// The farm does not have them.
    pub async fn fetch_stream(&self, raw: &[u8], digest: Option<&rev2::Digest>) -> Result<Bytes> {
        match digest {
            Some(digest) if raw.is_empty() => self.fetch(self.digest(Some(digest))?).await,
            _ => Ok(Bytes::copy_from_slice(raw)),
        }
    }

    /// Writes every output below `folder`, over what is there. Nothing is written
    /// through a symbolic link below it, whoever made that; links are made last.
    ///
    /// # Errors
    /// An output's name is no name inside a folder or is used twice, the farm lacks
    /// a blob, or a file cannot be written.
    pub async fn download(&self, result: &rev2::ActionResult, folder: &Path) -> Result<()> {
        for file in &result.output_files {
            let path = place(folder, &RelativePath::new(&file.path)?)?;
            self.write(
                self.digest(file.digest.as_ref())?,
                file.is_executable,
                &path,
            )
            .await?;
        }
        let mut links = Vec::new();
        for directory in &result.output_directories {
            let path = RelativePath::new(&directory.path)?;
            let digest = self.digest(directory.tree_digest.as_ref())?;
            let tree = Tree::decode(self.fetch(digest).await?)
                .with_context(|| format!("{digest} is not a Tree"))?;
            self.write_tree(digest.function(), tree, folder, path, &mut links)
                .await?;
        }
        #[allow(deprecated)]
        let named = result
            .output_symlinks
            .iter()
            .chain(&result.output_file_symlinks)
            .chain(&result.output_directory_symlinks);
        for link in named {
            links.push((RelativePath::new(&link.path)?, link.target.clone()));
        }
        for (path, target) in links {
            make_link(&target, &place(folder, &path)?)?;
        }
        Ok(())
    }

    fn digest(&self, digest: Option<&rev2::Digest>) -> Result<Digest> {
        let hash = digest.map_or("", |digest| &digest.hash);
        Ok(Digest::from_wire(
            DigestFunction::from_wire(0, hash)?,
            digest,
        )?)
    }

    /// Writes the files and folders of a tree; its links are left to be made.
    async fn write_tree(
        &self,
        function: DigestFunction,
        tree: Tree,
        folder: &Path,
        path: RelativePath,
        links: &mut Vec<(RelativePath, String)>,
    ) -> Result<()> {
        let children: HashMap<Digest, Bytes> = tree
            .children
            .into_iter()
            .map(|child| (Digest::of(function, &child), child))
            .collect();
        let root = tree.root.context("the Tree has no root")?;
        let mut pending = vec![(path, root)];
        while let Some((path, directory)) = pending.pop() {
            let directory = rev2::Directory::decode(directory)
                .with_context(|| format!("{path}: not a Directory"))?;
            make_folder(folder, &path)?;
            let mut names = HashSet::new();
            let mut name = |name: &str| {
                let component = Component::new(name)?;
                if !names.insert(component.clone()) {
                    bail!("{path}: the name {name:?} is used twice");
                }
                Ok(path.child(component))
            };
            let mut files = Vec::new();
            for file in &directory.files {
                files.push((name(&file.name)?, file));
            }
            for node in &directory.directories {
                let digest = self.digest(node.digest.as_ref())?;
                let child = children
                    .get(&digest)
                    .with_context(|| format!("the Tree lacks its directory {digest}"))?;
                pending.push((name(&node.name)?, child.clone()));
            }
            for link in &directory.symlinks {
                links.push((name(&link.name)?, link.target.clone()));
            }
            for (path, file) in files {
                let digest = self.digest(file.digest.as_ref())?;
                self.write(digest, file.is_executable, &place(folder, &path)?)
                    .await?;
            }
        }
        Ok(())
    }

    async fn write(&self, digest: Digest, executable: bool, path: &Path) -> Result<()> {
        remove(path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut pieces = self.blobs().read(self.instance(), digest, 0, None).await?;
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?)
                .await
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        file.flush().await?;
        Ok(())
    }
}

/// Where an output goes; its parent folders are made.
fn place(folder: &Path, output: &RelativePath) -> Result<PathBuf> {
    let Some((parent, name)) = output.split_last() else {
        bail!("an output has no name of its own");
    };
    Ok(make_folder(folder, &parent)?.join(name.as_str()))
}

/// Makes a folder and those above it. What is there must be folders, not links to
/// some: a farm may have made a link in an earlier run, too.
fn make_folder(folder: &Path, path: &RelativePath) -> Result<PathBuf> {
    let mut made = folder.to_path_buf();
    for name in path.components() {
        made.push(name.as_str());
        match fs::symlink_metadata(&made) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => bail!("{} is in the way: it is no folder", made.display()),
            Err(_) => {
                fs::create_dir(&made).with_context(|| format!("cannot make {}", made.display()))?
            }
        }
    }
    Ok(made)
}

fn make_link(target: &str, path: &Path) -> Result<()> {
    remove(path)?;
    symlink(target, path).with_context(|| format!("cannot make the link {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storage::local::{Blobs, Limits};

    use super::*;

    /// A client of a store in a folder, and a folder for outputs.
    struct Bench {
        client: Client,
        folder: tempfile::TempDir,
        _store: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let store = tempfile::tempdir().unwrap();
            let limits = Limits {
                disk: 1 << 24,
                memory: 0,
            };
            Self {
                client: Client::without_farm(Arc::new(Blobs::open(store.path(), limits).unwrap())),
                folder: tempfile::tempdir().unwrap(),
                _store: store,
            }
        }

        async fn put(&self, bytes: &[u8]) -> Option<rev2::Digest> {
            let digest = Digest::of(DigestFunction::Sha256, bytes);
            let blobs = vec![(digest, Bytes::copy_from_slice(bytes))];
            self.client.upload(blobs).await.unwrap();
            Some(digest.to_wire())
        }

        async fn file(&self, name: &str) -> rev2::FileNode {
            rev2::FileNode {
                name: name.into(),
                digest: self.put(b"content").await,
                ..Default::default()
            }
        }

        /// An output directory of these encoded Directories.
        async fn tree(&self, path: &str, root: &[u8], child: &[u8]) -> rev2::OutputDirectory {
            let tree = Tree {
                root: Some(Bytes::copy_from_slice(root)),
                children: vec![Bytes::copy_from_slice(child)],
            };
            rev2::OutputDirectory {
                path: path.into(),
                tree_digest: self.put(&tree.encode_to_vec()).await,
                ..Default::default()
            }
        }

        async fn download(&self, result: &rev2::ActionResult) -> Result<()> {
            self.client.download(result, self.folder.path()).await
        }
    }

    fn link(name: &str, target: &Path) -> rev2::SymlinkNode {
        rev2::SymlinkNode {
            name: name.into(),
            target: target.to_str().unwrap().into(),
            ..Default::default()
        }
    }

    fn node(name: &str, directory: &[u8]) -> rev2::DirectoryNode {
        rev2::DirectoryNode {
            name: name.into(),
            digest: Some(Digest::of(DigestFunction::Sha256, directory).to_wire()),
        }
    }

    #[tokio::test]
    async fn a_tree_is_written_whatever_encoder_its_directories_had() {
        let bench = Bench::new();
        let mut child = rev2::Directory {
            files: vec![bench.file("f").await],
            ..Default::default()
        }
        .encode_to_vec();
        // A field that this program does not know.
        child.extend_from_slice(b"\xfa\x07\x01x");
        let root = rev2::Directory {
            directories: vec![node("d", &child)],
            symlinks: vec![link("l", Path::new("d/f"))],
            ..Default::default()
        };
        let tree = bench.tree("out", &root.encode_to_vec(), &child).await;
        let result = rev2::ActionResult {
            output_directories: vec![tree],
            ..Default::default()
        };
        // Twice: the second time over what is there.
        for _ in 0..2 {
            bench.download(&result).await.unwrap();
            let file = bench.folder.path().join("out/l");
            assert_eq!(fs::read(file).unwrap(), b"content");
        }
    }

    #[tokio::test]
    async fn nothing_is_written_through_links_that_came_from_the_farm() {
        let bench = Bench::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let child = rev2::Directory {
            files: vec![bench.file("f").await],
            ..Default::default()
        }
        .encode_to_vec();
        let twice = rev2::Directory {
            directories: vec![node("d", &child)],
            symlinks: vec![link("d", elsewhere.path())],
            ..Default::default()
        };
        let result = rev2::ActionResult {
            output_directories: vec![bench.tree("t", &twice.encode_to_vec(), &child).await],
            ..Default::default()
        };
        let refused = bench.download(&result).await.unwrap_err().to_string();
        assert!(refused.contains("used twice"), "{refused}");

        let mut result = rev2::ActionResult {
            output_symlinks: vec![rev2::OutputSymlink {
                path: "a".into(),
                target: elsewhere.path().to_str().unwrap().into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let below = bench.tree("a/b", &child, &child).await;
        // From the run before, in the same run, and as a link below the link.
        bench.download(&result).await.unwrap();
        result.output_directories.push(below);
        bench.download(&result).await.unwrap_err();
        fs::remove_file(bench.folder.path().join("a")).unwrap();
        bench.download(&result).await.unwrap_err();
        result.output_directories.clear();
        fs::remove_dir_all(bench.folder.path().join("a")).unwrap();
        let mut second = result.output_symlinks[0].clone();
        second.path = "a/c".into();
        result.output_symlinks.push(second);
        bench.download(&result).await.unwrap_err();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
