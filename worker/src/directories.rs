//! Input roots as messages: Directory messages fetched level by level, validated
//! once, kept in memory in little space.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use proto::wire::rev2;
use proto::{Digest, InstanceName};
use storage::BlobStore;

use crate::Error;
use crate::batches::{Request, requests};
use crate::cache::Tenant;
use crate::directory::{Directory, validate};
use crate::downloads::{Downloads, STREAM};
use crate::memory::Memory;

/// A message larger than this is refused: REv2 has no bound, memory has.
const MAXIMUM_MESSAGE: u64 = 64 << 20;
/// All Directory messages of one input root together. A message is counted once,
/// however often the root has it.
const MAXIMUM_TREE: u64 = 512 << 20;
/// Requests for messages of one input root that are prepared at the same time.
const CONCURRENT: usize = 8;
/// Levels of an input root. The kernel's paths end at 4096 bytes.
pub(crate) const MAXIMUM_DEPTH: usize = 2048;

/// All messages of an input root.
pub(crate) struct Tree {
    pub(crate) root: Digest,
    pub(crate) directories: HashMap<Digest, Arc<Directory>>,
    /// Messages that the storage has not.
    pub(crate) missing: Vec<Digest>,
}

/// The Directory messages in memory, each tenant's apart, and the way to others.
pub(crate) struct Directories {
    store: Arc<dyn BlobStore>,
    downloads: Arc<Downloads>,
    memory: Memory<(Tenant, Digest), Directory>,
}

impl Directories {
    /// Keeps messages in memory that take up to `maximum` bytes there.
    pub(crate) fn new(store: Arc<dyn BlobStore>, downloads: Arc<Downloads>, maximum: u64) -> Self {
        Self {
            store,
            downloads,
            memory: Memory::new(maximum),
        }
    }

    /// The message of this digest, if it is in memory.
    pub(crate) fn cached(&self, tenant: Tenant, digest: &Digest) -> Option<Arc<Directory>> {
        self.memory.get(&(tenant, *digest))
    }

    /// Takes in a message's bytes, which were checked against its digest.
    pub(crate) fn insert(
        &self,
        tenant: Tenant,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<Arc<Directory>, Error> {
        let message = rev2::Directory::decode(bytes.as_ref()).map_err(|source| Error::Decode {
            what: "input directory",
            digest,
            source,
        })?;
        let directory = Arc::new(validate(digest, &message)?);
        let weight = directory.weight();
        let key = (tenant, digest);
        self.memory.put(key, Arc::clone(&directory), weight);
        Ok(directory)
    }

    /// All messages reachable from `root`, level by level; of those that are
    /// `known`, and what they lead to, none.
    ///
    /// # Errors
    /// A message is malformed, too large or lies too deep, or all are too large
    /// together, which is found out before they are read; the storage fails.
    /// Missing ones are no error here: what else is missing is to be found out.
    pub(crate) async fn load(
        &self,
        tenant: Tenant,
        instance: &InstanceName,
        root: Digest,
        known: &mut (dyn FnMut(&Digest) -> bool + Send),
    ) -> Result<Tree, Error> {
        let mut tree = Tree {
            root,
            directories: HashMap::new(),
            missing: Vec::new(),
        };
        let mut ahead = HashMap::new();
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        level.retain(|digest| !known(digest));
        let mut some_known = false;
        let mut depth = 0;
        let mut size = 0_u64;
        while !level.is_empty() {
            depth += 1;
            if depth > MAXIMUM_DEPTH {
                return Err(Error::Limit {
                    what: "depth of the input root".into(),
                    limit: MAXIMUM_DEPTH as u64,
                });
            }
            for digest in &level {
                check_size("input directory", *digest)?;
                size = size.saturating_add(digest.size());
            }
            if size > MAXIMUM_TREE {
                return Err(Error::Limit {
                    what: format!("size of all directories of input root {root}"),
                    limit: MAXIMUM_TREE,
                });
            }
            let directories = self
                .level(tenant, instance, &level, &ahead, &mut tree.missing)
                .await?;
            let mut next = Vec::new();
            for (digest, directory) in directories {
                for (_, child) in &directory.directories {
                    if seen.insert(*child) {
                        match known(child) {
                            true => some_known = true,
                            false => next.push(*child),
                        }
                    }
                }
                tree.directories.insert(digest, directory);
            }
            level = next;
            let all_new = depth == 1 && !some_known;
            if all_new && level.len() > 1 && !self.knows_any(tenant, &level) {
                ahead = self.read_ahead(tenant, instance, root).await;
            }
        }
        Ok(tree)
    }

    fn knows_any(&self, tenant: Tenant, digests: &[Digest]) -> bool {
        let mut digests = digests.iter();
        digests.any(|digest| self.cached(tenant, digest).is_some())
    }

    /// The messages of a tree of which nothing is known, in one call where the
    /// storage can do that. What does not come, or is not as it should be, is found
    /// out level by level.
    async fn read_ahead(
        &self,
        tenant: Tenant,
        instance: &InstanceName,
        root: Digest,
    ) -> HashMap<Digest, Arc<Directory>> {
        let mut ahead = HashMap::new();
        let Ok(_turn) = self.downloads.turn(STREAM).await else {
            return ahead;
        };
        let mut messages = match self.store.read_tree(instance, root).await {
            Ok(Some(messages)) => messages,
            Ok(None) => return ahead,
            Err(error) => {
                tracing::debug!(%error, "no tree at once");
                return ahead;
            }
        };
        let mut size = 0;
        while let Ok(Some(bytes)) = messages.try_next().await {
            size += bytes.len() as u64;
            if size > MAXIMUM_TREE {
                break;
            }
            let digest = Digest::of(root.function(), &bytes);
            if let Ok(directory) = self.insert(tenant, digest, &bytes) {
                ahead.insert(digest, directory);
            }
        }
        ahead
    }

    async fn level(
        &self,
        tenant: Tenant,
        instance: &InstanceName,
        digests: &[Digest],
        ahead: &HashMap<Digest, Arc<Directory>>,
        missing: &mut Vec<Digest>,
    ) -> Result<Vec<(Digest, Arc<Directory>)>, Error> {
        let mut found = Vec::with_capacity(digests.len());
        let mut wanted = Vec::new();
        for digest in digests {
            let known = ahead.get(digest).cloned();
            match known.or_else(|| self.cached(tenant, digest)) {
                Some(directory) => found.push((*digest, directory)),
                None => wanted.push((*digest, ())),
            }
        }
        let read = futures::stream::iter(requests(wanted))
            .map(|request| self.read(tenant, instance, request))
            .buffer_unordered(CONCURRENT)
            .try_collect::<Vec<_>>()
            .await?;
        for (digest, directory) in read.into_iter().flatten() {
            match directory {
                Some(directory) => found.push((digest, directory)),
                None => missing.push(digest),
            }
        }
        Ok(found)
    }

    /// Reads the messages of one request; none for those that the storage has not.
    async fn read(
        &self,
        tenant: Tenant,
        instance: &InstanceName,
        request: Request<()>,
    ) -> Result<Vec<(Digest, Option<Arc<Directory>>)>, Error> {
        let what = "fetching input directories";
        let digests: Vec<Digest> = match request {
            Request::Batch(blobs) => blobs.into_iter().map(|(digest, ())| digest).collect(),
            // The storage's client streams what is too large for a message.
            Request::Stream((digest, ())) => vec![digest],
        };
        let bytes = digests.iter().map(Digest::size).sum();
        let _turn = self.downloads.turn(bytes).await?;
        let results = self
            .store
            .read_batch(instance, &digests)
            .await
            .map_err(Error::storage(what))?;
        let mut read = Vec::with_capacity(digests.len());
        for (digest, result) in digests.into_iter().zip(results) {
            match result {
                Ok(bytes) => {
                    read.push((digest, Some(self.insert(tenant, digest, &bytes)?)));
                }
                Err(storage::Error::NotFound(_)) => read.push((digest, None)),
                Err(error) => return Err(Error::storage(what)(error)),
            }
        }
        Ok(read)
    }
}

/// Whether a message of the client's may be read into memory.
///
/// # Errors
/// [`Error::Limit`], naming its digest.
pub(crate) fn check_size(what: &str, digest: Digest) -> Result<(), Error> {
    if digest.size() <= MAXIMUM_MESSAGE {
        return Ok(());
    }
    Err(Error::Limit {
        what: format!("size of {what} {digest}"),
        limit: MAXIMUM_MESSAGE,
    })
}
