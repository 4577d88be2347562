//! Action results whose outputs are all there.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use proto::digest::DigestError;
use proto::wire::rev2::{self, ActionResult, Directory, Tree};
use proto::{Digest, DigestFunction, InstanceName};

use crate::blocking::blocking;
use crate::error::Error;
use crate::pages;
use crate::store::{ActionCache, BlobStore, DigestSet};

/// What is looked into of one result, in bytes: its trees and directories, each
/// distinct one once. Results that have more count as incomplete.
const MAXIMUM_TREES: u64 = 64 << 20;

/// How many directories are read at a time.
const DIRECTORIES: usize = 512;
/// And how much they make together, in bytes.
const PAGE: u64 = 4 << 20;

/// Messages up to this size together, in bytes, are decoded where the caller runs.
const IN_PLACE: usize = 64 << 10;

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
        let mut walk = Walk {
            function,
            files: found.files.into_iter().collect(),
            seen: DigestSet::default(),
            rest: VecDeque::new(),
        };
        let mut budget = MAXIMUM_TREES;
        let trees: DigestSet = found.trees.into_iter().collect();
        for tree in trees {
            let Some(read) = self.messages(instance, &[tree], &mut budget).await? else {
                return Ok(false);
            };
            match walk.on(read, Walk::tree).await? {
                Some(further) => walk = further,
                None => return Ok(false),
            }
        }
        for root in found.directories {
            walk.add(root);
        }
        while !walk.rest.is_empty() {
            let some = pages::take(&mut walk.rest, DIRECTORIES, PAGE);
            let Some(read) = self.messages(instance, &some, &mut budget).await? else {
                return Ok(false);
            };
            match walk.on(read, Walk::directory).await? {
                Some(further) => walk = further,
                None => return Ok(false),
            }
        }
        let files: Vec<Digest> = walk.files.into_iter().collect();
        let missing = self.blobs.find_missing(instance, &files).await?;
        Ok(missing.is_empty())
    }

    /// These blobs, if all are there and the budget, in bytes, allows them.
    async fn messages(
        &self,
        instance: &InstanceName,
        digests: &[Digest],
        budget: &mut u64,
    ) -> Result<Option<Vec<Bytes>>, Error> {
        let total = digests
            .iter()
            .map(Digest::size)
            .fold(0, u64::saturating_add);
        match budget.checked_sub(total) {
            Some(rest) => *budget = rest,
            None => return Ok(None),
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

/// What was found of a result's outputs so far.
struct Walk {
    function: DigestFunction,
    files: DigestSet,
    /// Directories, those that are still to be read among them.
    seen: DigestSet,
    rest: VecDeque<Digest>,
}

impl Walk {
    /// Looks into messages, elsewhere if they are large. None if one of them is not
    /// what it should be.
    async fn on(
        mut self,
        messages: Vec<Bytes>,
        look: impl Fn(&mut Self, Bytes) -> Option<()> + Send + 'static,
    ) -> Result<Option<Self>, Error> {
        let total: usize = messages.iter().map(Bytes::len).sum();
        let work = move || {
            let mut messages = messages.into_iter();
            messages.try_for_each(|message| look(&mut self, message))?;
            Some(self)
        };
        if total <= IN_PLACE {
            return Ok(work());
        }
        blocking(work).await
    }

    fn tree(&mut self, message: Bytes) -> Option<()> {
        let tree = Tree::decode(message).ok()?;
        let mut directories = tree.root.iter().chain(&tree.children);
        directories.try_for_each(|directory| self.add_files(directory))
    }

    fn directory(&mut self, message: Bytes) -> Option<()> {
        let directory = Directory::decode(message).ok()?;
        self.add_files(&directory)?;
        for child in &directory.directories {
            self.add(Digest::from_wire(self.function, child.digest.as_ref()).ok()?);
        }
        Some(())
    }

    fn add(&mut self, directory: Digest) {
        if self.seen.insert(directory) {
            self.rest.push_back(directory);
        }
    }

    fn add_files(&mut self, directory: &Directory) -> Option<()> {
        for file in &directory.files {
            let digest = Digest::from_wire(self.function, file.digest.as_ref());
            self.files.insert(digest.ok()?);
        }
        Some(())
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::store::ByteStream;
    use proto::wire::rev2::{FileNode, OutputDirectory, OutputFile};

    /// Has every blob: of this content.
    struct Blobs {
        content: Vec<u8>,
        read: Mutex<Vec<Digest>>,
        asked: Mutex<Vec<Digest>>,
    }

    impl Blobs {
        fn of(content: Vec<u8>) -> Arc<Self> {
            Arc::new(Self {
                content,
                read: Mutex::default(),
                asked: Mutex::default(),
            })
        }
    }

    #[async_trait]
    impl BlobStore for Blobs {
        async fn find_missing(
            &self,
            _: &InstanceName,
            digests: &[Digest],
        ) -> Result<Vec<Digest>, Error> {
            self.asked.lock().unwrap().extend(digests);
            Ok(Vec::new())
        }

        async fn read(
            &self,
            _: &InstanceName,
            digest: Digest,
            _: u64,
            _: Option<u64>,
        ) -> Result<ByteStream, Error> {
            Err(Error::NotFound(digest))
        }

        async fn read_batch(
            &self,
            _: &InstanceName,
            digests: &[Digest],
        ) -> Result<Vec<Result<Bytes, Error>>, Error> {
            self.read.lock().unwrap().extend(digests);
            let content = || Ok(Bytes::from(self.content.clone()));
            Ok(digests.iter().map(|_| content()).collect())
        }

        async fn write(
            &self,
            _: &InstanceName,
            digest: Digest,
            _: ByteStream,
        ) -> Result<(), Error> {
            Err(Error::NotFound(digest))
        }

        async fn write_batch(
            &self,
            _: &InstanceName,
            _: Vec<(Digest, Bytes)>,
        ) -> Result<Vec<Result<(), Error>>, Error> {
            Ok(Vec::new())
        }
    }

    struct Cached(ActionResult);

    #[async_trait]
    impl ActionCache for Cached {
        async fn get(&self, _: &InstanceName, _: Digest) -> Result<Option<ActionResult>, Error> {
            Ok(Some(self.0.clone()))
        }

        async fn update(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
            Ok(())
        }
    }

    fn sized(seed: u64, size: u64) -> Digest {
        Digest::new(DigestFunction::Sha256, &format!("{seed:064x}"), size).unwrap()
    }

    fn trees(digests: impl IntoIterator<Item = Digest>) -> Vec<OutputDirectory> {
        let directory = |digest: Digest| OutputDirectory {
            tree_digest: Some(digest.to_wire()),
            ..Default::default()
        };
        digests.into_iter().map(directory).collect()
    }

    async fn is_given(result: ActionResult, blobs: Arc<Blobs>) -> bool {
        let complete = Complete::new(Cached(result), blobs);
        let got = complete.get(&InstanceName::empty(), sized(0, 1)).await;
        got.unwrap().is_some()
    }

    #[tokio::test]
    async fn what_a_result_names_often_is_looked_at_once() {
        let file = sized(1, 1);
        let directory = Directory {
            files: vec![
                FileNode {
                    digest: Some(file.to_wire()),
                    ..Default::default()
                };
                1000
            ],
            ..Default::default()
        };
        let tree = Tree {
            root: Some(directory),
            ..Default::default()
        };
        let blobs = Blobs::of(tree.encode_to_vec());
        let output = OutputFile {
            digest: Some(file.to_wire()),
            ..Default::default()
        };
        let result = ActionResult {
            output_files: vec![output; 1000],
            output_directories: trees([sized(2, 40 << 20); 1000]),
            ..Default::default()
        };
        assert!(is_given(result, blobs.clone()).await);
        assert_eq!(*blobs.read.lock().unwrap(), [sized(2, 40 << 20)]);
        assert_eq!(*blobs.asked.lock().unwrap(), [file]);
    }

    #[tokio::test]
    async fn so_much_of_a_result_is_looked_into_together() {
        for (number, given) in [(2, true), (3, false)] {
            let blobs = Blobs::of(Vec::new());
            let result = ActionResult {
                output_directories: trees((0..number).map(|seed| sized(seed, 32 << 20))),
                ..Default::default()
            };
            assert_eq!(is_given(result, blobs.clone()).await, given);
            assert!(blobs.read.lock().unwrap().len() <= 2);
        }
    }
}
