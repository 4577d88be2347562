//! Action results whose outputs are all there.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use proto::digest::DigestError;
use proto::wire::rev2::{self, ActionResult, Directory, Tree};
use proto::{Digest, DigestFunction, InstanceName};

use crate::error::Error;
use crate::store::{ActionCache, BlobStore};

/// A tree larger than this, in bytes, is not looked into, nor are directories that
/// make more together; results that have them count as incomplete.
const MAXIMUM_TREE: u64 = 64 << 20;

/// How many directories are read at a time.
const DIRECTORIES: usize = 512;

/// An action cache that gives a result only if every blob it refers to is there:
/// output files, trees with all that is in them, standard output and error. Those
/// blobs then count as just used. REv2 asks servers for that where they can: a
/// client that was given a result does not expect to find its outputs gone.
pub struct Complete<A> {
    actions: A,
    blobs: Arc<dyn BlobStore>,
}

/// The blobs that a result names itself.
#[derive(Debug, Default)]
pub struct References {
    /// Output files, standard output and error.
    pub files: Vec<Digest>,
    /// Tree messages, by output directory.
    pub trees: Vec<Digest>,
    /// Directory messages at the root of output directories.
    pub directories: Vec<Digest>,
}

impl References {
    /// Collects them.
    ///
    /// # Errors
    /// A digest is malformed, or an output file has none.
    pub fn of(function: DigestFunction, result: &ActionResult) -> Result<Self, DigestError> {
        let digest = |digest: &rev2::Digest| Digest::from_wire(function, Some(digest));
        let mut found = Self::default();
        for file in &result.output_files {
            found
                .files
                .push(Digest::from_wire(function, file.digest.as_ref())?);
        }
        let streams = [&result.stdout_digest, &result.stderr_digest];
        for stream in streams.into_iter().flatten() {
            found.files.push(digest(stream)?);
        }
        for directory in &result.output_directories {
            if let Some(tree) = &directory.tree_digest {
                found.trees.push(digest(tree)?);
            }
            if let Some(root) = &directory.root_directory_digest {
                found.directories.push(digest(root)?);
            }
        }
        Ok(found)
    }
}

impl<A: ActionCache> Complete<A> {
    /// Checks the results of `actions` against `blobs`.
    pub fn new(actions: A, blobs: Arc<dyn BlobStore>) -> Self {
        Self { actions, blobs }
    }

    async fn is_complete(
        &self,
        instance: &InstanceName,
        function: DigestFunction,
        result: &ActionResult,
    ) -> Result<bool, Error> {
        let Ok(found) = References::of(function, result) else {
            return Ok(false);
        };
        let mut files = found.files;
        for tree in found.trees {
            let Some(messages) = self.messages(instance, &[tree]).await? else {
                return Ok(false);
            };
            for message in messages {
                let Ok(tree) = Tree::decode(message) else {
                    return Ok(false);
                };
                for directory in tree.root.iter().chain(&tree.children) {
                    if add_files(function, directory, &mut files).is_err() {
                        return Ok(false);
                    }
                }
            }
        }
        let mut seen: HashSet<Digest> = found.directories.iter().copied().collect();
        let mut rest: Vec<Digest> = seen.iter().copied().collect();
        while !rest.is_empty() {
            let some = rest.split_off(rest.len().saturating_sub(DIRECTORIES));
            let Some(messages) = self.messages(instance, &some).await? else {
                return Ok(false);
            };
            for message in messages {
                let Ok(directory) = Directory::decode(message) else {
                    return Ok(false);
                };
                if add_files(function, &directory, &mut files).is_err() {
                    return Ok(false);
                }
                for child in &directory.directories {
                    match Digest::from_wire(function, child.digest.as_ref()) {
                        Ok(child) if seen.insert(child) => rest.push(child),
                        Ok(_) => {}
                        Err(_) => return Ok(false),
                    }
                }
            }
        }
        let missing = self.blobs.find_missing(instance, &files).await?;
        Ok(missing.is_empty())
    }

    /// These blobs, if all are there and they are not too large.
    async fn messages(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
    ) -> Result<Option<Vec<Bytes>>, Error> {
        let total = digests
            .iter()
            .map(Digest::size)
            .fold(0, u64::saturating_add);
        if total > MAXIMUM_TREE {
            return Ok(None);
        }
        let read = self.blobs.read_batch(instance, digests).await?;
        let mut messages = Vec::with_capacity(read.len());
        for message in read {
            match message {
                Ok(message) => messages.push(message),
                Err(Error::NotFound(_) | Error::Corrupt { .. } | Error::Size { .. }) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(messages))
    }
}

fn add_files(
    function: DigestFunction,
    directory: &Directory,
    files: &mut Vec<Digest>,
) -> Result<(), DigestError> {
    for file in &directory.files {
        files.push(Digest::from_wire(function, file.digest.as_ref())?);
    }
    Ok(())
}

#[async_trait]
impl<A: ActionCache> ActionCache for Complete<A> {
    async fn get(
        &self,
        instance: &InstanceName,
        action: Digest,
    ) -> Result<Option<ActionResult>, Error> {
        let Some(result) = self.actions.get(instance, action).await? else {
            return Ok(None);
        };
        let complete = self
            .is_complete(instance, action.function(), &result)
            .await?;
        Ok(complete.then_some(result))
    }

    async fn update(
        &self,
        instance: &InstanceName,
        action: Digest,
        result: ActionResult,
    ) -> Result<(), Error> {
        self.actions.update(instance, action, result).await
    }
}
