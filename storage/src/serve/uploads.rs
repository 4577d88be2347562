//! Uploads under way, and those whose stream broke.
//!
//! The store takes an upload's bytes in a task of its own, which outlives the stream
//! they come in. *Receiving*: the stream has the [`Upload`] and hands on what comes.
//! When the stream ends without `finish_write` the upload is *parked* under its
//! resource name: QueryWriteStatus tells how far it came, and a Write that begins
//! there *receives* on. What is parked too long, or longest when there are too many,
//! is *given up*: its task hears that no more comes, and the store forgets it. An
//! upload whose bytes cannot be right is given up at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use proto::ResourceName;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;

use crate::blocking::joined;
use crate::error::Error;
use crate::store::BlobStore;

/// How long a client has to come back.
const PARKED_FOR: Duration = Duration::from_secs(60);
/// How many wait at a time, of all clients: each has a file open and takes room.
const PARKED: usize = 64;

/// Pieces that are handed on before the store has taken the first.
const AHEAD: usize = 2;

/// One upload. Dropped, it is given up.
struct Upload {
    name: ResourceName,
    sender: mpsc::Sender<Result<Bytes, Error>>,
    storing: JoinHandle<Result<(), Error>>,
    /// Bytes of the blob that were handed on.
    offset: u64,
}

impl Upload {
    /// Begins to store a blob.
    fn begin(blobs: Arc<dyn BlobStore>, name: ResourceName) -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (instance, digest) = (name.instance.clone(), name.digest);
        let storing = tokio::spawn(async move {
            let pieces = futures::stream::unfold(Some(receiver), |receiver| async move {
                let mut receiver = receiver?;
                let piece: Option<Result<Bytes, Error>> = receiver.recv().await;
                match piece {
                    Some(Ok(piece)) if piece.is_empty() => None,
                    Some(piece) => Some((piece, Some(receiver))),
                    // Given up: not the end of the blob.
                    None => Some((Err(given_up()), None)),
                }
            });
            blobs.write(&instance, digest, pieces.boxed()).await
        });
        Self {
            name,
            sender,
            storing,
            offset: 0,
        }
    }

    /// Hands on a piece. False when the store wants no more: it has failed, or has
    /// the blob already.
    async fn push(&mut self, piece: Bytes) -> bool {
        if piece.is_empty() {
            return true;
        }
        let length = piece.len() as u64;
        let taken = self.sender.send(Ok(piece)).await.is_ok();
        if taken {
            self.offset += length;
        }
        taken
    }

    /// Says that all has come, and hears what the store made of it.
    async fn finish(self) -> Result<(), Error> {
        let Self {
            sender, storing, ..
        } = self;
        // The mark of the end; a store that listens no more has its answer ready.
        let _ = sender.send(Ok(Bytes::new())).await;
        joined(storing).await?
    }
}

fn given_up() -> Error {
    Error::Source(Status::aborted("the upload was given up"))
}

/// An upload whose stream is there. Dropped, as it is when the stream breaks, the
/// upload is parked.
pub(super) struct Receiving {
    upload: Option<Upload>,
    parked: Parked,
}

impl Receiving {
    /// Hands on a piece; see [`Upload::push`].
    pub(super) async fn push(&mut self, piece: Bytes) -> bool {
        match &mut self.upload {
            Some(upload) => upload.push(piece).await,
            None => false,
        }
    }

    /// See [`Upload::finish`].
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        match self.upload.take() {
            Some(upload) => upload.finish().await,
            None => Err(given_up()),
        }
    }

    /// Gives the upload up.
    pub(super) fn give_up(mut self) {
        self.upload = None;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.parked.park(upload);
        }
    }
}

/// Those whose stream broke. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Parked(Arc<Mutex<HashMap<String, (Instant, Upload)>>>);

impl Parked {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Upload)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an upload for a client that may come back.
    fn park(&self, upload: Upload) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if upload.offset == 0 || upload.storing.is_finished() {
            return;
        }
        let until = Instant::now() + PARKED_FOR;
        {
            let mut parked = self.lock();
            if parked.len() >= PARKED {
                let oldest = parked.iter().min_by_key(|(_, (until, _))| *until);
                let oldest = oldest.map(|(name, _)| name.clone());
                oldest.and_then(|name| parked.remove(&name));
            }
            parked.insert(upload.name.to_string(), (until, upload));
        }
        let all = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep_until(until).await;
            let now = Instant::now();
            all.lock().retain(|_, (until, _)| *until > now);
        });
    }

    /// The upload of this name, if it came as far as that.
    fn resume(&self, name: &ResourceName, offset: u64) -> Option<Upload> {
        let mut parked = self.lock();
        let name = name.to_string();
        let (_, upload) = parked.get(&name)?;
        if upload.offset != offset {
            return None;
        }
        parked.remove(&name).map(|(_, upload)| upload)
    }

    /// The upload that goes on at an offset, or begins; none when it came less far.
    pub(super) fn receive(
        &self,
        blobs: &Arc<dyn BlobStore>,
        name: &ResourceName,
        offset: u64,
    ) -> Option<Receiving> {
        let upload = self.resume(name, offset);
        let upload = upload.or_else(|| {
            let begins = offset == 0;
            begins.then(|| Upload::begin(blobs.clone(), name.clone()))
        })?;
        Some(Receiving {
            upload: Some(upload),
            parked: self.clone(),
        })
    }

    /// How far the upload of this name came; nowhere, if it is not known.
    pub(super) fn offset(&self, name: &ResourceName) -> u64 {
        let parked = self.lock();
        parked
            .get(&name.to_string())
            .map_or(0, |(_, upload)| upload.offset)
    }
}
