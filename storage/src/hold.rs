//! What an executing action needs is kept from being evicted.
//!
//! The front holds an action's blobs from Execute until its last client has heard
//! the end, or went away and did not come back in time: the Action, its Command, and
//! all that is below its input root. They are held while the call is passed on, not
//! before, so no action waits for it; and a worker that asks which of them are
//! missing makes them the last to go anyway.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use proto::wire::rev2::{self, Action, Directory};
use proto::{Digest, InstanceName};

use crate::local::{Blobs, Held};
use crate::store::BlobStore as _;

/// No more blobs are held for one action.
const BLOBS: usize = 200_000;
/// How many directories are read at a time.
const DIRECTORIES: usize = 256;
/// No message that is larger, in bytes, is read.
const MESSAGE: u64 = 4 << 20;

/// Holds the blobs of actions in an embedded store.
#[derive(Clone)]
pub struct Holder(Blobs);

impl Holder {
    /// For the actions whose blobs are in this store.
    #[must_use]
    pub fn new(blobs: Blobs) -> Self {
        Self(blobs)
    }

    /// Holds what an action needs, and lets go when what this gives is dropped. Of a
    /// tree that is not what it should be, as far as it goes: to say so is for
    /// those who execute it.
    pub async fn hold(&self, instance: &InstanceName, action: Digest) -> Vec<Held> {
        let mut held = vec![self.0.hold(instance, &[action])];
        let read = self.messages(instance, &[action]).await;
        let Some(Ok(message)) = read.into_iter().next().map(Action::decode) else {
            return held;
        };
        let named = |digest: Option<&rev2::Digest>| {
            digest.and_then(|digest| Digest::from_wire(action.function(), Some(digest)).ok())
        };
        let command = named(message.command_digest.as_ref());
        held.push(self.0.hold(instance, &Vec::from_iter(command)));
        let mut rest = Vec::from_iter(named(message.input_root_digest.as_ref()));
        held.push(self.0.hold(instance, &rest));
        let mut seen: HashSet<Digest> = rest.iter().copied().collect();
        while !rest.is_empty() && seen.len() < BLOBS {
            let some = rest.split_off(rest.len().saturating_sub(DIRECTORIES));
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
                        rest.push(child);
                    }
                }
            }
            held.push(self.0.hold(instance, &found));
        }
        held
    }

    /// Those of these messages that are there and are not too large.
    async fn messages(&self, instance: &InstanceName, digests: &[Digest]) -> Vec<Bytes> {
        let small = digests.iter().filter(|digest| digest.size() <= MESSAGE);
        let small: Vec<Digest> = small.copied().collect();
        match self.0.read_batch(instance, &small).await {
            Ok(read) => read.into_iter().flatten().collect(),
            Err(_) => Vec::new(),
        }
    }
}
