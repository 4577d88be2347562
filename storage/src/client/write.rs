//! ByteStream.Write.
//!
//! *Sending* from an offset → *acknowledged*, perhaps before all was sent, when the
//! server has the blob already. When the connection is lost or stands still, and
//! the bytes can be had again: the server is *asked* how many it kept, and *sending*
//! begins there. A server that cannot tell, as bb_storage cannot, gets them from the
//! start; so does any server where they are sent packed, for what an offset counts
//! there servers do not agree on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use proto::resource_name::Compressor;
use proto::wire::bytestream::byte_stream_client::ByteStreamClient;
use proto::wire::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteRequest};
use proto::{Digest, InstanceName, ResourceName};
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::caller::{Attempts, Caller, PATIENCE, classify, patiently, stalled};
use super::pool::Pool;
use crate::compression;
use crate::error::Error;
use crate::store::{ByteStream, Source};

/// How much one message carries at most.
const PIECE: usize = 512 << 10;

/// How long the server's end of a connection that broke may take to show that.
const NOTICE: Duration = Duration::from_millis(50);

fn wire(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What is written, and where.
pub(super) struct Write {
    pub(super) client: ByteStreamClient<Pool>,
    pub(super) caller: Caller,
    pub(super) instance: InstanceName,
    pub(super) digest: Digest,
    /// Whether the server takes it packed and that is worth it.
    pub(super) packed: bool,
}

impl Write {
    /// A name for an upload that begins.
    fn name(&self) -> String {
        let upload = uuid::Uuid::new_v4().to_string();
        let mut name = ResourceName::write(self.instance.clone(), upload, self.digest);
        if self.packed {
            name.compressor = Compressor::Zstd;
        }
        name.to_string()
    }

    /// Sends bytes that cannot be had again.
    pub(super) async fn once(self, bytes: ByteStream) -> Result<(), Error> {
        let _place = self.caller.place().await.map_err(Error::Remote)?;
        self.send(self.name(), 0, bytes).await
    }

    /// Sends bytes, again where need be.
    pub(super) async fn from(self, source: Source) -> Result<(), Error> {
        let _place = self.caller.place().await.map_err(Error::Remote)?;
        let mut attempts = Attempts::new(&self.caller);
        let mut reached = 0;
        let mut name = self.name();
        let mut offset = 0;
        loop {
            match self.send(name.clone(), offset, source(offset)).await {
                Err(Error::Remote(status)) => {
                    attempts.failed(status).await.map_err(Error::Remote)?;
                }
                done => return done,
            }
            match self.kept(&name).await {
                None => return Ok(()),
                Some(kept) => offset = kept,
            }
            if offset == 0 {
                // What the server may still have of the other must not be in the way.
                name = self.name();
            } else if offset > reached {
                reached = offset;
                attempts = Attempts::new(&self.caller);
            }
        }
    }

    /// How many bytes the server has of an upload that broke off; none if it has
    /// the blob. A server learns of it later than the client, or the other way
    /// round: one that says it has nothing is given a moment.
    async fn kept(&self, name: &str) -> Option<u64> {
        let mut pause = NOTICE;
        loop {
            match self.status(name).await {
                Ok(status) if status.complete => return None,
                Ok(status) if !self.packed => {
                    let kept = u64::try_from(status.committed_size).ok();
                    let kept = kept.filter(|kept| *kept <= self.digest.size());
                    let kept = kept.unwrap_or(0);
                    if kept > 0 || pause > 10 * NOTICE {
                        return Some(kept);
                    }
                }
                // Not known, not implemented, or still away, as the next attempt
                // finds.
                _ => return Some(0),
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
    }

    async fn status(&self, name: &str) -> Result<QueryWriteStatusResponse, Status> {
        let request = QueryWriteStatusRequest {
            resource_name: name.into(),
        };
        let mut client = self.client.clone();
        let answer = patiently(client.query_write_status(request)).await?;
        Ok(answer.into_inner())
    }

    async fn send(&self, name: String, offset: u64, bytes: ByteStream) -> Result<(), Error> {
        let bytes = if self.packed {
            // Packed it is always sent from the start.
            compression::packed(self.digest, self.digest.size(), bytes)
        } else {
            bytes
        };
        let progress = Arc::new(AtomicU64::new(0));
        let (messages, failure) = messages(name, offset, bytes, progress.clone());
        let mut client = self.client.clone();
        let response = tokio::select! {
            response = client.write(messages) => response.map_err(|status| {
                Error::Remote(classify(status))
            })?,
            Ok(error) = failure => return Err(error),
            () = standstill(&progress) => return Err(Error::Remote(stalled())),
        };
        self.caller.earn();
        let committed = response.into_inner().committed_size;
        // Of packed uploads servers count what they like.
        if !self.packed && committed != wire(self.digest.size()) {
            return Err(Error::Remote(Status::new(
                Code::Internal,
                format!(
                    "blob {} was acknowledged with {committed} bytes",
                    self.digest
                ),
            )));
        }
        Ok(())
    }
}

/// Returns when the server has taken nothing for long. An odd number counts as its
/// source being waited for, which is not the server's fault.
async fn standstill(progress: &AtomicU64) {
    let mut seen = None;
    loop {
        let now = progress.load(Ordering::Relaxed);
        if now.is_multiple_of(2) && seen == Some(now) {
            return;
        }
        seen = Some(now);
        tokio::time::sleep(PATIENCE).await;
    }
}

/// The messages of an upload, and where to hear that its source failed. The
/// stream then stays open, for the call is to be given up, not ended.
fn messages(
    name: String,
    offset: u64,
    bytes: ByteStream,
    progress: Arc<AtomicU64>,
) -> (
    impl Stream<Item = WriteRequest> + Send + 'static,
    oneshot::Receiver<Error>,
) {
    struct Sending {
        bytes: ByteStream,
        piece: Bytes,
        name: String,
        offset: u64,
        progress: Arc<AtomicU64>,
        failed: Option<oneshot::Sender<Error>>,
        finished: bool,
    }
    let (failed, failure) = oneshot::channel();
    let sending = Sending {
        bytes,
        piece: Bytes::new(),
        name,
        offset,
        progress,
        failed: Some(failed),
        finished: false,
    };
    let messages = futures::stream::unfold(sending, |mut sending| async move {
        if sending.finished {
            return None;
        }
        sending.progress.fetch_add(1, Ordering::Relaxed);
        while sending.piece.is_empty() {
            match sending.bytes.next().await {
                Some(Ok(piece)) => sending.piece = piece,
                Some(Err(error)) => {
                    if let Some(failed) = sending.failed.take() {
                        let _ = failed.send(error);
                    }
                    std::future::pending::<()>().await;
                }
                None => {
                    sending.finished = true;
                    break;
                }
            }
        }
        sending.progress.fetch_add(1, Ordering::Relaxed);
        let length = sending.piece.len().min(PIECE);
        let data = sending.piece.split_to(length);
        let message = WriteRequest {
            // Needed in the first message only.
            resource_name: std::mem::take(&mut sending.name),
            write_offset: wire(sending.offset),
            finish_write: sending.finished,
            data: data.into(),
        };
        sending.offset += length as u64;
        Some((message, sending))
    });
    (messages, failure)
}
