//! Outputs: what an action made, written into a local folder.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;
use proto::wire::rev2;
use proto::{Component, Digest, DigestFunction, RelativePath};
use tokio::io::AsyncWriteExt;

use super::{Client, blob};

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

    /// Writes every output below `folder`, over what is there.
    ///
    /// # Errors
    /// An output's name is no name inside a folder, the farm lacks a blob, or a
    /// file cannot be written.
    pub async fn download(&self, result: &rev2::ActionResult, folder: &Path) -> Result<()> {
        for file in &result.output_files {
            let path = place(folder, &file.path)?;
            self.write(
                self.digest(file.digest.as_ref())?,
                file.is_executable,
                &path,
            )
            .await?;
        }
        #[allow(deprecated)]
        let links = result
            .output_symlinks
            .iter()
            .chain(&result.output_file_symlinks)
            .chain(&result.output_directory_symlinks);
        for link in links {
            make_link(&link.target, &place(folder, &link.path)?)?;
        }
        for directory in &result.output_directories {
            let path = place(folder, &directory.path)?;
            let digest = self.digest(directory.tree_digest.as_ref())?;
            let tree = rev2::Tree::decode(self.fetch(digest).await?)
                .with_context(|| format!("{digest} is not a Tree"))?;
            self.write_tree(tree, path).await?;
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

    async fn write_tree(&self, tree: rev2::Tree, path: PathBuf) -> Result<()> {
        let children: HashMap<Digest, rev2::Directory> = tree
            .children
            .into_iter()
            .map(|child| (blob(&child).0, child))
            .collect();
        let root = tree.root.context("the Tree has no root")?;
        let mut pending = vec![(path, &root)];
        while let Some((path, directory)) = pending.pop() {
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
            for file in &directory.files {
                let path = path.join(Component::new(&file.name)?.as_str());
                self.write(
                    self.digest(file.digest.as_ref())?,
                    file.is_executable,
                    &path,
                )
                .await?;
            }
            for link in &directory.symlinks {
                make_link(
                    &link.target,
                    &path.join(Component::new(&link.name)?.as_str()),
                )?;
            }
            for node in &directory.directories {
                let digest = self.digest(node.digest.as_ref())?;
                let child = children
                    .get(&digest)
                    .with_context(|| format!("the Tree lacks its directory {digest}"))?;
                pending.push((path.join(Component::new(&node.name)?.as_str()), child));
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
fn place(folder: &Path, output: &str) -> Result<PathBuf> {
    let path = folder.join(RelativePath::new(output)?.to_string());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    Ok(path)
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
