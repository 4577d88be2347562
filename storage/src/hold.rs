//! What an executing action needs is kept from being evicted.
//!
//! The front holds an action's blobs from Execute until its last client has heard
//! the end, or went away and did not come back in time: the Action, its Command, and
//! all that is below its input root. They are held while the call is passed on, not
//! before, so no action waits for it (so many walks are made at a time; a call that
//! ends before its own came to an end gives it up); and a worker that asks which of them are
//! missing makes them the last to go anyway.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::wire::rev2::{self, Action, Directory};
use proto::{Digest, InstanceName};
use tokio::sync::Semaphore;

use crate::local::{Blobs, Held};
use crate::pages;
use crate::store::BlobStore as _;

/// No more blobs are held for one action.
const BLOBS: usize = 200_000;
/// How many directories are read at a time.
const DIRECTORIES: usize = 256;
/// No message that is larger, in bytes, is read, nor directories that make more at a
/// time.
const MESSAGE: u64 = 4 << 20;
/// How many trees are walked at a time; further ones wait. A walk has what it reads in
/// memory, as sent and decoded.
const WALKS: usize = 8;

/// Holds the blobs of actions in an embedded store.
#[derive(Clone)]
pub struct Holder {
    blobs: Blobs,
    walks: Arc<Semaphore>,
}

impl Holder {
    /// For the actions whose blobs are in this store.
    #[must_use]
    pub fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            walks: Arc::new(Semaphore::new(WALKS)),
        }
    }

    /// Holds what an action needs, and lets go when what this gives is dropped. Of a
    /// tree that is not what it should be, as far as it goes: to say so is for
    /// those who execute it.
    pub async fn hold(&self, instance: &InstanceName, action: Digest) -> Vec<Held> {
        let mut held = vec![self.blobs.hold(instance, &[action])];
        let Ok(_walk) = self.walks.acquire().await else {
            return held;
        };
        let read = self.messages(instance, &[action]).await;
        let Some(Ok(message)) = read.into_iter().next().map(Action::decode) else {
            return held;
        };
        let named = |digest: Option<&rev2::Digest>| {
            digest.and_then(|digest| Digest::from_wire(action.function(), Some(digest)).ok())
        };
        let command = named(message.command_digest.as_ref());
        held.push(self.blobs.hold(instance, &Vec::from_iter(command)));
        let root = Vec::from_iter(named(message.input_root_digest.as_ref()));
        held.push(self.blobs.hold(instance, &root));
        let mut seen: HashSet<Digest> = root.iter().copied().collect();
        let mut rest = VecDeque::from(root);
        while !rest.is_empty() && seen.len() < BLOBS {
            let some = pages::take(&mut rest, DIRECTORIES, MESSAGE);
            let mut found = Vec::new();
            for message in self.messages(instance, &some).await {
                let Ok(directory) = Directory::decode(message) else {
                    continue;
                };
                let files = directory.files.iter();
                let files = files.filter_map(|file| named(file.digest.as_ref()));
                found.extend(files.filter(|file| seen.insert(*file)));
                for child in &directory.directories {
                    if let Some(child) = named(child.digest.as_ref())
                        && seen.insert(child)
                    {
                        found.push(child);
                        rest.push_back(child);
                    }
                }
            }
            held.push(self.blobs.hold(instance, &found));
        }
        held
    }

    /// Those of these messages that are there and are not too large.
    async fn messages(&self, instance: &InstanceName, digests: &[Digest]) -> Vec<Bytes> {
        let small = digests.iter().filter(|digest| digest.size() <= MESSAGE);
        let small: Vec<Digest> = small.copied().collect();
        match self.blobs.read_batch(instance, &small).await {
            Ok(read) => read.into_iter().flatten().collect(),
            Err(_) => Vec::new(),
        }
    }
}
